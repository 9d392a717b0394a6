"""The pieces of SIP's grammar that several files read: tokens, quoted strings, lists, parameters.

Everything works on spans of one bytes object, so that the caller can edit exactly those bytes and leave the rest.
The header block is known to hold CR and LF only as line folding (P5) when these functions see it, so blanks, CR and
LF are all just linear white space here [RFC 3261 25.1 LWS].
"""

import re
from collections.abc import Iterator

from nfqlb.errors import PacketError

Span = tuple[int, int]
"""Start and end offset in the message."""

TOKEN = rb"[A-Za-z0-9\-.!%*_+`'~]"
"""One character of `token` [RFC 3261 25.1]; a character class for use inside larger expressions."""
LWS = b" \t\r\n"

QUOTED = rb'"(?:[^"\\]|\\[\s\S])*"'
_LIST = re.compile(QUOTED + rb"|<[^>]*>|,[ \t\r\n,]*|\"|<")
"""What matters in a list. A run of empty elements is one find, or a datagram of commas would keep us busy."""
_PARAM = re.compile(
    rb"[ \t\r\n]*;[ \t\r\n]*(" + TOKEN + rb"+)(?:[ \t\r\n]*=[ \t\r\n]*(" + QUOTED + rb'|[^ \t\r\n;,"<>]*))?'
)


_COMMA = 0x2C


class QuotingError(PacketError):
    """A quoted string or a `<` that nothing closes (P5)."""


def trim(raw: bytes, start: int, end: int) -> Span:
    """The span without white space at either end."""
    while start < end and raw[start] in LWS:
        start += 1
    while end > start and raw[end - 1] in LWS:
        end -= 1
    return start, end


def first_value(raw: bytes, start: int, end: int) -> Span | None:
    """The first value of one comma-separated row, None when there is none. Raises QuotingError."""
    begin = start
    for match in _LIST.finditer(raw, start, end):
        found = match.group()
        if found[0] == _COMMA:
            span = trim(raw, begin, match.start())
            if span[0] < span[1]:
                return span
            begin = match.end()
        elif len(found) == 1:
            raise QuotingError
    span = trim(raw, begin, end)
    return span if span[0] < span[1] else None


def number(text: bytes, digits: int) -> int | None:
    """A decimal number, None for anything else. Leading zeros count for nothing; more than `digits` others are
    refused before they are converted: arithmetic on numbers as long as a datagram is a way to keep us busy.
    """
    if not text.isdigit():
        return None
    significant = text.lstrip(b"0")
    return int(significant or b"0") if len(significant) <= digits else None


def split_list(raw: bytes, start: int, end: int) -> list[Span]:
    """The values of one comma-separated row, trimmed; commas in quotes and `<…>` split nothing (P2).

    Empty elements are passed over. Raises QuotingError.
    """
    spans = []
    begin = start
    for match in _LIST.finditer(raw, start, end):
        found = match.group()
        if found[0] == _COMMA:
            spans.append(trim(raw, begin, match.start()))
            begin = match.end()
        elif len(found) == 1:
            raise QuotingError
    spans.append(trim(raw, begin, end))
    return [span for span in spans if span[0] < span[1]]


def params(raw: bytes, start: int, end: int) -> Iterator[tuple[bytes, bytes | None, int, int]]:
    """`;name=value` after `;name=value`: the name in lower case, the value (None without `=`), and the span of it all.

    Stops at the first byte that is no parameter; the caller compares the last end with its own.
    """
    # match() one by one, not finditer(): that would look for the next parameter from every byte of garbage.
    while (match := _PARAM.match(raw, start, end)) is not None:
        begin, start = start, match.end()
        yield match.group(1).lower(), match.group(2), begin, start
