"""`nfqlb backends`: where each backend stands, and an operator's word about one. Asks the gateway that runs."""

from __future__ import annotations

import time
from datetime import datetime
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any, NoReturn

import click

from nfqlb.cli import _screen as screen
from nfqlb.cli import completion
from nfqlb.cli._common import DEFAULT_CONFIG, Group, UserError, ask, config_option, echo_json, errors_in, json_option
from nfqlb.layout import Line, Page, Shape, Table

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
DIGITS = 12
"""Of a time. More can only be a slip; how long is too long is for those to say whom it concerns."""
COLOURS = {"up": "green", "unknown": "", "down": "red", "draining": "yellow", "disabled": "yellow"}
ORDER = ("down", "disabled", "draining", "unknown", "up")
"""Of states: the first ones want to be looked at."""

CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx", "6xx")

BACKENDS = Shape(
    "backends",
    ("Backend", "Address", "State", "Since", "Share", "Req/s", "Last", *CLASSES, "Probe"),
    drop=(
        ("3xx", "6xx"),
        *((each,) for each in ("1xx", "2xx", "4xx", "5xx", "Since", "Probe", "Req/s", "Share", "Last")),
    ),
    left=("Address", "State", "Since"),
)

RECENT = 300.0
"""Seconds for which the last error of a backend that is up is still told."""


def duration(_ctx: click.Context, _param: click.Parameter, text: str | None) -> float | None:
    """`10m`: a number and a unit, in seconds."""
    if text is None:
        return None
    if not is_duration(text):
        raise click.BadParameter(f"expected a time such as 90s, 10m, 2h or 1d, not {text!r}")
    return float(int(text[:-1]) * UNITS[text[-1]])


def is_duration(text: str) -> bool:
    number = text[:-1]
    return text[-1:] in UNITS and number.isascii() and number.isdigit() and len(number) <= DIGITS and int(number) > 0


@screen.wide_option(BACKENDS)
@click.group(cls=Group, invoke_without_command=True)
@config_option
@json_option
@screen.watch_option
@click.pass_context
def command(ctx: click.Context, config_path: Path, as_json: bool, interval: float | None, wide: bool) -> None:
    """State, load and health of the backends; take one out, or bring it back.

    Without a word it is 'list'. What an operator says of a backend holds whatever its health is, and is kept over
    reloads, upgrades and restarts.

    \b
    Example:
      nfqlb backends drain reg1 --for 30m
    """
    ctx.obj = config_path
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_, config_path=config_path, as_json=as_json, interval=interval, wide=wide)
    for given, option in ((as_json, "--json"), (interval, "--watch"), (wide, "--wide")):
        if given and ctx.invoked_subcommand is not None:
            raise click.UsageError(f"{option} goes behind {ctx.invoked_subcommand}.")


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


@screen.wide_option(BACKENDS)
@command.command("list")
@own_config
@json_option
@screen.watch_option
def list_(config_path: Path, as_json: bool, interval: float | None, wide: bool) -> None:
    """Where each backend stands.

    'Share' is the part of the pool's new requests that goes there, 'Req/s' how many come in a second, 'Last' when the
    last one came to a backend that is out. 'Probe' is the
    round trip of the last answer to a probe. Responses are counted by class since the gateway started, over reloads and
    upgrades. The last error stands below a backend that is not up, and for 5 minutes below one that is. Backends
    without a pool were removed by a reload, and finish what they have begun. Where the configuration has a name for an
    address, each address that DNS knows for it is a backend, NAME@ADDRESS; drain, disable and enable take NAME for all
    of them.

    With --json one object: ok, started (when the gateway did), alarms (pool → text) and backends[], each with pool,
    name, address, state, since, until, health, warming (the part of its weight that it has got back), share (0..1),
    requests_per_second (null right after a change), counts, last_request (when it was last sent a request from outside;
    null: not since the gateway has started), last_response (from it), probe (round_trip in seconds, status, at; null
    before the first answer), error, error_at and leaving. Times are seconds since 1970; of a backend whose name has no
    address, since and error_at are null. With --watch one object a line.

    With --watch on a terminal the list is cut to its height, with those that are not up first.

    Exit status: 0 when every pool is well, 1 when one is in alarm or no gateway runs.

    \b
    Example:
      nfqlb backends list --json | jq .alarms
    """
    if interval is not None:
        watch(config_path, as_json, interval, wide)
    answer = listed(config_path, as_json)
    if not as_json:
        screen.show(shown(answer, time.time(), every_error=wide), wide=wide)
    if answer["alarms"]:
        raise SystemExit(1)


