"""Header lines before and after, and text that is safe on a terminal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfqlb.offline.header_diff import Line, body, header_changes, header_lines, printable

BEFORE = b"INVITE sip:bob@example.org SIP/2.0\r\nVia: a\r\nMax-Forwards: 70\r\nTo: b\r\n\r\nv=0\r\n"
AFTER = b"INVITE sip:bob@example.org SIP/2.0\r\nVia: us\r\nVia: a\r\nMax-Forwards: 69\r\nTo: b\r\n\r\nv=0\r\n"


def test_changed_lines_are_marked_in_place() -> None:
    assert header_changes(BEFORE, AFTER) == [
        Line(" ", "INVITE sip:bob@example.org SIP/2.0"),
        Line("+", "Via: us"),
        Line(" ", "Via: a"),
        Line("-", "Max-Forwards: 70"),
        Line("+", "Max-Forwards: 69"),
        Line(" ", "To: b"),
    ]


@pytest.mark.parametrize(
    ("message", "lines", "rest"),
    [
        (BEFORE, 4, b"v=0\r\n"),
        (b"\r\n\r\n" + BEFORE, 4, b"v=0\r\n"),
        (b"no blank line\r\nat: all", 2, b""),
        (b"", 0, b""),
        (b"\r\n\r\n", 0, b""),
    ],
)
def test_a_message_is_header_lines_and_a_body(message: bytes, lines: int, rest: bytes) -> None:
    assert len(header_lines(message)) == lines
    assert body(message) == rest


LINES = st.lists(st.sampled_from([b"Via: a", b"Via: b", b"To: c", b"", b" folded", b"X: \x1b[2J\xff"]), max_size=12)


@given(LINES, LINES)
def test_either_message_can_be_read_from_the_marks(before: list[bytes], after: list[bytes]) -> None:
    old, new = b"start\r\n" + b"\r\n".join(before), b"start\r\n" + b"\r\n".join(after)
    changes = header_changes(old, new)
    assert [text for mark, text in changes if mark != "+"] == [printable(line) for line in header_lines(old)]
    assert [text for mark, text in changes if mark != "-"] == [printable(line) for line in header_lines(new)]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("line", [b"a:b\r\n", b"%d:\r\n"])
def test_a_datagram_full_of_header_lines_is_compared_in_no_time(line: bytes) -> None:
    """Comparing lines can take the square of their number, and a stranger chooses the number."""
    lines = [line % number if b"%" in line else line for number in range(9000)]
    old = b"start\r\nMax-Forwards: 70\r\n" + b"".join(lines) + b"Max-Forwards: 70\r\n"
    new = b"start\r\nVia: us\r\nMax-Forwards: 69\r\n" + b"".join(lines) + b"Max-Forwards: 69\r\n"
    marks = [mark for mark, _ in header_changes(old, new)]
    assert {"-", "+"} <= set(marks)


@given(st.binary())
def test_nothing_printed_moves_the_cursor(text: bytes) -> None:
    assert printable(text).isprintable()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (b"Alice \xc3\xa4", "Alice ä"),
        (b"\x1b[31m", "\\x1b[31m"),
        (b"\xff\xfe", "\\xff\\xfe"),
        ("\u202eleft", "\\u202eleft"),
        ("a\tb\x7f\x9b", "a\\tb\\x7f\\x9b"),
    ],
)
def test_what_is_escaped(text: bytes | str, shown: str) -> None:
    assert printable(text) == shown
