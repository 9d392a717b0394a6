"""Calls through faults: SIPp calls SIPp through the gateway, while it is reloaded, upgraded and killed at.

The backends are SIPp, too, one process for each kind of call: answered and held, answered late, cancelled while it
rings, refused. They lose some of their own responses, so that both sides repeat. Judged by SIPp (calls that failed) and
by captures on the backends' side (`proof`).
"""

import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from devtools.chaos.arena import PORT, Arena, PoolPlan, Settings
from devtools.chaos.proof import Proof, prove, requests_in
from devtools.chaos.run import Event, attempt, host, refused, tell
from devtools.chaos.scenarios import Reload, Scenario, Upgrade, WorkerKill
from devtools.chaos.watch import Watch
from nfqlb.lab import LabError, namespaces
from nfqlb.lab.lab import tail
from nfqlb.lab.load import last_row
from nfqlb.lab.scenario import Manner
from nfqlb.lab.sipp import Dialogue
from nfqlb.lab.topology import Node, Plan

BACKENDS = 4
LATE_MS = 700
"""Later than the first repetition of a request (500 ms)."""
NO_END = 1_000_000
"""Calls that a callee waits for: it is ended, not done."""


@dataclass(frozen=True)
class Kind:
    """One kind of call. Its pool, its domain and the port of its callees are its own."""

    name: str
    ladder: str
    share: int
    """Percent of the calls."""
    late_ms: int
    ring_ms: int = 0
    """Before CANCEL; an answered call is held as the options say."""

    @property
    def domain(self) -> str:
        return f"{self.name}.example.org"


KINDS = (
    Kind("call", "call", 70, 0),
    Kind("late", "call", 10, LATE_MS),
    Kind("cancel", "cancel", 10, LATE_MS, ring_ms=1500),
    Kind("busy", "busy", 10, LATE_MS),
)


@dataclass(frozen=True)
class Options:
    rate: int = 100
    """Calls per second."""
    hold: float = 3.0
    """Seconds between answer and BYE."""
    every: float = 2.0
    """Seconds between two events."""
    reloads: int = 10
    upgrades: int = 3
    kills: int = 5
    lost: int = 3
    """Percent of final responses, and of ACKs to refusals, that their sender drops."""
    workers: int = 2
    family: int = 4

    @property
    def seconds(self) -> float:
        """For which calls begin: one interval before the first event, and one after the last."""
        return (self.reloads + self.upgrades + self.kills + 1) * self.every

    @property
    def linger(self) -> float:
        """Seconds that a side answers repetitions after its end: to a third one (after 0.5, 1.5, 3.5 s), where some
        are lost on purpose; else to the first."""
        return 4.0 if self.lost else 1.0


@dataclass(frozen=True)
class KindResult:
    """The calls of one kind, by the word of their callers."""

    calls: int
    successful: int
    failed: int
    """Of both sides."""
    retransmissions: int
    """Of both sides."""


@dataclass
class Result:
    options: Options
    kinds: dict[str, KindResult]
    proof: Proof
    events: list[Event]
    where: dict[str, Any]
    cpu: dict[str, float]
    cores: list[dict[str, float]]
    others_cpu: float
    """Percent of one core that went to others: where it is much, the figures say little."""
    problems: list[str]

    scenario: ClassVar[str] = "calls"

    @property
    def ok(self) -> bool:
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        total = {
            name: sum(getattr(kind, name) for kind in self.kinds.values())
            for name in ("calls", "successful", "failed", "retransmissions")
        }
        return {
            "scenario": self.scenario,
            "ok": self.ok,
            "problems": self.problems,
            **asdict(self.options),
            **total,
            "kinds": {name: asdict(kind) for name, kind in self.kinds.items()},
            "proof": asdict(self.proof) | {"strays": [each._asdict() for each in self.proof.strays]},
            "events": [asdict(event) for event in self.events],
            "where": self.where,
            "cpu": self.cpu,
            "cores": self.cores,
            "others_cpu": self.others_cpu,
            "host": host(),
        }


