"""The benchmark's messages: who says what to whom, as templates.

A script is a list of steps, one message each, that two ends exchange through the gateway: an `outside` phone and an
`inside` backend. Both who play them, `player` for the engine alone and the C program `load.c` for live gateways, fill
the same tokens in:

    %N  the number of this run of the script, 10 digits      %L  the phone's host:port, as it knows itself
    %D  the number of the dialog, 10 digits                  %B  the backend's host:port
    %V  Via rows of the request that came, to be echoed      %R  Record-Route rows of the INVITE as its callee saw it
    %U  Route rows of the callee                             %C  Route rows of the caller
    %P  Route row from the Path of the phone's registration

Each of the last five stands for whole rows, or for nothing. A message is recognised by `-bn` and its number in the
branch of the sender's Via, which comes back in every answer.

Knows SIP as far as it has to be said. Does not know sockets, addresses of gateways or rates.
"""

from dataclasses import dataclass
from functools import cache

OUTSIDE, INSIDE = "outside", "inside"

REGISTER_SIZE = 520
"""Bytes of a REGISTER with five-digit ports: what common phones send."""

MARK = "-bn"
DIGITS = 10

_SDP = "\r\n".join(
    (
        "v=0",
        "o=- 3724394400 3724394405 IN IP4 198.18.0.1",
        "s=-",
        "c=IN IP4 198.18.0.1",
        "t=0 0",
        "m=audio 40376 RTP/AVP 8 0 18 101",
        "a=rtpmap:8 PCMA/8000",
        "a=rtpmap:0 PCMU/8000",
        "a=rtpmap:18 G729/8000",
        "a=fmtp:18 annexb=no",
        "a=rtpmap:101 telephone-event/8000",
        "a=fmtp:101 0-15",
        "a=sendrecv",
        "",
    )
)
_AGENT = "User-Agent: Bench Phone 4.2.1 (0015651a2b3c)"
_ALLOW = "Allow: INVITE, ACK, CANCEL, OPTIONS, BYE, REFER, NOTIFY, MESSAGE, SUBSCRIBE, INFO, PRACK, UPDATE"


@dataclass(frozen=True)
class Step:
    """One message."""

    kind: str
    """Names it in reports."""
    sender: str
    """OUTSIDE or INSIDE."""
    text: str
    """With tokens."""


@dataclass(frozen=True)
class Script:
    name: str
    steps: tuple[Step, ...]
    dialog: tuple[Step, ...] = ()
    """Played once for each phone beforehand; the steps then happen in that dialog."""


def _message(start: str, *rows: str, body: str = "") -> str:
    """A message; rows that are tokens bring their own line ends."""
    kind = ("Content-Type: application/sdp",) if body else ()
    lines = [start, *rows, *kind, f"Content-Length: {len(body)}"]
    return "".join(line if line.startswith("%") else f"{line}\r\n" for line in lines) + "\r\n" + body


def _request(method: str, uri: str, sender: str, *rows: str, routes: str = "", cseq: str = "1", body: str = "") -> str:
    """From the phone (user 1000) to the backend (user 2000), or back."""
    phone = sender == OUTSIDE
    here, own, other = ("%L", "1000", "2000") if phone else ("%B", "2000", "1000")
    tag = ";tag=callee" if routes in ("%U", "%C") else ""
    return _message(
        f"{method} {uri} SIP/2.0",
        f"Via: SIP/2.0/UDP {here}{';rport' if phone else ''};branch=z9hG4bK{MARK}%N",
        *((routes,) if routes else ()),
        "Max-Forwards: 70",
        f"From: <sip:{own}@bench.example.org>;tag=caller",
        f"To: <sip:{other}@bench.example.org>{tag}",
        "Call-ID: %D-call@bench.example.org",
        f"CSeq: {cseq} {method}",
        *rows,
        body=body,
    )


