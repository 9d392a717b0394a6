"""What the commands of tools/ that build a lab have in common: how they tell their progress, and how they are stopped.

Does not know what they do.
"""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from nfqlb.cli import screen
from nfqlb.cli.common import UserError
from nfqlb.lab import LabError


def say(text: str) -> None:
    """Progress, on stderr: stdout is for results."""
    screen.tell(f"· {text}", hang=2, err=True)


@contextmanager
def told() -> Iterator[None]:
    """What goes wrong becomes an error of the command; Ctrl-C and SIGTERM clean up, undisturbed by more."""

    def stop(number: int, frame: object) -> NoReturn:  # noqa: ARG001  (the signal module's shape)
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)
        say("stopping")
        sys.exit(128 + number)

    before = {each: signal.signal(each, stop) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except LabError as error:
        raise UserError(str(error)) from None
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