class CallArena(Arena):
    programs: ClassVar[Mapping[str, str]] = {**Arena.programs, "sipp": "sip-tester", "tcpdump": "tcpdump"}
    # The last takes everything, as a last route should.
    pools: ClassVar[tuple[PoolPlan, ...]] = tuple(
        PoolPlan(kind.name, PORT + number, kind.domain if kind is not KINDS[-1] else "")
        for number, kind in enumerate(KINDS)
    )

    more = "\n[health]\nenabled = false\n"
    """SIPp takes a probe for the begin of a call that goes wrong, and the proof for a message of one."""

    def __init__(self, name: str, options: Options, say: Callable[[str], None]) -> None:
        plan = Plan(name, family=options.family, registrars=BACKENDS, proxies=0)
        super().__init__(plan, Settings((1,) * (BACKENDS - 1), options.workers), say)
        self.options = options
        self.callees: list[tuple[Kind, Dialogue]] = []

    def start_backend(self, node: Node) -> None:
        """A callee for each kind of call, and a capture of what reaches them."""
        argv = tcpdump(self.capture(node), "udp")
        log = self.dir / f"{node.role}.log"
        self._processes[node.role] = namespaces.spawn(self.plan.namespace(node.role), argv, log)
        for number, kind in enumerate(KINDS):
            phone = self.phone(f"{node.role}-{kind.name}", node, port=PORT + number)
            manner = self._manner(late_ms=kind.late_ms)
            started = phone.start(
                kind.ladder,
                caller=False,
                calls=NO_END,
                name=f"{node.role}-{kind.name}",
                timeout=3600,
                manner=manner,
                extra=statistics(phone.run_dir / f"{node.role}-{kind.name}"),
            )
            self.callees.append((kind, started))

    def wait_backend(self, node: Node) -> None:
        wait_listening(self._processes[node.role], self.dir / f"{node.role}.log")

    def _manner(self, *, late_ms: int = 0, hold_ms: int = 0) -> Manner:
        linger_ms = round(self.options.linger * 1000)
        return Manner(hold_ms=hold_ms, late_ms=late_ms, lost=self.options.lost, linger_ms=linger_ms)

    def start_callers(self) -> list[tuple[Kind, Dialogue]]:
        options, started = self.options, []
        for number, kind in enumerate(KINDS):
            rate = options.rate * kind.share / 100
            # Two of each, so that both workers have some: a caller is one flow.
            for half in range(2):
                name = f"{kind.name}{half}"
                phone = self.phone(name, self.plan.phones[half], port=PORT + number)
                dialogue = phone.start(
                    kind.ladder,
                    caller=True,
                    peer=kind.name,
                    domain=kind.domain,
                    calls=max(1, round(rate / 2 * options.seconds)),
                    name=name,
                    timeout=round(options.seconds + options.hold + 60),
                    manner=self._manner(hold_ms=kind.ring_ms or round(options.hold * 1000)),
                    extra=(*statistics(phone.run_dir / name), "-rp", "10000", "-r", str(round(rate * 5))),
                )
                started.append((kind, dialogue))
        return started

    def stop_backends(self) -> None:
        """End callees and captures, so that their files are whole."""
        processes = [dialogue.process for _, dialogue in self.callees]
        processes += [self._processes[node.role] for node in self.plan.backends]
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(10)

    def capture(self, node: Node) -> Path:
        return self.dir / f"{node.role}.pcap"

    def proof(self) -> Proof:
        return prove(
            request
            for node in self.plan.backends
            for request in requests_in(self.capture(node), node.role, node.interface.ip.packed)
        )


def statistics(stem: Path) -> tuple[str, ...]:
    """SIPp's options for a file of statistics, renewed every second, and for as many calls at once as there are."""
    return ("-trace_stat", "-stf", str(stem.with_suffix(".csv")), "-fd", "1", "-l", str(NO_END))


def tcpdump(file: Path, *more: str) -> list[str]:
    """How it is called to write all that matches into `file`, until SIGINT.

    It gives up root before it opens a file, and must not be told to keep it: that of Ubuntu 24.04 (4.99.4-3ubuntu4)
    dies of a segmentation fault with `-Z root -w FILE`. So the file is opened for it.
    """
    words = ["-i", "eth0", "-n", "-B", "32768", "-w", "-", *more]
    return ["sh", "-c", 'exec tcpdump "$@" >"$0"', str(file), *words]


