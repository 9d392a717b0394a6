"""Scanners by their User-Agent: those that do not take the trouble to hide.

Knows the words of the configuration and how to look for them cheaply in values that strangers choose. What becomes of
a scanner's request is for others.
"""

import re
from collections.abc import Sequence

KNOWN = ("friendly-scanner", "friendly-request", "sipvicious", "sipcli", "sip-scan", "sundayddr", "pplsip", "iwar",
         "sivus", "siparmyknife")  # fmt: skip
"""Words that User-Agents of common scanners hold, and of no phone that we have heard of."""

LONGEST = 256
"""Bytes of a value that are looked at: a word stands near its beginning, or the scanner hides."""

REMEMBERED = 1024
"""Values whose answer is kept. Phones have a few dozen; where strangers bring more, all are forgotten at once."""


class Scanners:
    def __init__(self, words: Sequence[str]) -> None:
        """`words`: parts of a User-Agent, in whatever case."""
        text = b"|".join(re.escape(word.lower().encode()) for word in words)
        self._search = re.compile(text).search if words else None
        self._known: dict[bytes, bool] = {}

    def matches(self, value: bytes) -> bool:
        """Does this User-Agent hold one of the words?"""
        if self._search is None:
            return False
        value = value[:LONGEST]
        found = self._known.get(value)
        if found is None:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            found = self._known[value] = self._search(value.lower()) is not None
        return found
