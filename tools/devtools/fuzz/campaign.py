"""A campaign: processes that fuzz, one target each, several at once, watched until their time is over.

Knows how to start, watch and end them, and what each has done. Does not know what they try.
"""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from devtools.fuzz.findings import store
from devtools.fuzz.gauge import Gauge
from devtools.fuzz.process import Job

HANGS = 60.0
"""Seconds without an execution after which a process is taken to hang."""
START = 120.0
"""The same before its first: it builds its worlds, and instruments the code."""
POLL = 0.2
SHORTEST = 1.0
"""Seconds that a process has at least, if those before it have taken longer than they should."""

_COVERAGE = re.compile(rb"cov: (\d+)")
_NEW = re.compile(rb"^#\d+\s+(?:NEW|REDUCE) ", re.MULTILINE)


@dataclass
class Result:
    """What one process did."""

    target: str
    kind: str
    """guided or blind."""
    seed: int
    executions: int = 0
    seconds: float = 0.0
    coverage: int | None = None
    """Branches that libFuzzer counted; None when it was blind."""
    new: int = 0
    """Inputs that reached what none had before."""
    violations: int = 0
    findings: list[dict[str, str]] = field(default_factory=list)
    problem: str = ""
    """Why it ended early, when it did."""

    @property
    def rate(self) -> float:
        return self.executions / self.seconds if self.seconds else 0.0

    def as_dict(self) -> dict[str, object]:
        return {**vars(self), "seconds": round(self.seconds, 1), "rate": round(self.rate)}


class Running:
    """One process at work."""

    def __init__(self, job: Job, scratch: Path) -> None:
        self.job = job
        self.result = Result(job.target, "guided" if job.guided else "blind", job.seed)
        self._gauge = Gauge.create(Path(job.gauge))
        self._told = scratch / (Path(job.gauge).name + ".out")
        self._log = scratch / (Path(job.gauge).name + ".err")
        self._began = self._moved = time.monotonic()
        with self._told.open("wb") as out, self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "devtools.fuzz.process", json.dumps(job._asdict())],
                stdin=subprocess.DEVNULL, stdout=out, stderr=log, start_new_session=True,
            )  # fmt: skip

    def look(self) -> bool:
        """Bring the result up to date; whether it goes on."""
        now = time.monotonic()
        result, before = self.result, self.result.executions
        status = self._process.poll()
        result.executions, result.violations, result.new = self._gauge.read()
        result.seconds = now - self._began
        if result.executions != before:
            self._moved = now
        self._read_log()
        if status is None:
            if now - self._moved < (HANGS if result.executions else START):
                return True
            self._lost("an input does not end")
            self.end()
        elif status != 0:
            self._lost(f"the process died with {status}: {self._last_words()}")
        self._read_findings()
        return False

    def end(self) -> None:
        """At once, whatever it does."""
        self._process.kill()
        self._process.wait()
        self._read_findings()

    def _lost(self, why: str) -> None:
        result = self.result
        result.problem = why
        if result.executions:
            path = store(Path(self.job.findings), "ends", self._gauge.input())
            result.findings.append({"invariant": "ends", "detail": why, "file": str(path)})
            result.violations += 1

    def _read_log(self) -> None:
        if self.job.guided:
            log = self._log.read_bytes()
            found = _COVERAGE.findall(log)
            self.result.coverage = int(found[-1]) if found else None
            self.result.new = len(_NEW.findall(log))

    def _read_findings(self) -> None:
        told = [json.loads(line) for line in self._told.read_text().splitlines()]
        kept = [each for each in self.result.findings if each["invariant"] == "ends"]
        self.result.findings = told + kept

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run."""

    targets: Sequence[str]
    guided: Sequence[bool]
    """Each target once for each: guided, blind."""
    seconds: float
    """Of the whole."""
    runs: int
    """Of each process; 0 for as many as there is time for."""
    jobs: int
    seed: int
    folder: Path
    """For corpus and findings."""


def run(plan: Plan, show: Callable[[Sequence[Result], Sequence[Result]], None]) -> tuple[list[Result], bool]:
    """What each process did, and whether it was interrupted. `show` is told those that ended, and those that run."""
    wanted = [(target, guided) for guided in plan.guided for target in plan.targets]
    end = time.monotonic() + plan.seconds
    done: list[Result] = []
    running: list[Running] = []
    with TemporaryDirectory(prefix="nfqlb-fuzz-") as folder:
        scratch = Path(folder)
        try:
            while wanted or running:
                while wanted and len(running) < plan.jobs:
                    # Its share of the time that is left, the coming ones being as long.
                    share = max(SHORTEST, (end - time.monotonic()) / -(-len(wanted) // plan.jobs))
                    target, guided = wanted.pop(0)
                    running.append(Running(_job(plan, target, guided, share, scratch), scratch))
                time.sleep(POLL)
                running, ended = _sorted(running)
                done += [each.result for each in ended]
                show(done, [each.result for each in running])
        except KeyboardInterrupt:
            for each in running:
                each.look()
                each.end()
            return done + [each.result for each in running], True
        finally:
            for each in running:
                each.end()
    return done, False


def _sorted(running: Sequence[Running]) -> tuple[list[Running], list[Running]]:
    goes_on = [each.look() for each in running]
    return (
        [each for each, on in zip(running, goes_on, strict=True) if on],
        [each for each, on in zip(running, goes_on, strict=True) if not on],
    )


def _job(plan: Plan, target: str, guided: bool, seconds: float, scratch: Path) -> Job:
    corpus = plan.folder / "corpus" / target
    corpus.mkdir(parents=True, exist_ok=True)
    return Job(
        target, guided, seconds, plan.runs, plan.seed,
        gauge=str(scratch / f"{target}-{'guided' if guided else 'blind'}"),
        corpus=str(corpus), findings=str(plan.folder / "findings" / target),
    )  # fmt: skip
