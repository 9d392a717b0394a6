"""`tools/bench`: its options, its output, its exit status. The work is done by the modules beside it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

import click

from nfqlb.cli.common import UserError, console, echo_json, json_option
from nfqlb.lab import LabError
from nfqlb.lab.bench import traffic


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """What a message costs: in time, in instructions, and on a whole processor beside others.

    \b
    Example:
      tools/bench engine
    """


@main.command("engine")
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    type=click.Choice(traffic.kinds()),
    metavar="KIND",
    help="Only this kind of message; repeatable.",
)
@click.option("--processes", default=3, show_default=True, type=click.IntRange(1, 100), help="That measure each kind.")
@click.option("--values", default=5, show_default=True, type=click.IntRange(1, 100), help="From each process.")
@click.option("--quick", is_flag=True, help="One process and three values: a first look.")
@json_option
def engine_(kinds: tuple[str, ...], processes: int, values: int, quick: bool, as_json: bool) -> None:
    """Microseconds of the engine for a datagram of each kind. Needs no root.

    BEST is the best value: on a busy machine it is nearest to what a quiet one would show. Timed by pyperf.

    \b
    Example:
      tools/bench engine --kind register --kind invite-in
    """
    from nfqlb.lab.bench import timing

    with told():
        found = timing.measure(kinds, processes=processes, values=values, quick=quick)
    if as_json:
        echo_json([asdict(each) for each in found])
        return
    table(
        ("KIND", "BYTES", "BEST µs", "MEDIAN µs", "±"),
        [(t.kind, f"{t.size}", f"{t.best:.2f}", f"{t.median:.2f}", f"{t.deviation:.2f}") for t in found],
    )


@main.command("ratchet")
@click.option("--renew", is_flag=True, help="Keep what is counted now.")
@json_option
def ratchet_(renew: bool, as_json: bool) -> None:
    """Instructions of the engine for a datagram of each kind, against those that are kept. Needs no root.

    Counted by valgrind, so they are the same on a busy machine. Exit status 1 when a kind needs over 5 % more than is
    kept in nfqlb/lab/bench/ratchet.json for this build of Python; without counts of this build there is nothing to
    compare with, and --renew keeps some.

    \b
    Example:
      tools/bench ratchet
    """
    from nfqlb.lab.bench import counting, ratchet

    with told():
        now = counting.count()
    build = ratchet.build()
    before = ratchet.kept().get(build, {})
    changes = ratchet.compare(before, now)
    broken = [] if renew else [change for change in changes if change.broken]
    if renew:
        ratchet.renew(now)
    if as_json:
        echo_json({"build": build, "kept": before, "now": now, "broken": [change.kind for change in broken]})
    else:
        table(
            ("KIND", "KEPT", "NOW", "CHANGE"),
            [
                (each.kind, f"{each.kept or '–'}", f"{each.now or '–'}", f"{each.part:+.1%}" if each.part else "")
                for each in changes
            ],
        )
    if renew:
        say(f"kept for {build}")
    elif not before:
        say(f"Nothing is kept for this build of Python ({build}). Keep these counts: {ratchet.RENEW}")
    elif broken:
        say(
            f"{len(broken)} kind(s) need over {ratchet.TOLERANCE:.0%} more than is kept: "
            f"{', '.join(change.kind for change in broken)}. Where that is the price of something, say which in the "
            f"commit, and: {ratchet.RENEW}"
        )
    elif any(change.stale for change in changes):
        say(f"The file lags behind. Keep what is won: {ratchet.RENEW}")
    sys.exit(1 if broken else 0)


def table(titles: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Print it: the first column left, the others right."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    made = Table(box=SIMPLE_HEAD)
    for number, title in enumerate(titles):
        made.add_column(title, justify="right" if number else "left")
    for row in rows:
        made.add_row(*row)
    console().print(made)


def say(text: str) -> None:
    """Progress, on stderr: stdout is for results."""
    click.echo(f"· {text}", err=True)


@contextmanager
def told() -> Iterator[None]:
    """What goes wrong becomes an error of the command."""
    try:
        yield
    except LabError as error:
        raise UserError(str(error)) from None


if __name__ == "__main__":
    main(prog_name="tools/bench")
