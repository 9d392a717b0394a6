"""What the rules need of a message's headers, read once: the checks of section B that every request goes through.

Each check that fails raises Reject with the reason that is also the counter.
"""

import re
from typing import NamedTuple

from nfqlb.errors import PacketError
from nfqlb.proxy.keys import MARKER
from nfqlb.proxy.verdict import Reason
from nfqlb.sip import address, grammar, via
from nfqlb.sip.message import Fault, Message
from nfqlb.sip.via import Via

FAULTS = {
    Fault.START_LINE: Reason.BAD_START_LINE,
    Fault.VERSION: Reason.BAD_VERSION,
    Fault.HEADER_BLOCK: Reason.BAD_HEADER_BLOCK,
    Fault.DUPLICATE: Reason.DUPLICATE_HEADER,
    Fault.LENGTH: Reason.BAD_LENGTH,
}

_LWS = re.compile(rb"[ \t\r\n]").search

# CSeq = 1*DIGIT LWS Method; below 2**32 [RFC 3261 8.1.1.5 says 2**31; phones do exceed that].
_CSEQ = re.compile(rb"([0-9]+)[ \t\r\n]+(" + grammar.TOKEN + rb"+)")


class Reject(PacketError):
    """The request gets this answer, or is dropped where the reason says so."""

    def __init__(self, reason: Reason, *headers: bytes, detail: str = "") -> None:
        super().__init__(detail or reason.doc)
        self.reason = reason
        self.headers = headers
        self.detail = detail or reason.doc


class Facts(NamedTuple):
    """The identifying values of a message."""

    via: Via
    """The top value."""
    call_id: bytes
    from_tag: bytes
    to_tag: bytes | None
    from_uri: bytes
    to_uri: bytes
    cseq: int
    cseq_method: bytes

    def transaction(self) -> tuple[bytes, bytes, bytes]:
        """Equal for a request, its retransmissions, its CANCEL and its non-2xx ACK, and for all their responses."""
        return self.call_id, self.from_tag, b"%d" % self.cseq


def read(message: Message, top: Via | None = None) -> Facts:
    """The facts of a message that has no fault; `top` is its top Via for who has read that already. Raises Reject."""
    try:
        top = top or top_via(message)
        if top is None:
            raise Reject(Reason.BAD_HEADER if b"via" in message.rows else Reason.UNANSWERABLE, detail="unreadable Via")
        call_id, cseq_text = message.value(b"call-id"), message.value(b"cseq")
        from_rows, to_rows = message.rows.get(b"from"), message.rows.get(b"to")
        if not from_rows or not to_rows or call_id is None or cseq_text is None:
            raise Reject(Reason.MISSING_HEADER)
        sender = address.parse(message.raw, from_rows[0].value, from_rows[0].value_end)
        target = address.parse(message.raw, to_rows[0].value, to_rows[0].value_end)
    except grammar.QuotingError:
        raise Reject(Reason.BAD_QUOTING) from None
    cseq = _CSEQ.fullmatch(cseq_text)
    sequence = None if cseq is None else grammar.number(cseq.group(1), 10)
    if sender is None or target is None or cseq is None or sequence is None or sequence >= 2**32:
        raise Reject(Reason.BAD_HEADER)
    # A peer may have put its tag behind a semicolon that the caller had left there.
    if not (sender.clean and (target.clean or not message.is_request)):
        raise Reject(Reason.BAD_HEADER, detail="something other than parameters behind From or To")
    if not call_id or _LWS(call_id) is not None:
        raise Reject(Reason.BAD_HEADER)
    return Facts(
        via=top,
        call_id=call_id,
        from_tag=sender.params.get(b"tag") or b"",
        to_tag=target.params.get(b"tag"),
        from_uri=sender.uri,
        to_uri=target.uri,
        cseq=sequence,
        cseq_method=cseq.group(2),
    )


def top_via(message: Message) -> Via | None:
    """The first Via value, None when it is missing or unreadable. Raises QuotingError."""
    spans = message.values(b"via", enough=1)
    return via.parse(message.raw, *spans[0]) if spans else None


def marked_vias(message: Message) -> list[Via]:
    """The Via values whose branch bears our mark; unreadable ones are passed over, as nobody uses them (P6)."""
    found = []
    for row in message.rows.get(b"via", ()):
        # A cheap look first: most requests have never been here.
        if message.raw.find(MARKER, row.value, row.value_end) < 0:
            continue
        try:
            spans = grammar.split_list(message.raw, row.value, row.value_end)
        except grammar.QuotingError:
            continue
        parsed = [via.parse(message.raw, *span) for span in spans]
        found += [value for value in parsed if value and value.branch and value.branch.startswith(MARKER)]
    return found


def max_forwards(message: Message) -> int | None:
    """The number, None when the header is absent. Raises Reject (P10)."""
    text = message.value(b"max-forwards")
    if text is None:
        return None
    hops = grammar.number(text, 3)
    if hops is None or hops > 255:
        raise Reject(Reason.BAD_MAX_FORWARDS)
    return hops


def options(message: Message, name: bytes) -> list[bytes]:
    """The option tags of a header such as Supported, in lower case. Raises QuotingError."""
    return [message.raw[start:end].lower() for start, end in message.values(name)]
