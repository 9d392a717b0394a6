"""A large farm: a thousand backends in fifty pools, their tables changed and the gateway reloaded under load.

How long a reload takes, how long packets wait for each worker meanwhile, and how much memory each process has.
A process stands for many backends here, one at each port: it answers their probes, and counts what they get.

Every change has a twin: a time as long, right before it, in which nothing is changed. What the machine itself makes
packets wait shows in both.
"""

import math
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, ClassVar

from devtools.chaos.accounts import account
from devtools.chaos.arena import PORT, up
from devtools.chaos.counted import BACKENDS, CountedArena
from devtools.chaos.pauses import Pauses, Window, pauses, ways
from devtools.chaos.run import host, refused
from devtools.chaos.watch import Watch
from nfqlb.gateway.host import procfs
from nfqlb.gateway.runtime.control_socket import ask
from nfqlb.lab import LabError, namespaces
from nfqlb.lab.topology import Plan

RELOAD_WITHIN = 2.0
"""Seconds."""
START_WITHIN = 90.0
"""Seconds."""
PAUSE_MS = 20.0
"""That a table change may make a packet wait, at most."""
SETTLE = 0.3
"""Seconds for which a window goes on after what it is for has ended."""
LEAD = 4.0
"""Seconds of load before anything is measured: first packets wait for more than tables."""
WITHOUT = "without"
"""Kind of the windows in which nothing happens: this and the kind of the twin."""
ORDERS_HOLD = 6.0
"""Seconds after which the orders of a burst run out, all at once."""


@dataclass(frozen=True)
class Options:
    pools: int = 50
    backends: int = 1000
    """In all."""
    rate: int = 2500
    """Messages per second."""
    changes: int = 10
    """Times that one backend is drained, and enabled again."""
    reloads: int = 3
    """Of every pool, and as many of one pool."""
    workers: int = 2
    family: int = 4


@dataclass(frozen=True)
class Reloaded:
    pools: int
    """That it changed: each lost a backend, got one back, and gave another weight to two."""
    seconds: float
    """That the whole command took."""


@dataclass
class Memory:
    """One process of the gateway, in kB."""

    name: str
    pss_kb: int
    rss_kb: int
    private_kb: int


@dataclass
class Result:
    options: Options
    start_seconds: float
    """From `nfqlb run` until all workers serve."""
    reloaded: list[Reloaded]
    pauses: dict[str, Pauses]
    memory_before: list[Memory]
    memory_after: list[Memory]
    sent: int
    lost: int
    duplicated: int
    generator_longest_pause_ms: float
    flows_of_workers: list[int]
    where: dict[str, Any]
    cpu: dict[str, float]
    cores: list[dict[str, float]]
    others_cpu: float
    problems: list[str]

    scenario: ClassVar[str] = "large"

    @property
    def ok(self) -> bool:
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        whole = asdict(self)
        memory = {
            f"pss_kb_in_all_{when}": sum(each.pss_kb for each in getattr(self, f"memory_{when}"))
            for when in ("before", "after")
        }
        options, problems = whole.pop("options"), whole.pop("problems")
        return {
            "scenario": self.scenario,
            "ok": self.ok,
            "problems": problems,
            **options,
            **memory,
            **whole,
            "host": host(),
        }


