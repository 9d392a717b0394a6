"""Edits by spans: replace these bytes, insert those, leave every other byte as it came (P1)."""

from nfqlb.sip.grammar import split_list
from nfqlb.sip.message import Message

Edit = tuple[int, int, bytes]
"""Replace `raw[start:end]` by these bytes; start == end inserts."""


def apply(raw: bytes, edits: list[Edit], start: int, end: int) -> bytes:
    """`raw[start:end]` with the edits made. Inserts at one place come out in the order of the list."""
    pieces = []
    position = start
    for begin, stop, new in sorted(edits, key=lambda edit: edit[0]):
        assert position <= begin <= stop <= end, "edits overlap or lie outside the message"
        pieces.append(raw[position:begin])
        pieces.append(new)
        position = stop
    pieces.append(raw[position:end])
    return b"".join(pieces)


def remove_values(message: Message, name: bytes, first: int, last: int = 0) -> list[Edit]:
    """Take away the `first` values from the front of that header and the `last` ones from its back.

    Works across rows, comma lists and folded lines; a row that runs empty goes as a whole (P16, P34).
    """
    # Without `last`, rows below the cut are not read: what stands there is nobody's business (P6).
    stop = len(message.values(name)) - last if last else None
    edits: list[Edit] = []
    seen = 0
    for row in message.rows.get(name, ()):
        if seen >= first and stop is None:
            break
        spans = split_list(message.raw, row.value, row.value_end)
        low = min(max(first - seen, 0), len(spans))
        high = len(spans) if stop is None else max(min(stop - seen, len(spans)), low)
        seen += len(spans)
        if low == high:
            if spans:
                edits.append((row.start, row.end, b""))
            continue
        if low:
            edits.append((spans[0][0], spans[low][0], b""))
        if high < len(spans):
            edits.append((spans[high - 1][1], spans[-1][1], b""))
    return edits
