"""A pair of gateways, one of which fails: with calls that are established, phones that are registered, and new calls.

Real keepalived, real Kamailio, SIPp on both sides of the calls. Judged by SIPp (every call is hung up in the end, half
of them by either side), by phones (each can be called afterwards) and by answers to OPTIONS to both addresses.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from devtools.chaos.phones import Phones
from devtools.chaos.run import host
from nfqlb.lab.load import last_row
from nfqlb.lab.pair import Half, PairLab
from nfqlb.lab.pulse import Heard, Pulse
from nfqlb.lab.scenario import Manner
from nfqlb.lab.sipp import Dialogue
from nfqlb.lab.topology import Plan

HOLD = 8.0
"""Seconds between answer and BYE of the calls that are established when the node fails."""
NEW_FOR = 7.0
"""Seconds for which new calls come, the failure in their middle."""
NEW_HOLD = 1.5
"""Longer than it takes to repeat a 200 whose ACK was lost: a BYE before that ACK is more than SIPp understands."""
REST = 2.0
"""Seconds after a healed pair until the next failure: neighbours have learnt by then who has the addresses."""


@dataclass(frozen=True)
class Options:
    calls: int = 300
    """Established."""
    registrations: int = 1000
    new: int = 50
    """New calls per second."""
    pulse: int = 200
    """OPTIONS per second, to each address."""
    moves: int = 0
    """More failures afterwards, without calls, for the median."""
    workers: int = 2
    family: int = 4


@dataclass(frozen=True)
class Fault:
    """One way to fail. `max_ms` bounds the median."""

    name: str
    about: str
    max_ms: float
    max_lost: int | None
    """OPTIONS to one address; None where only time counts."""
    happen: Callable[[Half], None]
    heal: Callable[[Half], None]
    heard: bool = False
    """Whether the healing counts, too; else it happens when nobody looks at the addresses."""


def _restart(half: Half) -> None:
    half.start_gateway()
    half.wait_gateway()


FAULTS = {
    fault.name: fault
    for fault in (
        Fault("node-kill", "the active node is unplugged, without a goodbye", 400.0, None, Half.unplug, Half.replug),
        Fault(
            "node-yield",
            "'nfqlb ha yield' on the active node",
            50.0,
            50,
            lambda half: void(half.nfqlb("ha", "yield")),
            lambda half: void(half.nfqlb("ha", "resume")),
        ),
        Fault(
            "service-kill", "SIGKILL to all processes of the gateway on the active node", 1500.0, None,
            Half.kill_gateway, _restart,
        ),
        Fault(
            "keepalived-kill", "SIGKILL to keepalived on the active node: its addresses stay there", 400.0, None,
            Half.kill_keepalived, Half.start_keepalived, heard=True,
        ),
        Fault(
            "node-partition", "the nodes do not hear each other, both have the addresses, and then they do again",
            400.0, None, Half.part, Half.reunite, heard=True,
        ),
    )
}  # fmt: skip


def void(_: object) -> None:
    """For who wants no result."""


@dataclass
class Result:
    fault: Fault
    options: Options
    failover_ms: float
    """The longest silence of either address, at the failure with calls."""
    outside_ms: float
    inside_ms: float
    calls_established: int
    calls_lost: int
    """Of those that were established."""
    calls_new: int
    calls_new_failed: int
    registrations: int
    registrations_behind_nat: int
    """By the addresses that the gateway saw; for IPv6, too, the lab has a router that translates."""
    registrations_lost: int
    sent: int
    """OPTIONS, to both addresses."""
    lost: int
    moves_ms: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    scenario_names: ClassVar[tuple[str, ...]] = tuple(FAULTS)

    @property
    def scenario(self) -> str:
        return self.fault.name

    @property
    def ok(self) -> bool:
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        flat = asdict(self)
        del flat["fault"], flat["options"]
        moves = [self.failover_ms, *self.moves_ms]
        return {
            "scenario": self.scenario,
            "ok": self.ok,
            **flat,
            "median_ms": round(statistics.median(moves), 1),
            "max_ms": max(moves),
            "options": asdict(self.options),
            "host": host(),
        }


def run(name: str, fault: Fault, options: Options, say: Callable[[str], None]) -> Result:
    """LabError when it cannot be run to its end."""
    with PairLab(Plan(name, family=options.family, pair=True), workers=options.workers, say=say) as lab:
        result = fail_with_calls(lab, fault, options, say)
        for number in range(options.moves):
            heard = fail(lab, fault, options.pulse)
            moved = max(each for _, each in heard)
            say(f"move {number + 1} of {options.moves}: {moved:.0f} ms")
            result.moves_ms.append(round(moved, 1))
    result.problems += broken(result)
    return result


def fail(lab: PairLab, fault: Fault, rate: int) -> list[tuple[Heard, float]]:
    """One failure, and what two pulses say of it: the outside's, and the inside's, with the silence in ms."""
    victim = lab.active
    with outside(lab, rate) as out, inside(lab, rate) as into:
        time.sleep(0.3)
        moment = time.time()
        fault.happen(victim)
        time.sleep(1.0)
        if fault.heard:
            heal(lab, fault, victim)
        heard = [out.stop(), into.stop()]
    if not fault.heard:
        heal(lab, fault, victim)
    # An answer that was on its way at the moment is no end of a silence.
    return [(each, each.gap_after(moment) * 1000) for each in heard]


def heal(lab: PairLab, fault: Fault, victim: Half) -> None:
    fault.heal(victim)
    lab.wait_settled()
    time.sleep(REST)


def outside(lab: PairLab, rate: int) -> Pulse:
    plan, here = lab.plan, lab.plan.phones[0]
    return Pulse(plan.namespace(here.role), here.ip, plan.external.ip, lab.dir / "outside.pulse", rate)


def inside(lab: PairLab, rate: int) -> Pulse:
    plan, here = lab.plan, lab.plan.backends[0]
    return Pulse(plan.namespace(here.role), here.ip, plan.internal.ip, lab.dir / "inside.pulse", rate)


def fail_with_calls(lab: PairLab, fault: Fault, options: Options, say: Callable[[str], None]) -> Result:
    with Phones(lab.plan, options.registrations) as phones:
        registered = phones.register()
        behind_nat = phones.behind_nat
        say(f"{registered} of {options.registrations} phones are registered, {behind_nat} of them behind the NAT")
        held = held_calls(lab, options.calls)
        time.sleep(3.5)
        new = new_calls(lab, options.new)
        time.sleep(NEW_FOR / 3)
        say(f"{options.calls} calls are up, {options.new} new ones come each second: {fault.about}")
        out, into = fail(lab, fault, options.pulse)
        for _, dialogue in (*held, *new):
            dialogue.process.wait(60)
        say("every registered phone is called")
        reached = phones.call()
    lost = sum(last_row(path(dialogue))["FailedCall(C)"] for _, dialogue in held)
    failed = sum(last_row(path(dialogue))["FailedCall(C)"] for _, dialogue in new)
    up = sum(last_row(path(each))["TotalCallCreated"] for caller, each in held if caller)
    fresh = sum(last_row(path(each))["TotalCallCreated"] for caller, each in new if caller)
    return Result(
        fault=fault,
        options=options,
        failover_ms=round(max(out[1], into[1]), 1),
        outside_ms=round(out[1], 1),
        inside_ms=round(into[1], 1),
        calls_established=up,
        calls_lost=lost,
        calls_new=fresh,
        calls_new_failed=failed,
        registrations=registered,
        registrations_behind_nat=behind_nat,
        registrations_lost=registered - reached,
        sent=out[0].sent + into[0].sent,
        lost=out[0].lost + into[0].lost,
    )


Sides = list[tuple[bool, Dialogue]]
"""Is it the caller, and its SIPp."""


def held_calls(lab: PairLab, count: int) -> Sides:
    """Half of them is hung up by the caller, half by the callee, which is behind the NAT."""
    started: Sides = []
    for number, ladder in enumerate(("call", "call-ended-by-callee")):
        share = count // 2 + (count % 2 if number == 0 else 0)
        started += pair_of_phones(lab, number, ladder, share, rate=max(1, share // 3), hold=HOLD)
    return started


def new_calls(lab: PairLab, rate: int) -> Sides:
    return pair_of_phones(lab, 2, "call", max(1, round(rate * NEW_FOR)), rate=rate, hold=NEW_HOLD) if rate else []


def pair_of_phones(lab: PairLab, number: int, ladder: str, calls: int, *, rate: int, hold: float) -> Sides:
    callee = lab.phone(f"callee{number}", lab.plan.home[0], port=5060 + number)
    caller = lab.phone(f"caller{number}", lab.plan.phones[0], port=5060 + number)
    callee.register()
    manner = Manner(hold_ms=round(hold * 1000), linger_ms=1000, patchy=True)
    started: Sides = []
    for phone, calling in ((callee, False), (caller, True)):
        name = f"{phone.user}-pair"
        file = phone.run_dir / f"{name}.csv"
        extra = ["-trace_stat", "-stf", str(file), "-fd", "1", "-l", str(calls), "-recv_timeout", "20000"]
        dialogue = phone.start(
            ladder,
            caller=calling,
            peer=callee.user if calling else caller.user,
            calls=calls,
            name=name,
            timeout=60,
            manner=manner,
            extra=(*extra, "-r", str(rate)) if calling else tuple(extra),
        )
        started.append((calling, dialogue))
    return started


def path(dialogue: Dialogue) -> Any:
    return dialogue.errors.with_suffix(".csv")


def broken(result: Result) -> list[str]:
    found = []
    fault = result.fault
    middle = statistics.median([result.failover_ms, *result.moves_ms])
    if middle > fault.max_ms:
        found.append(f"The addresses were away for {middle:.0f} ms; {fault.max_ms:.0f} ms are allowed.")
    if fault.max_lost is not None and result.lost > fault.max_lost * result.options.pulse / 1000:
        found.append(f"{result.lost} OPTIONS were lost; {fault.max_lost} are allowed at 1,000 a second.")
    for count, what in (
        (result.calls_lost, "established calls were lost"),
        (result.calls_new_failed, "new calls failed"),
        (result.registrations_lost, "registered phones cannot be called"),
        (result.options.registrations - result.registrations, "phones could not register before"),
    ):
        if count:
            found.append(f"{count} {what}.")
    return found