class LargeArena(CountedArena):
    def __init__(self, name: str, options: Options, say: Callable[[str], None]) -> None:
        plan = Plan(name, family=options.family, registrars=BACKENDS, proxies=0)
        ports = math.ceil(options.backends / BACKENDS)
        super().__init__(name, family=options.family, workers=options.workers, say=say, plan=plan, ports=ports)
        self.options = options
        self.editions = [0] * options.pools
        """Of each pool's part of the configuration: each lacks another backend, and prefers another one."""

    def write_config(self) -> None:
        super().write_config()  # for the files beside it
        text = self.config.read_text()
        head = text[: text.index("[[pool]]")]
        self.replace_config(head + self.farm() + f"[workers]\ncount = {self.options.workers}\n")

    def farm(self) -> str:
        """Pools, and a route to each."""
        return "".join(
            f'[[pool]]\nname = "{pool_name(pool)}"\n'
            + "".join(
                self._backend(number, place == self.editions[pool] % 2)
                for place, number in enumerate(self.members(pool))
            )
            + f'[[route]]\ndomains = ["{domain(pool)}"]\npool = "{pool_name(pool)}"\n'
            for pool in range(self.options.pools)
        )

    def members(self, pool: int) -> list[int]:
        """The numbers of a pool's backends in this edition."""
        every = list(range(pool, self.options.backends, self.options.pools))
        del every[self.editions[pool] % len(every)]
        return every

    def wait_gateway(self) -> None:
        """It builds many tables before it serves; on a busy machine that takes its time."""
        begun = time.monotonic()
        while True:
            try:
                self.start_seconds = round(time.monotonic() - begun + self.wait_report(up, "A gateway", 1.0), 3)
            except LabError:
                if self._processes["gw"].poll() is not None or time.monotonic() - begun > START_WITHIN:
                    raise
            else:
                return

    def _backend(self, number: int, heavy: bool) -> str:
        node = self.plan.backends[number % BACKENDS]
        return (
            f'[[pool.backend]]\nname = "{backend_name(number)}"\naddress = "{node.host}:{PORT + number // BACKENDS}"\n'
            f"weight = {1 + heavy}\n"
        )

    def say_of(self, word: str, number: int, seconds: float | None = None) -> None:
        """What `nfqlb backends` does, without the time that it takes to start."""
        answer = ask(self.gateway_dir, {"do": word, "backend": backend_name(number), "for": seconds}, timeout=10)
        if not answer["ok"]:
            raise LabError(f"'{word}' of {backend_name(number)} was refused: {answer}.")

    def find_workers(self, rate: int) -> list[int]:
        """By flow, the worker that the kernel gives it to: seen by a keepalive of each."""
        self.add_addresses()
        found = []
        queues = {queue.queue: worker for worker, queue in enumerate(self.report().queues)}
        for address in self.flows(rate):
            before = self._last_ids()
            namespaces.inside(self.plan.namespace("phones"), partial(self._knock, address))
            deadline = time.monotonic() + 2
            while not (moved := [number for number, last in self._last_ids().items() if last != before.get(number)]):
                if time.monotonic() > deadline:
                    raise LabError(f"Nothing from {address[0]} reaches a queue.")
                time.sleep(0.001)
            found.append(queues[moved[0]])
        return found

    def _knock(self, address: tuple[str, int]) -> None:
        with socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(address)
            sock.sendto(b"\r\n\r\n", (self.plan.external.ip, PORT))

    def _last_ids(self) -> dict[int, int]:
        rows = namespaces.inside(self.plan.namespace("gw"), procfs.kernel_queues)
        return {row.number: row.last_id for row in rows.values()}


def pool_name(number: int) -> str:
    return f"p{number:03}"


def domain(pool: int) -> str:
    return f"{pool_name(pool)}.example.org"


def backend_name(number: int) -> str:
    return f"b{number:05}"


class Course:
    """What is done in a run, and when."""

    def __init__(self, arena: LargeArena, say: Callable[[str], None]) -> None:
        self.arena, self.say = arena, say
        self.windows: list[Window] = []
        self.reloads: list[Reloaded] = []
        self.problems: list[str] = []

    def run(self) -> None:
        options = self.arena.options
        first = [self.arena.members(pool)[0] for pool in range(options.pools)]
        for turn in range(options.changes):
            one = first[turn % len(first)]
            self._twin("one table", partial(self.arena.say_of, "drain", one), 0.0)
            self._window("one table", partial(self.arena.say_of, "enable", one), 0.0)
        self._twin("every table, one after the other", lambda: self._drain_all(first), 0.5)
        # Now nothing for as long as the orders hold, and then they run out.
        self._window("every table at once", lambda: None, ORDERS_HOLD)
        for _ in range(options.reloads):
            self._twin("reload of every pool", partial(self._reload, range(options.pools)), 0.5)
            self._twin("reload of one pool", partial(self._reload, range(1)), 0.5)
        self.arena.wait_report(up, "A gateway that runs")

    def _drain_all(self, numbers: list[int]) -> None:
        for number in numbers:
            self.arena.say_of("drain", number, ORDERS_HOLD)

    def _reload(self, pools: range) -> None:
        for pool in pools:
            self.arena.editions[pool] += 1
        self.arena.write_config()
        done = self.arena.command("reload", timeout=120)
        self.reloads.append(Reloaded(len(pools), done.seconds))
        self.say(f"reload of {len(pools)} pool(s): {done.seconds:.2f} s {done.failure}".rstrip())
        if done.failure:
            self.problems.append(done.failure)

    def _window(self, kind: str, work: Callable[[], None], more: float) -> float:
        """Do it, and look on for a while; how many seconds that was in all."""
        begin = time.time_ns()
        work()
        time.sleep(SETTLE + more)
        end = time.time_ns()
        self.windows.append(Window(kind, begin, end))
        return (end - begin) / 1e9

    def _twin(self, kind: str, work: Callable[[], None], more: float) -> None:
        """The same, and a time as long without it."""
        seconds = self._window(kind, work, more)
        self._window(f"{WITHOUT} ({kind})", lambda: None, seconds - SETTLE)


