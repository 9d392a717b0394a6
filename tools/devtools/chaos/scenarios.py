"""The scenarios: which fault comes, how it is told that it came, and what it may cost.

A new one is one class with `@scenario`; `tools/chaos NAME` is then there, and `tools/chaos all` has it.
"""

import time
from bisect import bisect
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from devtools.chaos.accounts import Arrivals
from devtools.chaos.arena import Arena, Done, Settings, up
from nfqlb.gateway.stats import Report


@dataclass(frozen=True)
class Happened:
    """One event."""

    what: str
    status: int | None = None
    """Exit status of the command that made it, if one did."""
    seconds: float | None = None
    """Until it was over: the command had ended, the replacement was at work."""
    problem: str = ""
    """What of it is not as it should be."""
    fatal: bool = False
    """There is no use in another event."""


class Scenario:
    """A kind of fault; made for one run."""

    name: ClassVar[str]
    about: ClassVar[str]
    """A sentence without a full stop."""
    lost_per_event: ClassVar[int] = 0
    """Messages that one event may cost."""
    lost_per_worker: ClassVar[bool] = False
    """`lost_per_event` is for each worker."""
    max_gap_ms: ClassVar[float | None] = None
    """Bound of the gaps, where there is one; see `accounts`."""

    def __init__(self, arena: Arena) -> None:
        self.arena = arena
        self.workers = arena.settings.workers

    def event(self, number: int) -> Happened:
        """Make event `number` (from 0) happen, and wait until it is over."""
        raise NotImplementedError

    def problems(self) -> list[str]:
        """What is wrong after the last event, beyond losses and gaps."""
        report = self.arena.report()
        if up(report):
            return []
        states = ", ".join(worker.state for worker in report.workers)
        return [f"At the end the gateway is {report.state}, its workers are {states}."]

    def review(self, arrivals: Mapping[str, Arrivals]) -> list[str]:  # noqa: ARG002
        """What is wrong with where the messages went; what each backend has got, by its name."""
        return []

    @property
    def may_lose(self) -> int:
        """Messages that one event may cost, in this run."""
        return self.lost_per_event * (self.workers if self.lost_per_worker else 1)


SCENARIOS: dict[str, type[Scenario]] = {}


def scenario(kind: type[Scenario]) -> type[Scenario]:
    SCENARIOS[kind.name] = kind
    return kind


@scenario
class WorkerKill(Scenario):
    name = "worker-kill"
    about = "SIGKILL to one worker after another; the supervisor replaces it"
    lost_per_event = 1
    max_gap_ms = 150.0

    def event(self, number: int) -> Happened:
        victim = self.arena.report().workers[number % self.workers]
        self.arena.kill(victim.pid)

        def replaced(report: Report) -> bool:
            return up(report) and report.workers[victim.worker].pid != victim.pid

        seconds = self.arena.wait_report(replaced, f"A replacement for worker {victim.worker}")
        return Happened(f"SIGKILL worker {victim.worker} (pid {victim.pid})", seconds=seconds)


@scenario
class SupervisorKill(Scenario):
    name = "supervisor-kill"
    about = "SIGKILL to the supervisor, and 'nfqlb run' again at once, as systemd does"
    lost_per_event = 1
    lost_per_worker = True

    def event(self, number: int) -> Happened:  # noqa: ARG002
        before = self.arena.report()
        self.arena.kill(before.pid)
        self.arena.run_gateway()

        def taken_over(report: Report) -> bool:
            return up(report) and report.pid != before.pid

        seconds = self.arena.wait_report(taken_over, "A gateway that takes over")
        old = {worker.pid for worker in before.workers}
        left = self.arena.wait_gone(old, timeout=10.0)
        problem = f"Workers of before still run: {' '.join(map(str, sorted(left)))}." if left else ""
        return Happened(f"SIGKILL supervisor (pid {before.pid})", seconds=seconds, problem=problem)


class Commanded(Scenario):
    """An event is one command that shall succeed and renew the workers or their tables."""

    def settings(self, number: int) -> Settings:
        """The configuration as it is from event `number` on; -1: at the beginning."""
        raise NotImplementedError

    command: ClassVar[str]

    def renewed(self, before: Report, after: Report) -> bool:
        """Whether the command has done anything."""
        return before.generation != after.generation

    def event(self, number: int) -> Happened:
        before = self.arena.report()
        self.arena.settings = self.settings(number)
        self.arena.write_config()
        done = self.arena.command(self.command)
        problem = done.failure
        if not problem and not self.renewed(before, self.arena.report()):
            problem = f"'nfqlb {done.name}' succeeded, but the gateway is the same as before."
        return Happened(f"nfqlb {done.name}", done.status, done.seconds, problem)


