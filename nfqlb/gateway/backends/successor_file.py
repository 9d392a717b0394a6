"""A file for the supervisor that comes after this one: written when there is something new to hand on, but not too
often.

Knows when to write, and what to do when that fails. Does not know what is in the file, nor who reads it.
"""

import logging
from collections.abc import Callable

logger = logging.getLogger("nfqlb")


class SuccessorFile:
    """One file. What cannot be written, on a full disk for example, is told once, and tried again."""

    def __init__(self, trouble: str, interval: float, save: Callable[[], None]) -> None:
        """`trouble`: what the log says when it cannot be written. `interval`: seconds between two writes, at least.
        `save` writes the file, and raises OSError.
        """
        self._trouble, self._interval, self._save = trouble, interval, save
        self.behind = False
        """There is something to hand on that is not in the file."""
        self._next = 0.0
        self._error: int | None = None
        """The number of the error that was told, as long as it lasts."""

    def tick(self, now: float) -> None:
        """Write it if there is reason to, and if it is time; `now` of time.monotonic()."""
        if not self.behind or now < self._next:
            return
        self._next = now + self._interval
        try:
            self._save()
        except OSError as error:
            if error.errno != self._error:
                self._error = error.errno
                logger.error("%s: %s", self._trouble, error)
        else:
            self.behind, self._error = False, None
