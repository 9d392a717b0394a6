"""A transaction that begins on one node and ends on the other (P24, P33, P39), with the real keepalived in between."""

import signal
from contextlib import ExitStack

import pytest
from livepair import running, until

from nfqlb.lab.ladder import Message, messages
from nfqlb.lab.pair import Half
from nfqlb.lab.scenario import Manner
from nfqlb.lab.topology import Node
from nfqlb.lab.wire import Tap
from nfqlb.net.endpoint import Endpoint

pytestmark = pytest.mark.root

PORT = 5070
"""Of the caller who changes his mind."""


@pytest.mark.parametrize(("family", "one_armed"), [(4, True), (6, False)], ids=["one-armed IPv4", "two-armed IPv6"])
def test_what_one_node_has_begun_the_other_one_ends(family: int, one_armed: bool) -> None:
    with running(family=family, one_armed=one_armed) as lab, ExitStack() as stack:
        plan = lab.plan
        alice, carol = lab.phone("alice", plan.home[0]), lab.phone("carol", plan.home[1])
        bob, dave = lab.phone("bob", plan.phones[0]), lab.phone("dave", plan.phones[0], port=PORT)
        alice.register()
        carol.register()
        first, second = lab.active, lab.standby
        taps: dict[Half, Tap] = dict(zip(lab.halves, map(stack.enter_context, lab.taps()), strict=True))

        def seen(half: Half, begins: bytes, method: bytes, *, to: int = 0, source: int = 0) -> list[Message]:
            """What passed that node of the transactions between it and a port of the caller's."""
            end = caller_at(plan.phones[0], to or source)
            return [
                each
                for each in messages(taps[half].frames)
                if each.payload.startswith(begins)
                and method in each.payload
                and end == (each.target if to else each.source)
            ]

        calm, impatient = Manner(hold_ms=500, patchy=True), Manner(hold_ms=4000)
        dialogues = [
            callee := alice.start("call", caller=False, peer="bob", manner=calm),
            carol.start("cancel", caller=False, peer="dave", manner=impatient),
            bob.start("call", caller=True, peer="alice", manner=calm),
            dave.start("cancel", caller=True, peer="carol", manner=impatient),
        ]
        callee.process.send_signal(signal.SIGSTOP)  # nobody answers the call until the addresses have moved
        assert until(lambda: all(seen(first, b"SIP/2.0 1", b"INVITE", to=port) for port in (5060, PORT)))
        first.unplug()
        assert until(lambda: second.active)
        callee.process.send_signal(signal.SIGCONT)
        for dialogue in dialogues:
            dialogue.finish()
        taps[second].settled()
        assert seen(first, b"INVITE ", b"INVITE", source=5060)
        assert not seen(second, b"INVITE ", b"INVITE", source=5060)
        assert seen(second, b"SIP/2.0 200", b" INVITE\r\n", to=5060)
        assert not seen(first, b"SIP/2.0 200", b" INVITE\r\n", to=5060)
        assert not seen(second, b"INVITE ", b"INVITE", source=PORT)
        assert seen(second, b"CANCEL ", b"CANCEL", source=PORT)
        assert seen(second, b"SIP/2.0 487", b" INVITE\r\n", to=PORT)


def caller_at(node: Node, port: int) -> Endpoint:
    return Endpoint.parse(f"{node.host}:{port}")
