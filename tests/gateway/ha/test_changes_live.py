"""What docs/pair.md says of changing a pair that runs: in that order, it costs nothing."""

import pytest
from livepair import heard, running, until

from nfqlb.gateway.host.network import is_here
from nfqlb.lab import namespaces
from nfqlb.lab.pair import Half
from nfqlb.lab.ping import wait_answer

pytestmark = pytest.mark.root


def test_a_listener_is_added_and_taken_out_again() -> None:
    with running() as lab:
        plan, phone = lab.plan, lab.plan.phones[0]
        external, internal = (str(each.interface.network[6]) for each in (plan.external, plan.internal))
        sockets = f'external = "{external}:5060"\ninternal = "{internal}:5060"'
        listener = f'[[listener]]\nname = "second"\n{sockets}\n\n[[pool]]'
        active, standby = lab.active, lab.standby

        def here(half: Half) -> bool:
            return namespaces.inside(half.namespace, lambda: is_here(external) and is_here(internal))

        def follow(half: Half) -> None:
            half.nfqlb("ha", "render", "--write")
            half.reload_keepalived()

        before = {half: half.config.read_text() for half in lab.halves}

        def change() -> None:
            for half in (standby, active):
                half.nfqlb("reload")
            for half in (standby, active):
                follow(half)
            assert until(lambda: here(active))

        for half, text in before.items():
            half.config.write_text(text.replace("[[pool]]", listener, 1))
        found, _ = heard(lab, change)
        assert found.lost == 0
        assert lab.active is active
        assert not here(standby)
        wait_answer(plan.namespace(phone.role), (external, 5060), phone.ip, "The new listener")
        active.nfqlb("ha", "yield")
        assert until(lambda: here(standby))
        wait_answer(plan.namespace(phone.role), (external, 5060), phone.ip, "The new listener on the other node")
        active.nfqlb("ha", "resume")

        def change_back() -> None:
            for half, text in before.items():
                half.config.write_text(text)
                half.nfqlb("reload")
                follow(half)
            assert until(lambda: not here(standby))

        found, _ = heard(lab, change_back)
        assert found.lost == 0
        lab.wait_settled()
        assert lab.active is standby
