"""`tools/chaos`: its options, its output, its exit status. The work is done by the modules beside it."""

from nfqlb import interrupt

if __name__ == "__main__":
    interrupt.at_once()  # before the modules are loaded that take their time

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from devtools.chaos import calls, flood, large, nodes, outages, overload, run, soak
from devtools.chaos.scenarios import SCENARIOS, Scenario
from nfqlb.cli._common import Group
from nfqlb.cli._lab_steps import say, told

F = TypeVar("F", bound=Callable[..., Any])

LOAD_OPTIONS = (
    click.option("--rate", default=5000, show_default=True, type=click.IntRange(10, 100_000), help="Messages per s."),
    click.option("--seconds", default=20.0, show_default=True, type=click.FloatRange(1, 86_400), help="How long."),
    click.option(
        "--every", default=2.0, show_default=True, type=click.FloatRange(0.2, 3600), help="Seconds between two events."
    ),
    click.option("--mixed", is_flag=True, help="OPTIONS, MESSAGE and INVITE beside REGISTER."),
)
LAB_OPTIONS = (
    click.option("--workers", default=2, show_default=True, type=click.IntRange(1, 64), help="Of the gateway."),
    click.option("-6", "--ipv6", is_flag=True, help="IPv6 instead of IPv4."),
    click.option("--name", default="", help="Of the lab; chaos and the process id unless given."),
    click.option("--json", "compact", is_flag=True, help="The JSON in one line."),
)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Faults under load, and every message accounted for.

    The real gateway, started by its own commands, stands between a generator that sends numbered messages from many
    addresses and receivers that note each one. Every run builds a lab of its own in network namespaces and removes it.
    Prints JSON. Exit status: 0 when all bounds were kept, 1 when one was broken.

    \b
    Example:
      sudo tools/chaos worker-kill --rate 5000 --seconds 20 --every 2
    """


def with_options(*options: Callable[[F], F]) -> Callable[[F], F]:
    def add(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return add


def add_scenario(kind: type[Scenario]) -> None:
    """A command for one kind of scenario."""

    def command(compact: bool, name: str, **options: Any) -> None:
        with told():
            result = run.run(name or own_name(), kind, run_options(options), say)
        show(result.as_dict(), compact)
        end([result])

    bounds = f"At most {kind.lost_per_event} message(s) lost by each event" + (
        " and worker" if kind.lost_per_worker else ""
    )
    if kind.max_gap_ms is not None:
        bounds += f", no gap over {kind.max_gap_ms:g} ms"
    text = f"{kind.about[0].upper()}{kind.about[1:]}.\n\n{bounds}; none twice.\n\n\b\n"
    text += f"Example:\n  sudo tools/chaos {kind.name} --rate 1000 --seconds 10\n"
    main.command(kind.name, help=text)(with_options(*LOAD_OPTIONS, *LAB_OPTIONS)(command))


@main.command("all")
@with_options(*LOAD_OPTIONS, *LAB_OPTIONS)
def all_(compact: bool, name: str, **options: Any) -> None:
    """Every scenario of a steady load, one after another, each in a lab of its own.

    Prints a JSON array. soak and calls are not among them: they take their own time.

    \b
    Example:
      sudo tools/chaos all --rate 1000 --seconds 10
    """
    results, wanted = [], run_options(options)
    with told():
        for kind in SCENARIOS.values():
            results.append(run.run(name or own_name(), kind, wanted, say))
    show([result.as_dict() for result in results], compact)
    end(results)


@main.command("soak")
@click.option("--minutes", default=60.0, show_default=True, type=click.FloatRange(0.1, 10_000), help="How long.")
@click.option("--rate", default=1000, show_default=True, type=click.IntRange(10, 100_000), help="Messages per s.")
@click.option("--settle", default=300.0, show_default=True, help="Seconds before growth counts.")
@click.option("--sample", default=10.0, show_default=True, type=click.FloatRange(1, 600), help="Seconds between looks.")
@click.option(
    "--event", "events", multiple=True, type=click.Choice(sorted(SCENARIOS)), help="Now and then; repeatable."
)
@click.option(
    "--every", default=60.0, show_default=True, type=click.FloatRange(1, 36_000), help="Seconds between events."
)
@click.option("--mixed", is_flag=True, help="OPTIONS, MESSAGE and INVITE beside REGISTER.")
@click.option(
    "--output",
    default=Path("soak.json"),
    show_default=True,
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    help="The result so far, renewed with each look.",
)
@with_options(*LAB_OPTIONS)
def soak_(compact: bool, name: str, minutes: float, events: tuple[str, ...], output: Path, **options: Any) -> None:
    """A steady load for long: no process may grow by more than 2 MB, or leave files open.

    Growth of resident memory counts from --settle seconds on. Ctrl-C ends the run early; the result is in --output.

    \b
    Example:
      sudo tools/chaos soak --minutes 60 --rate 1000
    """
    family = 6 if options.pop("ipv6") else 4
    if not events:
        options["every"] = 0.0
    wanted = soak.Options(family=family, seconds=minutes * 60, **options)
    with told():
        result = soak.run(name or own_name(), wanted, [SCENARIOS[event] for event in events], output.absolute(), say)
    show({key: value for key, value in result.as_dict().items() if key != "processes"}, compact)
    end([result])


@main.command("calls")
@click.option("--rate", default=100, show_default=True, type=click.IntRange(20, 1000), help="Calls per second.")
@click.option(
    "--hold", default=3.0, show_default=True, type=click.FloatRange(0.1, 60), help="Seconds that a call lasts."
)
@click.option(
    "--every", default=2.0, show_default=True, type=click.FloatRange(0.5, 600), help="Seconds between two events."
)
@click.option("--reloads", default=10, show_default=True, type=click.IntRange(0, 1000))
@click.option("--upgrades", default=3, show_default=True, type=click.IntRange(0, 1000))
@click.option("--kills", default=5, show_default=True, type=click.IntRange(0, 1000), help="Of a worker.")
@with_options(*LAB_OPTIONS)
def calls_(compact: bool, name: str, **options: Any) -> None:
    """SIPp calls through reloads, upgrades and worker kills: none may fail.

    Seven calls of ten are answered and held; the others are answered late, cancelled while they ring, or refused, and
    messages are lost, so that there is much to repeat. No request of a call may reach another backend than its INVITE.

    \b
    Example:
      sudo tools/chaos calls --rate 100 --hold 3
    """
    family = 6 if options.pop("ipv6") else 4
    with told():
        result = calls.run(name or own_name(), calls.Options(family=family, **options), say)
    show(result.as_dict(), compact)
    end([result])


@main.command("large")
@click.option("--backends", default=1000, show_default=True, type=click.IntRange(8, 4000), help="In all.")
@click.option("--pools", default=50, show_default=True, type=click.IntRange(1, 1000))
@click.option("--rate", default=2500, show_default=True, type=click.IntRange(10, 100_000), help="Messages per s.")
@click.option(
    "--changes", default=10, show_default=True, type=click.IntRange(1, 1000), help="Times that one table is changed."
)
@click.option(
    "--reloads", default=3, show_default=True, type=click.IntRange(1, 1000), help="Of every pool, and of one."
)
@with_options(*LAB_OPTIONS)
def large_(compact: bool, name: str, ipv6: bool, **options: Any) -> None:
    """Many backends: how long a reload takes, how long packets wait for it and for other tables, how much memory.

    A reload must take less than 2 s, and no packet wait for a table more than 20 ms. What packets wait when nothing
    is changed is shown beside: on a busy machine that is more.

    \b
    Example:
      sudo tools/chaos large --backends 1000 --pools 50
    """
    if options["backends"] < 2 * options["pools"]:
        raise click.UsageError("Each pool needs two backends at least.")
    with told():
        result = large.run(name or own_name(), large.Options(family=6 if ipv6 else 4, **options), say)
    show(result.as_dict(), compact)
    end([result])


@main.command("flood")
@click.option("--seconds", default=60.0, show_default=True, type=click.FloatRange(1, 86_400), help="Of the flood.")
@click.option("--calls", default=200, show_default=True, type=click.IntRange(4, 2000), help="Calls per s.")
@click.option("--junk", default=20_000, show_default=True, type=click.IntRange(1, 1_000_000), help="Packets per s.")
@click.option("--sources", default=2000, show_default=True, type=click.IntRange(1, 4_000_000), help="Of the junk.")
@click.option("--flood", "one", default=20_000, show_default=True, type=click.IntRange(1, 1_000_000), help="OPTIONS/s.")
@click.option("--ban", default=30, show_default=True, type=click.IntRange(1, 3600), help="[limits] ban_for.")
@click.option("--workers", default=2, show_default=True, type=click.IntRange(1, 64), help="Of the gateway.")
@click.option("--name", default="", help="Of the lab; chaos and the process id unless given.")
@click.option("--json", "compact", is_flag=True, help="The JSON in one line.")
def flood_(compact: bool, name: str, one: int, **options: Any) -> None:
    """Junk from many sources, valid requests from one that floods, and SIPp calls from others.

    99 % of the calls must succeed. The flooding source must be banned within a second, and let go after its time. No
    worker may be replaced, or grow by more than 2 MB.

    \b
    Example:
      sudo tools/chaos flood --seconds 600
    """
    with told():
        result = flood.run(name or own_name(), flood.Options(flood=one, **options), say)
    show(result.as_dict(), compact)
    end([result])


@main.command("overload")
@click.option("--seconds", default=8.0, show_default=True, type=click.FloatRange(1, 3600), help="Of each load.")
@click.option("--share", default=0.25, show_default=True, type=click.FloatRange(0.01, 0.5), help="Requests of calls.")
@click.option("--rate", default=0, type=click.IntRange(0, 1_000_000), help="Per s; twice what it takes unless given.")
@click.option("--name", default="", help="Of the lab; chaos and the process id unless given.")
@click.option("--json", "compact", is_flag=True, help="The JSON in one line.")
def overload_(compact: bool, name: str, **options: Any) -> None:
    """Twice as many requests as a worker can take, new ones and those of calls.

    Measures what one worker can take, then sends twice as much, first without [limits] and then with them. With them,
    at most 1 % of the requests of calls may be lost, and new ones at least twenty times as often.

    \b
    Example:
      sudo tools/chaos overload --seconds 20
    """
    with told():
        result = overload.run(name or own_name(), overload.Options(**options), say)
    show(result.as_dict(), compact)
    end([result])


def add_outage(kind: type[outages.Outage]) -> None:
    """A command for one kind of outage."""
    default = kind.defaults

    def command(compact: bool, name: str, ipv6: bool, **options: Any) -> None:
        wanted = outages.Options(family=6 if ipv6 else 4, **options)
        with told():
            result = outages.run(name or own_name(), kind, wanted, say)
        show(result.as_dict(), compact)
        end([result])

    def number(name: str, least: float, most: float, text: str) -> Callable[[F], F]:
        value = getattr(default, name)
        span = click.IntRange(int(least), int(most)) if isinstance(value, int) else click.FloatRange(least, most)
        return click.option(f"--{name}", default=value, show_default=True, type=span, help=text)

    text = (
        f"{kind.about[0].upper()}{kind.about[1:]}.\n\n"
        "Real Kamailio, registrations and SIPp calls. Shows when the gateway noticed, when all that is new had moved, "
        "when the backend was back; no call or message elsewhere may fail.\n\n\b\n"
        f"Example:\n  sudo tools/chaos {kind.name} --rate {default.rate}\n"
    )
    main.command(kind.name, help=text)(
        with_options(
            number("rate", 10, 100_000, "Messages per s."),
            number("calls", 2, 1000, "Calls per s."),
            number("hold", 0.1, 600, "Seconds that a call lasts."),
            number("lead", 1, 600, "Seconds of load before, and after."),
            number("out", 0.5, 600, "Seconds that it stays out."),
            number("backends", 2, 8, "Kamailios."),
            number("interval", 0.2, 60, "[health] interval."),
            number("timeout", 0.1, 60, "[health] timeout."),
            number("rise", 1, 20, "[health] rise."),
            number("fall", 1, 20, "[health] fall."),
            *LAB_OPTIONS,
        )(command)
    )


def add_fault(fault: nodes.Fault) -> None:
    """A command for one way in which a node of a pair fails."""

    def command(compact: bool, name: str, **options: Any) -> None:
        family = 6 if options.pop("ipv6") else 4
        with told():
            result = nodes.run(name or own_name(), fault, nodes.Options(family=family, **options), say)
        show(result.as_dict(), compact)
        end([result])

    text = (
        f"A pair of gateways: {fault.about}.\n\n"
        f"Its addresses may be away for {fault.max_ms:g} ms (the median, with --moves). No established call and no "
        "registration may be lost, no new call may fail.\n\n\b\n"
        f"Example:\n  sudo tools/chaos {fault.name} --moves 19\n"
    )
    main.command(fault.name, help=text)(
        with_options(
            click.option("--calls", default=300, show_default=True, type=click.IntRange(2, 5000), help="Established."),
            click.option("--registrations", default=1000, show_default=True, type=click.IntRange(2, 20_000)),
            click.option("--new", default=50, show_default=True, type=click.IntRange(0, 500), help="New calls per s."),
            click.option("--pulse", default=200, show_default=True, type=click.IntRange(10, 5000), help="OPTIONS/s."),
            click.option("--moves", default=0, show_default=True, type=click.IntRange(0, 1000), help="More failures."),
            *LAB_OPTIONS,
        )(command)
    )


def run_options(options: dict[str, Any]) -> run.Options:
    family = 6 if options.pop("ipv6") else 4
    return run.Options(family=family, **options)


def own_name() -> str:
    return f"chaos{os.getpid()}"


def show(value: object, compact: bool) -> None:
    click.echo(json.dumps(value, ensure_ascii=False, indent=None if compact else 2))


def end(
    results: Sequence[
        run.Result
        | soak.Result
        | calls.Result
        | outages.Result
        | large.Result
        | nodes.Result
        | flood.Result
        | overload.Result
    ],
) -> NoReturn:
    """Exit as the results say; what is wrong goes to stderr, too."""
    for result in results:
        say(f"{result.scenario}: {'all bounds kept' if result.ok else 'BROKEN'}")
        for problem in result.problems:
            say(f"  {problem}")
    sys.exit(0 if all(result.ok for result in results) else 1)


for _kind in SCENARIOS.values():
    add_scenario(_kind)
for _fault in nodes.FAULTS.values():
    add_fault(_fault)
for _outage in outages.OUTAGES.values():
    add_outage(_outage)

if __name__ == "__main__":
    main(prog_name="tools/chaos")
