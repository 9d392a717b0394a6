"""name-addr and addr-spec values: From, To, Contact, Route [RFC 3261 20.10, 25.1].

    name-addr = [ display-name ] LAQUOT addr-spec RAQUOT

Without `<`, everything from the first semicolon on is a header parameter, not a URI parameter [RFC 3261 20].
"""

import re
from typing import NamedTuple

from nfqlb.sip import grammar

_NAME_ADDR = re.compile(rb"(?:" + grammar.QUOTED + rb"|[^\"<])*?<([^>]*)>")


class Address(NamedTuple):
    uri: bytes
    """The URI as written, without the angle brackets."""
    uri_span: grammar.Span
    params: dict[bytes, bytes | None]
    """Header parameters, names in lower case; the first of two wins."""
    clean: bool
    """Nothing but these follows: no empty parameter with others behind it, no second value, no stray word. Others may
    read on where we stopped (P5). Semicolons at the very end hide nothing."""


def parse(raw: bytes, start: int, end: int) -> Address | None:
    """The address in `raw[start:end]`, or None when it is none. Raises QuotingError."""
    start, end = grammar.trim(raw, start, end)
    match = _NAME_ADDR.match(raw, start, end)
    if match is not None:
        uri_span, rest = grammar.trim(raw, *match.span(1)), match.end()
    else:
        value = raw[start:end]
        if b'"' in value or b"<" in value:
            raise grammar.QuotingError
        rest = raw.find(b";", start, end)
        if rest < 0:
            rest = end
        uri_span = grammar.trim(raw, start, rest)
    uri = raw[uri_span[0] : uri_span[1]]
    if not uri or b"<" in uri:
        return None
    found: dict[bytes, bytes | None] = {}
    last = rest
    for name, param, _, stop in grammar.params(raw, rest, end):
        if name == b"tag" and name in found:
            return None  # two readers would take two different ones (P5)
        found.setdefault(name, param)
        last = stop
    if raw.count(b'"', last, end) or b"<" in raw[last:end]:
        raise grammar.QuotingError
    return Address(uri, uri_span, found, not raw[last:end].strip(b"; \t\r\n"))
