"""One Via value: read it, know where its parts stand, fill in received and rport [RFC 3261 20.42, RFC 3581].

    via-parm      =  sent-protocol LWS sent-by *( SEMI via-params )
    sent-protocol =  protocol-name SLASH protocol-version SLASH transport
    sent-by       =  host [ COLON port ]

Any protocol version is read: a request of another SIP version still wants its 505 (P8).
"""

import re
from typing import NamedTuple

from nfqlb.net.endpoint import SIP_PORT, Endpoint, host_text, pack_host
from nfqlb.sip import grammar

_WS = rb"[ \t\r\n]*"
_SLASH = _WS + b"/" + _WS
_TOKEN = b"(" + grammar.TOKEN + b"+)"
_HEAD = re.compile(
    _SLASH.join((_TOKEN, _TOKEN, _TOKEN))
    + rb"[ \t\r\n]+(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._\-]+)"
    + rb"(?:" + _WS + b":" + _WS + rb"([0-9]{1,5})(?![0-9]))?"
)  # fmt: skip
_WANTED = frozenset((b"branch", b"received", b"rport", b"maddr"))


class Via(NamedTuple):
    """A Via value and the spans that P22 edits."""

    span: grammar.Span
    """The whole value, without surrounding white space."""
    host: bytes
    """sent-by host, lower case, IPv6 in brackets."""
    port: int | None
    branch: bytes | None
    received: bytes | None
    rport: bytes | None
    """None: not there. Empty: asked for (`;rport`). Digits: filled in."""
    maddr: bytes | None
    received_span: grammar.Span | None
    """Including its semicolon."""
    rport_span: grammar.Span | None

    @property
    def sent_by(self) -> Endpoint | None:
        """sent-by when it is an IP literal; the default port is 5060."""
        addr = pack_host(self.host)
        return None if addr is None else Endpoint(addr, self.sent_port)

    @property
    def sent_port(self) -> int:
        return SIP_PORT if self.port is None else self.port

    def identity(self) -> bytes:
        """All that says where a response goes, and branch, in canonical form: equal however a stack re-serialises
        them (P24). maddr is among it, or whoever answers could send the response to a third party.
        """
        return b"%b %d %b %b %b %b" % (
            _canonical(self.host),
            self.sent_port,
            self.branch or b"",
            _canonical(self.received) if self.received else b"",
            self.rport or b"",
            _canonical(self.maddr) if self.maddr else b"",
        )

    def destination(self) -> Endpoint | None:
        """Where a response to this Via goes: received:rport, else maddr, else sent-by (P35) [RFC 3261 18.2.2].

        None when that host is no IP literal or the port no port.
        """
        addr = pack_host(self.received or self.maddr or self.host)
        if addr is None:
            return None
        port = self.sent_port
        if self.rport:
            port = int(self.rport) if self.rport.isdigit() and len(self.rport) < 6 else 0
        return Endpoint(addr, port) if 0 < port < 65536 else None


def _canonical(host: bytes) -> bytes:
    addr = pack_host(host)
    return host.lower() if addr is None else host_text(addr)


def parse_head(raw: bytes, start: int, end: int) -> Via | None:
    """The value as far as sent-by, whatever its parameters are: enough to answer a request that is refused (P8)."""
    head = _HEAD.match(raw, start, end)
    return None if head is None else _made(head, (start, end), {}, {})


def _made(
    head: re.Match[bytes], span: grammar.Span, values: dict[bytes, bytes | None], spans: dict[bytes, grammar.Span]
) -> Via | None:
    port = None if head.group(5) is None else int(head.group(5))
    if port is not None and not 0 < port < 65536:
        return None
    return Via(
        span=span,
        host=head.group(4).lower(),
        port=port,
        branch=values.get(b"branch"),
        received=values.get(b"received"),
        rport=(values[b"rport"] or b"") if b"rport" in values else None,
        maddr=values.get(b"maddr"),
        received_span=spans.get(b"received"),
        rport_span=spans.get(b"rport"),
    )


def parse(raw: bytes, start: int, end: int) -> Via | None:
    """The Via value in `raw[start:end]`, or None when it is unreadable or names one of its parts twice (P5)."""
    head = _HEAD.match(raw, start, end)
    if head is None:
        return None
    values: dict[bytes, bytes | None] = {}
    spans: dict[bytes, grammar.Span] = {}
    last = head.end()
    for name, value, begin, stop in grammar.params(raw, head.end(), end):
        last = stop
        if name in _WANTED:
            if name in values:
                return None
            values[name] = value
            spans[name] = (begin, stop)
    if grammar.trim(raw, last, end)[0] != end:
        return None
    return _made(head, (start, end), values, spans)
