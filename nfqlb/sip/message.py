"""A lossless view of one SIP message: the bytes stay as they came, and this says what stands where (P1–P5).

The reader never builds a message anew. It finds the start line, every header row and the body, and notes the first
thing that is wrong; a broken request keeps whatever rows could be read, because its 400 must echo them.

What it does not read is what is inside a header: that is asked for where a rule needs it, so that a broken Date or
Contact costs nothing (P6).
"""

import re
from enum import Enum
from typing import NamedTuple

from nfqlb.errors import PacketError
from nfqlb.sip import grammar

COMPACT = {
    b"a": b"accept-contact", b"b": b"referred-by", b"c": b"content-type", b"d": b"request-disposition",
    b"e": b"content-encoding", b"f": b"from", b"i": b"call-id", b"j": b"reject-contact", b"k": b"supported",
    b"l": b"content-length", b"m": b"contact", b"n": b"identity-info", b"o": b"event", b"r": b"refer-to",
    b"s": b"subject", b"t": b"to", b"u": b"allow-events", b"v": b"via", b"x": b"session-expires", b"y": b"identity",
}  # fmt: skip
"""Compact header names, from IANA's registry of SIP header fields [RFC 3261 7.3.3]."""

SINGLE = (b"content-length", b"call-id", b"cseq", b"from", b"to", b"max-forwards")
"""Headers that two readers would take from different rows if there were two (P5)."""

# Request-Line = Method SP Request-URI SP SIP-Version CRLF; exactly one SP each [RFC 3261 7.1].
_REQUEST = re.compile(
    rb"(" + grammar.TOKEN + rb"+) ([^\x00-\x20\x7f]+) [Ss][Ii][Pp]/([0-9]+\.[0-9]+)\r\n",
)
# Status-Line = SIP-Version SP Status-Code SP Reason-Phrase CRLF. Status codes run from 100 to 699.
_STATUS = re.compile(rb"[Ss][Ii][Pp]/([0-9]+\.[0-9]+) ([1-6][0-9][0-9])(?: [^\r\n]*)?\r\n")
_LIKE_REQUEST = re.compile(rb"[^\r\n]*[Ss][Ii][Pp]/[0-9]+\.[0-9]+[ \t]*\r?\n")
# No method holds a slash: what begins like a status line is no request, however it goes on, and is never answered.
_LIKE_STATUS = re.compile(rb"[ \t]*[Ss][Ii][Pp]/")
_METHOD = re.compile(rb"[ \t]*(" + grammar.TOKEN + rb"+)[ \t]")

# message-header = field-name HCOLON field-value CRLF, a line that begins with white space going on with the one
# before [RFC 3261 7.3.1]. The second form is for blocks that break P5: it finds the rows that are still sound.
# Both look behind: or a line without a colon would be tried from each of its bytes, in time that grows with its square.
_ROW = re.compile(rb"(?<=\n)(" + grammar.TOKEN + rb"+)[ \t]*:([^\r\n]*(?:\r\n[ \t][^\r\n]*)*)\r\n")
_SOUND_ROW = re.compile(rb"(?<=\n)(" + grammar.TOKEN + rb"+)[ \t]*:([^\r\n\x00]*(?:\r\n[ \t][^\r\n\x00]*)*)(?=\r\n)")
_CANONICAL = {
    spelled: name
    for name in (
        b"via", b"from", b"to", b"call-id", b"cseq", b"max-forwards", b"contact", b"route", b"record-route",
        b"content-length", b"content-type", b"user-agent", b"supported", b"expires", b"allow", b"path",
    )
    for spelled in {name, name.title(), {b"call-id": b"Call-ID", b"cseq": b"CSeq"}.get(name, name)}
}  # fmt: skip
_CANONICAL |= COMPACT


class Fault(Enum):
    """The first thing wrong with a message."""

    START_LINE = "request line"
    VERSION = "SIP version"
    HEADER_BLOCK = "header block"
    DUPLICATE = "a header that may stand once stands twice"
    LENGTH = "Content-Length"


class NotSip(PacketError):
    """The bytes have no SIP start line."""


class Row(NamedTuple):
    """One header row, folded lines included."""

    start: int
    value: int
    """Where the value starts, right after the colon."""
    value_end: int
    end: int
    """Behind the CRLF."""


class Message:
    """What stands where in `raw`."""

    __slots__ = (
        "body", "end", "fault", "first_header", "is_request", "method",
        "raw", "rows", "start", "status", "uri_span",
    )  # fmt: skip

    raw: bytes
    start: int
    """Where the start line begins, behind any CRLFs (P3)."""
    is_request: bool
    method: bytes
    """Empty for a response, and when the request line has none."""
    status: int
    """100 to 699; 0 for a request, and when the status line has none."""
    uri_span: grammar.Span
    first_header: int
    """Where the first header row stands: new rows go in here."""
    rows: dict[bytes, list[Row]]
    """By long name in lower case, in order."""
    body: int
    """Where the body starts."""
    end: int
    """Where the message ends: Content-Length may cut the datagram short (P4)."""
    fault: Fault | None

    @property
    def uri(self) -> bytes:
        return self.raw[self.uri_span[0] : self.uri_span[1]]

    def value(self, name: bytes) -> bytes | None:
        """The trimmed value of the first row of that name."""
        rows = self.rows.get(name)
        return None if rows is None else self.raw[rows[0].value : rows[0].value_end].strip(grammar.LWS)

    def values(self, name: bytes, enough: int | None = None) -> list[grammar.Span]:
        """All comma-separated values of all rows of that name (P2), or of so many rows that there are `enough`.

        Raises QuotingError for a row that was looked at.
        """
        found: list[grammar.Span] = []
        for row in self.rows.get(name, ()):
            if enough is not None and len(found) >= enough:
                break
            found += grammar.split_list(self.raw, row.value, row.value_end)
        return found


