"""Whole gateways side by side: the same traffic, the same core, turn by turn.

Of each system and mix, in each round: the highest rate without loss, by bisection; then, at parts of the lowest such
rate among the systems, so with the very same traffic, the processor's time for a message and the latency. Rounds
alternate the systems, so that what the machine does meanwhile meets all of them. Knows what is measured in which order;
what is made of it, see `report`.
"""

import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from devtools.bench import load, systems
from devtools.bench.load import MIXES, Load, Run
from devtools.bench.network import Cores, Network
from devtools.bench.systems import SYSTEMS, System
from devtools.bench.usage import usage

LOSS = 1e-4
"""Part of the messages that may be lost in a run that counts as free of loss."""

PRECISION = 1.03
"""The rate without loss is known when one that is higher by this factor loses."""

CEILING = 400_000
"""Messages a second beyond which nobody is asked to go."""

PARTS = (0.25, 0.5, 0.8)
"""Of the lowest rate without loss among the systems: where time and latency are measured."""

JUNK = "junk"
"""The mix of which nothing arrives: only its cost can be measured."""

WITH_JUNK = "register-junk"
"""The mix of as much junk as REGISTERs: what the core passes of it says what junk takes away when there is no time."""

JUNK_RATE = 10_000
"""Messages a second, unless another mix was measured before: then junk comes at the rate of that one's costs."""


@dataclass(frozen=True)
class Options:
    systems: tuple[str, ...] = tuple(SYSTEMS)
    mixes: tuple[str, ...] = tuple(MIXES)
    rounds: int = 5
    seconds: float = 1.5
    """Of one run."""
    phones: int = 20_000
    prepared: int = 500
    """Phones that register beforehand: those that are called, and those in dialogs."""
    backends: int = 4
    register_size: int = 520


@dataclass(frozen=True)
class Point:
    """One run at a fixed rate. Times in microseconds for a message."""

    part: float
    """Of the lowest rate without loss; 0 for a fixed rate."""
    rate: float
    loss: float
    user: float
    system: float
    softirq: float
    core: float
    """All that the core did. More than these three: the kernel samples them, and misses what wakes an idle core."""
    processes: float
    """What the system's own processes ran."""
    p50: float
    p99: float
    p999: float


@dataclass
class Result:
    """One system with one mix; one entry of each list a round."""

    system: str
    mix: str
    capacity: list[float] = field(default_factory=list)
    """Messages a second without loss."""
    points: list[Point] = field(default_factory=list)
    memory: int = 0
    """Bytes, after the last round."""

    def at(self, part: float) -> list[Point]:
        return [point for point in self.points if point.part == part]


class Bench:
    """Systems that run, each with a generator of its own, ready to be asked."""

    def __init__(self, started: dict[str, tuple[System, Load]], options: Options, say: Callable[[str], None]) -> None:
        self._started, self._options, self._say = started, options, say
        self._junk_rate = float(JUNK_RATE)

    def measure(self, mix: str) -> list[Result]:
        """All rounds of a mix, one Result for each system."""
        results = {name: Result(name, mix) for name in self._started}
        for number in range(self._options.rounds):
            if mix != JUNK:
                for name, result in results.items():
                    before = statistics.median(result.capacity) if result.capacity else self._guess(name, mix)
                    result.capacity.append(self.capacity(name, mix, before))
                self._say(
                    f"{mix}, round {number + 1}: "
                    + ", ".join(f"{name} {result.capacity[-1]:,.0f}/s" for name, result in results.items())
                )
                lowest = min(statistics.median(result.capacity) for result in results.values())
                rates = [(part, part * lowest) for part in PARTS]
                self._junk_rate = rates[-1][1]
            else:
                rates = [(0.0, self._junk_rate)]
            for part, rate in rates:
                for name, result in results.items():
                    result.points.append(self.point(name, mix, part, rate))
        for name, result in results.items():
            result.memory = self._started[name][0].memory()
        return list(results.values())

    def _guess(self, name: str, mix: str) -> float:
        """What a core may carry, from what a message costs at a low rate."""
        point = self.point(name, mix, 0, 3000)
        return min(CEILING, 0.8e6 / max(1.0, point.processes))

    def capacity(self, name: str, mix: str, start: float) -> float:
        """The highest rate without loss, in messages a second, looked for from `start` on."""
        rate, good, bad = start, 0.0, 0.0
        while not (good and bad and bad / good <= PRECISION):
            achieved = self._lossless(name, mix, rate)
            if achieved:
                good = max(good, achieved)
                if achieved < rate / PRECISION:
                    break  # the generator can do no more
            else:
                bad = rate
            if rate < 100:
                break
            rate = (good * bad) ** 0.5 if good and bad else rate * (1.12 if good else 0.85)
            if rate > CEILING:
                break
        return good

    def _lossless(self, name: str, mix: str, rate: float) -> float:
        """The rate that was sent, or 0 when some of it was lost."""
        ran = self._run(name, mix, rate)
        return ran.rate if ran.loss <= LOSS and not ran.ring_drops else 0.0

    def point(self, name: str, mix: str, part: float, rate: float) -> Point:
        """One run, and what the core did meanwhile."""
        system, _ = self._started[name]
        pids = system.pids()
        before = usage(system.core, pids)
        ran = self._run(name, mix, rate)
        used = usage(system.core, pids) - before
        each = 1e6 / ran.sent
        return Point(
            part=part,
            rate=round(ran.rate, 1),
            loss=round(ran.loss, 6),
            user=round(used.user * each, 2),
            system=round(used.system * each, 2),
            softirq=round(used.softirq * each, 2),
            core=round(used.busy * each, 2),
            processes=round(used.processes * each, 2),
            p50=ran.p50,
            p99=ran.p99,
            p999=ran.p999,
        )

    def _run(self, name: str, mix: str, rate: float) -> Run:
        return self._started[name][1].run(mix, rate, self._options.seconds)


@contextmanager
def started(name: str, options: Options, say: Callable[[str], None]) -> Iterator[Bench]:
    """The systems of `options`, up and prepared, in networks named after `name`; all gone afterwards."""
    cores = Cores(*systems.spare_cores())
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nfqlb-bench-")))
        program = load.compiled(place)
        scripts = place / "scripts"
        scripts.write_bytes(load.scripts_text(options.register_size))
        running = {}
        for number, system_name in enumerate(options.systems):
            say(f"starting {system_name} on core {cores.system}")
            network = stack.enter_context(Network(f"{name}-{number}", cores))
            system = SYSTEMS[system_name](network, place / system_name, cores.system, options.backends)
            stack.enter_context(system)
            generator = Load(
                program, network, cores.load, phones=options.phones, backends=options.backends, scripts=scripts
            )
            stack.enter_context(generator)
            generator.prepare(options.prepared)
            running[system_name] = (system, generator)
        yield Bench(running, options, say)


def run(name: str, options: Options, say: Callable[[str], None]) -> list[Result]:
    """Everything."""
    with started(name, options, say) as bench:
        return [result for mix in options.mixes for result in bench.measure(mix)]


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, least and most."""
    return statistics.median(values), min(values), max(values)
