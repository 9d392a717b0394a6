"""Ctrl-C: exit status 130 and no traceback, from the first module of ours until the last has done its work.

While modules load there is nothing to clean up, and a KeyboardInterrupt would come out wherever Python happens to be:
in the middle of somebody's module, or in a callback of the import system, which can only print it. So `at_once` has
SIGINT end the process without a word. When a command begins it has something to clean up, and `as_exception` makes it a
KeyboardInterrupt again. Does not know who cleans up what.

Only the ways in (each `__main__.py`) call `at_once`: for whoever imports nfqlb as a library, nothing changes.
"""

import _signal  # type: ignore[import-not-found]  # signal without its enums: there is no time to lose
import os
import sys

INTERRUPTED: int = 128 + _signal.SIGINT
"""Exit status after Ctrl-C, as a shell reports SIGINT."""

SOON = 0.001
"""Seconds after which an interrupt that could not be raised where it came is raised again."""

_ours = False


def at_once() -> None:
    """From now on SIGINT ends this process; not where it is ignored, as of what a shell starts in the background."""
    global _ours
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _ours = True
        _signal.signal(_signal.SIGINT, _end)


def as_exception() -> None:
    """SIGINT raises KeyboardInterrupt again, where `at_once` had it end the process."""
    if _ours and _signal.getsignal(_signal.SIGINT) is _end:
        sys.unraisablehook = _once_more
        _signal.signal(_signal.SIGALRM, _signal.default_int_handler)
        _signal.signal(_signal.SIGINT, _signal.default_int_handler)


def over() -> None:
    """The command has ended, and nothing is left to clean up: as in the beginning."""
    if _ours:
        at_once()


def _end(number: int, frame: object) -> None:  # noqa: ARG001  (the signal module's shape)
    os._exit(INTERRUPTED)


def _once_more(unraisable: "sys.UnraisableHookArgs") -> None:
    """Python is about to print and forget what a destructor or a callback of the import system has raised."""
    if isinstance(unraisable.exc_value, KeyboardInterrupt):
        _signal.setitimer(_signal.ITIMER_REAL, SOON)
    else:
        sys.__unraisablehook__(unraisable)
