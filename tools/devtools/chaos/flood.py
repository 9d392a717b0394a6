"""A flood from outside: junk from many sources, one source that sends far too much, and calls that must not suffer.

The calls are SIPp's, from other addresses; the flood is made by flood.c, on the wire in front of the gateway. Judged by
SIPp (calls that succeeded), by the kernel's sets (who is banned, and when), and by what the gateway's processes are
before and after.
"""

import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from devtools.chaos.arena import PORT, Arena, PoolPlan, Settings
from devtools.chaos.run import host
from devtools.chaos.watch import Watch, Watched
from nfqlb.gateway.netfilter.ipset import name_of
from nfqlb.gateway.shm.board import Cell
from nfqlb.gateway.shm.board import read as read_board
from nfqlb.lab import LabError, namespaces
from nfqlb.lab.lab import tail
from nfqlb.lab.load import last_row
from nfqlb.lab.scenario import Manner
from nfqlb.lab.sipp import Dialogue
from nfqlb.lab.topology import OUTSIDE, Node, Plan

SOURCE = Path(__file__).with_name("flood.c")

LEAST_CALLS = 0.99
"""Of the calls that have to succeed."""
MAX_BAN_MS = 1000.0
MAX_GROWTH_KB = 2000
"""Of a worker."""
MAX_LATE = 2.0
"""Seconds by which the end of a ban may differ from what was said: looks are LOOK apart, and a busy machine."""

LEAD = 5.0
"""Seconds of calls before the flood, and after it."""
LOOK = 0.02
"""Seconds between two looks at whether the source is banned."""
CALLERS = 8
"""Flows of calls: enough that each worker has some before the flood, and has touched its memory."""
HOLD_MS = 500
NO_END = 10_000_000

JUNK_FROM, FLOOD_FROM = "100.64.0.1", "100.127.0.1"
"""First of the sources of junk; the source of the flood. In a network of nobody's in the lab."""

JUNK = b"\x80\x00\x00 00000000 this is not SIP\r\n"

OPTIONS = """\
OPTIONS sip:{external} SIP/2.0
Via: SIP/2.0/UDP 100.127.0.1:5060;branch=z9hG4bK-00000000;rport
Max-Forwards: 70
From: <sip:flood@example.org>;tag=1
To: <sip:{external}>
Call-ID: flood@100.127.0.1
CSeq: 1 OPTIONS
Content-Length: 0

""".replace("\n", "\r\n")


@dataclass(frozen=True)
class Options:
    seconds: float = 60.0
    """Of the flood."""
    calls: int = 200
    """Per second."""
    junk: int = 20_000
    """Packets per second."""
    sources: int = 2000
    """Of the junk."""
    flood: int = 20_000
    """Valid OPTIONS per second, from one source."""
    ban: int = 30
    """[limits] ban_for, in seconds."""
    workers: int = 2


@dataclass(frozen=True)
class Memory:
    """Of one process of the gateway, in kB: at the last look before the flood, and the most after it."""

    name: str
    pid: int
    before: int
    after: int

    @property
    def growth(self) -> int:
        return self.after - self.before


@dataclass
class Result:
    options: Options
    calls: int
    successful: int
    retransmissions: int
    sent: dict[str, int]
    """Packets of the flood."""
    ban_after_ms: float | None
    """From the first packet of the flooding source to its ban."""
    unbanned_after: float | None
    """Seconds from the ban in force at the end to its end."""
    bans: int
    """Times that the flooding source was banned."""
    banned_sources: int
    """At the end of the flood, by kernel and gateway."""
    restarts: int
    memory: list[Memory]
    where: dict[str, Any]
    cpu: dict[str, float]
    cores: list[dict[str, float]]
    others_cpu: float
    problems: list[str] = field(default_factory=list)

    scenario: ClassVar[str] = "flood"

    @property
    def ok(self) -> bool:
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        told = asdict(self)
        options = told.pop("options")
        return {"scenario": self.scenario, "ok": self.ok, **options, **told, "host": host()}


