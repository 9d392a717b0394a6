"""`nfqlb stats`: queues, workers, backends and reasons, from the running gateway.

Finds nothing itself: `nfqlb.gateway.stats` does. Knows how its report is shown, once or again and again.
"""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nfqlb.cli.common import UserError, config_option, console, echo_json, json_option, load_config

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from nfqlb.config import Config
    from nfqlb.gateway.stats import Counts, Report

MANY_WORKERS = 8
"""More workers than that, and the table of reasons shows their sum only."""


@click.command()
@config_option
@json_option
@click.option(
    "--watch",
    "interval",
    type=click.FloatRange(min=0.1, max=3600),
    is_flag=False,
    flag_value=1.0,
    metavar="[SECONDS]",
    help="Again every SECONDS (1 unless given), as packets per second. Ctrl-C ends it.",
)
def command(config_path: Path, as_json: bool, interval: float | None) -> None:
    """Queues, workers, backends and reasons, from the running gateway.

    Reads what the workers count; asks and disturbs nobody. Only root sees the kernel's queues.

    With --json one object: gateway, state, generation, pid, started, time, queues[], workers[], totals, memory, alarms,
    limits (offences and bans so far; null where only root may look: banned, the sources that are banned now, and
    stopped, the packets that the kernel dropped for bans and limits since the rules were changed last).
    A worker's `counts` and `totals` have the same keys; `totals` goes on over reloads and upgrades, `counts` begin
    anew.
    `reasons` has every reason, also those with 0; the tables leave these out. With --watch one object a line, and
    `per_second` with the keys of `totals` (null in the first).

    Exit status: 0 when all workers are up, 1 when none runs or something is wrong with one.

    \b
    Example:
      nfqlb stats --json | jq .totals.reasons
    """
    config = load_config(config_path)
    if interval is None:
        report = current(config)
        if as_json:
            echo_json(report.as_dict())
        else:
            console().print(shown(report))
        raise SystemExit(0 if report.healthy else 1)
    if as_json:
        watch_json(config, interval)
    else:
        watch(config, interval)


def current(config: Config) -> Report:
    from nfqlb.gateway.board import BoardError, NotRunning
    from nfqlb.gateway.stats import gather
    from nfqlb.gateway.stopped import look

    try:
        report = gather(config.gateway.run_dir)
    except NotRunning as error:
        raise UserError(f"{error} Start one with: nfqlb run -c {config.path}") from None
    except BoardError as error:
        raise UserError(str(error)) from None
    found = look(config)
    if found is None:
        return report
    banned, stopped = found
    return replace(report, limits=replace(report.limits, banned=banned, stopped=stopped))


def watch_json(config: Config, interval: float) -> None:
    speed = Speed()
    while True:
        report = current(config)
        per_second = speed.of(report)
        echo_json({**report.as_dict(), "per_second": None if per_second is None else asdict(per_second[-1])})
        time.sleep(interval)


def watch(config: Config, interval: float) -> None:
    from rich.live import Live

    speed = Speed()
    screen = console()
    with Live(console=screen, auto_refresh=False, vertical_overflow="visible") as live:
        while True:
            report = current(config)
            live.update(shown(report, speed.of(report)), refresh=True)
            time.sleep(interval)


class Speed:
    """What happened per second between one report and the next."""

    def __init__(self) -> None:
        self._last: Report | None = None
        self._at = 0.0

    def of(self, report: Report) -> list[Counts] | None:
        """For each worker, and at the end in all; None for the first report, and the first of other workers."""
        from nfqlb.gateway.stats import rates

        last, at = self._last, self._at
        self._last, self._at = report, time.monotonic()
        if last is None or (last.started, last.generation) != (report.started, report.generation):
            return None
        return [rates(old, new, self._at - at) for old, new in zip(all_counts(last), all_counts(report), strict=True)]


def all_counts(report: Report) -> list[Counts]:
    return [*(worker.counts for worker in report.workers), report.totals]


