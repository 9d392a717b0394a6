"""Two listeners, each preferred on one node: either node serves both when it is alone, and calls go on."""

import json
import time

import pytest
from livepair import running, until

from nfqlb.lab.pair import Half, PairLab
from nfqlb.lab.ping import wait_answer
from nfqlb.lab.scenario import Manner
from nfqlb.lab.topology import Node

pytestmark = pytest.mark.root


class TwoGroups(PairLab):
    @property
    def second(self) -> tuple[Node, Node]:
        """External and internal address of the second listener."""
        external, internal = (
            type(node.interface)(f"{node.interface.network[6]}/{node.interface.network.prefixlen}")
            for node in (self.plan.external, self.plan.internal)
        )
        return Node("gw", external), Node("gw", internal)

    def write_config(self) -> None:
        super().write_config()
        external, internal = self.second
        for half in self.halves:
            left, right = (254, 250) if half is self.halves[0] else (250, 254)
            listener = (
                f'[[listener]]\nname = "second"\nexternal = "{external.host}:5060"\n'
                f'internal = "{internal.host}:5060"\n\n[[pool]]'
            )
            half.config.write_text(
                half.config.read_text().replace("[[pool]]", listener, 1)
                + f'[[ha.group]]\nname = "left"\nlisteners = ["main"]\nrouter_id = 61\npriority = {left}\n'
                + f'[[ha.group]]\nname = "right"\nlisteners = ["second"]\nrouter_id = 62\npriority = {right}\n'
            )

    def wait_settled(self, timeout: float = 10.0) -> None:
        assert until(lambda: roles(self.halves[0]) == ["active", "standby"], timeout), roles(self.halves[0])
        assert until(lambda: roles(self.halves[1]) == ["standby", "active"], timeout), roles(self.halves[1])


def roles(half: Half) -> list[str]:
    told = half.command("ha", "status", "--json").stdout  # also of one that is unwell
    return [group["role"] for group in json.loads(told or '{"groups": []}')["groups"]]


@pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])
def test_both_are_active_and_either_serves_both(family: int) -> None:
    with running(family=family, lab=TwoGroups) as lab:
        assert isinstance(lab, TwoGroups)
        plan, (one, other) = lab.plan, lab.halves
        here = plan.phones[0]
        sides = [plan.external, lab.second[0]]

        def both_answer() -> None:
            for side in sides:
                wait_answer(plan.namespace(here.role), (side.ip, 5060), here.ip, f"The listener at {side.ip}")

        both_answer()
        dialogues = []
        for number, side in enumerate(sides):
            callee = lab.phone(f"callee{number}", plan.home[0], port=5062 + number)
            caller = lab.phone(f"caller{number}", here, port=5062 + number)
            callee.proxy = caller.proxy = f"{side.host}:5060"
            callee.register()
            ladder = ("call", "call-ended-by-callee")[number]
            manner = Manner(hold_ms=7000, patchy=True)
            dialogues += [
                callee.start(ladder, caller=False, peer=caller.user, manner=manner),
                caller.start(ladder, caller=True, peer=callee.user, manner=manner),
            ]
        time.sleep(1.5)  # both calls are up
        one.kill_gateway()
        assert until(lambda: roles(other) == ["active", "active"])
        both_answer()
        one.start_gateway()
        one.wait_gateway()
        lab.wait_settled()
        both_answer()
        for dialogue in dialogues:
            dialogue.finish()
