"""How often one kind of event may be logged: some lines in a period, and how many were held back.

Knows counts and a clock that others read. Does not know what is logged.
"""

INTERVAL = 10.0
"""Seconds of a period, where nothing else is said."""


class LogLimit:
    """Lets `lines` events of a period pass. A period begins with the first event that passes after the last one."""

    def __init__(self, lines: int = 1, seconds: float = INTERVAL) -> None:
        self._lines, self._seconds = lines, seconds
        self._until = float("-inf")
        self._passed = self._held = 0

    def passes(self, now: float) -> bool:
        """Whether an event at `now` (seconds, never falling) is to be logged; one that is not is counted."""
        if now >= self._until:
            self._until, self._passed = now + self._seconds, 0
        if self._passed < self._lines:
            self._passed += 1
            return True
        self._held += 1
        return False

    def before(self, now: float) -> int | None:
        """For a line that tells of others, too: how many were held back before an event at `now` that is to be logged;
        None if this one is not. The end of that line: `more`.
        """
        before = self.held(now)
        return before if self.passes(now) else None

    def held(self, now: float) -> int:
        """How many were held back in a period that is over by `now`; 0 where there is none to tell of. Each is told
        once.
        """
        if now < self._until:
            return 0
        held, self._held = self._held, 0
        return held


def more(before: int) -> str:
    """` (and 7 more before)`, or nothing where there were none."""
    return f" (and {before} more before)" if before else ""
