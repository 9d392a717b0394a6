"""What it costs when a backend dies, hangs, or is drained: real Kamailio, registrations and calls all the while.

Knows the course of each outage and its bounds. The times are the captures' (what reached a backend's link), the
gateway's own word (when it took the backend to be down), and the moment of the harm; one machine's clock.
"""

import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from devtools.chaos.accounts import Account, Arrivals, account
from devtools.chaos.arena import up
from devtools.chaos.farm import FarmArena
from devtools.chaos.fates import CallFates, MessageFates, Visit, calls, sort_calls, sort_messages, visits
from devtools.chaos.generator import read_answers
from devtools.chaos.proof import NS
from devtools.chaos.run import host, refused
from devtools.chaos.watch import Watch
from nfqlb.balance.health import Check
from nfqlb.lab import LabError
from nfqlb.lab.load import last_row
from nfqlb.lab.sipp import PATIENCE as PATIENCE_OF_CALLERS
from nfqlb.lab.topology import Node

DRAINED_AFTER = 1.0
"""Seconds after `drain` from which on nothing new may reach that backend."""
KILLED_AFTER = 1.0
"""Seconds after a backend died from which on nothing may be sent to it any more."""
PATIENCE = 5.0
"""Seconds to wait beyond a bound: what comes too late shall be told as that."""
ANSWERS_WITHIN = 1.0
"""Seconds that the last answers may take."""


@dataclass(frozen=True)
class Options:
    rate: int = 1000
    """Messages per second."""
    calls: int = 20
    """Calls per second."""
    hold: float = 3.0
    """Seconds that a call lasts."""
    lead: float = 5.0
    """Seconds before the harm, and after the backend is back."""
    out: float = 5.0
    """Seconds for which it stays out when all has moved."""
    backends: int = 2
    workers: int = 2
    family: int = 4
    interval: float = Check().interval
    timeout: float = Check().timeout
    rise: int = Check().rise
    fall: int = Check().fall

    @property
    def health(self) -> dict[str, float]:
        return {"interval": self.interval, "timeout": self.timeout, "rise": self.rise, "fall": self.fall}


@dataclass
class Moments:
    """When what happened: seconds since 1970; 0: it did not."""

    harmed: float = 0.0
    detected: float = 0.0
    """By the gateway's word."""
    mended: float = 0.0
    back: float = 0.0
    """By the gateway's word."""


@dataclass
class Result:
    scenario: str
    options: Options
    victim: str
    detected_after_ms: float | None
    """From the harm until the gateway took the backend to be down."""
    moved_after_ms: float | None
    """From the harm until the last message or call that went there and that was new to it."""
    back_after_ms: float | None
    """From the mending, which a restart is a part of, until the gateway took the backend to be up."""
    serving_after_ms: float | None
    """From the mending until the first message that went there again."""
    transitions: dict[str, list[str]]
    """Of every backend, after the harm."""
    account: Account
    messages: MessageFates
    calls: CallFates
    sipp_failed: int
    """By the word of the callers."""
    new_on_victim_while_out: int
    """Messages and calls that reached it later than the bound allows."""
    old_on_victim_while_out: int
    """Requests of calls that it had, in the same time."""
    capture_missed: int
    where: dict[str, Any]
    cpu: dict[str, float]
    cores: list[dict[str, float]]
    others_cpu: float
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        whole = asdict(self)
        counted = whole.pop("account")
        shown = ("sent", "received", "lost", "duplicated", "max_gap_ms", "max_delay_ms", "per_backend")
        options = {"call_rate" if key == "calls" else key: value for key, value in whole.pop("options").items()}
        return {
            "scenario": whole.pop("scenario"),
            "ok": self.ok,
            "problems": whole.pop("problems"),
            **options,
            "failed_elsewhere": self.calls.failed_elsewhere,
            **whole,
            **{name: counted[name] for name in shown},
            "host": host(),
        }


class Outage:
    """One kind; made for one run."""

    name: ClassVar[str]
    about: ClassVar[str]
    """A sentence without a full stop."""
    defaults: ClassVar[Options] = Options()
    may_fail_on_victim: ClassVar[bool] = True
    """Its own calls and messages may fail."""
    comes_and_goes: ClassVar[tuple[str, ...]] = ("down", "up")
    """What the gateway must have logged of it."""

    def __init__(self, arena: FarmArena, options: Options) -> None:
        self.arena, self.options = arena, options
        self.victim: Node = arena.plan.registrar_nodes[0]
        self.moments = Moments()

    @property
    def bound(self) -> float:
        """Seconds after the harm from which on nothing new may be sent to the victim."""
        raise NotImplementedError

    def happen(self) -> None:
        """All of it, while the load is on; note the moments."""
        raise NotImplementedError

    def named(self) -> str:
        return f"{self.victim.role}-{self.arena.pools[0].name}"

    def command(self, *words: str) -> None:
        done = self.arena.command(*words)
        if done.failure:
            raise LabError(done.failure)


