"""Tables and sentences for so many columns: what gives way, in which order, and that no name breaks."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from nfqlb.layout import HEADER, INDENT, Line, Shape, Table, fit, lay, wrapped

SHAPE = Shape(
    "backends",
    ("Name", "Address", "State", "Count", "Rate", "Why"),
    drop=(("Rate",), ("Count",)),
    left=("Address", "State"),
    prose="Why",
)
LONG = "[2001:db8:1111:2222:3333:4444:5555:6666]:50601"


def table(*rows: tuple[str, ...], note: str = "") -> Table:
    made = Table(SHAPE)
    for row in rows:
        made.add(*row, note=note)
    return made


def texts(page: list[Line | Table], room: int | None) -> list[str]:
    return [line.text for line in lay(page, room)]


def one(lines: list[str]) -> str:
    """A sentence that was wrapped."""
    return " ".join(" ".join(lines).split())


def test_columns_stand_below_their_titles_and_numbers_end_at_one_edge() -> None:
    made = table(
        ("reg1", "192.0.2.1:5060", "up", "7", "0.5", "too slow"),
        ("proxy1", "192.0.2.21:5060", "down", "1234", "10", ""),
    )
    assert texts([made], None) == [
        "Name    Address          State  Count  Rate  Why",
        "reg1    192.0.2.1:5060   up         7   0.5  too slow",
        "proxy1  192.0.2.21:5060  down    1234    10",
    ]


def test_columns_go_in_the_order_that_is_told() -> None:
    made = table(("reg1", "192.0.2.1:5060", "up", "7", "0.5", ""))
    told = "Left out: {}. --wide shows all columns."
    assert texts([made], 41) == ["Name  Address         State  Count  Rate", "reg1  192.0.2.1:5060  up         7   0.5"]
    assert texts([made], 39)[0] == "Name  Address         State  Count"
    assert one(texts([made], 39)[3:]) == told.format("Rate")
    assert texts([made], 33)[0] == "Name  Address         State"
    assert one(texts([made], 33)[3:]) == told.format("Count, Rate")


def test_the_left_out_are_told_with_their_table_where_there_are_several() -> None:
    made = table(("reg1", "192.0.2.1:5060", "up", "7", "0.5", ""))
    assert "Left out: Rate of backends; Rate of backends." in one(texts([made, made], 39))


def test_what_must_stay_takes_two_lines_rather_than_break() -> None:
    made = table(("a" * 40, LONG, "draining", "7", "0.5", ""), note="no answer " * 12)
    lines = texts([made], 80)
    assert lines[:4] == [
        "Name",
        "  Address                                         State     Count  Rate",
        "a" * 40,
        f"  {LONG}  draining      7   0.5",
    ]
    assert one(lines[4:]) == one(["no answer " * 12])
    assert all(line.startswith("    ") and len(line) <= 80 for line in lines[4:])


def test_pool_name_and_address_part_only_where_nothing_else_helps() -> None:
    pool, name = "p" * 64, "n" * 64
    made = table((f"{pool}/{name}@{LONG}", "x", "up", "", "", ""))
    assert texts([made], 80)[2:5] == [f"{pool}/", name, f"@{LONG}"]
    assert f"{pool}/{name}@{LONG}" in texts([made], 200)[1]


def test_what_alone_is_wider_than_the_terminal_stands_over_its_edge() -> None:
    name = f"{'x' * 60}.{'y' * 60}.example.org:5060"
    made = table(("reg1", name, "down", "", "", ""))
    assert [line for line in texts([made], 80) if len(line) > 80] == [f"  {name}"]


def test_an_empty_column_and_an_empty_table_are_left_out() -> None:
    assert texts([table(("reg1", "", "up", "", "", ""))], None)[0] == "Name  State"
    assert texts([Line("Nothing."), table()], 80) == ["Nothing."]


def test_prose_is_wrapped_beside_the_other_columns_or_below_them() -> None:
    made = table(("reg1", "192.0.2.1:5060", "up", "", "", "one two three four five six seven eight nine ten"))
    assert texts([made], 60)[1:] == [
        "reg1  192.0.2.1:5060  up     one two three four five six",
        "                             seven eight nine ten",
    ]
    assert texts([made], 40)[2:] == [
        "reg1  192.0.2.1:5060  up",
        "  one two three four five six seven",
        "  eight nine ten",
    ]


def test_widths_are_those_of_the_terminal_not_of_python() -> None:
    made = table(("東京", "192.0.2.1:5060", "up", "", "", "接続 できません"))
    lines = texts([made], 80)
    assert lines[1].startswith("東京  192")
    assert texts([made], 40)[3:] == ["  接続 できません"]


def test_sentences_break_between_words_and_hang() -> None:
    assert wrapped("one two three", 7, hang=2) == ["one two", "  three"]
    assert wrapped("  one two", 6) == ["  one", "  two"]
    assert wrapped("unbreakable", 4) == ["unbreakable"]
    assert wrapped("one two", None) == ["one two"]
    assert wrapped("", 4) == [""]


def test_the_command_at_the_end_of_a_sentence_is_one_piece() -> None:
    text = "No gateway runs. Start it with: nfqlb run -c /etc/nfqlb/nfqlb.toml"
    assert wrapped(text, 50, hang=2) == ["No gateway runs. Start it with:", "  nfqlb run -c /etc/nfqlb/nfqlb.toml"]


def test_header_lines_break_behind_parameters() -> None:
    text = "+ Path: <sip:lb@192.168.1.5;lr;received=sip:172.31.23.177:5060;sig=0123>"
    assert wrapped(text, 50, hang=4, breaks=HEADER) == [
        "+ Path: <sip:lb@192.168.1.5;lr;",
        "    received=sip:172.31.23.177:5060;sig=0123>",
    ]


@given(st.text(), st.integers(1, 40), st.sampled_from([{}, {"breaks": HEADER}]))
def test_wrapping_loses_nothing_but_blanks(text: str, room: int, how: dict[str, Any]) -> None:
    assert "".join("".join(wrapped(text, room, **how)).split()) == "".join(text.split())


WORD = st.text(st.sampled_from("abc1:.-/@東"), min_size=1, max_size=30)
ROW = st.tuples(WORD, WORD, WORD, WORD, WORD, st.lists(WORD, max_size=8).map(" ".join))


@pytest.mark.slow
@given(st.lists(ROW, min_size=1, max_size=5), st.lists(WORD, max_size=6).map(" ".join), st.integers(10, 140))
def test_no_cell_breaks_and_no_line_is_too_wide(rows: list[tuple[str, ...]], note: str, room: int) -> None:
    """Whatever stands in it: what must stay is there, whole; what goes, goes as a column, in order."""
    made = table(*rows, note=note)
    laid = made.laid(room)
    gone = laid.left_out
    assert gone in ([], ["Rate"], ["Count", "Rate"])
    kept = [title for title in SHAPE.titles[:-1] if title not in gone]
    longest = max(cell_len(word) for row in rows for cell in row for word in cell.split())
    longest = max(longest, *(cell_len(word) for word in note.split()), 7) if note else max(longest, 7)
    limit = max(room, 4 + longest)
    for row, lines in zip(rows, laid.rows, strict=True):
        assert all(cell_len(line.text) <= limit for line in lines)
        words = [word for line in lines for word in line.text.split()]
        cells = dict(zip(SHAPE.titles, row, strict=True))
        for title in kept:
            assert cells[title] in "".join(words)
            if cell_len(cells[title]) <= room - INDENT:
                assert cells[title] in words
        remaining = iter(words)
        if longest <= room - INDENT:
            assert all(word in remaining for word in cells["Why"].split())


@pytest.mark.parametrize("height", range(1, 30))
def test_a_page_is_cut_to_the_height_and_tells_what_is_missing(height: int) -> None:
    first = table(*[(f"a{number}", "x", "up", "", "", "") for number in range(7)])
    second = table(*[(f"b{number}", "x", "up", "", "", "") for number in range(7)])
    page: list[Line | Table] = [Line("title", "bold"), first, Line("between"), second]
    lines = [line.text for line in fit(page, 40, height)]
    assert len(lines) <= height
    whole = 2 + 2 * (2 + 7)
    if height >= whole:
        assert "…" not in lines[-1]
        assert len(lines) == whole
        return
    assert lines[-1].startswith("…")
    if height > 1:
        assert lines[0] == "title"
    counts = [sum(line.startswith(letter) and line[1:2].isdigit() for line in lines) for letter in "ab"]
    if height > 8:
        assert abs(counts[0] - counts[1]) <= 1, "one table takes the room of the other"
        missing = [f"{7 - count} more backends" for count in counts if count < 7]
        assert lines[-1] == f"… {', '.join(missing).replace('1 more backends', '1 more backend')}"
