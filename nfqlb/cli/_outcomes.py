"""Outcomes as rows that can be printed as they come, and the summary at their end.

Knows columns, colours and how long a cell may be. Which columns there is room for is decided by `nfqlb.layout`, as for
all tables; but where a Table has all its rows before it is laid out, there are no more than widths here: a column
becomes wider when a cell needs it, and stays so. Not a command.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from nfqlb.layout import HEADER, Line, Page, Shape, Table, arranged, cells_of, row_lines, wrapped
from nfqlb.offline.header_diff import header_changes, printable
from nfqlb.offline.replay import describe

if TYPE_CHECKING:
    from nfqlb.offline.replay import Outcome, Replay, Row

VERDICT_COLOURS = {"forward": "green", "reply": "cyan", "drop": "red", "ignore": "bright_black"}
MARK_COLOURS = {"-": "red", "+": "green", " ": None}
_WIDTHS = {
    "FRAME": 5,
    "TIME": 10,
    "SIDE": 7,
    "MESSAGE": 8,
    "VERDICT": 7,
    "REASON": 16,
    "BACKEND": 7,
    "FROM": 18,
    "TO": 16,
    "SENT TO": 18,
    "OUT": 5,
    "CALL-ID": 7,
}
"""Title → width to begin with."""
FRAMES = Shape(
    "frames",
    tuple(_WIDTHS),
    drop=(("CALL-ID",), ("TIME",), ("TO",), ("SIDE",), ("FROM",), ("OUT",), ("BACKEND",)),
    left=("SIDE", "MESSAGE", "VERDICT", "REASON", "BACKEND", "FROM", "TO", "SENT TO", "CALL-ID"),
)
SUMMARY = Shape("reasons", ("VERDICT", "REASON", "FRAMES", "WHAT IT MEANS"), left=("REASON",), prose="WHAT IT MEANS")
_MAX_METHOD = 32
_MAX_CALL_ID = 80
"""What strangers write is cut where it is longer."""


_TITLES = {title: title for title in _WIDTHS}


class Rows:
    """Turns outcomes into lines of text."""

    def __init__(self, *, colour: bool, room: int | None, diff: bool, out_frames: bool) -> None:
        """`room`: columns of the terminal; None where lines may be as long as they like."""
        self._colour = colour
        self._room = room
        self._diff = diff
        self._widths = {title: width for title, width in _WIDTHS.items() if out_frames or title != "OUT"}
        self._decks: list[list[str]] = []
        self._start: float | None = None

    def lines(self, outcome: Outcome) -> str:
        """The row of one frame, and its changed header lines if wanted; titles above the first row, and again where
        columns have to go because a cell is wider than those before it."""
        cells = self._cells(outcome.row)
        text = [] if self._hold(cells) else [self._styled(line, bold=True) for line in self._line(_TITLES)]
        text += [self._styled(line, fg=VERDICT_COLOURS[outcome.row.verdict]) for line in self._line(cells)]
        if self._diff and outcome.after:
            for mark, changed in header_changes(outcome.before, outcome.after):
                if mark != " ":
                    text += marked(mark, changed, self._colour, self._room, indent=6)
        return "\n".join(text)

    def _hold(self, cells: dict[str, str]) -> bool:
        """Make room for the cells; whether the columns are still the same."""
        widths = self._widths
        wider = {title: width for title in widths if (width := cells_of(cells[title])) > widths[title]}
        if self._decks and not wider:
            return True
        widths |= wider
        before, (self._decks, _) = self._decks, arranged(FRAMES, widths, self._room)
        return before == self._decks

    def _line(self, cells: dict[str, str]) -> Iterator[str]:
        return row_lines(FRAMES, self._decks, self._widths, cells, self._room)

    def _styled(self, line: str, **style: str | bool | None) -> str:
        return click.style(line, **style) if self._colour else line  # type: ignore[arg-type]  # click's names

    def _cells(self, row: Row) -> dict[str, str]:
        if self._start is None:
            self._start = row.time
        time = "" if row.time is None or self._start is None else f"{row.time - self._start:.6f}"
        return {
            "FRAME": str(row.frame),
            "TIME": time,
            "SIDE": row.side or "",
            "MESSAGE": _cut(row.method or (str(row.status) if row.status else ""), _MAX_METHOD),
            "VERDICT": row.verdict,
            "REASON": row.reason,
            "BACKEND": row.backend or "",
            "FROM": row.src or "",
            "TO": row.dst or "",
            "SENT TO": row.out_dst or "",
            "OUT": str(row.out_frame or ""),
            "CALL-ID": _cut(row.call_id or "", _MAX_CALL_ID),
        }


def marked(mark: str, text: str, colour: bool, room: int | None, indent: int = 2) -> list[str]:
    """A line of a message behind its mark; where there is too little room, it goes on below."""
    lines = wrapped(f"{mark} {text}".rstrip(), room, indent=indent, hang=indent + 6, breaks=HEADER)
    return [click.style(line, fg=MARK_COLOURS[mark]) for line in lines] if colour and mark != " " else lines


def summary(replay: Replay, never_whole: int, output: str | None) -> Page:
    """How many frames came to which verdict, and why."""
    counts = replay.counts
    totals = dict.fromkeys(VERDICT_COLOURS, 0)
    for (verdict, _), count in counts.items():
        totals[verdict] += count
    told = ", ".join(f"{count} {verdict}" for verdict, count in totals.items() if count)
    page: list[Line | Table] = [Line(f"{_plural(counts.total(), 'frame')}{': ' if told else ''}{told}")]
    if never_whole:
        page.append(Line(f"{_plural(never_whole, 'packet')} never became whole from the fragments in the capture."))
    if output is not None and replay.writer is not None:
        page.append(Line(f"{_plural(replay.writer.frames, 'packet')} written to {output}."))
    table = Table(SUMMARY)
    reasons = sorted(counts.items(), key=lambda item: (list(totals).index(item[0][0]), -item[1]))
    for (verdict, reason), count in reasons:
        table.add(verdict, reason, str(count), describe(reason))
    return [*page, table]


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _cut(text: str, room: int) -> str:
    text = printable(text)
    return text if len(text) <= room else text[: room - 1] + "…"