OUTAGES: dict[str, type[Outage]] = {}


def outage(kind: type[Outage]) -> type[Outage]:
    OUTAGES[kind.name] = kind
    return kind


class Harmed(Outage):
    """It is harmed, noticed, left for a while, and mended."""

    def harm(self) -> None:
        raise NotImplementedError

    def mend(self) -> None:
        raise NotImplementedError

    def happen(self) -> None:
        self.moments.harmed = time.time()
        self.harm()
        self.moments.detected = self.arena.wait_state(self.victim, "down", self.bound + PATIENCE)
        time.sleep(max(0.0, self.moments.harmed + self.bound - time.time()) + self.options.out)
        self.moments.mended = time.time()
        self.mend()
        within = self.options.interval * (self.options.rise + 1) + self.options.timeout + PATIENCE
        self.moments.back = self.arena.wait_state(self.victim, "up", within)


@outage
class BackendKill(Harmed):
    name = "backend-kill"
    about = "SIGKILL to one Kamailio: an ICMP error comes for all that goes there; later it is started again"

    @property
    def bound(self) -> float:
        return KILLED_AFTER

    def harm(self) -> None:
        self.arena.signal_backend(self.victim, signal.SIGKILL)

    def mend(self) -> None:
        self.arena.restart_backend(self.victim)


@outage
class BackendFreeze(Harmed):
    name = "backend-freeze"
    about = "SIGSTOP to one Kamailio: it answers nothing, and nothing comes back for it; later SIGCONT"

    @property
    def bound(self) -> float:
        return self.options.interval * self.options.fall + self.options.timeout

    def harm(self) -> None:
        self.arena.signal_backend(self.victim, signal.SIGSTOP)

    def mend(self) -> None:
        self.arena.signal_backend(self.victim, signal.SIGCONT)


@outage
class Drain(Outage):
    name = "drain"
    about = "'nfqlb backends drain' of one Kamailio, a restart of it when its last call has ended, and 'enable'"
    defaults = Options(rate=200, calls=100, hold=30.0)
    may_fail_on_victim = False

    @property
    def bound(self) -> float:
        return DRAINED_AFTER

    def happen(self) -> None:
        self.moments.harmed = time.time()
        self.command("backends", "drain", self.named())
        self.moments.detected = time.time()
        time.sleep(self.options.hold + self.options.out)
        self.arena.signal_backend(self.victim, signal.SIGTERM)
        self.arena.restart_backend(self.victim)
        # It may have been too short for the gateway to notice; if not, it is up again after `rise` probes.
        time.sleep(self.options.interval + self.options.timeout)
        self.arena.wait_state(self.victim, "up", self.options.interval * (self.options.rise + 1) + PATIENCE)
        self.moments.mended = time.time()
        self.command("backends", "enable", self.named())
        self.moments.back = time.time()


def run(name: str, kind: type[Outage], options: Options, say: Callable[[str], None]) -> Result:
    """One outage in a farm of its own. LabError when it cannot be run to its end."""
    with FarmArena(
        name,
        family=options.family,
        workers=options.workers,
        backends=options.backends,
        hold=options.hold,
        health=options.health,
        say=say,
    ) as arena:
        return measure(arena, kind, options, say)


