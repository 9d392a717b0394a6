"""One run of a scenario: the load, its events on time, the account at the end, and whether the bounds were kept.

Knows no particular fault. The figures are the generator's and the receivers'; what the gateway counts is only shown
beside them, to tell where a message was lost.
"""

import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from devtools.chaos.accounts import Account, account
from devtools.chaos.counted import CountedArena
from devtools.chaos.scenarios import Happened, Scenario
from devtools.chaos.watch import Watch
from nfqlb.gateway.stats import Report
from nfqlb.lab import LabError
from nfqlb.lab.demo import HARMLESS
from nfqlb.proxy.verdict import Action, Reason


@dataclass(frozen=True)
class Options:
    rate: int = 5000
    """Messages per second."""
    seconds: float = 20.0
    every: float = 2.0
    """Seconds between two events, the first after as many."""
    workers: int = 2
    family: int = 4
    mixed: bool = False


@dataclass
class Event:
    """One event of a run."""

    at: float
    """Seconds after the beginning."""
    what: str
    status: int | None
    seconds: float | None
    problem: str
    lost: int = 0


@dataclass
class Result:
    """One run; `as_dict` is what `--json` prints."""

    scenario: str
    options: Options
    account: Account
    rate_reached: float
    events: list[Event]
    lost_before_events: int
    where: dict[str, Any]
    """What is known of the places where messages can get lost."""
    generator: dict[str, float]
    cpu: dict[str, float]
    """Percent of one core by role and program."""
    cores: list[dict[str, float]]
    others_cpu: float
    """Percent of one core that went to others: where it is much, the figures say little."""
    problems: list[str] = field(default_factory=list)
    """Every bound that was broken, in words."""

    @property
    def ok(self) -> bool:
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        flat = asdict(self.account)
        del flat["lost_by_event"]
        return {
            "scenario": self.scenario,
            "ok": self.ok,
            "problems": self.problems,
            **asdict(self.options),
            "rate_reached": self.rate_reached,
            **flat,
            "lost_before_events": self.lost_before_events,
            "events": [asdict(event) for event in self.events],
            "where": self.where,
            "generator": self.generator,
            "cpu": self.cpu,
            "cores": self.cores,
            "others_cpu": self.others_cpu,
            "host": host(),
        }


def run(name: str, kind: type[Scenario], options: Options, say: Callable[[str], None]) -> Result:
    """Run a scenario in a lab of its own with that name. LabError when it cannot be run to its end."""
    with CountedArena(name, family=options.family, workers=options.workers, say=say) as arena:
        return measure(arena, kind, options, say)


def measure(arena: CountedArena, kind: type[Scenario], options: Options, say: Callable[[str], None]) -> Result:
    """Run a scenario in a lab that is up; may be called again, and finds the gateway as the one before left it."""
    arena.receive()
    scenario = kind(arena)
    say(f"{kind.name}: {options.rate} messages/s for {options.seconds:g} s, an event every {options.every:g} s")
    happened: list[tuple[int, Event]] = []
    with (
        Watch({role: arena.plan.namespace(role) for role in arena.plan.roles}) as watch,
        arena.load(options.rate, options.seconds, mixed=options.mixed) as load,
    ):
        number = 0
        while (at := max((number + 1) * options.every, load.elapsed)) < options.seconds:
            time.sleep(max(0.0, at - load.elapsed))
            moment = time.time_ns()
            done = attempt(scenario, number)
            event = Event(round((moment - load.begun) / 1e9, 3), done.what, done.status, done.seconds, done.problem)
            happened.append((moment, event))
            say(tell(event))
            number += 1
            if done.fatal:
                break
        sent = load.finish(options.seconds + 30)
        watch.settle()
        watch.close()
        problems = [event.problem for _, event in happened if event.problem]
        try:
            problems += scenario.problems()
            reasons = refused(arena.report())
        except LabError as error:
            problems.append(str(error))
            reasons = {}
    received = arena.stop_backends()
    moments = [moment for moment, _ in happened]
    arrivals = arena.arrivals()
    found = account(load.times(), arrivals, load.flows, moments, options.every)
    problems += scenario.review(arrivals)
    for (_, event), lost in zip(happened, found.lost_by_event[1:], strict=True):
        event.lost = lost
    result = Result(
        scenario=kind.name,
        options=options,
        account=found,
        rate_reached=round(sent.sent / sent.seconds, 1) if sent.seconds else 0.0,
        events=[event for _, event in happened],
        lost_before_events=found.lost_by_event[0],
        where={
            "queues": watch.queues(),
            "receiver_dropped": sum(each.dropped for each in received),
            "replies": sent.replies,
            "reasons": reasons,
        },
        generator={"retried": sent.retried, "longest_pause_ms": sent.longest_pause_ms},
        cpu=watch.cpu(),
        cores=watch.cores(),
        others_cpu=watch.others(),
    )
    result.problems = problems + broken(result, scenario)
    return result


def host() -> dict[str, Any]:
    """What the figures were measured on."""
    return {"kernel": platform.release(), "python": platform.python_version(), "cpus": os.cpu_count()}


def attempt(scenario: Scenario, number: int) -> Happened:
    """The event, also when it came to nothing: what was lost by then is worth knowing."""
    try:
        return scenario.event(number)
    except LabError as error:
        return Happened(f"event {number}", problem=str(error), fatal=True)


def refused(report: Report) -> dict[str, float]:
    """Reasons by which the gateway did not forward a packet, of the run of it that is counted now."""
    return {
        reason.slug: count
        for reason in Reason
        if (count := report.totals.reasons[reason.slug])
        and reason.action is not Action.FORWARD
        and reason.slug not in HARMLESS
    }


def broken(result: Result, scenario: Scenario) -> list[str]:
    """The bounds that were broken."""
    found = []
    account = result.account
    if not result.events:
        found.append("No event happened: the run was too short.")
    if result.lost_before_events:
        found.append(f"{result.lost_before_events} messages were lost before the first event.")
    for event in result.events:
        if event.lost > scenario.may_lose:
            found.append(f"{event.lost} messages were lost by {event.what} at {event.at} s, not {scenario.may_lose}.")
    if account.duplicated:
        found.append(f"{account.duplicated} messages arrived more than once.")
    if scenario.max_gap_ms is not None:
        for name, gap, at in (
            ("anywhere", account.max_gap_ms, account.max_gap_at),
            ("from one port", account.max_port_gap_ms, account.max_port_gap_at),
        ):
            if gap > scenario.max_gap_ms:
                found.append(f"Nothing arrived {name} for {gap} ms at {at} s; {scenario.max_gap_ms:g} ms are allowed.")
    return found


def tell(event: Event) -> str:
    took = f", over after {event.seconds * 1e3:.0f} ms" if event.seconds is not None else ""
    status = f", status {event.status}" if event.status is not None else ""
    return f"{event.at:6.2f} s: {event.what}{status}{took}{'. ' + event.problem if event.problem else ''}"
