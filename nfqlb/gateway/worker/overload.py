"""When a worker has more to do than it can: looks at how full its queue is and how long packets have waited in it.

Knows numbers and times, and how overload begins and ends. Does not know where they come from or what is shed.

A queue that is merely long for a moment (a burst, or all that waited while a worker was replaced) is no overload: it is
worked off. So age counts only when it lasts, and fullness only when the room that is left is needed for those who have
calls. Overload ends at half of what began it; with one limit for both it would come and go with each packet.
"""

from typing import NamedTuple

LASTING = 1.0
"""Seconds that packets must have waited for too long before it is overload."""
END = 0.5
"""It ends below that part of both limits."""
QUIET = 10.0
"""Seconds without overload after which another one is another episode, for the log."""


class Load(NamedTuple):
    """Of a queue at one moment."""

    fill: float
    """0: empty, 1: the next packet may be lost."""
    age: float
    """Seconds that the packet in hand has waited."""


class Overload:
    """Of one queue."""

    def __init__(self, fill: float, age: float) -> None:
        """The limits, as of Load."""
        self._fill, self._age = fill, age
        self._old_since: float | None = None
        self._ended = float("-inf")
        self.now = False
        self.episodes = 0

    def look(self, load: Load, now: float) -> bool:
        """Whether there is overload at the time `now`, in seconds of any clock that does not jump."""
        if load.age < self._age:
            self._old_since = None
        elif self._old_since is None:
            self._old_since = now
        if self.now:
            if load.fill < END * self._fill and load.age < END * self._age:
                self.now, self._ended = False, now
        elif load.fill >= self._fill or (self._old_since is not None and now - self._old_since >= LASTING):
            self.now = True
            self.episodes += now - self._ended > QUIET
        return self.now