def measure(arena: FarmArena, kind: type[Outage], options: Options, say: Callable[[str], None]) -> Result:
    this = kind(arena, options)
    nodes = arena.plan.registrar_nodes
    arena.wait_report(up, "A gateway that runs")
    for node in nodes:
        arena.wait_state(node, "up", options.interval + PATIENCE)
    lead = options.lead + (options.hold if kind is Drain else 0.0)
    say(f"{kind.name}: {options.rate} messages/s and {options.calls} calls/s of {options.hold:g} s, for {lead:g} s yet")
    problems: list[str] = []
    logged = len(arena.log())
    with (
        Watch({role: arena.plan.namespace(role) for role in arena.plan.roles}) as watch,
        arena.load(options.rate, 86_400, answers=arena.dir / "answers") as load,
    ):
        arena.start_callers(options.calls)
        time.sleep(lead)
        try:
            this.happen()
        except LabError as error:
            problems.append(str(error))
        say(f"{this.victim.role} was harmed, and is {'back' if this.moments.back else 'not back'}")
        time.sleep(options.lead)
        load.stop()
        sent = load.finish(30)
        say("waiting for the last calls")
        arena.end_calls()
        time.sleep(ANSWERS_WITHIN)
        watch.settle()
        watch.close()
        reasons = refused(arena.report())
    transitions = arena.transitions(logged)
    missed = arena.stop_captures()
    reached: list[Visit] = []
    arrivals: dict[str, Arrivals] = {}
    for node in nodes:
        own, arrivals[node.role] = visits(
            arena.capture(node.role), node.role, node.interface.ip.packed, arena.plan.internal.interface.ip.packed
        )
        reached += own
    fates = calls(arena.capture("callers"), reached, PATIENCE_OF_CALLERS)
    counted = account(load.times(), arrivals, load.flows)
    at = this.moments
    new = sorted(
        [visit.at for visit in reached if visit.new and visit.request.backend == this.victim.role]
        + list(arrivals[this.victim.role].times)
    )
    until = (at.mended or time.time()) * NS
    out = [time for time in new if at.harmed * NS <= time < until]
    late = [time for time in out if time >= (at.harmed + this.bound) * NS]
    again = next((time for time in new if at.mended and time >= until), None)
    result = Result(
        scenario=kind.name,
        options=options,
        victim=this.named(),
        detected_after_ms=after(at.harmed, at.detected),
        moved_after_ms=after(at.harmed, out[-1] / NS) if out else 0.0,
        back_after_ms=after(at.mended, at.back),
        serving_after_ms=after(at.mended, again / NS) if again else None,
        transitions=transitions,
        account=counted,
        messages=sort_messages(sent.sent, arrivals, read_answers(arena.dir / "answers"), this.victim.role),
        calls=sort_calls(fates.values(), this.victim.role),
        sipp_failed=sum(last_row(dialogue.errors.with_suffix(".csv"))["FailedCall(C)"] for dialogue in arena.callers),
        new_on_victim_while_out=len(late),
        old_on_victim_while_out=sum(
            visit.request.backend == this.victim.role
            and visit.request.method in ("ACK", "BYE")
            and (at.harmed + this.bound) * NS <= visit.at < until
            for visit in reached
        ),
        capture_missed=missed,
        where={"queues": watch.queues(), "replies": sent.replies, "reasons": reasons},
        cpu=watch.cpu(),
        cores=watch.cores(),
        others_cpu=watch.others(),
    )
    result.problems = problems + broken(result, this)
    return result


def after(begin: float, end: float) -> float | None:
    return round((end - begin) * 1000, 1) if begin and end else None


def broken(result: Result, this: Outage) -> list[str]:
    """The bounds that were broken."""
    found = []
    victim, options = result.victim, this.options
    if result.moved_after_ms is None or result.moved_after_ms > this.bound * 1000 or result.new_on_victim_while_out:
        found.append(
            f"{result.new_on_victim_while_out} new messages and calls went to {victim} later than "
            f"{this.bound * 1000:.0f} ms after the harm, the last after {result.moved_after_ms} ms."
        )
    if result.serving_after_ms is None:
        found.append(f"{victim} got nothing any more after it was mended.")
    calls, messages = result.calls, result.messages
    if not (calls.on_victim and calls.on_victim < calls.made):
        found.append(f"{calls.on_victim} of {calls.made} calls were on {victim}: nothing is proved by them.")
    if calls.failed_elsewhere:
        found.append(f"{calls.failed_elsewhere} calls failed that had nothing to do with {victim}.")
    if abs(result.sipp_failed - (calls.made - calls.done)) > calls.doubtful:
        found.append(f"SIPp says that {result.sipp_failed} calls failed, the captures {calls.made - calls.done}.")
    if messages.unanswered_elsewhere:
        found.append(f"{messages.unanswered_elsewhere} messages were not answered that did not reach {victim}.")
    if messages.refused:
        found.append(f"Messages were refused: {messages.refused}.")
    if result.account.lost or result.account.duplicated:
        found.append(f"{result.account.lost} messages reached no backend, {result.account.duplicated} more than one.")
    if result.capture_missed:
        found.append(f"The captures have missed {result.capture_missed} packets.")
    others = {name: steps for name, steps in result.transitions.items() if name.rpartition("/")[2] != victim}
    if others:
        found.append(f"Other backends changed their state: {others}.")
    own = [steps for name, steps in result.transitions.items() if name.rpartition("/")[2] == victim]
    if this.may_fail_on_victim:
        if own != [list(this.comes_and_goes)]:
            found.append(f"{victim} should have gone down and come up once: {own}.")
        return found
    if calls.failed_on_victim or messages.unanswered_on_victim:
        found.append(f"{calls.failed_on_victim} calls and {messages.unanswered_on_victim} messages failed on {victim}.")
    if options.hold > this.bound and not result.old_on_victim_while_out:
        found.append(f"No call that {victim} had went on there, so nothing is proved of them.")
    return found
