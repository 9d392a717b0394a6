"""Pages on a terminal, in a pipe or in a file; once, or again and again.

Knows how much room there is, and how a page that changes is shown: on a terminal on its alternate screen, cut to its
height; elsewhere one after the other. Does not know what stands on a page: `nfqlb.layout` and the commands do.
"""

from __future__ import annotations

import inspect
import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, NoReturn, TypeVar

import click

from nfqlb.layout import Line, Page, Shape, fit, lay, wrapped

if TYPE_CHECKING:
    from rich.text import Text

KEPT = (signal.SIGWINCH, signal.SIGTSTP)
"""Signals that wait until a page is drawn: the terminal has another size; Ctrl-Z."""

C = TypeVar("C", bound=click.Command)


def room(stream: IO[str] | None = None) -> int | None:
    """Columns of the terminal behind `stream` (stdout). None in a pipe or a file: lines may be as long as they like, as
    what cuts columns there is grep or awk."""
    stream = stream or sys.stdout
    if not stream.isatty():
        return None
    return wished() or os.get_terminal_size(stream.fileno()).columns or 80  # 0: it does not know


def wished() -> int | None:
    """What COLUMNS says. `watch nfqlb stats` puts the width of its terminal there; but a Python program that has loaded
    readline leaves an 80 there for its children, so in a pipe it counts for pages only, not for sentences."""
    wanted = os.environ.get("COLUMNS", "")
    return (int(wanted) or None) if wanted.isascii() and wanted.isdigit() else None


def show(page: Page, *, wide: bool = False) -> None:
    """Print it; `wide`: all columns, however long the lines."""
    _print(lay(page, _width(wide)))


def _width(wide: bool) -> int | None:
    return None if wide else room() or wished()


def tell(text: str, *, indent: int = 0, hang: int | None = None, err: bool = False, fg: str | None = None) -> None:
    """Print lines, wrapped by words on a terminal; `hang` blanks before what then comes below, or `indent`."""
    columns = room(sys.stderr if err else sys.stdout)
    for each in text.split("\n"):
        for line in wrapped(each, columns, indent=indent, hang=hang):
            click.secho(line, err=err, fg=fg)


def _print(lines: list[Line]) -> None:
    from nfqlb.cli._common import console

    console().print(_text(lines), soft_wrap=True)


def _text(lines: list[Line]) -> Text:
    from rich.text import Text

    return Text("\n").join([Text(line.text, style=line.style) for line in lines])


def wide_option(*shapes: Shape) -> Callable[[C], C]:
    """Give a command `--wide`, which it receives as `wide: bool`, and its help the order in which columns go."""

    def add(command: C) -> C:
        command.params.append(click.Option(["--wide"], is_flag=True, help="All columns, however long the lines."))
        orders = [f"{shape.name.capitalize()}: {shape.order}." for shape in shapes]
        order = f". {' '.join(orders)}" if len(shapes) > 1 else f": {shapes[0].order}."
        text = (
            f"Columns that a narrow terminal has no room for are left out, in this order{order} No name or address is."
        )
        before, example, after = inspect.cleandoc(command.help or "").partition("\n\n\b\nExample")
        command.help = f"{before}\n\n{text}{example}{after}"
        return command

    return add


def watch_option(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command `--watch`; it receives `interval: float | None`."""
    return click.option(
        "--watch",
        "interval",
        type=click.FloatRange(min=0.1, max=3600),
        is_flag=False,
        flag_value=1.0,
        metavar="[SECONDS]",
        help="Again every SECONDS (1 unless given), until Ctrl-C.",
    )(function)


def on_screen() -> bool:
    """Whether stdout is a terminal that can show one page in the place of another."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")


def watch(make: Callable[[], Page], interval: float, *, wide: bool = False) -> NoReturn:
    """Show a page made anew every `interval` seconds, until Ctrl-C or until the reader has gone."""
    if on_screen():
        if wide:
            raise click.UsageError(
                "A screen has no room for --wide: leave out one of the two, or pipe it into less -S."
            )
        _on_screen(make, interval)
    while True:
        _print([*lay(make(), _width(wide)), Line("")])
        pause(interval)


def pause(seconds: float) -> None:
    """Wait. Raises BrokenPipeError as soon as nobody reads our output any more, not at the next line."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    if poll.poll(seconds * 1000):
        raise BrokenPipeError


def _on_screen(make: Callable[[], Page], interval: float) -> NoReturn:
    from rich.live import Live

    from nfqlb.cli._common import console

    screen = console()
    live = Live(console=screen, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)

    def draw(page: Page) -> None:
        columns, lines = shutil.get_terminal_size()
        screen.size = screen.size._replace(width=columns, height=lines)
        live.update(_text(fit(page, columns, lines)), refresh=True)

    with _signals():
        page = make()  # a mistake is told on the ordinary screen
        with live:
            while True:
                draw(page)
                due = time.monotonic() + interval
                while (left := due - time.monotonic()) > 0:
                    if (came := signal.sigtimedwait(KEPT, left)) is None:
                        continue
                    if came.si_signo == signal.SIGTSTP:
                        live.stop()
                        os.kill(os.getpid(), signal.SIGSTOP)  # here it stands until `fg`
                        live.start()
                    draw(page)
                page = make()


@contextmanager
def _signals() -> Iterator[None]:
    """Those of KEPT wait for us; those that end us let the terminal be put right before."""

    def end(number: int, frame: object) -> NoReturn:  # noqa: ARG001  (the signal module's shape)
        sys.exit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, KEPT)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for number, handler in before.items():
            signal.signal(number, handler)
