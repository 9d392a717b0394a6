"""The messages of the load: each bears its number, so that each can be accounted for.

Knows how a number is written into a message and read out of one. Does not know sockets, rates or who sends what where.

A message is numbered from 0 in the order of sending. It leaves from flow `number % flows` (a flow is one socket of the
generator: an address and a port), and is of kind `KINDS[number // flows % len(KINDS)]` in a mixed load.
"""

from dataclasses import dataclass

KINDS = ("REGISTER", "OPTIONS", "MESSAGE", "INVITE")
"""Of a mixed load; a plain one has the first only."""

SIZE = 520
"""Bytes of a message as it leaves the generator: what a REGISTER of a common phone has."""

DIGITS = 10
"""Of a number in a message."""
MARK = b"Call-ID: chaos-"
"""Stands before the number, in the one header that nobody on the way may touch."""

_TEXT = (
    "{method} {uri} SIP/2.0\r\n"
    "Via: SIP/2.0/UDP {here};rport;branch=z9hG4bK-chaos-{run}-%0{digits}d\r\n"
    "Max-Forwards: 70\r\n"
    "From: <sip:{user}@example.org>;tag=%0{digits}d\r\n"
    "To: <sip:{user}@example.org>\r\n"
    "Call-ID: chaos-%0{digits}d\r\n"
    "CSeq: 1 {method}\r\n"
    "Contact: <sip:{user}@{here}>\r\n"
    "Supported: path\r\n"
    "User-Agent: {agent}\r\n"
    "Content-Length: 0\r\n\r\n"
)


@dataclass(frozen=True)
class Template:
    """The message of one flow and one kind, but for its number."""

    text: bytes

    def fill(self, number: int) -> bytes:
        return self.text % (number, number, number)


def template(kind: str, flow: int, here: str, domain: str = "example.org", run: str = "0") -> Template:
    """For the flow with that number, whose socket is `here` (host:port as in a URI); SIZE bytes when filled in.

    `domain` is that of the Request-URI. `run`: of the branch, another one for each run. Numbers begin at 0 in each,
    and without it the second run in one lab would be retransmissions of the first, which stay where they were (P31).
    """
    user = f"user{flow:04}"
    uri = f"sip:{domain}" if kind == "REGISTER" else f"sip:{user}@{domain}"
    values = {"method": kind, "uri": uri, "here": here, "user": user, "digits": DIGITS, "run": run}
    bare = len(_TEXT.format(**values, agent="") % (0, 0, 0))
    return Template(_TEXT.format(**values, agent="x" * (SIZE - bare)).encode())


def number_of(message: bytes) -> int | None:
    """The number in a message, None when it is not one of the load's."""
    at = message.find(MARK)
    if at < 0:
        return None
    digits = message[at + len(MARK) : at + len(MARK) + DIGITS]
    return int(digits) if digits.isdigit() else None