def wait_listening(process: subprocess.Popen[bytes], log: Path) -> None:
    """Until that tcpdump takes packets. LabError with its last words if it does not."""
    deadline = time.monotonic() + 10
    while "listening on" not in log.read_text():
        if time.monotonic() > deadline or process.poll() is not None:
            raise LabError(f"tcpdump does not listen. {tail(log)}")
        time.sleep(0.02)


def plan_events(options: Options) -> list[type[Scenario]]:
    """All events, each kind spread evenly over the time."""
    kinds: list[tuple[type[Scenario], int]] = [
        (Reload, options.reloads),
        (Upgrade, options.upgrades),
        (WorkerKill, options.kills),
    ]
    placed = [((number + 0.5) / count, kind) for kind, count in kinds for number in range(count)]
    return [kind for _, kind in sorted(placed, key=lambda each: each[0])]


def run(name: str, options: Options, say: Callable[[str], None]) -> Result:
    """Calls through all events. LabError when it cannot be run to its end."""
    with CallArena(name, options, say) as arena:
        say(f"calls: {options.rate} calls/s for {options.seconds:g} s, held for {options.hold:g} s")
        scenarios: dict[type[Scenario], Scenario] = {kind: kind(arena) for kind in (Reload, Upgrade, WorkerKill)}
        counts = dict.fromkeys(scenarios, 0)
        happened: list[Event] = []
        with Watch({role: arena.plan.namespace(role) for role in arena.plan.roles}) as watch:
            begun = time.monotonic()
            callers = arena.start_callers()
            for number, kind in enumerate(plan_events(options)):
                time.sleep(max(0.0, begun + (number + 1) * options.every - time.monotonic()))
                at = round(time.monotonic() - begun, 3)
                done = attempt(scenarios[kind], counts[kind])
                counts[kind] += 1
                happened.append(Event(at, done.what, done.status, done.seconds, done.problem))
                say(tell(happened[-1]))
            say("waiting for the last calls")
            statuses = [dialogue.process.wait(options.seconds + options.hold + 70) for _, dialogue in callers]
            time.sleep(options.linger)
            watch.close()
            problems = [event.problem for event in happened if event.problem] + scenarios[WorkerKill].problems()
            reasons = refused(arena.report())
        arena.stop_backends()
        result = Result(
            options=options,
            kinds={kind.name: sums(kind, callers, arena.callees) for kind in KINDS},
            proof=arena.proof(),
            events=happened,
            where={"queues": watch.queues(), "reasons": reasons},
            cpu=watch.cpu(),
            cores=watch.cores(),
            others_cpu=watch.others(),
            problems=problems,
        )
        result.problems += broken(result, statuses)
        return result


def sums(kind: Kind, callers: list[tuple[Kind, Dialogue]], callees: list[tuple[Kind, Dialogue]]) -> KindResult:
    made = [last_row(dialogue.errors.with_suffix(".csv")) for each, dialogue in callers if each is kind]
    taken = [last_row(dialogue.errors.with_suffix(".csv")) for each, dialogue in callees if each is kind]
    return KindResult(
        calls=sum(row["TotalCallCreated"] for row in made),
        successful=sum(row["SuccessfulCall(C)"] for row in made),
        failed=sum(row["FailedCall(C)"] for row in made + taken),
        retransmissions=sum(row["Retransmissions(C)"] for row in made + taken),
    )


def broken(result: Result, statuses: list[int]) -> list[str]:
    found = []
    for name, kind in result.kinds.items():
        if kind.failed or kind.successful != kind.calls:
            found.append(f"{name}: of {kind.calls} calls {kind.successful} succeeded, {kind.failed} sides failed.")
    if any(statuses) and not found:
        found.append(f"SIPp ended with status {', '.join(map(str, statuses))}.")
    proof = result.proof
    if proof.stray_calls:
        first = proof.strays[0]
        found.append(
            f"Requests of {proof.stray_calls} calls reached another backend than their INVITE, "
            f"first a {first.method} of {first.call_id} at {first.backend}."
        )
    for name in ("CANCEL", "ACK (non-2xx)"):
        if not proof.requests.get(name):
            found.append(f"No {name} reached a backend, so nothing is proved of it.")
    if not proof.repeated.get("INVITE"):
        found.append("No INVITE was repeated, so nothing is proved of it.")
    return found
