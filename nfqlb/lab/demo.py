"""The demonstration: phones register and call through the gateway, and what passed it is shown.

Knows the story and what must be true at its end; judges by what was seen on the links, not by what the gateway says.
Does not print: `say` gets progress, the result holds what to show.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from nfqlb.lab import LabError
from nfqlb.lab.baresip import Baresip
from nfqlb.lab.kamailio import DOMAIN
from nfqlb.lab.lab import Lab
from nfqlb.lab.ladder import Passage, header, messages, passages
from nfqlb.net.endpoint import Endpoint

TALK = 0.5
"""Seconds that a call lasts."""
HARMLESS = ("keepalive", "stun")
"""Reasons for which a packet may be dropped while all is well."""


@dataclass
class Shown:
    """What there is to see afterwards."""

    passages: list[Passage]
    inside: dict[Endpoint, str]
    """The backends."""
    names: dict[Endpoint, str]
    """Who is where."""
    stats: str
    """What `nfqlb stats` printed."""


def play(lab: Lab, say: Callable[[str], None], room: int | None = None) -> Shown:
    """Play the demonstration in a lab that is up, for `room` columns. LabError when anything of it does not work."""
    plan = lab.plan
    home, public = plan.home[0], plan.phones[0]
    with lab.tap() as tap:
        with lab.softphone("alice", home) as alice, lab.softphone("bob", public) as bob:
            say(f"alice registers from {home.ip}, behind the NAT router {plan.nat.ip}; bob from {public.ip}")
            alice.registered()
            bob.registered()
            say("bob calls alice; alice hangs up")
            call(bob, alice, alice)
            say("bob calls alice; bob hangs up")
            call(bob, alice, bob)
            say("alice calls bob; bob hangs up")
            call(alice, bob, bob)
        seen = passages(messages(tap.settled()))
    check_path(seen, plan.internal.host, f"sip:{plan.nat.host}:5060", "alice")
    check_calls(seen, calls=3)
    report = lab.stats()
    dropped = {reason: n for reason, n in report["totals"]["reasons"].items() if n and reason not in HARMLESS}
    check_drops(dropped, report["totals"]["drops"])
    backends = {Endpoint.parse(f"{node.host}:5060"): node.role for node in plan.backends}
    phones = {
        Endpoint.parse(f"{plan.nat.host}:5060"): "alice",
        Endpoint.parse(f"{public.host}:5060"): "bob",
    }
    return Shown(seen, backends, backends | phones, lab.nfqlb("stats", "-c", str(lab.config), room=room))


def call(caller: Baresip, callee: Baresip, ender: Baresip) -> None:
    """One call: rings, is answered, lasts a moment, is ended by one side; the other side notices."""
    caller.dial(f"sip:{callee.user}@{DOMAIN}")
    callee.wait("CALL_INCOMING")
    callee.answer()
    callee.wait("CALL_ESTABLISHED")
    caller.wait("CALL_ESTABLISHED")
    time.sleep(TALK)
    ender.hang_up()
    caller.wait("CALL_CLOSED")
    callee.wait("CALL_CLOSED")


def check_path(seen: list[Passage], internal: str, received: str, user: str) -> None:
    """The user's REGISTER reached a registrar with a Path of ours that says where the user is."""
    wanted = f"<sip:lb@{internal};lr;received={received};sig="
    paths = [
        header(passage.left.payload, "path") or "no Path"
        for passage in seen
        if passage.title == "REGISTER" and passage.left and f"sip:{user}@" in (header(passage.left.payload, "to") or "")
    ]
    if not paths:
        raise LabError(f"No REGISTER of {user} passed the gateway.")
    for path in paths:
        if not path.startswith(wanted):
            raise LabError(f"A REGISTER of {user} reached the registrar with {path}, not with Path: {wanted}…>.")


def check_calls(seen: list[Passage], calls: int) -> None:
    """Every INVITE and BYE that came was passed on, and its 200 as well."""
    for method in ("INVITE", "BYE"):
        requests = [passage for passage in seen if passage.title == method]
        answers = [passage for passage in seen if passage.title == f"200 {method}"]
        lost = [passage for passage in requests + answers if not passage.left]
        if lost:
            raise LabError(f"{len(lost)} of the {method} messages did not leave the gateway.")
        passed = min(len(requests), len(answers))
        if passed < 2 * calls:  # from the caller to the backends, from the backends to the callee
            raise LabError(f"{method} and its answer passed the gateway {passed} times, not {2 * calls} times.")


def check_drops(reasons: dict[str, int], drops: int) -> None:
    from nfqlb.proxy.verdict import Action, Reason

    bad = [f"{n} {slug}" for slug, n in reasons.items() if Reason[slug.upper().replace("-", "_")].action is Action.DROP]
    if bad:
        raise LabError(f"The gateway dropped {drops} packets: {', '.join(bad)}.")
