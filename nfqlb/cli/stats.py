"""`nfqlb stats`: queues, workers, backends and reasons, from the running gateway.

Finds nothing itself: `nfqlb.gateway.stats` does. Knows how its report is shown, once or again and again.
"""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from nfqlb.cli import _screen as screen
from nfqlb.cli._common import UserError, config_option, echo_json, json_option, load_config
from nfqlb.layout import Line, Page, Shape, Table

if TYPE_CHECKING:
    from nfqlb.config.model import Config
    from nfqlb.gateway.stats import Counts, QueueRow, Report

MANY_WORKERS = 8
"""More workers than that, and the table of reasons shows their sum only."""

QUEUES = Shape(
    "queues",
    ("Queue", "Worker", "Waiting", "Full", "Age ms", "Dropped: queue full", "Dropped: buffer full"),
    drop=(("Age ms",), ("Full",)),
)
WORKERS = Shape(
    "workers",
    ("Worker", "PID", "State", "Died", "Packets", "Forwards", "Replies", "Drops", "Ignored", "µs"),
    drop=(("Ignored",), ("PID",), ("µs",), ("Replies",), ("Forwards",), ("Died",)),
)
EACH = tuple(f"Worker {index}" for index in range(MANY_WORKERS))
REASONS = Shape("reasons", ("Reason", *EACH, "All", "What it means"), drop=(EACH,), prose="What it means")
BACKENDS = Shape(
    "backends",
    ("Backend", "Requests to it", "Requests from it", "Responses to it", "Responses from it"),
    drop=(("Requests from it",), ("Responses to it",), ("Responses from it",)),
)


