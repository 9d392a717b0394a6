"""More requests than a worker can take: those that begin something are shed, those of calls go on.

One worker, two kinds of request from many addresses, made by flood.c: INVITEs, and BYEs of calls. They go to two pools,
so that the board tells how many of each have passed. First it is measured how much the worker can take; then twice as
much is sent, without [limits] and with them.
"""

import socket
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from devtools.chaos import flood
from devtools.chaos.arena import PORT, PoolPlan, Settings
from devtools.chaos.run import host
from nfqlb.gateway.netfilter.counters import counted
from nfqlb.gateway.netfilter.iptables import Iptables
from nfqlb.gateway.stats import Report
from nfqlb.lab import namespaces
from nfqlb.lab.topology import Node, Plan

CALLS_PORT = PORT + 1
CALLS_DOMAIN = "calls.example.org"
CALLS_FROM, NEW_FROM = "100.64.0.1", "100.96.0.1"
SOURCES = 4000

TIMES = 2.0
"""What is sent, of what the worker can take."""
MAX_CALL_LOSS = 0.01
LEAST_RATIO = 20.0
"""New requests must be lost so much oftener than those of calls."""

MESSAGE = """\
{method} sip:somebody@{domain} SIP/2.0
Via: SIP/2.0/UDP 10.1.2.3:5060;branch=z9hG4bK-00000000;rport
Max-Forwards: 70
From: <sip:caller@example.org>;tag=1
To: <sip:somebody@{domain}>{tag}
Call-ID: {method}@10.1.2.3
CSeq: 1 {method}
Contact: <sip:caller@10.1.2.3>
User-Agent: chaos
Content-Length: 0

""".replace("\n", "\r\n")


@dataclass(frozen=True)
class Options:
    seconds: float = 8.0
    """Of each load."""
    share: float = 0.25
    """Of the requests, those of calls."""
    rate: int = 0
    """Requests a second; 0: twice what the worker can take."""


@dataclass(frozen=True)
class Passage:
    """Of one kind of request under one load."""

    sent: int
    passed: int

    @property
    def lost(self) -> float:
        return 1 - self.passed / self.sent if self.sent else 0.0


@dataclass(frozen=True)
class Outcome:
    """Of one load."""

    calls: Passage
    new: Passage
    told: int
    """New requests that got a 503."""
    shed: int
    """That were dropped by the worker."""
    relieved: int
    """That were dropped by the kernel, before the queue."""
    queue_drops: int
    """Packets of either kind that found the queue full."""
    overloads: int

    def as_dict(self) -> dict[str, Any]:
        lost = {"calls_lost": round(self.calls.lost, 5), "new_lost": round(self.new.lost, 5)}
        return {**asdict(self), **lost}


@dataclass
class Result:
    options: Options
    capacity: int
    """Requests of calls that the worker passes on in a second when there are more than it can take."""
    rate: int
    without: Outcome
    limited: Outcome
    problems: list[str] = field(default_factory=list)

    scenario: ClassVar[str] = "overload"

    @property
    def ok(self) -> bool:
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        numbers = {"capacity": self.capacity, "rate": self.rate, "seconds": self.options.seconds}
        loads = {"without_limits": self.without.as_dict(), "with_limits": self.limited.as_dict()}
        return {
            "scenario": self.scenario, "ok": self.ok, **numbers, **loads, "problems": self.problems, "host": host(),
        }  # fmt: skip


