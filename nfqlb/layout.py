"""Lines of text for so many columns of a terminal: tables that break no name and no address, and wrapped sentences.

Knows how wide a text is on a terminal, and what gives way where there is too little room. First columns go, in the
order that the table's Shape tells. If those that must stay are still too wide, a row takes two lines or more, the later
ones indented. Only prose is wrapped, between words. What alone is wider than the terminal is the one thing that stands
over its edge, whole; a backend's POOL/NAME@ADDRESS then breaks between these three, and within none of them.

Does not know terminals, nor what a table is about.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

GAP = 2
"""Blanks between two columns."""
INDENT = 2
"""Blanks before the second line of a row, and before that of a sentence."""
NOTE_INDENT = 4
"""Blanks before a note below a row."""
PROSE = 24
"""Columns that prose needs beside others; with fewer it gets a line of its own."""

WORDS = re.compile(r"(?<=: )(?:nfqlb|systemctl|apt-get|sysctl|modprobe|ip) .*|\S+\s*")
"""Parts of a sentence. The command at its end is one, for people copy it: `Start it with: nfqlb run`."""
HEADER = re.compile(r"[^\s;,]*[;,]+\s*|[^\s;,]+\s*")
"""Parts of a SIP header line that are not broken: it may go on in the next line behind a blank, `;` or `,`."""
_INNER = re.compile(r"@?[^@/;,]+[/;,]*|[@/;,]+")
"""Parts of a word that is wider than the terminal: of `POOL/NAME@ADDRESS` these three, of a SIP URI its parameters."""


def cells_of(text: str) -> int:
    """Columns of a terminal that a printable text takes: two for each of `東京`."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


class Line(NamedTuple):
    """A line, or a sentence before it is wrapped."""

    text: str
    style: str = ""
    """As rich names them: `red`, `bold red`, `dim`."""


@dataclass(frozen=True)
class Shape:
    """What a table has, whatever stands in it."""

    name: str
    """What its rows are: `backends`."""
    titles: tuple[str, ...]
    drop: tuple[tuple[str, ...], ...] = ()
    """Titles of the columns that go where there is too little room: those in one tuple together, the first ones
    first."""
    left: tuple[str, ...] = ()
    """Titles of text, the first one's apart; all others are numbers, which end at one edge."""
    prose: str = ""
    """Title of the last column, if words stand there that may be wrapped."""

    @property
    def order(self) -> str:
        """How columns go, for people: `3xx with 6xx, 1xx, Since`."""
        groups = [f"{group[0]} to {group[-1]}" if len(group) > 2 else " with ".join(group) for group in self.drop]
        return ", ".join(groups)


class Row(NamedTuple):
    cells: tuple[str, ...]
    style: str
    note: str
    """What is to be said of it in a line of its own."""


class Laid(NamedTuple):
    """A table for so much room."""

    head: list[Line]
    rows: list[list[Line]]
    left_out: list[str]
    """Titles."""

    def lines(self, rows: int | None = None) -> list[Line]:
        """All of it, or so many rows."""
        return [*self.head, *(line for row in self.rows[:rows] for line in row)]


@dataclass
class Table:
    """Rows, to be laid out when the room is known."""

    shape: Shape
    rows: list[Row] = field(default_factory=list)

    def add(self, *cells: str, style: str = "", note: str = "") -> None:
        assert len(cells) == len(self.shape.titles), cells
        self.rows.append(Row(cells, style, note))

    def laid(self, room: int | None) -> Laid:
        """`room` None: as wide as it is. What is empty is left out, be it a column or the whole table."""
        if not self.rows:
            return Laid([], [], [])
        shape = self.shape
        columns = {
            title: cells
            for title, *cells in zip(shape.titles, *(row.cells for row in self.rows), strict=True)
            if any(cells)
        }
        widths = {title: max(map(cells_of, (title, *cells))) for title, cells in columns.items()}
        longest = max((cells_of(word) for cell in columns.get(shape.prose, ()) for word in cell.split()), default=0)
        if room is not None and shape.prose in columns:
            widths[shape.prose] = max(longest, min(widths[shape.prose], PROSE))
        decks, left_out = arranged(shape, widths, room)
        if room is not None and decks[-1][-1] == shape.prose:
            used = sum(widths[title] + GAP for title in decks[-1][:-1]) + INDENT * (len(decks) > 1)
            widths[shape.prose] = max(longest, room - used)
        titles = dict(zip(shape.titles, shape.titles, strict=True))
        return Laid(
            [Line(text, "bold") for text in row_lines(shape, decks, widths, titles, room)],
            [list(self._lines(row, decks, widths, room)) for row in self.rows],
            left_out,
        )

    def _lines(self, row: Row, decks: list[list[str]], widths: Mapping[str, int], room: int | None) -> Iterator[Line]:
        cells = dict(zip(self.shape.titles, row.cells, strict=True))
        for text in row_lines(self.shape, decks, widths, cells, room):
            yield Line(text, row.style)
        if row.note:
            for text in wrapped(row.note, room, indent=NOTE_INDENT):
                yield Line(text, row.style)


Page = Sequence[Line | Table]
"""What a command shows: sentences and tables, the most important first."""


def arranged(shape: Shape, widths: Mapping[str, int], room: int | None) -> tuple[list[list[str]], list[str]]:
    """The titles that stand side by side in each line of a row, and those that are left out.

    `widths` has the columns in which something stands. First of all a row takes as few lines as can be; then as few
    columns as can be are left out.
    """
    there = [title for title in shape.titles if title in widths]
    if room is None:
        return [there], []
    levels = [there]
    for group in shape.drop:
        levels.append([title for title in levels[-1] if title not in group])
    for lines in (1, 2):
        for kept in levels:
            decks = _stacked(kept, widths, room)
            if len(decks) <= lines:
                return decks, [title for title in there if title not in kept]
    return _stacked(levels[-1], widths, room), [title for title in there if title not in levels[-1]]


