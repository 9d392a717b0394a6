"""A steady load for a long time: does the memory of a process grow, does it leave files open, is a message lost?

Looks at every process of the gateway again and again. After each look the result so far is in a file, so a run that
is interrupted has one, too. Growth counts from `settle` seconds on: before, tables and caches fill.
"""

import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from devtools.chaos.accounts import Account, account
from devtools.chaos.counted import CountedArena
from devtools.chaos.run import Event, attempt, host, refused, tell
from devtools.chaos.scenarios import Scenario
from devtools.chaos.watch import Sample, Watch, Watched

MAX_GROWTH_KB = 2000
"""Of the resident memory of a process, from the end of settling to its peak after it."""

LATE = 3
"""Samples at the end; a process leaks files when it has more in all of them than at the end of settling."""


@dataclass(frozen=True)
class Options:
    rate: int = 1000
    """Messages per second."""
    seconds: float = 3600.0
    sample: float = 10.0
    """Seconds between two looks at the processes."""
    settle: float = 300.0
    """Seconds before growth counts."""
    workers: int = 2
    family: int = 4
    mixed: bool = False
    every: float = 0.0
    """Seconds between two events; 0: none."""


@dataclass(frozen=True)
class Growth:
    """What became of one process that was there from the end of settling to the end."""

    pid: int
    name: str
    rss_kb: int
    """At the end of settling, as those below."""
    pss_kb: int
    private_kb: int
    fds: int
    rss_growth_kb: int
    """To the peak since."""
    pss_growth_kb: int
    private_growth_kb: int
    fds_growth: int
    """To the least of the last samples."""


@dataclass
class Result:
    options: Options
    seconds: float
    """That it took, of those it should."""
    interrupted: bool
    growth: list[Growth]
    processes: list[Watched]
    """Every one that was seen, with its samples."""
    account: Account | None = None
    """Once the load has ended."""
    events: list[Event] = field(default_factory=list)
    where: dict[str, Any] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    scenario: ClassVar[str] = "soak"

    @property
    def ok(self) -> bool:
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        flat = asdict(self.account) if self.account else {}
        flat.pop("lost_by_event", None)
        return {
            "scenario": self.scenario,
            "ok": self.ok,
            "problems": self.problems,
            **asdict(self.options),
            "ran": self.seconds,
            "interrupted": self.interrupted,
            **flat,
            "growth": [asdict(each) for each in self.growth],
            "events": [asdict(event) for event in self.events],
            "where": self.where,
            "cpu": self.cpu,
            "processes": [asdict(each) for each in self.processes],
            "host": host(),
        }

    def write(self, path: Path) -> None:
        fresh = path.with_name(path.name + ".new")
        fresh.write_text(json.dumps(self.as_dict()) + "\n")
        fresh.rename(path)


def run(
    name: str, options: Options, kinds: Sequence[type[Scenario]], output: Path, say: Callable[[str], None]
) -> Result:
    """Soak in a lab of its own; the result is in `output`, too. With `kinds`, events of these take turns.

    SystemExit (a signal) ends the load early, and is raised again when the result is written.
    """
    with CountedArena(name, family=options.family, workers=options.workers, say=say) as arena, ExitStack() as stack:
        scenarios = [kind(arena) for kind in kinds]
        say(f"soak: {options.rate} messages/s for {options.seconds:g} s; the result so far is in {output}")
        happened: list[tuple[int, Event]] = []

        def so_far() -> None:
            seconds = round(load.elapsed, 1)
            result = measured(options, seconds, list(watch.processes.values()), [each for _, each in happened])
            result.interrupted = seconds < options.seconds
            result.write(output)
            say(f"{seconds:6.0f} s: " + ", ".join(f"{each.name} {last(each).rss_kb} kB" for each in alive(watch)))

        roles = {role: arena.plan.namespace(role) for role in arena.plan.roles}
        load = stack.enter_context(arena.load(options.rate, options.seconds, mixed=options.mixed))
        watch = stack.enter_context(Watch(roles, every=1.0, memory_every=options.sample, on_sample=so_far))
        stopped: SystemExit | None = None
        try:
            wait(load.begun, options, scenarios, happened, say)
        except SystemExit as error:
            stopped = error
            load.stop()
        sent = load.finish(30)
        watch.settle()
        watch.close()
        received = arena.stop_backends()
        result = measured(
            options, round(sent.seconds, 1), list(watch.processes.values()), [event for _, event in happened]
        )
        result.interrupted = stopped is not None
        moments = [moment for moment, _ in happened]
        result.account = found = account(load.times(), arena.arrivals(), load.flows, moments, options.every)
        for (_, event), lost in zip(happened, found.lost_by_event[1:], strict=True):
            event.lost = lost
        result.cpu = watch.cpu()
        result.where = {
            "queues": watch.queues(),
            "receiver_dropped": sum(each.dropped for each in received),
            "replies": sent.replies,
            "reasons": refused(arena.report()),
        }
        result.problems += broken(result, sum(each.may_lose for each in scenarios) if scenarios else 0)
        result.write(output)
        if stopped is not None:
            raise stopped
        return result


