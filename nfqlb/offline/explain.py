"""Why a stored packet went where it went: the rules that decided, one sentence, and what changed in the message.

Knows how to tell it; asks the engine itself, by its trace, and decides nothing anew.
"""

from typing import NamedTuple

from nfqlb.capture.packets import Packet
from nfqlb.offline.header_diff import Line, body, header_changes
from nfqlb.offline.replay import Outcome, Replay, Row, describe
from nfqlb.offline.rule_titles import RULES
from nfqlb.proxy.setup import Setup
from nfqlb.proxy.verdict import Action, Reason


class Step(NamedTuple):
    """One rule that decided, and what it did with this packet."""

    rule: str
    """`P22`."""
    title: str
    text: str


class Explanation(NamedTuple):
    row: Row
    frames: tuple[int, ...]
    """The frames that the packet was put together from."""
    sentence: str
    rules: tuple[Step, ...]
    """In the order in which they were applied."""
    changes: tuple[Line, ...]
    """Start line and header lines, before and after; without marks when nothing leaves. Empty when it is not SIP."""
    body: tuple[int, int | None]
    """Bytes of the body, before and after."""


def explain(replay: Replay, packet: Packet) -> Explanation:
    """Send one packet through `replay` and say why it went where it went."""
    steps: list[Step] = []
    outcome = replay.process(packet, lambda rule, text: steps.append(Step(rule, RULES.get(rule, ""), text)))
    row = outcome.row
    is_sip = row.method is not None or row.status is not None or bool(outcome.after)
    before, after = outcome.before if is_sip else b"", outcome.after
    changes = header_changes(before, after or before)
    return Explanation(
        row,
        packet.frames,
        " → ".join(_sentence(replay.setup, outcome, steps)),
        tuple(steps),
        tuple(changes),
        (len(body(before)), len(body(after)) if after else None),
    )


def _sentence(setup: Setup, outcome: Outcome, steps: list[Step]) -> list[str]:
    """The way of the packet, station by station."""
    row, verdict = outcome.row, outcome.verdict
    if verdict is None or row.side is None:
        return [_origin(row), *_not_ours(setup, row)]
    kind = "response" if row.status else "request" if row.method else "packet"
    stations = [f"{kind} from {row.side} {row.src}", f"listener {row.listener}"]
    if row.side == "inside" and row.backend:
        stations[0] += f" ({row.backend})"
    if verdict.action is Action.FORWARD:
        return [*stations, *_forwarded(setup, outcome, steps)]
    # The rule that the reason names has told in detail what was wrong.
    told = next((step.text for step in steps if step.rule == verdict.reason.rule), f"dropped: {verdict.reason.doc}")
    return [*stations, f"answered {told}" if verdict.action is Action.REPLY else told]


def _forwarded(setup: Setup, outcome: Outcome, steps: list[Step]) -> list[str]:
    row, reason = outcome.row, outcome.verdict.reason if outcome.verdict else None
    told = {step.rule: step.text for step in steps}
    to_outside = f"outside {row.out_dst}"
    if reason is Reason.REQUEST_ENTERING:
        chosen = told.get("P29", "")
        by = [
            f"pool {pool.name} by {key}"
            for pool in setup.pools
            for key in pool.hash_on
            if chosen.startswith(f"pool {pool.name} by {key} ")
        ]
        if not by:
            by = ["by Route" if told.get("P19", "").startswith("next Route") else "by Request-URI"]
        return [*by, f"{row.backend} {row.out_dst}"]
    if reason is Reason.RESPONSE_ENTERING:
        return ["by the Via below ours", f"{row.backend} {row.out_dst}"]
    if reason in (Reason.RESPONSE_LEAVING, Reason.RESPONSE_HAIRPIN):
        return ["by the Via below ours", to_outside]
    if "P18" in told:
        return ["by its signed flow", to_outside]
    return ["by Route" if told.get("P20", "").endswith("next Route") else "by Request-URI", to_outside]


def _origin(row: Row) -> str:
    return f"packet from {row.src} to {row.dst}" if row.src else "frame without ports"


def _not_ours(setup: Setup, row: Row) -> list[str]:
    if row.reason != Reason.NOT_OURS.slug:
        return [f"{'dropped' if row.verdict == 'drop' else 'ignored'}: {describe(row.reason)}"]
    sockets = ", ".join(
        f"{listener.name} {listener.external}" + ("" if listener.one_armed else f" and {listener.internal}")
        for listener in setup.listeners
    )
    return [f"ignored: it is not UDP to one of our sockets ({sockets})"]