def listed(config_path: Path, as_json: bool) -> dict[str, Any]:
    """The gateway's answer, printed if wanted as JSON. Raises UserError."""
    answer = ask(config_path, {"do": "backends"}, quiet=as_json, timeout=10)
    if as_json:
        echo_json(answer)
    if not answer["ok"]:
        raise UserError(errors_in(answer))
    return answer


def watch(config_path: Path, as_json: bool, interval: float, wide: bool) -> NoReturn:
    while as_json:
        listed(config_path, as_json)
        screen.pause(interval)

    def page() -> Page:
        now = time.time()
        told = shown(listed(config_path, as_json), now, worst_first=True, every_error=wide)
        return [Line(datetime.fromtimestamp(now).strftime("%H:%M:%S")), *told]

    screen.watch(page, interval, wide=wide)


def shown(answer: dict[str, Any], now: float, *, worst_first: bool = False, every_error: bool = False) -> Page:
    table = Table(BACKENDS)
    rows = answer["backends"]
    for row in sorted(rows, key=lambda row: ORDER.index(row["state"])) if worst_first else rows:
        note = error(row, now) if every_error or matters(row, now) else ""
        table.add(*cells(row, now), style=COLOURS.get(row["state"], ""), note=note)
    alarms = [Line(f"ALARM in pool {pool}: {text}", "bold red") for pool, text in answer["alarms"].items()]
    return [*alarms, table]


def cells(row: dict[str, Any], now: float) -> list[str]:
    from nfqlb.cli.stats import number

    state = row["state"]
    if row["until"] is not None:
        state += f" for {span(row['until'] - now)}"
    if state.startswith(("draining", "disabled")) and row["health"] == "down":
        state += " (down)"
    if row["leaving"]:
        state += " (leaving)"
    if row["warming"] < 1 and row["state"] in ("up", "unknown"):
        state += f" (at {row['warming']:.0%})"
    return [
        row["name"] if row["leaving"] else f"{row['pool']}/{row['name']}",
        row["address"],
        state,
        "-" if row["since"] is None else moment(row["since"], now),
        f"{row['share']:.1%}",
        number(row["requests_per_second"]),
        ago(row, now),
        *(number(row["counts"][f"responses_{each}xx"]) for each in range(1, 7)),
        "-" if row["probe"] is None else f"{row['probe']['round_trip'] * 1000:.1f} ms",
    ]


def ago(row: dict[str, Any], now: float) -> str:
    """Since the last request to it, where one waits for there to be none."""
    if not row["leaving"] and row["state"] not in ("draining", "disabled"):
        return ""
    at = row.get("last_request")
    return "none yet" if at is None else f"{span(now - at)} ago"


def error(row: dict[str, Any], now: float) -> str:
    """The last one, and when."""
    told = row["error"] or ""
    return told if row["error_at"] is None else f"{told} ({span(now - row['error_at'])} ago)"


def matters(row: dict[str, Any], now: float) -> bool:
    """Whether people have to know of its last error."""
    well = row["state"] == row["health"] == "up"
    return not well or (row["error_at"] is not None and now - row["error_at"] < RECENT)


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


NAME = click.argument("name", metavar="NAME", shell_complete=completion.backends)
NAME_OUT = click.argument("name", metavar="NAME", shell_complete=completion.taken_out)
FOR = click.option(
    "--for",
    "seconds",
    callback=duration,
    metavar="TIME",
    shell_complete=completion.durations,
    help="Until so much later: 90s, 10m, 2h, 1d.",
)