@screen.wide_option(QUEUES, WORKERS, REASONS, BACKENDS)
@click.command()
@config_option
@json_option
@screen.watch_option
def command(config_path: Path, as_json: bool, interval: float | None, wide: bool) -> None:
    """Queues, workers, backends and reasons, from the running gateway.

    Reads what the workers count; asks and disturbs nobody. Only root sees the kernel's queues.

    With --json one object: gateway, state, generation, pid, started, time, queues[], workers[], totals, memory, alarms,
    limits (offences and bans so far; null where only root may look: banned, the sources that are banned now, and
    stopped, the packets that the kernel dropped for bans and limits since the rules were changed last).
    A worker's `counts` and `totals` have the same keys; `totals` goes on over reloads and upgrades, `counts` begin
    anew.
    `reasons` has every reason, also those with 0; the tables leave these out. With --watch one object a line, and
    `per_second` with the keys of `totals` (null in the first).

    With --watch the tables have packets per second. On a terminal they are cut to its height, what is not well first.

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
            screen.show(shown(report), wide=wide)
        raise SystemExit(0 if report.healthy else 1)
    speed = Speed()
    if as_json:
        watch_json(config, interval, speed)

    def page() -> Page:
        report = current(config)
        return watched(report, speed.of(report))

    screen.watch(page, interval, wide=wide)


def current(config: Config) -> Report:
    from nfqlb.errors import BoardError, NotRunning
    from nfqlb.gateway.netfilter.counters import look
    from nfqlb.gateway.stats import gather

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


def watch_json(config: Config, interval: float, speed: Speed) -> NoReturn:
    while True:
        report = current(config)
        per_second = speed.of(report)
        echo_json({**report.as_dict(), "per_second": None if per_second is None else asdict(per_second[-1])})
        screen.pause(interval)


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


def shown(report: Report) -> Page:
    """All there is to say of it."""
    counts = all_counts(report)
    return [
        *headlines(report),
        queues(report),
        workers(report, counts),
        reasons(counts),
        backends(counts[-1]),
        Line(""),
        *endlines(report, counts[-1]),
        Line(f"Totals: {tell(report.totals)}", "bold"),
    ]


def watched(report: Report, per_second: list[Counts] | None) -> Page:
    """The same as packets per second (in the first page: in all), what is not well first, and without explanations."""
    counts = per_second or all_counts(report)
    told = "packets per second; in all" if per_second else "in all"
    now = datetime.now().strftime("%H:%M:%S")
    return [
        *headlines(report),
        Line(f"{now}: {told}, {tell(report.totals)}"),
        workers(report, counts, worst_first=True),
        queues(report, worst_first=True),
        reasons(counts, explained=False),
        backends(counts[-1]),
        Line(""),
        *endlines(report, counts[-1]),
    ]


def headlines(report: Report) -> list[Line]:
    """What it is, and what is wrong with it."""
    title = f"{report.gateway}: {report.state} since {report.started[:19]}Z, supervisor pid {report.pid}"
    lines = [Line(title, "bold" if report.healthy else "bold red")]
    if report.state == "orphaned":
        text = "The supervisor is gone: nobody replaces a worker that dies. Start it again; it takes over from them."
        lines.append(Line(text))
    if report.alarms:
        pools = "1 pool" if report.alarms == 1 else f"{report.alarms} pools"
        lines.append(Line(f"ALARM in {pools}: 'nfqlb backends' tells more.", "bold red"))
    if shedding := [str(row.worker) for row in report.queues if row.shedding]:
        text = f"OVERLOAD of worker {', '.join(shedding)}: new requests are shed, so that calls go on."
        lines.append(Line(text, "bold red"))
    return lines


def endlines(report: Report, counts: Counts) -> list[Line]:
    return [Line(remembered(report, counts)), Line(limits(report))]


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


def queues(report: Report, *, worst_first: bool = False) -> Table:
    table = Table(QUEUES)
    for row in sorted(report.queues, key=lambda row: worst_first and not troubled(row)):
        table.add(
            *(str(row.queue), str(row.worker), number(row.waiting)),
            *(f"{row.fill:.0%}", number(1000 * row.age), *map(number, (row.dropped, row.user_dropped))),
            style="red" if troubled(row) else "",
        )
    return table


def troubled(row: QueueRow) -> bool:
    return bool(row.dropped or row.user_dropped or row.shedding)


def workers(report: Report, counts: list[Counts], *, worst_first: bool = False) -> Table:
    table = Table(WORKERS)
    *each, total = counts
    restarts = sum(row.restarts for row in report.workers)
    rows = [
        (
            (str(row.worker), str(row.pid), row.state, str(row.restarts), *numbers(own)),
            "" if row.state == "up" else "red",
        )
        for row, own in zip(report.workers, each, strict=True)
    ]
    in_all = ("all", "", "", str(restarts), *numbers(total)), "bold"
    rows = [in_all, *sorted(rows, key=lambda row: row[1], reverse=True)] if worst_first else [*rows, in_all]
    for cells, style in rows:
        table.add(*cells, style=style)
    return table


def numbers(counts: Counts) -> list[str]:
    values = (counts.packets, counts.forwards, counts.replies, counts.drops, counts.ignored)
    each = "-" if counts.us_per_packet is None else f"{counts.us_per_packet:.1f}"
    return [*map(number, values), each]


def reasons(counts: list[Counts], *, explained: bool = True) -> Table:
    from nfqlb.proxy.verdict import Reason

    *each, total = counts
    each = each if 1 < len(each) <= MANY_WORKERS else []
    table = Table(REASONS)
    for reason in Reason:
        if total.reasons[reason.slug]:
            values = [number(own.reasons[reason.slug]) for own in each]
            values += [""] * (MANY_WORKERS - len(each))
            meaning = f"{reason.action.name.lower()}: {reason.doc}" if explained else ""
            table.add(reason.slug, *values, number(total.reasons[reason.slug]), meaning)
    return table


def backends(total: Counts) -> Table:
    table = Table(BACKENDS)
    for name, traffic in total.backends.items():
        shown = ("requests_to", "requests_from", "responses_to", "responses_from")
        table.add(name, *(number(traffic[each]) for each in shown))
    return table


def number(value: float | None) -> str:
    """`12345`, `0.4` for a rate, `-` for what cannot be known."""
    if value is None:
        return "-"
    return f"{value:.1f}" if isinstance(value, float) and value < 10 and value else f"{value:.0f}"
