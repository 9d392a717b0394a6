"""What changed between two SIP messages, line by line, as text that is safe to print.

Knows lines; does not parse headers, so that a broken message can be shown as well.
"""

from difflib import SequenceMatcher
from typing import Literal, NamedTuple

Mark = Literal[" ", "-", "+"]


class Line(NamedTuple):
    mark: Mark
    """" " in both messages, "-" only before, "+" only after."""
    text: str


def header_changes(before: bytes, after: bytes) -> list[Line]:
    """The start line and header lines of both messages in one list, removed lines above the added ones."""
    old, new = header_lines(before), header_lines(after)
    lines: list[Line] = []
    for tag, old_from, old_to, new_from, new_to in SequenceMatcher(None, old, new).get_opcodes():
        if tag == "equal":
            lines += [Line(" ", printable(text)) for text in old[old_from:old_to]]
            continue
        lines += [Line("-", printable(text)) for text in old[old_from:old_to]]
        lines += [Line("+", printable(text)) for text in new[new_from:new_to]]
    return lines


def header_lines(message: bytes) -> list[bytes]:
    """The lines above the blank line; everything when there is none. Line breaks before the start line do not count."""
    head = message.lstrip(b"\r\n").partition(b"\r\n\r\n")[0]
    return head.split(b"\r\n") if head else []


def body(message: bytes) -> bytes:
    return message.lstrip(b"\r\n").partition(b"\r\n\r\n")[2]


def printable(text: bytes | str) -> str:
    """Text for a terminal: whatever could move the cursor or turn the writing direction is escaped."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)
