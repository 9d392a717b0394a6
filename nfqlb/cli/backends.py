"""`nfqlb backends`: where each backend stands, and an operator's word about one. Asks the gateway that runs."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nfqlb.cli import completing
from nfqlb.cli.common import UserError, config_option, console, echo_json, json_option

if TYPE_CHECKING:
    from rich.console import RenderableType

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
COLOURS = {"up": "green", "unknown": None, "down": "red", "draining": "yellow", "disabled": "yellow"}


def duration(_ctx: click.Context, _param: click.Parameter, text: str | None) -> float | None:
    """`10m`: a number and a unit, in seconds."""
    if text is None:
        return None
    number, unit = text[:-1], UNITS.get(text[-1:])
    if unit is None or not (number.isascii() and number.isdigit() and 0 < int(number) < 1_000_000):
        raise click.BadParameter(f"expected a time such as 90s, 10m, 2h or 1d, not {text!r}")
    return float(int(number) * unit)


@click.group(invoke_without_command=True)
@config_option
@json_option
@click.pass_context
def command(ctx: click.Context, config_path: Path, as_json: bool) -> None:
    """State, load and health of the backends; take one out, or bring it back.

    Without a word it is 'list'. What an operator says of a backend holds whatever its health is, and is kept over
    reloads, upgrades and restarts.

    \b
    Example:
      nfqlb backends drain reg1 --for 30m
    """
    ctx.obj = config_path
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_, config_path=config_path, as_json=as_json)
    elif as_json:
        raise click.UsageError(f"--json goes behind {ctx.invoked_subcommand}.")


def own_config(function: Any) -> Any:
    """`-c` of a word: its own, or the one before it."""
    return click.option(
        "-c",
        "--config",
        "config_path",
        type=click.Path(path_type=Path),
        default=lambda: click.get_current_context().obj,
        show_default="that of backends",
        metavar="FILE",
        help="The configuration.",
    )(function)


@command.command("list")
@own_config
@json_option
def list_(config_path: Path, as_json: bool) -> None:
    """Where each backend stands.

    'Share' is the part of the pool's new requests that goes there. 'Probe' is the round trip of the last answer to a
    probe. Responses are counted by class since the gateway started, over reloads and upgrades. Backends without a pool
    were removed by a reload, and finish what they have begun. Where the configuration has a name for an address, each
    address that DNS knows for it is a backend, NAME@ADDRESS; drain, disable and enable take NAME for all of them.

    With --json one object: ok, alarms (pool → text) and backends[], each with pool, name, address, state, since,
    until, health, warming (the part of its weight that it has got back), share (0..1), requests_per_second (null right
    after a change), counts, probe (round_trip in seconds, status, at; null before the first answer), error, error_at
    and leaving. Times are seconds since 1970; of a backend whose name has no address, since and error_at are null.

    Exit status: 0 when every pool is well, 1 when one is in alarm or no gateway runs.

    \b
    Example:
      nfqlb backends list --json | jq .alarms
    """
    from nfqlb.cli.steering import ask, errors_in

    answer = ask(config_path, {"do": "backends"}, quiet=as_json, timeout=10)
    if as_json:
        echo_json(answer)
    if not answer["ok"]:
        raise UserError(errors_in(answer))
    if not as_json:
        console().print(shown(answer, time.time()))
    if answer["alarms"]:
        raise SystemExit(1)


def shown(answer: dict[str, Any], now: float) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from nfqlb.cli.stats import grid

    titles = ("Address", "State", "Since", "Share", "Requests/s", "1xx", "2xx", "3xx", "4xx", "5xx", "6xx", "Probe")
    table = grid("Backend", *titles, "Last error", last_left=True)
    for index in (1, 2, 3):
        table.columns[index].justify = "left"
    for row in answer["backends"]:
        table.add_row(*cells(row, now), style=COLOURS.get(row["state"]))
    alarms = [Text(f"ALARM in pool {pool}: {text}", style="bold red") for pool, text in answer["alarms"].items()]
    return Group(*alarms, table)


def cells(row: dict[str, Any], now: float) -> list[str]:
    from nfqlb.cli.stats import number

    state = row["state"]
    if row["until"] is not None:
        state += f" for {span(row['until'] - now)}"
    if state.startswith(("draining", "disabled")) and row["health"] == "down":
        state += " (down)"
    if row["warming"] < 1 and row["state"] in ("up", "unknown"):
        state += f" (at {row['warming']:.0%})"
    error = row["error"] or ""
    if row["error_at"] is not None:
        error += f" ({span(now - row['error_at'])} ago)"
    return [
        row["name"] if row["leaving"] else f"{row['pool']}/{row['name']}",
        row["address"],
        f"{state} (leaving)" if row["leaving"] else state,
        "-" if row["since"] is None else moment(row["since"], now),
        f"{row['share']:.1%}",
        number(row["requests_per_second"]),
        *(number(row["counts"][f"responses_{each}xx"]) for each in range(1, 7)),
        "-" if row["probe"] is None else f"{row['probe']['round_trip'] * 1000:.1f} ms",
        error,
    ]


def moment(at: float, now: float) -> str:
    """The time of day, with the date where that is another one."""
    then = datetime.fromtimestamp(at)
    today = then.date() == datetime.fromtimestamp(now).date()
    return then.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M")


def span(seconds: float) -> str:
    """`50s`, `12m`, `3h`, `4d`: rounded to what a person reads."""
    for unit, size in reversed(UNITS.items()):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f}{unit}"
    return f"{max(0.0, seconds):.0f}s"


NAME = click.argument("name", metavar="NAME", shell_complete=completing.backends)
NAME_OUT = click.argument("name", metavar="NAME", shell_complete=completing.taken_out)
FOR = click.option(
    "--for",
    "seconds",
    callback=duration,
    metavar="TIME",
    shell_complete=completing.durations,
    help="Until so much later: 90s, 10m, 2h, 1d.",
)


@command.command()
@own_config
@json_option
@FOR
@NAME
def drain(config_path: Path, as_json: bool, seconds: float | None, name: str) -> None:
    """Send a backend nothing new; what has begun there goes on.

    New calls and registrations go to the others at once. Requests of a dialog, and what belongs to a transaction that
    began there, still reach it: stop it when its last call has ended. NAME is a backend's, or POOL/NAME.

    \b
    Example:
      nfqlb backends drain registrars/reg1
    """
    say(config_path, as_json, "drain", name, seconds)


@command.command()
@own_config
@json_option
@FOR
@NAME
def disable(config_path: Path, as_json: bool, seconds: float | None, name: str) -> None:
    """Treat a backend as dead: also transactions that began there go elsewhere.

    For one that is broken although it answers. Requests of a dialog, which name it, still reach it. To take one out
    of service without a failed call, drain it. NAME is a backend's, or POOL/NAME.

    \b
    Example:
      nfqlb backends disable reg1 --for 10m
    """
    say(config_path, as_json, "disable", name, seconds)


@command.command()
@own_config
@json_option
@NAME_OUT
def enable(config_path: Path, as_json: bool, name: str) -> None:
    """Take back 'drain' or 'disable': its health alone decides again.

    NAME is a backend's, or POOL/NAME.

    \b
    Example:
      nfqlb backends enable reg1
    """
    say(config_path, as_json, "enable", name, None)


DONE = {"drain": "gets nothing new", "disable": "counts as dead", "enable": "takes requests as its health allows"}


def say(config_path: Path, as_json: bool, word: str, name: str, seconds: float | None) -> None:
    from nfqlb.cli.steering import ask, errors_in

    answer = ask(config_path, {"do": word, "backend": name, "for": seconds}, quiet=as_json, timeout=10)
    if as_json:
        echo_json(answer)
    if not answer["ok"]:
        raise UserError(errors_in(answer))
    if not as_json:
        until = "" if seconds is None else f" for {span(seconds)}"
        click.echo(f"{', '.join(answer['backends'])} {DONE[word]}{until}")
    if answer["warning"]:
        click.echo(f"Warning: {answer['warning']}", err=True)