def run(name: str, options: Options, say: Callable[[str], None]) -> Result:
    """All of it in a lab of its own. LabError when it cannot be run to its end."""
    with LargeArena(name, options, say) as arena:
        arena.wait_report(up, "A gateway that runs")
        worker_of = arena.find_workers(options.rate)
        domains = tuple(domain(pool) for pool in range(options.pools))
        say(f"large: {options.backends} backends in {options.pools} pools, {options.rate} messages/s")
        course = Course(arena, say)
        with (
            Watch(
                {role: arena.plan.namespace(role) for role in arena.plan.roles}, every=5.0, memory_every=math.inf
            ) as watch,
            arena.load(options.rate, 86_400, domains=domains) as load,
        ):
            time.sleep(LEAD)
            course.run()
            load.stop()
            sent = load.finish(30)
            watch.settle()
            watch.close()
            reasons = refused(arena.report())
        received = arena.stop_backends()
        times, arrivals = load.times(), arena.arrivals()
        counted = account(times, arrivals, load.flows)
        result = Result(
            options=options,
            start_seconds=arena.start_seconds,
            reloaded=course.reloads,
            pauses=pauses(times, ways(times, arrivals), worker_of, options.workers, course.windows),
            memory_before=list(memory(watch, first=True)),
            memory_after=list(memory(watch, first=False)),
            sent=counted.sent,
            lost=counted.lost,
            duplicated=counted.duplicated,
            generator_longest_pause_ms=sent.longest_pause_ms,
            flows_of_workers=[worker_of.count(worker) for worker in range(options.workers)],
            where={
                "queues": watch.queues(),
                "receiver_dropped": sum(each.dropped for each in received),
                "replies": sent.replies,
                "reasons": reasons,
            },
            cpu=watch.cpu(),
            cores=watch.cores(),
            others_cpu=watch.others(),
            problems=course.problems,
        )
        result.problems += broken(result)
        return result


def memory(watch: Watch, *, first: bool) -> Iterator[Memory]:
    """Of the processes that were there at the beginning, or at the end."""
    seen = [process.samples[0 if first else -1].seconds for process in watch.processes.values()]
    at = min(seen) if first else max(seen)
    for process in watch.processes.values():
        sample = process.samples[0 if first else -1]
        if abs(sample.seconds - at) < 1.0:
            yield Memory(process.name, sample.pss_kb, sample.rss_kb, sample.private_kb)


def broken(result: Result) -> list[str]:
    """The bounds that were broken."""
    found = []
    found += [
        f"A reload of {each.pools} pool(s) took {each.seconds} s, not under {RELOAD_WITHIN:g} s."
        for each in result.reloaded
        if each.seconds >= RELOAD_WITHIN
    ]
    quiet = max(max(each.longest_ms) for kind, each in result.pauses.items() if kind.startswith(WITHOUT))
    for kind, each in result.pauses.items():
        if "table" in kind and not kind.startswith(WITHOUT) and max(each.longest_ms) > PAUSE_MS:
            found.append(
                f"A packet waited for {max(each.longest_ms)} ms while {kind} changed; {PAUSE_MS:g} ms are allowed "
                f"(with nothing changed: {quiet} ms)."
            )
    if result.lost or result.duplicated:
        found.append(f"{result.lost} messages were lost, {result.duplicated} arrived more than once.")
    if 0 in result.flows_of_workers:
        found.append("A worker has no flow, so nothing is known of it.")
    return found
