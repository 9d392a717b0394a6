"""How long packets wait for their worker, around changes and without them.

Pure: times in, values out. A worker that stands still for 30 ms makes the packet wait for 30 ms that comes when it
begins to; so the longest way of a message bounds each pause of its worker from above, exactly where packets come often.
Which of all ways are a worker's is known by the flows that the kernel gives to it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from devtools.chaos.accounts import Arrivals

MS = 1_000_000
"""Nanoseconds."""


@dataclass(frozen=True)
class Window:
    """A time to look at; nanoseconds since 1970."""

    kind: str
    """What happened in it."""
    begin: int
    end: int


@dataclass(frozen=True)
class Pauses:
    """Of all windows of one kind."""

    windows: int
    seconds: float
    """All windows together."""
    messages: int
    """That were sent in them, and arrived."""
    longest_ms: tuple[float, ...]
    """By worker: the longest way of a message in any window."""
    median_ms: tuple[float, ...]
    """By worker: the median of each window's longest way."""


def ways(sent: Sequence[int], arrivals: Mapping[str, Arrivals]) -> list[int]:
    """By number of the message, nanoseconds from its sending to its first arrival; -1: it has not arrived."""
    found = [-1] * len(sent)
    for each in arrivals.values():
        for number, time in zip(each.numbers, each.times, strict=True):
            way = max(0, time - sent[number])
            if found[number] < 0 or way < found[number]:
                found[number] = way
    return found


def pauses(
    sent: Sequence[int], way: Sequence[int], worker_of: Sequence[int], workers: int, windows: Iterable[Window]
) -> dict[str, Pauses]:
    """By kind of window. `worker_of`: by flow, the worker (from 0) that has it; messages go round the flows."""
    longest: dict[str, list[list[int]]] = {}
    messages: dict[str, int] = {}
    length: dict[str, int] = {}
    for window in windows:
        top = [0] * workers
        count = 0
        for number in range(_first(sent, window.begin), _first(sent, window.end)):
            if way[number] >= 0:
                worker = worker_of[number % len(worker_of)]
                top[worker] = max(top[worker], way[number])
                count += 1
        longest.setdefault(window.kind, []).append(top)
        messages[window.kind] = messages.get(window.kind, 0) + count
        length[window.kind] = length.get(window.kind, 0) + window.end - window.begin
    return {
        kind: Pauses(
            len(tops),
            round(length[kind] / 1e9, 2),
            messages[kind],
            tuple(round(max(each) / MS, 1) for each in zip(*tops, strict=True)),
            tuple(round(median(each) / MS, 1) for each in zip(*tops, strict=True)),
        )
        for kind, tops in longest.items()
    }


def _first(sent: Sequence[int], time: int) -> int:
    """The first message that was not sent before that time."""
    low, high = 0, len(sent)
    while low < high:
        middle = (low + high) // 2
        if sent[middle] < time:
            low = middle + 1
        else:
            high = middle
    return low
