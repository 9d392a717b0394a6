"""SIP URIs as far as routing needs them [RFC 3261 19.1].

A URI that two readers could take apart differently (two `@`, an empty port) is unreadable, not guessed at (P5).
"""

import re
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from nfqlb.net.endpoint import SIP_PORT, Endpoint, pack_host

# URI-scheme, RFC 3261 25.1: ALPHA *( ALPHA / DIGIT / "+" / "-" / "." )
_SCHEME = re.compile(rb"([A-Za-z][A-Za-z0-9+\-.]*):")
# SIP-URI = "sip:" [ userinfo ] hostport uri-parameters [ headers ]. Without control characters: a Route value may have
# to go into the request line (P15, P17), and there they would break it.
_SIP = re.compile(
    rb"[Ss][Ii][Pp]([Ss]?):"
    rb"(?:([^@<>\"\x00-\x20\x7f]+)@)?"
    rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._\-]+)"
    rb"(?::([0-9]{1,5}))?"
    rb"((?:;[^;?@<>\"\x00-\x20\x7f]+)*)"
    rb"(\?[^@<>\"\x00-\x20\x7f]*)?"
)


class Uri(NamedTuple):
    """A sip or sips URI."""

    user: bytes | None
    """As written, with a password if there is one."""
    host: bytes
    """Lower case; IPv6 in its brackets."""
    port: int | None
    params: dict[bytes, bytes | None]
    """Names in lower case, values as written; the first of two wins."""

    @property
    def endpoint(self) -> Endpoint | None:
        """Where the URI points when its host is an IP literal; the default port is 5060. Looks at no `maddr`."""
        addr = pack_host(self.host)
        return None if addr is None else Endpoint(addr, SIP_PORT if self.port is None else self.port)

    def plain_user(self) -> bytes:
        """The user part without escapes, for comparison [RFC 3261 19.1.4]; empty without one."""
        user = self.user or b""
        return unquote_to_bytes(user) if b"%" in user else user


def scheme(text: bytes) -> bytes | None:
    """The scheme in lower case, or None when the text does not begin with one."""
    match = _SCHEME.match(text)
    return match.group(1).lower() if match else None


def parse(text: bytes) -> Uri | None:
    """A sip or sips URI, or None when the text is none."""
    match = _SIP.fullmatch(text)
    if match is None:
        return None
    _, user, host, port_text, param_text, _ = match.groups()
    port = None
    if port_text is not None:
        port = int(port_text)
        if not 0 < port < 65536:
            return None
    found: dict[bytes, bytes | None] = {}
    if param_text:
        for param in param_text[1:].split(b";"):
            name, equals, value = param.partition(b"=")
            found.setdefault(name.lower(), value if equals else None)
    return Uri(user, host.lower(), port, found)


# uri-parameter characters, RFC 3261 25.1: param-unreserved, unreserved; everything else is %-escaped.
_TO_ESCAPE = re.compile(rb"[^][/:&+$\-_.!~*'()a-zA-Z0-9]")


def escape_param(value: bytes) -> bytes:
    """The value as a URI parameter may carry it: `;` becomes `%3B` (P25)."""
    return _TO_ESCAPE.sub(lambda found: b"%%%02X" % ord(found.group()), value)


def flow_param(value: bytes | None) -> Endpoint | None:
    """The endpoint that a URI parameter `received=sip:192.0.2.1:5060` names, escaped or not; None for none."""
    if not value:
        return None
    uri = parse(unquote_to_bytes(value))
    return None if uri is None or uri.user is not None else uri.endpoint
