"""One process that fuzzes one target: blind, or guided by coverage (atheris).

Blind: our own mutations, fast, the code as it runs in a gateway; an input that leads to a kind of outcome not seen
before is mutated further. Guided: the code is instrumented, which takes several times as long, and libFuzzer keeps each
input that reaches new branches; half of its mutations are its own, half are ours.

Started by `campaign` as `python -m devtools.fuzz.process`, with its job as JSON. Tells what it finds as lines of JSON.
"""

import importlib
import importlib.util
import json
import os
import sys
import time
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

from devtools.fuzz.gauge import Gauge

if TYPE_CHECKING:
    from devtools.fuzz.target import Target

INSTRUMENTED = [
    f"nfqlb.{name}" for name in ("sip", "net", "balance", "proxy", "engine", "capture", "config", "gateway.probe")
]
LONGEST = 66_000
CORPUS_MAX = 20_000
"""Inputs that a blind run mutates further; after that, new ones take the place of old ones."""


class Job(NamedTuple):
    """What a process is to do; all of it can be written as JSON."""

    target: str
    guided: bool
    seconds: float
    runs: int
    """0: as many as there is time for."""
    seed: int
    gauge: str
    corpus: str
    """Folder with inputs of earlier runs, for those of this one, too."""
    findings: str


def has_atheris() -> bool:
    return importlib.util.find_spec("atheris") is not None


class Tried:
    """Tries inputs, counts, and keeps what breaks."""

    def __init__(self, target: "Target", job: Job) -> None:
        from devtools.fuzz.findings import Keeper, attempt

        self.target, self._attempt = target, attempt
        self.gauge = Gauge(Path(job.gauge))
        self._keeper = Keeper(Path(job.findings))

    def __call__(self, data: bytes) -> Any:
        """The kind of outcome, None when something broke."""
        self.gauge.begin(data)
        shape, found = self._attempt(self.target, data)
        if found is not None:
            self.gauge.violated()
            path = self._keeper.keep(self.target, data, found)
            if path is not None:
                line = {"invariant": found.invariant, "detail": found.detail, "file": str(path)}
                # Past any buffer: libFuzzer ends the process without asking.
                os.write(1, json.dumps(line).encode() + b"\n")
        return shape


def blind(job: Job) -> None:
    from devtools.fuzz.findings import store
    from devtools.fuzz.targets import TARGETS

    end = time.monotonic() + job.seconds
    target = TARGETS[job.target]()
    tried = Tried(target, job)
    chance = Random(f"{job.seed} {job.target}")
    seeds = target.seeds()
    corpus = seeds + [path.read_bytes() for path in sorted(Path(job.corpus).glob("*"))]
    seen = {tried(data) for data in corpus}
    executions = len(corpus)
    while (not job.runs or executions < job.runs) and time.monotonic() < end:
        for _ in range(100):
            data = target.mutate(chance.choice(corpus), seeds, chance)
            shape = tried(data)
            executions += 1
            if shape is not None and shape not in seen:
                seen.add(shape)
                tried.gauge.new()
                store(Path(job.corpus), "blind", data)
                if len(corpus) < CORPUS_MAX:
                    corpus.append(data)
                else:
                    corpus[chance.randrange(len(seeds), len(corpus))] = data


def guided(job: Job) -> None:
    # By name, since it need not be there: only who fuzzes has it.
    atheris = importlib.import_module("atheris")
    end = time.monotonic() + job.seconds
    with atheris.instrument_imports(include=INSTRUMENTED):
        from devtools.fuzz.targets import TARGETS

        target = TARGETS[job.target]()
        seeds = target.seeds()
    tried = Tried(target, job)
    first = Path(job.gauge).with_suffix(".seeds")
    first.mkdir()
    for number, data in enumerate(seeds):
        (first / f"{number:05}").write_bytes(data)

    def once(data: bytes) -> None:
        tried(data)

    def mutated(data: bytes, longest: int, seed: int) -> bytes:
        if seed & 1:
            return bytes(atheris.Mutate(data, longest))
        return target.mutate(data, seeds, Random(seed))[:longest]

    options = [
        f"-max_total_time={max(1, int(end - time.monotonic()))}", f"-seed={job.seed & 0x7FFFFFFF or 1}",
        f"-max_len={LONGEST}", "-len_control=0", "-timeout=60", "-rss_limit_mb=0", "-print_final_stats=1",
        f"-artifact_prefix={job.gauge}.", *([f"-runs={job.runs}"] if job.runs else []),
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *options, job.corpus, str(first)], once, custom_mutator=mutated)
    atheris.Fuzz()


def main() -> None:
    job = Job(**json.loads(sys.argv[1]))
    (guided if job.guided else blind)(job)


if __name__ == "__main__":
    main()
