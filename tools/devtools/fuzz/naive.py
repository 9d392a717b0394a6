"""SIP read with splits and loops, and nothing of nfqlb.sip in it: the second opinion of the oracle.

Reads only what is sound (P5): rows end with CRLF, and a blank line ends them. Slow on purpose where that is simple.
"""

from typing import NamedTuple

LONG = {
    b"a": b"accept-contact", b"b": b"referred-by", b"c": b"content-type", b"d": b"request-disposition",
    b"e": b"content-encoding", b"f": b"from", b"i": b"call-id", b"j": b"reject-contact", b"k": b"supported",
    b"l": b"content-length", b"m": b"contact", b"n": b"identity-info", b"o": b"event", b"r": b"refer-to",
    b"s": b"subject", b"t": b"to", b"u": b"allow-events", b"v": b"via", b"x": b"session-expires", b"y": b"identity",
}  # fmt: skip
"""Written down a second time on purpose."""
BLANK = b" \t\r\n"


class Naive(NamedTuple):
    start: bytes
    rows: list[tuple[bytes, bytes]]
    """Long name in lower case, and all bytes of the row but its last CRLF."""
    body: bytes

    def named(self, name: bytes) -> list[bytes]:
        return [row for each, row in self.rows if each == name]

    def value(self, name: bytes) -> bytes:
        """Of the first row of that name; empty without one."""
        rows = self.named(name)
        return value(rows[0]) if rows else b""

    def values(self, name: bytes) -> list[bytes]:
        """Of all rows of that name; one that cannot be split counts as one value."""
        found: list[bytes] = []
        for row in self.named(name):
            parts = split(value(row), b",")
            found += [value(row)] if parts is None else parts
        return found


def value(row: bytes) -> bytes:
    return row.partition(b":")[2].strip(BLANK)


def read(payload: bytes) -> Naive:
    """A message whose header block is sound; the body as far as Content-Length says."""
    while payload.startswith(b"\r\n"):
        payload = payload[2:]
    head, _, body = payload.partition(b"\r\n\r\n")
    start, *lines = head.split(b"\r\n")
    rows: list[tuple[bytes, bytes]] = []
    for line in lines:
        if line[:1] in (b" ", b"\t") and rows:
            rows[-1] = (rows[-1][0], rows[-1][1] + b"\r\n" + line)
        else:
            name = line.partition(b":")[0].strip(b" \t").lower()
            rows.append((LONG.get(name, name), line))
    found = Naive(start, rows, body)
    length = found.value(b"content-length")
    return found if not length.isdigit() else found._replace(body=body[: int(length)])


def split(line: bytes, at: bytes) -> list[bytes] | None:
    """The parts between `at`s that stand in no quotes and no `<…>`, trimmed and without empty ones; None when a quote
    or a `<` stays open.
    """
    if b'"' not in line and b"<" not in line:
        return [part for part in (each.strip(BLANK) for each in line.split(at)) if part]
    parts, begin, inside, position = [], 0, b"", 0
    while position < len(line):
        char = line[position : position + 1]
        if inside == b'"' and char == b"\\":
            position += 1
            if position == len(line):
                return None
        elif inside:
            if char == (b'"' if inside == b'"' else b">"):
                inside = b""
        elif char in (b'"', b"<"):
            inside = char
        elif char == at:
            parts.append(line[begin:position])
            begin = position + 1
        position += 1
    if inside:
        return None
    return [part for part in (each.strip(BLANK) for each in [*parts, line[begin:]]) if part]


def without(via: bytes, *names: bytes) -> list[bytes] | None:
    """A Via value as its parts between semicolons, without the parameters of those names; None when unreadable."""
    parts = split(via, b";")
    if parts is None:
        return None
    return [part for part in parts if part.partition(b"=")[0].strip(BLANK).lower() not in names]


def parameter(via: bytes, name: bytes) -> bytes | None:
    """The value of a Via parameter, None without one; empty when it has no value."""
    for part in (split(via, b";") or [])[1:]:
        key, _, found = part.partition(b"=")
        if key.strip(BLANK).lower() == name:
            return found.strip(BLANK)
    return None
