"""The pieces of SIP's grammar that several files read: tokens, quoted strings, lists, parameters.

Everything works on spans of one bytes object, so that the caller can edit exactly those bytes and leave the rest.
The header block is known to hold CR and LF only as line folding (P5) when these functions see it, so blanks, CR and
LF are all just linear white space here [RFC 3261 25.1 LWS].
"""

import re
from collections.abc import Iterator

Span = tuple[int, int]
"""Start and end offset in the message."""

TOKEN = rb"[A-Za-z0-9\-.!%*_+`'~]"
"""One character of `token` [RFC 3261 25.1]; a character class for use inside larger expressions."""
LWS = b" \t\r\n"

QUOTED = rb'"(?:[^"\\]|\\[\s\S])*"'
_LIST = re.compile(QUOTED + rb"|<[^>]*>|,|\"|<")
_PARAM = re.compile(
    rb"[ \t\r\n]*;[ \t\r\n]*(" + TOKEN + rb"+)(?:[ \t\r\n]*=[ \t\r\n]*(" + QUOTED + rb'|[^ \t\r\n;,"<>]*))?'
)


class QuotingError(Exception):
    """A quoted string or a `<` that nothing closes (P5)."""


def trim(raw: bytes, start: int, end: int) -> Span:
    """The span without white space at either end."""
    while start < end and raw[start] in LWS:
        start += 1
    while end > start and raw[end - 1] in LWS:
        end -= 1
    return start, end


def split_list(raw: bytes, start: int, end: int) -> list[Span]:
    """The values of one comma-separated row, trimmed; commas in quotes and `<…>` split nothing (P2).

    Empty elements are passed over. Raises QuotingError.
    """
    spans = []
    begin = start
    for match in _LIST.finditer(raw, start, end):
        found = match.group()
        if found == b",":
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
    for match in _PARAM.finditer(raw, start, end):
        if match.start() != start:
            return
        start = match.end()
        yield match.group(1).lower(), match.group(2), match.start(), start