class OverloadArena(flood.FloodArena):
    pools: ClassVar[tuple[PoolPlan, ...]] = (PoolPlan("calls", CALLS_PORT, CALLS_DOMAIN), PoolPlan("new", PORT))

    def __init__(self, name: str, options: Options, limited: bool, say: Callable[[str], None]) -> None:
        super(flood.FloodArena, self).__init__(Plan(name, registrars=1, proxies=0), Settings((1,), 1), say)
        self.options = flood.Options(seconds=options.seconds)
        self.more = f"\n[health]\nenabled = false\n\n[limits]\nenabled = {str(limited).lower()}\n"
        self._sinks: list[socket.socket] = []

    def start_backend(self, node: Node) -> None:
        """One that takes all, and reads nothing: no answers, and no ICMP errors."""
        for port in (PORT, CALLS_PORT):
            sink = namespaces.inside(self.plan.namespace(node.role), lambda: socket.socket(socket.AF_INET, 2))
            sink.bind((node.ip, port))
            self._sinks.append(sink)

    def close(self) -> None:
        for sink in self._sinks:
            sink.close()


def run(name: str, options: Options, say: Callable[[str], None]) -> Result:
    """LabError when it cannot be run to its end."""
    with OverloadArena(name, options, False, say) as arena, closing(arena):
        flat_out = load(arena, 400_000, 1.0)
        capacity = round(flat_out.calls.passed / options.seconds)
        rate = options.rate or round(TIMES * capacity)
        say(f"the worker takes {capacity} requests/s; now {rate}/s, without [limits]")
        without = load(arena, rate, options.share)
    say("and with them")
    with OverloadArena(name, options, True, say) as arena, closing(arena):
        limited = load(arena, rate, options.share)
    result = Result(options, capacity, rate, without, limited)
    result.problems = broken(result)
    return result


def load(arena: OverloadArena, rate: int, share: float) -> Outcome:
    """Send so many requests a second, that part of them of calls, and account for them."""
    program = arena.compiled()
    before, relieved = arena.report(), stopped(arena)
    texts = {
        "calls": (CALLS_FROM, share, MESSAGE.format(method="BYE", domain=CALLS_DOMAIN, tag=";tag=2")),
        "new": (NEW_FROM, 1 - share, MESSAGE.format(method="INVITE", domain="example.org", tag="")),
    }
    senders = {
        kind: arena.start_flood(program, kind, first, SOURCES, max(1, round(rate * part)), text.encode())
        for kind, (first, part, text) in texts.items()
        if part
    }
    limit = arena.options.seconds + 30
    sent = {kind: flood.ended(arena, kind, sender, limit) for kind, sender in senders.items()}
    after = before
    while (now := arena.report()).totals.packets != after.totals.packets:  # what waits has to pass
        after = now
        time.sleep(0.5)

    def passage(kind: str) -> Passage:
        return Passage(sent.get(kind, 0), passed(after, kind) - passed(before, kind))

    def reason(slug: str) -> int:
        return round(after.totals.reasons[slug] - before.totals.reasons[slug])

    drops = [sum((row.dropped or 0) + (row.user_dropped or 0) for row in each.queues) for each in (before, after)]
    overloads = round(after.totals.overloads - before.totals.overloads)
    told, shed = reason("overloaded"), reason("shed")
    relieved = stopped(arena) - relieved
    return Outcome(passage("calls"), passage("new"), told, shed, relieved, drops[1] - drops[0], overloads)


def stopped(arena: OverloadArena) -> int:
    """What the kernel has shed until now."""

    def look() -> int:
        return counted(Iptables(4).counters("raw"))["shed"]

    return namespaces.inside(arena.plan.namespace("gw"), look)


def passed(report: Report, pool: str) -> int:
    counts = report.totals.backends
    return round(sum(each["requests_to"] for name, each in counts.items() if name.endswith(f"-{pool}")))


def broken(result: Result) -> list[str]:
    found = []
    calls, new = result.limited.calls.lost, result.limited.new.lost
    if calls > MAX_CALL_LOSS:
        found.append(f"{calls:.2%} of the requests of calls were lost; {MAX_CALL_LOSS:.0%} are allowed.")
    if not result.limited.told + result.limited.shed:
        found.append("Nothing was shed: there was no overload.")
    elif new < LEAST_RATIO * calls:
        found.append(f"New requests were lost at {new:.2%}, those of calls at {calls:.2%}: that is no difference.")
    return found
