"""What the commands on stored packets share: opening a capture, its errors as sentences, and colour.

Not a command. Knows nothing of what is printed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from nfqlb.cli._common import UserError, load_settled
from nfqlb.cli.completion import files

if TYPE_CHECKING:
    from pathlib import Path

    from nfqlb.capture.packets import PacketReader
    from nfqlb.proxy.setup import Setup

F = TypeVar("F", bound=Callable[..., Any])


def capture_argument(function: F) -> F:
    """Give a command the argument IN.pcap; it receives `capture: str`, "-" for standard input."""
    return click.argument("capture", metavar="IN.pcap", shell_complete=files)(function)


def load_setup(config_path: Path) -> Setup:
    """The configuration with its keys; what is wrong with either becomes a UserError."""
    from nfqlb.config.problems import ConfigError

    try:
        return load_settled(config_path).setup()
    except ConfigError as error:
        raise UserError(str(error)) from None


@contextmanager
def packets_in(capture: str) -> Iterator[PacketReader]:
    """The packets of a capture. What is wrong with it becomes a UserError; so does a file that cannot be opened."""
    from nfqlb.capture.packets import PacketReader
    from nfqlb.capture.source import Source

    if capture == "-" and sys.stdin.isatty():
        raise click.UsageError("Standard input is a terminal: pipe a capture into it, or name a file.")
    try:
        source = Source(capture)
    except (OSError, ValueError) as error:
        raise UserError(f"{capture} cannot be opened: {getattr(error, 'strerror', None) or error}.") from None
    with source, capture_errors():
        yield PacketReader(source)


@contextmanager
def capture_errors() -> Iterator[None]:
    """Turn what reading a capture, or writing one, raises into a UserError."""
    from nfqlb.capture.errors import CaptureError

    try:
        yield
    except CaptureError as error:
        raise UserError(str(error)) from None
    except BrokenPipeError:  # the reader of our output has gone: no error of the user's
        raise
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise UserError(f"Reading or writing stopped: {where}{error.strerror or error}.") from None


def has_colour() -> bool:
    """Whether stdout is a terminal that may be coloured [https://no-color.org]."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def prepare_output() -> None:
    """Let a terminal with a small character set show what it can, instead of failing at an arrow."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")