def _response(status: str, method: str, request_sender: str, *rows: str, cseq: str = "1", body: str = "") -> str:
    own, other = ("1000", "2000") if request_sender == OUTSIDE else ("2000", "1000")
    tag = "" if status.startswith("100") else ";tag=callee"
    return _message(
        f"SIP/2.0 {status}",
        "%V",
        f"From: <sip:{own}@bench.example.org>;tag=caller",
        f"To: <sip:{other}@bench.example.org>{tag}",
        "Call-ID: %D-call@bench.example.org",
        f"CSeq: {cseq} {method}",
        *rows,
        body=body,
    )


def _register(pad: int) -> str:
    return _message(
        "REGISTER sip:bench.example.org SIP/2.0",
        f"Via: SIP/2.0/UDP %L;rport;branch=z9hG4bK{MARK}%N",
        "Max-Forwards: 70",
        "From: <sip:1000@bench.example.org>;tag=caller",
        "To: <sip:1000@bench.example.org>",
        "Call-ID: %D-reg@bench.example.org",
        "CSeq: 1 REGISTER",
        "Contact: <sip:1000@%L>",
        "Supported: path",
        "Expires: 300",
        _AGENT + "x" * pad,
    )


def register_text(size: int = REGISTER_SIZE) -> str:
    """A REGISTER that fills `size` bytes (as far as its rows leave room) with addresses of the common length."""
    bare = _register(0).replace("%N", "0" * DIGITS).replace("%D", "0" * DIGITS).replace("%L", "198.18.10.10:40000")
    return _register(max(0, size - len(bare)))


def _call(caller: str) -> tuple[Step, ...]:
    """A call that is answered and ended by the caller."""
    callee = INSIDE if caller == OUTSIDE else OUTSIDE
    out = "out" if caller == INSIDE else "in"
    back = "in" if caller == INSIDE else "out"
    caller_contact, callee_contact = (
        ("Contact: <sip:1000@%L>", "Contact: <sip:2000@%B>")
        if caller == OUTSIDE
        else ("Contact: <sip:2000@%B>", "Contact: <sip:1000@%L>")
    )
    target = "sip:2000@%B" if caller == OUTSIDE else "sip:1000@%L"
    first = "sip:2000@bench.example.org" if caller == OUTSIDE else target
    routes = "" if caller == OUTSIDE else "%P"
    return (
        Step(
            f"invite-{out}", caller, _request(
                "INVITE", first, caller, caller_contact, _AGENT, _ALLOW, "Supported: replaces, timer",
                routes=routes, body=_SDP,
            )
        ),
        Step(f"100-{back}", callee, _response("100 Trying", "INVITE", caller)),
        Step(f"180-{back}", callee, _response("180 Ringing", "INVITE", caller, "%R", callee_contact)),
        Step(
            f"200-{back}",
            callee,
            _response("200 OK", "INVITE", caller, "%R", callee_contact, _AGENT, _ALLOW, body=_SDP),
        ),
        Step(f"ack-{out}", caller, _request("ACK", target, caller, routes="%C")),
        Step(f"bye-{out}", caller, _request("BYE", target, caller, _AGENT, routes="%C", cseq="2")),
        Step(f"200-bye-{back}", callee, _response("200 OK", "BYE", caller, cseq="2")),
    )  # fmt: skip


def _info(caller: str) -> tuple[Step, ...]:
    """An INFO within the dialog that the phone began, and its answer."""
    callee = INSIDE if caller == OUTSIDE else OUTSIDE
    phone = caller == OUTSIDE
    routes, target = ("%C", "sip:2000@%B") if phone else ("%U", "sip:1000@%L")
    out, back = ("in", "out") if phone else ("out", "in")
    return (
        Step(f"info-{out}", caller, _request("INFO", target, caller, _AGENT, routes=routes, cseq="%N")),
        Step(f"200-info-{back}", callee, _response("200 OK", "INFO", caller, cseq="%N")),
    )


