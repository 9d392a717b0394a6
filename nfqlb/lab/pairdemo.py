"""The demonstration of a pair: a call that goes on while the active node is cut off, and when what happened.

Knows the story and what must be true at its end; judges by the phones and by what was seen on the links of both nodes.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from nfqlb.lab import LabError
from nfqlb.lab.demo import TALK, Shown, call
from nfqlb.lab.kamailio import DOMAIN
from nfqlb.lab.ladder import messages, passages
from nfqlb.lab.pair import PairLab
from nfqlb.lab.pulse import Pulse
from nfqlb.net.endpoint import Endpoint

PULSE_RATE = 100


@dataclass
class Story:
    shown: Shown
    timeline: list[str]
    failover_ms: float


def play(lab: PairLab, say: Callable[[str], None], room: int | None = None) -> Story:
    """Play it in a lab that is up, for `room` columns. LabError when anything of it does not work."""
    plan = lab.plan
    home, public = plan.home[0], plan.phones[0]
    watcher = plan.phones[1]
    times: list[tuple[float, str]] = []

    def happened(what: str) -> None:
        times.append((time.time(), what))
        say(what)

    taps = lab.taps()
    for tap in taps:
        tap.__enter__()
    try:
        with (
            lab.softphone("alice", home) as alice,
            lab.softphone("bob", public) as bob,
            Pulse(
                plan.namespace(watcher.role), watcher.ip, plan.external.ip, lab.dir / "pulse.log", PULSE_RATE
            ) as pulse,
        ):
            alice.registered()
            bob.registered()
            happened(f"alice is registered from {home.ip}, behind the NAT router {plan.nat.ip}; bob from {public.ip}")
            first = lab.active
            bob.dial(f"sip:{alice.user}@{DOMAIN}")
            alice.wait("CALL_INCOMING")
            alice.answer()
            alice.wait("CALL_ESTABLISHED")
            bob.wait("CALL_ESTABLISHED")
            happened(f"bob's call to alice is up, through {first.role}")
            time.sleep(TALK)
            moment = time.time()
            first.unplug()
            happened(f"{first.role} is cut off, without a goodbye")
            second = next(half for half in lab.halves if half is not first)
            deadline = time.monotonic() + 5
            while not second.active:
                if time.monotonic() > deadline:
                    raise LabError("The other node has not taken the addresses.")
                time.sleep(0.005)
            happened(f"{second.role} has the addresses")
            time.sleep(TALK)
            alice.hang_up()
            alice.wait("CALL_CLOSED")
            bob.wait("CALL_CLOSED")
            happened(f"alice has hung up, and bob knows: through {second.role}")
            call(bob, alice, bob)
            happened(f"bob has called alice again, who registered through {first.role}, and hung up")
            gap = pulse.stop().gap_after(moment) * 1000
        frames = sorted((frame for tap in taps for frame in tap.settled()), key=lambda frame: frame.time_ns)
    finally:
        for tap in taps:
            tap.close()
    first.replug()
    lab.wait_settled()
    happened(f"{first.role} is back; {lab.active.role} has the addresses")
    watched = Endpoint.parse(f"{watcher.host}:1").addr
    seen = [each for each in messages(frames) if watched not in (each.source.addr, each.target.addr)]
    backends = {Endpoint.parse(f"{node.host}:5060"): node.role for node in plan.backends}
    phones = {Endpoint.parse(f"{plan.nat.host}:5060"): "alice", Endpoint.parse(f"{public.host}:5060"): "bob"}
    own = {
        Endpoint.parse(f"{node.host}:5060").addr for role in plan.gateways for node in plan.own(role)
    }  # probes of health are no part of the story
    seen = [each for each in seen if each.source.addr not in own and each.target.addr not in own]
    begun = times[0][0]
    timeline = [f"{at - begun:8.3f} s  {what}" for at, what in times]
    timeline.append(f"The address was silent for {gap:.0f} ms.")
    stats = lab.active.nfqlb("stats", room=room)
    return Story(Shown(passages(seen), backends, backends | phones, stats), timeline, gap)