def _stacked(titles: list[str], widths: Mapping[str, int], room: int) -> list[list[str]]:
    """The titles in as many lines as they need: as many in each as fit."""
    decks: list[list[str]] = [[]]
    used = 0
    for title in titles:
        wide = widths[title]
        if decks[-1] and used + GAP + wide > room - INDENT * (len(decks) > 1):
            decks.append([])
        used = used + GAP + wide if decks[-1] else wide
        decks[-1].append(title)
    return decks


def row_lines(
    shape: Shape, decks: list[list[str]], widths: Mapping[str, int], cells: Mapping[str, str], room: int | None
) -> Iterator[str]:
    """The lines of one row, `cells` by their titles. A line in which nothing would stand is left out."""
    for number, (*before, last) in enumerate(decks):
        indent = INDENT * (number > 0)
        parts = [cells[last]]
        if room is not None and (last == shape.prose or not before):
            parts = wrapped(cells[last], widths[last] if last == shape.prose else room - indent)
        front = "".join(padded(shape, title, cells[title], widths[title]) + " " * GAP for title in before)
        for part in parts:
            text = front + padded(shape, last, part, widths[last])
            if text.strip():
                yield f"{'':{indent}}{text}".rstrip()
            front = " " * cells_of(front)


def padded(shape: Shape, title: str, text: str, width: int) -> str:
    blanks = " " * (width - cells_of(text))
    left = title in shape.left or title in (shape.titles[0], shape.prose)
    return text + blanks if left else blanks + text


def wrapped(
    text: str, room: int | None, *, indent: int = 0, hang: int | None = None, breaks: re.Pattern[str] = WORDS
) -> list[str]:
    """`text` in lines of at most `room` columns, broken between what `breaks` finds, `hang` (or else `indent`) blanks
    before all but the first. What is still wider stands over the edge."""
    bare = text.lstrip(" ")
    indent, text = indent + len(text) - len(bare), bare
    if room is None or indent + cells_of(text) <= room:
        return [f"{'':{indent}}{text}"]
    hang = indent if hang is None else hang
    lines: list[list[str]] = [[" " * indent]]
    used = indent
    for part in (each for word in breaks.findall(text) for each in _inner(word, room - hang)):
        if len(lines[-1]) > 1 and used + cells_of(part.rstrip()) > room:
            used = hang
            lines.append([" " * used])
        lines[-1].append(part)
        used += cells_of(part)
    return ["".join(line).rstrip() for line in lines]


def _inner(word: str, room: int) -> list[str]:
    """The word, or where it is too wide, its parts: but for a path, the address of a web page, and a command."""
    bare = word.rstrip()
    if cells_of(bare) <= room or bare.startswith("/") or "://" in bare or " " in bare:
        return [word]
    *parts, last = _INNER.findall(bare)
    return [*parts, last + word[len(bare) :]]


def lay(page: Page, room: int | None) -> list[Line]:
    """All of the page; at its end, which columns are left out."""
    parts = [_laid(part, room) for part in page]
    lines = [line for laid in parts for line in laid.lines()]
    while lines and not lines[0].text:  # the blank line before a table
        del lines[0]
    tables = [(part, laid) for part, laid in zip(page, parts, strict=True) if isinstance(part, Table)]
    missing = [
        ", ".join(laid.left_out) + (f" of {part.shape.name}" if len(tables) > 1 else "")
        for part, laid in tables
        if laid.left_out
    ]
    if missing:
        text = f"Left out: {'; '.join(missing)}. --wide shows all columns."
        lines += [Line(""), *(Line(each, "dim") for each in wrapped(text, room, hang=INDENT))]
    return lines


def fit(page: Page, room: int, height: int) -> list[Line]:
    """As much of the page as `height` lines hold, from the top; of each table its first rows, as many of one as of
    another while there is room. The last line then tells how many rows are missing."""
    parts = [_laid(part, room) for part in page]
    whole = [line for laid in parts for line in laid.lines()]
    if len(whole) <= height:
        return whole
    left = height - 1
    shown: dict[int, int] = {}
    for number, (head, rows, _) in enumerate(parts):
        least = len(head) + (len(rows[0]) if rows else 0)
        if least > left:
            break
        shown[number] = min(1, len(rows))
        left -= least
    taken = True
    while taken:
        taken = False
        for number, count in shown.items():
            rows = parts[number].rows
            if count < len(rows) and len(rows[count]) <= left:
                shown[number] += 1
                left -= len(rows[count])
                taken = True
    lines = [line for number, count in shown.items() for line in parts[number].lines(count)]
    missing = [
        f"{count} more {part.shape.name if count > 1 else part.shape.name.removesuffix('s')}"
        for number, part in enumerate(page)
        if isinstance(part, Table) and (count := len(part.rows) - shown.get(number, 0))
    ]
    told = f"… {', '.join(missing) or 'and more'}"
    lines += [Line("")] * (height - 1 - len(lines))
    return [*lines, Line(_cut(told, room), "dim")]


def _laid(part: Line | Table, room: int | None) -> Laid:
    """A table has a blank line before it."""
    if isinstance(part, Line):
        return Laid([Line(text, part.style) for text in wrapped(part.text, room, hang=INDENT)], [], [])
    laid = part.laid(room)
    return laid._replace(head=[Line(""), *laid.head]) if laid.rows else laid


def _cut(text: str, room: int) -> str:
    return text if cells_of(text) <= room else f"{text[: room - 1]}…"