class FloodArena(Arena):
    programs: ClassVar[Mapping[str, str]] = {**Arena.programs, "sipp": "sip-tester", "gcc": "gcc", "ipset": "ipset"}
    pools: ClassVar[tuple[PoolPlan, ...]] = (PoolPlan("farm", PORT),)

    def __init__(self, name: str, options: Options, say: Callable[[str], None]) -> None:
        super().__init__(Plan(name, registrars=2, proxies=0), Settings((1, 1), options.workers), say)
        self.options = options
        self.more = f"\n[health]\nenabled = false\n\n[limits]\nban_for = {options.ban}\n"

    def start_backend(self, node: Node) -> None:
        phone = self.phone(node.role, node, port=PORT)
        manner = Manner(linger_ms=1000)
        callee = phone.start("call", caller=False, calls=NO_END, timeout=36_000, name=node.role, manner=manner)
        self._processes[node.role] = callee.process

    def wait_backend(self, node: Node) -> None:
        """SIPp listens when it has started."""

    def start_callers(self, seconds: float) -> list[Dialogue]:
        """Calls for so long, spread over several sources."""
        started, rate = [], self.options.calls / CALLERS
        for number in range(CALLERS):
            phone = self.phone(f"caller{number}", self.plan.phones[number % 2], port=PORT + number)
            stem = phone.run_dir / phone.user
            statistics = ("-trace_stat", "-stf", str(stem.with_suffix(".csv")), "-fd", "1", "-l", str(NO_END))
            dialogue = phone.start(
                "call",
                caller=True,
                peer="somebody",
                calls=max(1, round(rate * seconds)),
                name=phone.user,
                timeout=round(seconds + 60),
                manner=Manner(hold_ms=HOLD_MS, linger_ms=1000),
                extra=(*statistics, "-rp", "10000", "-r", str(round(rate * 10))),
            )
            started.append(dialogue)
        return started

    def compiled(self) -> Path:
        program = self.dir / "flood"
        done = subprocess.run(
            ["gcc", "-O2", "-o", str(program), str(SOURCE)], capture_output=True, text=True, timeout=60, check=False
        )
        if done.returncode:
            raise LabError(f"gcc could not compile {SOURCE.name}: {done.stderr[-800:]}")
        return program

    def start_flood(
        self, program: Path, name: str, first: str, sources: int, rate: int, content: bytes
    ) -> "subprocess.Popen[bytes]":
        file = self.dir / f"{name}.content"
        file.write_bytes(content)
        address = namespaces.run(self.plan.namespace("gw"), ["cat", f"/sys/class/net/{OUTSIDE}/address"]).strip()
        words = ["core", address, self.plan.external.ip, str(PORT), first, str(sources), str(rate)]
        argv = [str(program), *words, str(self.options.seconds), str(file)]
        return namespaces.spawn(self.plan.namespace("net"), argv, self.dir / f"{name}.log", pipe=True)

    def is_banned(self, address: str) -> bool:
        argv = ["ip", "netns", "exec", self.plan.namespace("gw"), "ipset", "-q", "test", name_of("ban", 4), address]
        return subprocess.run(argv, check=False, capture_output=True, timeout=10).returncode == 0

    def banned(self) -> int:
        text = namespaces.run(self.plan.namespace("gw"), ["ipset", "save", name_of("ban", 4)])
        return text.count("\nadd ")

    def restarts(self) -> int:
        return sum(slot.cells[Cell.RESTARTS] for slot in read_board(self.gateway_dir / "board").slots)


