"""What a message costs nfqlb as one thing grows: backends, sources, bytes, workers.

REGISTERs at a steady rate far below the limit; what is looked at is the running time of the workers for a message, and
that of the core. Each point has a gateway of its own, started for it. Links carry packets of any size in one piece
here, so what the kernel needs to put fragments together is not in the figures.
"""

import os
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from devtools.bench import load, systems
from devtools.bench.live import Bench, Options
from devtools.bench.load import Load
from devtools.bench.network import Cores, Network
from devtools.bench.systems import Nfqlb

MIX = "register"
LARGEST = 32_668
"""Bytes of a packet on the links: more than the largest message."""


@dataclass(frozen=True)
class Place:
    """What a point is measured with."""

    backends: int = 10
    sources: int = 10_000
    size: int = 520
    """Bytes of a REGISTER."""
    workers: int = 1


@dataclass(frozen=True)
class Series:
    """One thing that grows."""

    name: str
    values: tuple[int, ...]


SERIES = (
    Series("backends", (10, 100, 1000)),
    Series("sources", (100, 10_000, 1_000_000)),
    Series("size", (300, 520, 1000, 2000, 5000, 10_000, 20_000)),
    Series("workers", (1, 2, 4, 8)),
)
QUICK = (Series("backends", (10,)), Series("size", (5000,)))


@dataclass(frozen=True)
class Cost:
    """A point of a series; microseconds for a message, the median of the runs."""

    series: str
    value: int
    rate: float
    loss: float
    workers: float
    """Running time of all processes of the gateway."""
    core: float
    """Busy time of the cores that they have."""
    memory: int
    """Bytes of all processes."""


def run(
    name: str,
    rate: float,
    seconds: float,
    rounds: int,
    say: Callable[[str], None],
    series: tuple[Series, ...] = SERIES,
) -> Iterator[Cost]:
    """All points, as they are measured. `name`: of the namespaces."""
    with tempfile.TemporaryDirectory(prefix="nfqlb-bench-") as directory:
        program = load.compiled(Path(directory))
        for each in series:
            for value in each.values:
                if each.name == "workers" and value > len(os.sched_getaffinity(0)):
                    say(f"{value} workers would share the {len(os.sched_getaffinity(0))} cores: left out")
                    continue
                say(f"{each.name}: {value:,}")
                place = replace(Place(), **{each.name: value})
                runs = Path(directory, f"{each.name}-{value}")
                yield _measure(name, runs, program, place, (rate, seconds, rounds), each.name)


def _measure(name: str, directory: Path, program: Path, place: Place, how: tuple[float, float, int], what: str) -> Cost:
    rate, seconds, rounds = how
    system_core, load_core = systems.spare_cores()
    options = Options(seconds=seconds, phones=place.sources, backends=place.backends, register_size=place.size)
    with ExitStack() as stack:
        network = stack.enter_context(Network(name, Cores(system_core, load_core), mtu=LARGEST))
        system = Nfqlb(network, directory, system_core, place.backends, workers=place.workers)
        stack.enter_context(system)
        scripts = directory / "scripts"
        scripts.write_bytes(load.scripts_text(place.size))
        generator = Load(
            program,
            network,
            load_core,
            phones=place.sources,
            backends=place.backends,
            scripts=scripts,
        )
        stack.enter_context(generator)
        generator.prepare(min(place.sources, 50))
        bench = Bench({"nfqlb": (system, generator)}, options, lambda _: None)
        points = [bench.point("nfqlb", MIX, 0, rate) for _ in range(rounds)]
        return Cost(
            what,
            getattr(place, what),
            round(statistics.median(point.rate for point in points), 1),
            max(point.loss for point in points),
            round(statistics.median(point.processes for point in points), 2),
            round(statistics.median(point.core for point in points), 2),
            system.memory(),
        )