class Waiting(click.Command):
    """A command with --wait, whose TIME may be left out: what follows it is TIME only if it reads like one."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        for index, (one, following) in enumerate(pairwise(args)):
            if one == "--wait" and not is_duration(following):
                args[index] = "--wait="
        return super().parse_args(ctx, args)


def limit(ctx: click.Context, param: click.Parameter, text: str | None) -> float | None:
    """As `duration`; nothing behind the option stands for no end."""
    return inf if text == "" else duration(ctx, param, text)


@command.command(cls=Waiting)
@own_config
@json_option
@FOR
@click.option(
    "--wait",
    "wait_for",
    is_flag=False,
    flag_value="",
    callback=limit,
    metavar="[=TIME]",
    help="Wait until it is quiet, so long at most.",
)
@click.option(
    "--idle",
    callback=duration,
    metavar="TIME",
    help="It is quiet after so long without a message; 3m unless given.",
)
@NAME
def drain(
    config_path: Path, as_json: bool, seconds: float | None, wait_for: float | None, idle: float | None, name: str
) -> None:
    """Send a backend nothing new; what has begun there goes on.

    New calls and registrations go to the others at once. Requests of a dialog, and what belongs to a transaction that
    began there, still reach it: stop it when its last call has ended. NAME is a backend's, or POOL/NAME.

    --wait waits until the backend is quiet: for the time of --idle the gateway has sent it no request, and has had no
    response from it. Three minutes are as long as a call may ring. Quiet is not empty: the gateway keeps no calls, and
    one in which nobody says anything for that time is not seen. Phones with session timers say something every 15
    minutes as a rule, so --idle 16m waits for theirs. What a backend sends by itself, say OPTIONS to phones, does not
    count. Ctrl-C ends the wait and leaves the backend drained.

    With --json one object: ok, backends[] and warning; with --wait also quiet, why (not; or null), waited (seconds),
    last_request and last_response (seconds since 1970; or null).

    Exit status: 0 when it is drained (and quiet, with --wait), 1 when it is not, also because TIME has run out.

    \b
    Example:
      nfqlb backends drain registrars/reg1 --wait=2h
    """
    if idle is not None and wait_for is None:
        raise click.UsageError("--idle says when a wait is over: it goes with --wait.")
    answer = say(config_path, as_json and wait_for is None, "drain", name, seconds, quiet=as_json)
    if wait_for is not None:
        await_quiet(config_path, as_json, answer, idle, wait_for)


def await_quiet(config_path: Path, as_json: bool, answer: dict[str, Any], idle: float | None, limit: float) -> None:
    """Wait until those that were drained are quiet, and say how it has ended."""
    from nfqlb.cli._draining import IDLE, Progress, wait

    idle = IDLE if idle is None else idle
    names = answer["backends"]
    title = ", ".join(names)
    own = "" if config_path == DEFAULT_CONFIG else f" -c {config_path}"
    stays = f"It stays drained; take that back with: nfqlb backends enable {names[0]}{own}"
    progress = Progress(title, quiet=as_json)
    try:
        outcome = wait(config_path, names, idle, limit, progress)
    except KeyboardInterrupt:
        progress.end()
        click.echo(f"{title} is not waited for any more. {stays}", err=True)
        raise
    progress.end()
    if as_json:
        echo_json({**answer, **outcome.as_dict()})
    elif not outcome.why:
        click.echo(f"{title} is quiet: no request to it and no response from it for {span(idle)}")
    if outcome.why:
        seen = "" if outcome.last is None else f" ({outcome.last.told(time.time())})"
        taken_back = outcome.last is not None and outcome.last.back
        raise UserError(f"{title}: {outcome.why}{seen}." + ("" if taken_back else f" {stays}"))


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


def say(
    config_path: Path, as_json: bool, word: str, name: str, seconds: float | None, *, quiet: bool = False
) -> dict[str, Any]:
    """Tell the gateway, and how that has ended; its answer. `quiet`: what is fine is not told to people."""
    answer = ask(config_path, {"do": word, "backend": name, "for": seconds}, quiet=True, timeout=10)
    if as_json or (quiet and not answer["ok"]):
        echo_json(answer)
    if not answer["ok"]:
        raise UserError(errors_in(answer))
    if not as_json and not quiet:
        until = "" if seconds is None else f" for {span(seconds)}"
        click.echo(f"{', '.join(answer['backends'])} {DONE[word]}{until}")
    if answer["warning"]:
        click.echo(f"Warning: {answer['warning']}", err=True)
    return answer