JUNK = (
    (
        "junk",
        "GET /index.html HTTP/1.1\r\nHost: 203.0.113.5\r\nUser-Agent: Mozilla/5.0 zgrab/0.x\r\nAccept: */*\r\n\r\n",
    ),
    ("junk-bytes", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + "".join(chr(38 + 7 * n % 80) for n in range(400))),
    ("junk-line", "x" * 517 + "\r\n"),
    ("keepalive", "\r\n\r\n"),
    ("stun", "\x00\x01\x00\x00\x21\x12\xa4\x42" + "0123456789ab"),
)
"""Bytes that are not a SIP message at all."""

STRAY = (
    "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 203.0.113.5;branch=z9hG4bKnfq0123456789abcdef.01234567\r\n"
    "Via: SIP/2.0/UDP 198.18.0.1:5060;branch=z9hG4bK%N\r\nFrom: <sip:1@example.org>;tag=1\r\n"
    "To: <sip:2@example.org>;tag=2\r\nCall-ID: %N\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n"
)
"""A response that nobody asked for."""

SCANNER = _message(
    "OPTIONS sip:100@203.0.113.5 SIP/2.0",
    "Via: SIP/2.0/UDP 127.0.1.1:5060;branch=z9hG4bK-%N;rport",
    "Content-Length: 0",
    'From: "sipvicious"<sip:100@1.1.1.1>;tag=3662653339363564313363340131333434393335333330',
    "Accept: application/sdp",
    "User-Agent: friendly-scanner",
    'To: "sipvicious"<sip:100@1.1.1.1>',
    "Contact: sip:100@127.0.1.1:5060",
    "CSeq: 1 OPTIONS",
    "Call-ID: %N-scan",
).replace("Content-Length: 0\r\n\r\n", "Max-Forwards: 70\r\n\r\n")
"""A scanner's question, as it is seen all day: whether there is anybody."""

PING = _message(
    "OPTIONS sip:203.0.113.5 SIP/2.0",
    f"Via: SIP/2.0/UDP %L;rport;branch=z9hG4bK{MARK}%N",
    "Max-Forwards: 70",
    "From: <sip:monitor@bench.example.org>;tag=caller",
    "To: <sip:203.0.113.5>",
    "Call-ID: %D-ping",
    "CSeq: 1 OPTIONS",
)


@cache
def scripts(register_size: int = REGISTER_SIZE) -> dict[str, Script]:
    """All scripts by name; a REGISTER has about so many bytes."""
    opening = tuple(step for step in _call(OUTSIDE) if step.kind in ("invite-in", "200-out", "ack-in"))
    found = (
        Script("register", (Step("register", OUTSIDE, register_text(register_size)),)),
        Script("call-in", _call(OUTSIDE)),
        Script("call-out", _call(INSIDE)),
        Script("info-in", _info(OUTSIDE), opening),
        Script("info-out", _info(INSIDE), opening),
    )
    return {script.name: script for script in found}


NEW_FLOW = "new-flow"
"""A REGISTER from a phone that the engine has not seen."""


BY_IPV6 = ("register", "invite-in", "200-out", "ack-in", "bye-in", "invite-out", "200-in", "bye-out")
"""Messages that an engine is measured with over IPv6, too."""
IPV6 = "-ipv6"
"""Ends their kinds there."""


def kinds() -> list[str]:
    """Names of all messages that an engine is measured with."""
    steps = [step.kind for script in scripts().values() for step in script.steps]
    junk = [kind for kind, _ in JUNK]
    return [*steps, "ping", "scanner", "stray", *junk, NEW_FLOW, *(kind + IPV6 for kind in BY_IPV6)]


def fill(text: str, values: dict[str, str]) -> bytes:
    """The message: each `%X` replaced by `values["X"]`."""
    head, *parts = text.split("%")
    return (head + "".join(values[part[0]] + part[1:] for part in parts)).encode("latin-1")
