"""Regular expressions over bytes that strangers send.

Python's own `re` takes exponential time for some patterns, and a sender would choose the bytes for it. RE2 takes a time
that is linear in the length of the text, whatever the pattern; in return it has no back references and no look-around.
"""

from typing import Any

PATTERN_MAX = 512
"""Characters of a pattern: what is longer is a list, and better written as one."""

MEMORY = 1 << 20
"""Bytes that RE2 may use for one pattern."""


class PatternError(ValueError):
    """Not a pattern; the text says why."""


class Pattern:
    """A compiled pattern; can be pickled. Text is bytes, one by one; an `i` flag, `(?i)`, is for ASCII."""

    __slots__ = ("_search", "text")

    def __init__(self, text: str) -> None:
        """Raises PatternError."""
        self.text = text
        self._search = _compiled(text).search

    def found(self, where: bytes) -> bool:
        """Is it anywhere in there? `^` and `$` are the ends."""
        return self._search(where) is not None

    def __reduce__(self) -> tuple[type["Pattern"], tuple[str]]:
        return Pattern, (self.text,)


def _compiled(text: str) -> Any:
    import re2  # here: only who has patterns needs the library in memory

    if len(text) > PATTERN_MAX:
        raise PatternError(f"it is longer than {PATTERN_MAX} characters")
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1  # each byte for itself: what is sent need not be UTF-8
    options.log_errors = False
    options.max_mem = MEMORY
    try:
        return re2.compile(text.encode(), options)
    except re2.error as error:
        reason = error.args[0]
        raise PatternError(reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)) from None
