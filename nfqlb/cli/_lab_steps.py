"""What the commands that build a lab have in common: how they tell progress and failures, and how they are stopped.

Does not know what they do.
"""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from nfqlb.cli import _screen as screen
from nfqlb.cli._common import UserError
from nfqlb.lab import LabError

_said = ""
"""The last of `say`: the step at which it fails."""


def say(text: str) -> None:
    """Progress, on stderr: stdout is for results."""
    global _said
    _said = text
    screen.tell(f"· {text}", hang=2, err=True)


def in_words(error: Exception) -> str:
    """What went wrong, at which step, and where there is more."""
    text = f'At "{_said}": {error}' if _said else str(error)
    logs = error.logs if isinstance(error, LabError) else None
    return text if logs is None else f"{text}\nThe logs are kept in {logs}."


@contextmanager
def told() -> Iterator[None]:
    """What goes wrong becomes an error of the command, which names the step and where the logs are; Ctrl-C and SIGTERM
    clean up, undisturbed by more.
    """
    global _said
    _said = ""

    def stop(number: int, frame: object) -> NoReturn:  # noqa: ARG001  (the signal module's shape)
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)
        say("stopping")
        sys.exit(128 + number)

    before = {each: signal.signal(each, stop) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except (LabError, subprocess.SubprocessError) as error:
        raise UserError(in_words(error)) from None
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
