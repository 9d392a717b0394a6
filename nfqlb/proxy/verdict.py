"""What can become of a packet, and why: the numbered list of verdicts and reasons.

Every packet ends with exactly one Reason. Its number is the index of its counter on the board, so numbers are
never reused; its name is what `nfqlb stats`, `nfqlb replay --json` and the documentation say.
"""

from enum import Enum, IntEnum
from typing import NamedTuple

from nfqlb.net.endpoint import Endpoint


class Action(IntEnum):
    """The verdict."""

    DROP = 0
    FORWARD = 1
    REPLY = 2
    IGNORE = 3
    """Not for us (not UDP to one of our sockets). Replay shows it; the live gateway drops and counts it."""


class Side(Enum):
    """The side of the gateway that a packet came from."""

    OUTSIDE = "outside"
    INSIDE = "inside"


class Reason(IntEnum):
    """Why; `Reason.X.action`, `.rule` (P-numbers), `.doc`, `.status` (of a reply, else 0)."""

    action: Action
    rule: str
    doc: str
    status: int

    def __new__(cls, number: int, action: Action, rule: str, doc: str, status: int = 0) -> "Reason":
        self = int.__new__(cls, number)
        self._value_ = number
        self.action, self.rule, self.doc, self.status = action, rule, doc, status
        return self

    @property
    def slug(self) -> str:
        """The name as the commands print it: `no-backend`."""
        return self.name.lower().replace("_", "-")

    # forward
    REQUEST_ENTERING = 0, Action.FORWARD, "P19", "request from outside to a backend"
    REQUEST_LEAVING = 1, Action.FORWARD, "P18", "request from a backend to the outside"
    REQUEST_HAIRPIN = 2, Action.FORWARD, "P16", "request from outside back to the outside, by two own pairs"
    RESPONSE_ENTERING = 3, Action.FORWARD, "P35", "response from outside to a backend"
    RESPONSE_LEAVING = 4, Action.FORWARD, "P35", "response from a backend to the outside"
    RESPONSE_HAIRPIN = 5, Action.FORWARD, "P35", "response from outside back to the outside"

    # reply
    PING = 16, Action.REPLY, "P13", "OPTIONS to ourselves", 200
    HOPS_PING = 17, Action.REPLY, "P10", "OPTIONS with Max-Forwards 0", 200
    BAD_START_LINE = 18, Action.REPLY, "P8", "request line that is not SIP's grammar", 400
    BAD_HEADER_BLOCK = (
        19,
        Action.REPLY,
        "P5",
        "bare CR, bare LF, NUL, no blank line, or a line that is no header",
        400,
    )
    BAD_LENGTH = 20, Action.REPLY, "P4", "Content-Length unreadable or beyond the datagram", 400
    DUPLICATE_HEADER = 21, Action.REPLY, "P5", "a header that may stand once stands twice", 400
    BAD_QUOTING = 22, Action.REPLY, "P5", "unterminated quote or < in a header that we read", 400
    MISSING_HEADER = 23, Action.REPLY, "P8", "no From, To, Call-ID or CSeq", 400
    BAD_HEADER = 24, Action.REPLY, "P8", "unreadable From, To, Call-ID, CSeq or Route", 400
    METHOD_MISMATCH = 25, Action.REPLY, "P8", "CSeq names another method", 400
    BAD_MAX_FORWARDS = 26, Action.REPLY, "P10", "Max-Forwards not a number from 0 to 255", 400
    BAD_URI = 27, Action.REPLY, "P9", "Request-URI unreadable", 400
    BAD_VERSION = 28, Action.REPLY, "P8", "SIP version other than 2.0", 505
    BAD_SCHEME = 29, Action.REPLY, "P9", "Request-URI scheme other than sip, sips, tel", 416
    TOO_MANY_HOPS = 30, Action.REPLY, "P10", "Max-Forwards 0", 483
    BAD_EXTENSION = 31, Action.REPLY, "P11", "Proxy-Require names an option that we do not know", 420
    LOOP = 32, Action.REPLY, "P12", "our own Via with the same loop part", 482
    BAD_FLOW = (
        33,
        Action.REPLY,
        "P18",
        "received needed, but unsigned, wrongly signed or not a peer's address",
        403,
    )
    NOT_A_BACKEND = 34, Action.REPLY, "P19", "next hop of a request from outside is no backend", 403
    NO_EGRESS = 35, Action.REPLY, "P20", "destination is an unknown name, or outside the permitted egress networks", 503
    PATH_REQUIRED = 36, Action.REPLY, "P25", "[path] policy require, and the phone does not support Path", 421
    NO_BACKEND = 37, Action.REPLY, "P32", "nothing to choose from", 503
    MESSAGE_TOO_LARGE = 38, Action.REPLY, "P7", "request would exceed 65,535 bytes with our additions", 513
    STUN_ANSWERED = 39, Action.REPLY, "P3", "STUN binding request, answered with the sender's address"
    STUN_REFUSED = 40, Action.REPLY, "P3", "STUN binding request with an attribute that we do not know", 420
    OVERLOADED = 41, Action.REPLY, "P14", "new request while a queue is too full, told to come again", 503

    # drop
    KEEPALIVE = 64, Action.DROP, "P3", "CRLF, NUL or blank keepalive"
    STUN = 65, Action.DROP, "P3", "STUN that gets no answer: broken, no request, or from inside"
    NOT_SIP = 66, Action.DROP, "P8", "no SIP start line"
    UNANSWERABLE = 67, Action.DROP, "P8", "broken request without a Via that a reply could follow"
    BROKEN_ACK = 68, Action.DROP, "P14", "ACK that would get an error; an ACK is never answered"
    OWN_ACK = 69, Action.DROP, "P14", "ACK for a reply of ours, absorbed"
    BROKEN_RESPONSE = 70, Action.DROP, "P5", "response that breaks the rules of reading"
    STRAY_RESPONSE = 71, Action.DROP, "P33", "response whose top Via is not ours or does not verify"
    FINAL_HERE = 72, Action.DROP, "P34", "response with no Via below ours"
    NO_RETURN = 73, Action.DROP, "P35", "response whose next Via names no address that we may send to"
    NOT_FROM_BACKEND = (
        74,
        Action.DROP,
        "P21",
        "packet to the internal socket from a source that is no backend",
    )
    BAD_CHECKSUM = 75, Action.DROP, "P37", "UDP checksum wrong"
    BAD_DATAGRAM = 76, Action.DROP, "P37", "broken IP or UDP header"
    TOO_LARGE = 77, Action.DROP, "P7", "our reply would exceed 65,535 bytes"
    SEND_FAILED = 78, Action.DROP, "P38", "the kernel refused the packet on the IPv6 socket path"
    BAD_SOURCE = 80, Action.DROP, "P14", "source that nobody can be answered at: port 0, multicast, one of our sockets"
    NAME_PENDING = 81, Action.DROP, "P20", "destination is a name that is being looked up; its retransmission goes out"
    SCANNER = 82, Action.DROP, "", "User-Agent of a scanner; it learns nothing, not even that we are here"
    REPLY_LIMIT = 83, Action.DROP, "P14", "reply beyond what one network, or all together, may have of us a second"
    REPLY_TOO_LARGE = 84, Action.DROP, "P14", "reply that would be larger than 1.5 times its request and 200 bytes"
    SHED = 85, Action.DROP, "", "new request while a queue is too full"
    INTERNAL_ERROR = 79, Action.DROP, "", "our bug: an exception in the engine; the log has the packet"

    # ignore
    NOT_OURS = 96, Action.IGNORE, "", "not UDP to one of our sockets"


REASON_SLOTS = 128
"""Counters kept per worker for reasons; larger than any number above so that the board's layout outlives additions."""


class Verdict(NamedTuple):
    """What the engine says of one packet."""

    reason: Reason
    packet: bytes
    """The whole IP packet to send (forward, reply); empty for drop and ignore."""
    backend: int = -1
    """Index into `Setup.known` of the backend that the packet goes to or came from; -1 when none is concerned."""
    src: Endpoint | None = None
    """Source of `packet`: one of our sockets."""
    dst: Endpoint | None = None

    @property
    def action(self) -> Action:
        return self.reason.action
