"""Outcomes as a table whose rows can be printed as they come, and the summary at its end.

Knows columns, colours and how long a cell may be. Holds widths and counts, never rows: a column becomes wider when a
cell needs it and stays so. Not a command.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from nfqlb.changes import header_changes, printable
from nfqlb.replay import describe

if TYPE_CHECKING:
    from nfqlb.replay import Outcome, Replay, Row

VERDICT_COLOURS = {"forward": "green", "reply": "cyan", "drop": "red", "ignore": "bright_black"}
MARK_COLOURS = {"-": "red", "+": "green", " ": None}
_COLUMNS = {
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
}
"""Title → width to begin with. The Call-ID follows, in whatever room there is."""
_NUMBERS = frozenset(("FRAME", "TIME", "OUT"))
_MAX_CELL = 48
"""A bracketed IPv6 address with its port; anything longer is cut."""
_MAX_CALL_ID = 80


class Table:
    """Turns outcomes into lines of text."""

    def __init__(self, *, colour: bool, room: int, diff: bool, out_frames: bool) -> None:
        """`room`: columns of the terminal, to which rows are cut; 0 where lines may be as long as they like."""
        self._colour = colour
        self._room = room
        self._diff = diff
        self._widths = dict(_COLUMNS)
        if not out_frames:
            del self._widths["OUT"]
        self._titled = False
        self._start: float | None = None

    def lines(self, outcome: Outcome) -> str:
        """The row of one frame (the first with the titles above it), and its changed header lines if wanted."""
        cells = self._cells(outcome.row)
        widths = self._widths
        for title, cell in cells.items():
            if len(cell) > widths[title]:
                widths[title] = len(cell)
        text = []
        if not self._titled:
            self._titled = True
            titles = self._line({title: title for title in widths}, "CALL-ID")
            text.append(click.style(titles, bold=True) if self._colour else titles)
        line = self._line(cells, _cut(outcome.row.call_id or "", _MAX_CALL_ID))
        text.append(click.style(line, fg=VERDICT_COLOURS[outcome.row.verdict]) if self._colour else line)
        if self._diff and outcome.after:
            for mark, changed in header_changes(outcome.before, outcome.after):
                if mark != " ":
                    text.append(marked(mark, changed, self._colour, indent=6))
        return "\n".join(text)

    def _cells(self, row: Row) -> dict[str, str]:
        if self._start is None:
            self._start = row.time
        time = "" if row.time is None or self._start is None else f"{row.time - self._start:.6f}"
        cells = {
            "FRAME": str(row.frame),
            "TIME": time,
            "SIDE": row.side or "",
            "MESSAGE": row.method or (str(row.status) if row.status else ""),
            "VERDICT": row.verdict,
            "REASON": row.reason,
            "BACKEND": row.backend or "",
            "FROM": row.src or "",
            "TO": row.dst or "",
            "SENT TO": row.out_dst or "",
            "OUT": str(row.out_frame or ""),
        }
        return {title: _cut(cells[title], _MAX_CELL) for title in self._widths}

    def _line(self, cells: dict[str, str], call_id: str) -> str:
        parts = [
            cells[title].rjust(width) if title in _NUMBERS else cells[title].ljust(width)
            for title, width in self._widths.items()
        ]
        line = "  ".join([*parts, call_id]).rstrip()
        return _cut(line, self._room) if self._room else line


def marked(mark: str, text: str, colour: bool, indent: int = 2) -> str:
    """A line of a message behind its mark."""
    line = f"{'':{indent}}{mark} {text}".rstrip()
    return click.style(line, fg=MARK_COLOURS[mark]) if colour and mark != " " else line


def summary(replay: Replay, never_whole: int, output: str | None) -> str:
    """How many frames came to which verdict, and why."""
    counts = replay.counts
    totals = dict.fromkeys(VERDICT_COLOURS, 0)
    for (verdict, _), count in counts.items():
        totals[verdict] += count
    told = ", ".join(f"{count} {verdict}" for verdict, count in totals.items() if count)
    text = ["", f"{_plural(counts.total(), 'frame')}{': ' if told else ''}{told}"]
    reasons = sorted(counts.items(), key=lambda item: (list(totals).index(item[0][0]), -item[1]))
    width = max((len(reason) for _, reason in counts), default=0)
    for (verdict, reason), count in reasons:
        text.append(f"  {verdict:7}  {reason:{width}}  {count:8}  {describe(reason)}")
    if never_whole:
        text.append(f"{_plural(never_whole, 'packet')} never became whole from the fragments in the capture.")
    if output is not None and replay.writer is not None:
        text.append(f"{_plural(replay.writer.frames, 'packet')} written to {output}.")
    return "\n".join(text)


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _cut(text: str, room: int) -> str:
    text = printable(text)
    return text if len(text) <= room else text[: room - 1] + "…"