def shown(report: Report, per_second: list[Counts] | None = None) -> RenderableType:
    """The tables; with `per_second`, counters as packets per second."""
    from rich.console import Group
    from rich.text import Text

    counts = per_second or all_counts(report)
    title = f"{report.gateway}: {report.state} since {report.started[:19]}Z, supervisor pid {report.pid}"
    parts: list[RenderableType] = [Text(title, style="bold" if report.healthy else "bold red")]
    if report.state == "orphaned":
        parts.append(
            Text("The supervisor is gone: nobody replaces a worker that dies. Start it again; it takes over from them.")
        )
    if report.alarms:
        pools = "1 pool" if report.alarms == 1 else f"{report.alarms} pools"
        parts.append(Text(f"ALARM in {pools}: 'nfqlb backends' tells more.", style="bold red"))
    if shedding := [str(row.worker) for row in report.queues if row.shedding]:
        text = f"OVERLOAD of worker {', '.join(shedding)}: new requests are shed, so that calls go on."
        parts.append(Text(text, style="bold red"))
    if per_second:
        parts.append(Text(f"Packets per second; in all, {tell(report.totals)}"))
    parts += [queues(report), workers(report, counts), reasons(counts), backends(counts[-1])]
    parts.append(Text(remembered(report, counts[-1])))
    parts.append(Text(limits(report)))
    if not per_second:
        parts.append(Text(f"Totals: {tell(report.totals)}", style="bold"))
    return Group(*parts)


def tell(counts: Counts) -> str:
    by_socket = f" ({number(counts.socket_sent)} of them large, by socket)" if counts.socket_sent else ""
    return (
        f"{number(counts.packets)} packets: {number(counts.forwards)} forwards, {number(counts.replies)} replies"
        f"{by_socket}, {number(counts.drops)} drops, {number(counts.ignored)} ignored"
    )


def remembered(report: Report, counts: Counts) -> str:
    """What the memory of recent choices is doing (P31)."""
    told = ", ".join(f"{number(value)} {name}" for name, value in counts.recent.items())
    return f"Recent choices: {report.memory.entries} of {report.memory.capacity} remembered; {told}"


def limits(report: Report) -> str:
    """What limits and bans have stopped."""
    row = report.limits
    told = f"Bans: {row.offences} offences, {row.bans} sources banned for them"
    if row.banned is not None and row.stopped is not None:
        stopped = ", ".join(f"{count} {name}" for name, count in row.stopped.items())
        told += f"; {row.banned} banned now; packets stopped by the kernel: {stopped}"
    return told


def queues(report: Report) -> Table:
    table = grid("Queue", "Worker", "Waiting", "Full", "Age, ms", "Dropped: queue full", "Dropped: buffer full")
    for row in report.queues:
        dropped = (row.dropped, row.user_dropped)
        table.add_row(
            *(str(row.queue), str(row.worker), number(row.waiting)),
            *(f"{row.fill:.0%}", number(1000 * row.age), *map(number, dropped)),
            style="red" if any(dropped) or row.shedding else None,
        )
    return table


def workers(report: Report, counts: list[Counts]) -> Table:
    titles = ("Packets", "Forwards", "Replies", "Drops", "Ignored", "µs")
    table = grid("Worker", "PID", "State", "Died", *titles)
    for row, own in zip(report.workers, counts, strict=False):
        table.add_row(
            *(str(row.worker), str(row.pid), row.state, str(row.restarts)),
            *numbers(own),
            style=None if row.state == "up" else "red",
        )
    restarts = sum(row.restarts for row in report.workers)
    table.add_row("all", "", "", str(restarts), *numbers(counts[-1]), style="bold")
    return table


def numbers(counts: Counts) -> list[str]:
    values = (counts.packets, counts.forwards, counts.replies, counts.drops, counts.ignored)
    each = "-" if counts.us_per_packet is None else f"{counts.us_per_packet:.1f}"
    return [*map(number, values), each]


def reasons(counts: list[Counts]) -> Table:
    from nfqlb.proxy.verdict import Reason

    *each, total = counts
    each = each if 1 < len(each) <= MANY_WORKERS else []
    table = grid("Reason", *(f"Worker {index}" for index in range(len(each))), "All", "What it means", last_left=True)
    for reason in Reason:
        if total.reasons[reason.slug]:
            values = [number(own.reasons[reason.slug]) for own in (*each, total)]
            table.add_row(reason.slug, *values, f"{reason.action.name.lower()}: {reason.doc}")
    return table


def backends(total: Counts) -> Table:
    table = grid("Backend", "Requests to it", "Requests from it", "Responses to it", "Responses from it")
    for name, traffic in total.backends.items():
        shown = ("requests_to", "requests_from", "responses_to", "responses_from")
        table.add_row(name, *(number(traffic[each]) for each in shown))
    return table


def grid(*titles: str, last_left: bool = False) -> Table:
    """A table whose first column is text, the others numbers (but for the last, with `last_left`)."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for index, title in enumerate(titles):
        left = index == 0 or (last_left and index == len(titles) - 1)
        table.add_column(title, justify="left" if left else "right", overflow="fold")
    return table


def number(value: float | None) -> str:
    """`12345`, `0.4` for a rate, `-` for what cannot be known."""
    if value is None:
        return "-"
    return f"{value:.1f}" if isinstance(value, float) and value < 10 and value else f"{value:.0f}"