def parse(raw: bytes) -> Message:
    """Read one datagram's payload. Raises NotSip; everything else that is wrong stands in `.fault`."""
    message = Message()
    message.raw = raw
    message.fault = None
    start = 0
    while raw.startswith(b"\r\n", start):
        start += 2
    message.start = start
    message.is_request, message.method, message.status, message.uri_span = True, b"", 0, (start, start)
    request = _REQUEST.match(raw, start)
    if request is not None:
        message.method, message.uri_span = request.group(1), request.span(2)
        line_end = request.end()
        if request.group(3) != b"2.0":
            message.fault = Fault.VERSION
    else:
        status = _STATUS.match(raw, start)
        if status is not None:
            message.is_request, message.status = False, int(status.group(2))
            line_end = status.end()
            if status.group(1) != b"2.0":
                message.fault = Fault.VERSION
        else:
            line_end = _broken_start_line(message)
    _read_rows(message, line_end)
    if message.fault is None:
        _check_single_rows(message)
    return message


def _broken_start_line(message: Message) -> int:
    """A first line that means to be SIP but is not its grammar; returns where it ends. Raises NotSip."""
    raw, start = message.raw, message.start
    line_end = raw.find(b"\n", start) + 1
    if _LIKE_STATUS.match(raw, start):
        message.is_request = False
    elif _LIKE_REQUEST.match(raw, start):
        method = _METHOD.match(raw, start)
        message.method = method.group(1) if method else b""
    else:
        raise NotSip
    message.fault = Fault.START_LINE
    return line_end or len(raw)


def _read_rows(message: Message, position: int) -> None:
    raw = message.raw
    message.first_header = position
    rows: dict[bytes, list[Row]] = {}
    message.rows = rows
    blank = raw.find(b"\r\n\r\n", position - 2)
    if blank < 0:
        block_end = message.body = message.end = len(raw)
        sound = False
    else:
        block_end = blank + 2
        message.body, message.end = blank + 4, len(raw)
        folds = raw.count(b"\r\n", position, block_end)
        sound = (
            raw.count(b"\r", position, block_end) == folds == raw.count(b"\n", position, block_end)
            and raw.find(b"\0", message.start, block_end) < 0
        )
    if sound:
        for match in _ROW.finditer(raw, position, block_end):
            start, end = match.span()
            if start != position:
                break
            name = match.group(1)
            # Row(…) would go through a Python function for each row; this is what it does.
            row = tuple.__new__(Row, (start, match.start(2), end - 2, end))
            name = _CANONICAL.get(name) or _canonical(name)
            if name in rows:
                rows[name].append(row)
            else:
                rows[name] = [row]
            position = end
        sound = position == block_end
    if not sound:
        message.fault = message.fault or Fault.HEADER_BLOCK
        rows.clear()
        for match in _SOUND_ROW.finditer(raw, message.first_header - 1, block_end):
            row = Row(match.start(), match.start(2), match.end(2), match.end() + 2)
            rows.setdefault(_canonical(match.group(1)), []).append(row)


def _canonical(name: bytes) -> bytes:
    name = name.lower()
    return COMPACT.get(name, name)


def _check_single_rows(message: Message) -> None:
    rows = message.rows
    for name in SINGLE:
        if len(rows.get(name, ())) > 1:
            message.fault = Fault.DUPLICATE
            return
    length = message.value(b"content-length")
    if length is None:
        return
    count = grammar.number(length, 5)
    if count is None or message.body + count > len(message.raw):
        message.fault = Fault.LENGTH
        return
    message.end = message.body + count


def glance(payload: bytes) -> tuple[str | None, int | None, str | None]:
    """(method, status, Call-ID) for a person to read, each None when it is not there. Never raises."""
    try:
        message = parse(payload)
    except NotSip:
        return None, None, None
    call_id = message.value(b"call-id")
    return (
        message.method.decode("ascii") or None,
        message.status or None,
        None if call_id is None else call_id.decode("utf-8", "backslashreplace"),
    )


_KEEPALIVE = re.compile(rb"[\r\n\x00 \t]*")


def is_keepalive(payload: bytes) -> bool:
    """Only CR, LF, NUL or blanks, or nothing at all (P3) [RFC 5626 4.4.1]."""
    return _KEEPALIVE.fullmatch(payload) is not None
