"""What the prober measures, in memory that it shares with the supervisor: read at any time, without asking.

Knows the layout. One writer, the prober; plain aligned stores of 64 bits.
"""

import mmap
from typing import NamedTuple

CELL = 8
"""Bytes."""
_ANSWERED, _ROUND_TRIP, _STATUS = range(3)
_CELLS = 3
"""For each target; before the first one, a cell for the heartbeat."""


class ProbeResult(NamedTuple):
    answered: float
    """When the last answer came, in seconds since 1970; 0 when there was none yet."""
    round_trip: float
    """Of that answer, in seconds."""
    status: int
    """Its status code."""


class ProbeResults:
    """Of so many targets. Made before the fork."""

    def __init__(self, targets: int) -> None:
        self._map = mmap.mmap(-1, CELL * (1 + _CELLS * targets))
        self._cells = memoryview(self._map).cast("Q")

    @property
    def heartbeat(self) -> int:
        """Time of CLOCK_MONOTONIC in nanoseconds; 0 before the prober runs."""
        return self._cells[0]

    @heartbeat.setter
    def heartbeat(self, now: int) -> None:
        self._cells[0] = now

    def write(self, target: int, result: ProbeResult) -> None:
        first = 1 + _CELLS * target
        self._cells[first + _ROUND_TRIP] = int(result.round_trip * 1e9)
        self._cells[first + _STATUS] = result.status
        self._cells[first + _ANSWERED] = int(result.answered * 1e9)

    def read(self, target: int) -> ProbeResult:
        first = 1 + _CELLS * target
        answered, round_trip, status = self._cells[first : first + _CELLS]
        return ProbeResult(answered / 1e9, round_trip / 1e9, status)

    def close(self) -> None:
        self._cells.release()
        self._map.close()
