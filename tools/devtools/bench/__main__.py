"""`tools/bench`: its options, its output, its exit status. The work is done by the modules beside it."""

from nfqlb import interrupt

if __name__ == "__main__":
    interrupt.at_once()  # before the modules are loaded that take their time

import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from devtools.bench import traffic
from devtools.bench.load import MIXES
from devtools.bench.systems import SYSTEMS
from nfqlb.cli import _screen as screen
from nfqlb.cli._common import Group, echo_json, json_option
from nfqlb.cli._lab_steps import say, told
from nfqlb.lab.lab import check_host
from nfqlb.layout import Shape, Table

PROGRAMS = {"ip": "iproute2", "iptables": "iptables", "taskset": "util-linux", "ss": "iproute2"}
"""That a live gateway is measured with → Debian package."""


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
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
    from devtools.bench import timing

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
    kept in tools/devtools/bench/ratchet.json for this build of Python; without counts of this build there is nothing to
    compare with, and --renew keeps some.

    \b
    Example:
      tools/bench ratchet
    """
    from devtools.bench import counting, ratchet

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


@main.command("live")
@click.option("--mix", "mixes", multiple=True, type=click.Choice(list(MIXES)), help="Only this one; repeatable.")
@click.option("--system", "names", multiple=True, type=click.Choice(SYSTEMS), help="Likewise.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1, 100), help="Alternations.")
@click.option("--seconds", default=1.5, show_default=True, type=click.FloatRange(0.1, 60), help="Of each run.")
@click.option("--phones", default=20_000, show_default=True, type=click.IntRange(10, 4_000_000), help="Sources.")
@click.option("--backends", default=4, show_default=True, type=click.IntRange(1, 1000))
@click.option("--quick", is_flag=True, help="One round of short runs: to see that it works.")
@click.option(
    "-o",
    "--output",
    "stem",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="STEM",
    help="Write STEM.json and STEM.svg.",
)
@json_option
def live_(
    mixes: tuple[str, ...],
    names: tuple[str, ...],
    quick: bool,
    stem: Path | None,
    as_json: bool,
    **values: Any,
) -> None:
    """nfqlb, Kamailio and the floor side by side: one core, the same traffic, turn by turn.

    The floor is the least that Python can do in the packet path: netfilterqueue with a constant rewrite. Needs root and
    two cores, one for the system under test and one for the load; everything runs in network namespaces that are
    removed again. The figures mean something on a machine that does nothing else: docs/benchmarks.md says more.

    \b
    Example:
      sudo tools/bench live -o docs/benchmark
    """
    from devtools.bench import live, report

    if quick:
        values |= {"rounds": 1, "seconds": 0.2, "phones": 200, "prepared": 20}
    options = live.Options(systems=names or live.Options.systems, mixes=mixes or live.Options.mixes, **values)
    with told():
        check_host(PROGRAMS | {"kamailio": "kamailio"})
        results = live.run(own_name(), options, say)
    date = time.strftime("%Y-%m-%d")
    if stem is not None:
        for path in report.write(results, asdict(options), date, stem):
            say(f"written: {path}")
    if as_json:
        echo_json(report.as_dict(results, asdict(options), date))
        return
    table(report.TITLES, report.rows(results), left=2)
    table(report.RATIO_TITLES, report.ratio_rows(results), left=2)
    junk = report.junk_part(results)
    if junk is not None:
        click.echo(f"Junk costs {junk[0]:.0%} of a forwarded REGISTER ({junk[1]:.0%}–{junk[2]:.0%}).")


@main.command("scaling")
@click.option("--rate", default=4000, show_default=True, type=click.IntRange(10, 100_000), help="Messages per s.")
@click.option("--seconds", default=1.0, show_default=True, type=click.FloatRange(0.1, 60), help="Of each run.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1, 100), help="Runs of each point.")
@click.option("--quick", is_flag=True, help="Two points, short runs: to see that it works.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write the JSON there, too."
)
@json_option
def scaling_(rate: float, seconds: float, rounds: int, quick: bool, output: Path | None, as_json: bool) -> None:
    """What a message costs as backends, sources, bytes or workers grow. Needs root and two cores.

    WORKERS is the running time of the gateway's processes for a REGISTER, which hardly depends on what else the
    machine does; CORE is all that their core did.

    \b
    Example:
      sudo tools/bench scaling
    """
    from devtools.bench import report, scaling

    series = scaling.QUICK if quick else scaling.SERIES
    if quick:
        rate, seconds, rounds = 1000, 0.2, 1
    with told():
        check_host(PROGRAMS)
        costs = list(scaling.run(own_name(), rate, seconds, rounds, say, series))
    found = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": report.machine(),
        "costs": [asdict(cost) for cost in costs],
    }
    if output is not None:
        output.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
        say(f"written: {output}")
    if as_json:
        echo_json(found)
        return
    table(
        ("SERIES", "VALUE", "MSG/S", "LOSS", "WORKERS µs", "CORE µs", "MB"),
        [
            (
                cost.series,
                f"{cost.value:,}",
                f"{cost.rate:,.0f}",
                f"{cost.loss:.3%}",
                f"{cost.workers:.1f}",
                f"{cost.core:.1f}",
                f"{cost.memory / 2**20:.0f}",
            )
            for cost in costs
        ],
    )


@main.command("page")
@click.argument("root", default=Path(), type=click.Path(path_type=Path, file_okay=False, exists=True))
def page_(root: Path) -> None:
    """Write the figures of docs/benchmark.json and docs/scaling.json into the pages of the checkout ROOT.

    \b
    Example:
      sudo tools/bench live -o docs/benchmark
      sudo tools/bench scaling -o docs/scaling.json
      tools/bench page
    """
    from devtools.bench import page

    with told():
        changed = page.write(root)
    for path in changed:
        say(f"written: {path}")


def own_name() -> str:
    """Of the namespaces of this run."""
    name = f"nfqlb-bench{os.getpid()}"
    say(f"namespaces: {name}")
    return name


def table(titles: tuple[str, ...], rows: list[tuple[str, ...]], left: int = 1) -> None:
    """Print it: the first `left` columns left, the others right."""
    made = Table(Shape("figures", titles, left=titles[:left]))
    for row in rows:
        made.add(*row)
    screen.show([made])


if __name__ == "__main__":
    main(prog_name="tools/bench")
