"""How a program of the lab has ended and what it said last, as a sentence has room for it. Knows no program."""

import re
import signal

LIMIT = 800
"""Characters."""


def last_words(text: str, limit: int = LIMIT) -> str:
    """The last lines of an output in one line, without colours. Whole lines, unless the last is longer than `limit`."""
    plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)
    plain = re.sub(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", " ", plain).strip()
    if len(plain) > limit:
        cut = plain[-limit:]
        plain = cut.partition("\n")[2] if "\n" in cut else cut
    return " ".join(plain.split())


def ending(status: int) -> str:
    """From what `Popen.wait` returns: `ended with status 1`, `was ended by SIGKILL`."""
    if status < 0:
        try:
            return f"was ended by {signal.Signals(-status).name}"
        except ValueError:  # a real-time signal
            return f"was ended by signal {-status}"
    return f"ended with status {status}"