def wait(
    begun: int,
    options: Options,
    scenarios: Sequence[Scenario],
    happened: list[tuple[int, Event]],
    say: Callable[[str], None],
) -> None:
    """Until the load's time is over, with its events."""
    number = 0
    while True:
        elapsed = (time.time_ns() - begun) / 1e9
        at = (number + 1) * options.every if scenarios else options.seconds
        if at >= options.seconds:
            time.sleep(max(0.0, options.seconds - elapsed))
            return
        time.sleep(max(0.0, at - elapsed))
        moment = time.time_ns()
        turn, which = divmod(number, len(scenarios))
        done = attempt(scenarios[which], turn)
        event = Event(round((moment - begun) / 1e9, 3), done.what, done.status, done.seconds, done.problem)
        happened.append((moment, event))
        say(tell(event))
        number += 1


def measured(options: Options, seconds: float, processes: list[Watched], events: list[Event]) -> Result:
    """The result as far as the processes go."""
    growth = [each for process in processes if (each := growth_of(process, options.settle, seconds, options.sample))]
    result = Result(options, seconds, False, growth, processes, events=events)
    for each in growth:
        if each.rss_growth_kb > MAX_GROWTH_KB:
            result.problems.append(f"{each.name} (pid {each.pid}) has grown by {each.rss_growth_kb} kB.")
        if each.fds_growth > 0:
            result.problems.append(f"{each.name} (pid {each.pid}) has {each.fds_growth} more open files.")
    return result


def growth_of(process: Watched, settle: float, end: float, every: float) -> Growth | None:
    """None when the process came after settling, or went before the end: it did not live long enough to tell."""
    settled = [sample for sample in process.samples if sample.seconds >= settle]
    if len(settled) < 2 or process.samples[0].seconds > settle or settled[-1].seconds < end - 2 * every - 1:
        return None
    first, later = settled[0], settled[1:]

    def peak(size: Callable[[Sample], int]) -> int:
        return max(map(size, later)) - size(first)

    return Growth(
        process.pid,
        process.name,
        first.rss_kb,
        first.pss_kb,
        first.private_kb,
        first.fds,
        peak(lambda sample: sample.rss_kb),
        peak(lambda sample: sample.pss_kb),
        peak(lambda sample: sample.private_kb),
        min(sample.fds for sample in later[-LATE:]) - first.fds,
    )


def broken(result: Result, may_lose: int) -> list[str]:
    """The bounds of the load that were broken."""
    assert result.account is not None
    found = [event.problem for event in result.events if event.problem]
    allowed = may_lose * len(result.events)
    if result.account.lost > allowed:
        found.append(f"{result.account.lost} messages were lost, not {allowed}.")
    if result.account.duplicated:
        found.append(f"{result.account.duplicated} messages arrived more than once.")
    if not (result.growth or result.interrupted or result.events):
        found.append("No process lived from the end of settling to the end: nothing can be said of growth.")
    return found


def alive(watch: Watch) -> list[Watched]:
    """The processes that were there at the last look."""
    newest = max((last(each).seconds for each in watch.processes.values()), default=0.0)
    return [each for each in watch.processes.values() if last(each).seconds >= newest - 1]


def last(process: Watched) -> Sample:
    return process.samples[-1]