@scenario
class Reload(Commanded):
    name = "reload"
    about = "'nfqlb reload' with backends added, removed and of other weights"
    command = "reload"

    WEIGHTS = ((1, 1, 1), (1, 2, 0, 1), (0, 1, 1, 1), (3, 1, 0, 0))
    ENOUGH = 200
    """Messages between two reloads from which on every backend must have had one."""

    def __init__(self, arena: Arena) -> None:
        super().__init__(arena)
        self._phases: list[tuple[int, int]] = []
        """When each event began, and was over: nanoseconds since 1970."""

    def settings(self, number: int) -> Settings:
        return replace(self.arena.settings, weights=self.WEIGHTS[(number + 1) % len(self.WEIGHTS)])

    def event(self, number: int) -> Happened:
        begun = time.time_ns()
        happened = super().event(number)
        self._phases.append((begun, time.time_ns()))
        return happened

    def review(self, arrivals: Mapping[str, Arrivals]) -> list[str]:
        """Between two reloads, backends that are in the configuration get messages, and the others none.

        Each message begins a transaction of its own, so none has a reason to stay where it was (P31).
        """
        edges = [edge for phase in self._phases for edge in phase]
        # An even place among the edges is between two events; by then those with the old tables have left.
        got = {name: Counter(bisect(edges, time) for time in each.times) for name, each in arrivals.items()}
        found = []
        for place in range(2, len(edges) + 1, 2):
            number = place // 2 - 1
            weights = self.WEIGHTS[(number + 1) % len(self.WEIGHTS)]
            enough = sum(counted[place] for counted in got.values()) >= self.ENOUGH
            for (name, counted), weight in zip(got.items(), weights + (0,) * len(got), strict=False):
                if weight and enough and not counted[place]:
                    found.append(f"After event {number} {name} was in the configuration and got nothing.")
                if not weight and counted[place]:
                    found.append(f"After event {number} {name} was not in the configuration and got {counted[place]}.")
        return found


@scenario
class ReloadRules(Commanded):
    name = "reload-rules"
    about = "'nfqlb reload' with other listeners or another number of workers: rules are swapped"
    command = "reload"

    def settings(self, number: int) -> Settings:
        step = (number + 1) % 4
        return replace(
            self.arena.settings, workers=self.workers + (step in (1, 2)), listeners=2 if step in (2, 3) else 1
        )


@scenario
class Upgrade(Commanded):
    name = "upgrade"
    about = "'nfqlb upgrade': new code beside the old, rules swapped, the old one drained"
    command = "upgrade"

    def settings(self, number: int) -> Settings:  # noqa: ARG002
        return self.arena.settings

    def renewed(self, before: Report, after: Report) -> bool:
        old = {before.pid, *(worker.pid for worker in before.workers)}
        return old.isdisjoint({after.pid, *(worker.pid for worker in after.workers)})


@scenario
class BadReload(Scenario):
    name = "bad-reload"
    about = "'nfqlb reload' with a file full of mistakes: refused, all of them listed, nothing changed"

    MISTAKES: ClassVar = {
        "weigth": '\n[[pool]]\nname = "other"\n[[pool.backend]]\nname = "b9"\naddress = "192.0.2.9:5060"\nweigth = 3\n',
        "no-such-pool": '\n[[route]]\npool = "no-such-pool"\n',
        "192.0.2.999": '\n[[pool]]\nname = "third"\n[[pool.backend]]\nname = "b8"\naddress = "192.0.2.999:5060"\n',
    }
    """What the refusal must name → what is added to the file for that."""

    def event(self, number: int) -> Happened:  # noqa: ARG002
        before = self._state()
        good = self.arena.config.read_text()
        self.arena.replace_config(good + "".join(self.MISTAKES.values()))
        try:
            done = self.arena.command("reload")
        finally:
            self.arena.replace_config(good)
        return Happened(f"nfqlb {done.name}", done.status, done.seconds, self._problem(done, before, self._state()))

    def _state(self) -> dict[str, object]:
        report = self.arena.report()
        return {
            "generation": report.generation,
            "supervisor": report.pid,
            "workers": [worker.pid for worker in report.workers],
            "queues": [queue.queue for queue in report.queues],
            "rules": self.arena.rules(),
        }

    def _problem(self, done: Done, before: dict[str, object], after: dict[str, object]) -> str:
        if done.status != 1:
            return f"'nfqlb {done.name}' of a file with mistakes ended with status {done.status} instead of 1."
        if unnamed := [word for word in self.MISTAKES if word not in done.errors]:
            return f"'nfqlb {done.name}' did not name {', '.join(unnamed)}: {' '.join(done.errors.split())}"
        if "Traceback" in done.errors:
            return f"'nfqlb {done.name}' ended with a traceback."
        changed = [name for name, value in before.items() if after[name] != value]
        return f"'nfqlb {done.name}' was refused and changed: {', '.join(changed)}." if changed else ""