class Lookout:
    """When the flooding source was banned: looks all the time, while the context is open."""

    def __init__(self, arena: FloodArena, address: str) -> None:
        self.spans: list[list[float]] = []
        """[begin, end] of each ban, as times of time.monotonic(); of one in force only the begin."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(arena, address), daemon=True)

    def __enter__(self) -> "Lookout":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def banned(self) -> bool:
        return bool(self.spans) and len(self.spans[-1]) == 1

    def _run(self, arena: FloodArena, address: str) -> None:
        while not self._stop.wait(LOOK):
            banned = arena.is_banned(address)
            if banned != self.banned:
                if banned:
                    self.spans.append([time.monotonic()])
                else:
                    self.spans[-1].append(time.monotonic())


def run(name: str, options: Options, say: Callable[[str], None]) -> Result:
    """LabError when it cannot be run to its end."""
    with FloodArena(name, options, say) as arena, ExitStack() as stack:
        program = arena.compiled()
        roles = {role: arena.plan.namespace(role) for role in arena.plan.roles}
        say(f"{options.calls} calls/s, and after {LEAD:g} s a flood of {options.seconds:g} s")
        callers = arena.start_callers(options.seconds + 2 * LEAD)
        time.sleep(LEAD)
        watch = stack.enter_context(Watch(roles, memory_every=1.0))
        lookout = stack.enter_context(Lookout(arena, FLOOD_FROM))
        begun = time.monotonic()
        text = OPTIONS.format(external=arena.plan.external.ip).encode()
        floods = {
            "junk": arena.start_flood(program, "junk", JUNK_FROM, options.sources, options.junk, JUNK),
            "options": arena.start_flood(program, "options", FLOOD_FROM, 1, options.flood, text),
        }
        sent = {each: ended(arena, each, process, options.seconds + 30) for each, process in floods.items()}
        banned = arena.banned()
        say(f"the flood is over: {sent}; {banned} sources are banned")
        deadline = time.monotonic() + options.ban + 5
        while lookout.banned and time.monotonic() < deadline:
            time.sleep(LOOK)
        for dialogue in callers:
            dialogue.process.wait(options.seconds + 90)
        watch.close()
        rows = [last_row(dialogue.errors.with_suffix(".csv")) for dialogue in callers]
        spans = lookout.spans
        result = Result(
            options=options,
            calls=sum(row["TotalCallCreated"] for row in rows),
            successful=sum(row["SuccessfulCall(C)"] for row in rows),
            retransmissions=sum(row["Retransmissions(C)"] for row in rows),
            sent=sent,
            ban_after_ms=round((spans[0][0] - begun) * 1000, 1) if spans else None,
            unbanned_after=round(spans[-1][1] - spans[-1][0], 2) if spans and len(spans[-1]) == 2 else None,
            bans=len(spans),
            banned_sources=banned,
            restarts=arena.restarts(),
            memory=[each for each in map(memory, watch.processes.values()) if each is not None],
            where={"queues": watch.queues(), "reasons": reasons(arena)},
            cpu=watch.cpu(),
            cores=watch.cores(),
            others_cpu=watch.others(),
        )
        result.problems = broken(result)
        return result


def ended(arena: FloodArena, name: str, process: "subprocess.Popen[bytes]", seconds: float) -> int:
    """How much it has sent, when it has ended."""
    said, _ = process.communicate(timeout=seconds)
    if process.returncode or not said.strip().isdigit():
        raise LabError(f"The flood of {name} failed. {tail(arena.dir / f'{name}.log')}")
    return int(said)


def reasons(arena: FloodArena) -> dict[str, float]:
    return {name: count for name, count in arena.report().totals.reasons.items() if count}


def memory(process: Watched) -> Memory | None:
    if len(process.samples) < 2:  # one of ours that asks who is banned
        return None
    first, *others = process.samples
    return Memory(process.name, process.pid, first.rss_kb, max((each.rss_kb for each in others), default=first.rss_kb))


def broken(result: Result) -> list[str]:
    options, found = result.options, []
    if result.successful < LEAST_CALLS * result.calls or not result.calls:
        found.append(f"Of {result.calls} calls {result.successful} succeeded, which is less than {LEAST_CALLS:.0%}.")
    if result.restarts:
        found.append(f"{result.restarts} workers were replaced.")
    if result.ban_after_ms is None:
        found.append("The flooding source was never banned.")
    elif result.ban_after_ms > MAX_BAN_MS:
        found.append(f"The flooding source was banned after {result.ban_after_ms:g} ms; {MAX_BAN_MS:g} are allowed.")
    if result.unbanned_after is None:
        found.append("The flooding source is banned still, though its time is over.")
    elif abs(result.unbanned_after - options.ban) > MAX_LATE:
        found.append(f"The ban lasted {result.unbanned_after:g} s instead of {options.ban}.")
    for each in result.memory:
        if each.growth > MAX_GROWTH_KB:
            found.append(f"{each.name} (pid {each.pid}) has grown by {each.growth} kB; {MAX_GROWTH_KB} are allowed.")
    return found
