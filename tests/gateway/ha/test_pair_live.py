"""The pair with the real keepalived: what moves the addresses, what does not, and what becomes of calls."""

import json
import os
import signal
import time
from functools import partial

import pytest
from livepair import heard, running, until

from nfqlb.gateway.ha import liveness
from nfqlb.gateway.ha.protocol import LIFELINE
from nfqlb.lab import namespaces
from nfqlb.lab.pair import Half, PairLab
from nfqlb.lab.scenario import Manner

pytestmark = pytest.mark.root


def supervisor(half: Half) -> int:
    answer = json.loads(half.nfqlb("status", "--json"))
    return int(answer["pid"])


def well(half: Half) -> bool:
    done = half.command("ha", "status")
    return done.returncode == 0


def moves(half: Half, since: float) -> list[str]:
    """What the node has noted of its addresses; a state that passes quickly is in there, too."""
    noted = half.status()["transitions"]
    return [each["role"] for each in noted if each["at"] >= since and each["role"] != "partly"]


def checked(half: Half) -> list[str]:
    done = half.command("ha", "check", "--json")
    return list(json.loads(done.stdout)["problems"])


def test_one_is_active_the_other_hot_and_both_are_fit_for_each_other(pair: PairLab) -> None:
    active, standby = pair.active, pair.standby
    assert active.status()["groups"][0]["role"] == "active"
    report = standby.status()
    assert report["groups"][0]["role"] == "standby"
    assert (report["weight"], report["unwell"], report["lifeline"]) == (0, [], True)
    rows = json.loads(standby.nfqlb("backends", "list", "--json"))["backends"]
    assert all(row["state"] == "up" for row in rows), "it asks backends from its own address"
    assert until(lambda: not checked(active) and not checked(standby)), (checked(active), checked(standby))


def test_a_node_cut_off_is_replaced(pair: PairLab) -> None:
    first = pair.active
    _, silence = heard(pair, first.unplug)
    try:
        assert silence < 1500, "no figure: tools/chaos measures"
        assert any(half.active for half in pair.halves if half is not first)
    finally:
        first.replug()
        pair.wait_settled()


def test_yield_hands_over_without_loss_and_nothing_goes_back(pair: PairLab) -> None:
    first = pair.active
    found, _ = heard(pair, lambda: first.nfqlb("ha", "yield"))
    assert pair.active is not first
    assert found.lost <= 10
    assert first.status()["yielding"]
    assert any("this node yields" in each for each in checked(first))
    first.nfqlb("ha", "resume")
    time.sleep(1)
    assert pair.active is not first
    assert [each["role"] for each in first.status()["transitions"]][-1] == "standby"


def test_yield_is_refused_when_nobody_takes_over(pair: PairLab) -> None:
    active, standby = pair.active, pair.standby
    os.kill(supervisor(standby), signal.SIGTERM)
    assert standby.gateway is not None
    standby.gateway.wait(20)
    done = active.command("ha", "yield")
    assert done.returncode == 1
    assert "has not taken over" in done.stderr
    assert pair.active is active
    assert not active.status()["yielding"]
    standby.start_gateway()
    standby.wait_gateway()
    assert until(lambda: well(standby))


def test_every_process_of_the_gateway_is_killed(pair: PairLab) -> None:
    first = pair.active
    _, silence = heard(pair, first.kill_gateway)
    assert silence < 1500
    assert pair.active is not first
    assert LIFELINE not in namespaces.run(first.namespace, ["ip", "-o", "link"])
    first.start_gateway()
    first.wait_gateway()
    assert until(lambda: well(first))
    assert pair.active is not first


def test_a_killed_supervisor_that_comes_back_moves_nothing_one_that_does_not_gives_way(pair: PairLab) -> None:
    def killed() -> Half:
        active = pair.active
        assert active.gateway is not None
        os.kill(supervisor(active), signal.SIGKILL)
        active.gateway.wait(10)
        return active

    def nothing_moves() -> bool:
        first = killed()
        first.start_gateway()
        assert until(lambda: well(first), 30)
        time.sleep(liveness.ORPHANED_FOR)
        return pair.active is first

    # On a busy machine a start may take longer than workers wait for it: then the addresses move, as they should.
    assert any(nothing_moves() for _ in range(3))
    first = killed()
    found, _ = heard(pair, lambda: until(lambda: first.standby, liveness.ORPHANED_FOR + 3))
    assert first.standby
    assert found.lost <= 20, "its workers serve to the last"
    first.start_gateway()
    assert until(lambda: well(first))
    pair.wait_settled()


def test_workers_are_replaced_and_rules_watched(pair: PairLab) -> None:
    first = pair.active
    worker = json.loads(first.nfqlb("status", "--json"))["workers"][0]["pid"]
    os.kill(worker, signal.SIGKILL)
    time.sleep(1.5)
    assert pair.active is first
    first.nfqlb("rules", "remove", "--yes")
    assert until(lambda: pair.standby is first), "packets do not reach its workers any more"
    assert "do not lead to the workers" in first.command("ha", "status").stderr
    first.nfqlb("rules", "apply")
    assert until(lambda: well(first))


def test_a_backend_that_stops_moves_nothing(pair: PairLab) -> None:
    first, node = pair.active, pair.plan.proxy_nodes[0]
    os.kill(pair._processes[node.role].pid, signal.SIGKILL)
    time.sleep(2.0)
    assert pair.active is first
    pair.restart_backend(node)
    pair.wait_backend(node)


def test_a_call_and_a_registration_outlive_their_node(pair: PairLab) -> None:
    alice = pair.phone("alice", pair.plan.home[0])
    bob = pair.phone("bob", pair.plan.phones[0])
    alice.register()
    for number, ladder in enumerate(("call", "call-ended-by-callee")):
        manner = Manner(hold_ms=2500, patchy=True)
        callee = alice.start(ladder, caller=False, peer="bob", name=f"a{number}", manner=manner)
        caller = bob.start(ladder, caller=True, peer="alice", name=f"b{number}", manner=manner)
        time.sleep(1.0)  # it is up
        first = pair.active
        first.unplug()
        assert until(lambda first=first: any(half.active for half in pair.halves if half is not first), 3)
        caller.finish()
        callee.finish()
        first.replug()
        pair.wait_settled()


def test_a_partition_makes_two_and_heals_to_one() -> None:
    with running() as lab:
        low, high = lab.halves
        for _ in range(2):
            moment = time.time()
            first, second = lab.active, lab.standby
            first.part()
            assert until(lambda moment=moment, half=second: moves(half, moment) == ["active"])
            assert until(lambda: all(half.active for half in lab.halves))
            first.reunite()
            lab.wait_settled()
            assert high.active, "the higher own address"
            assert until(lambda moment=moment: moves(low, moment)[-1] == "standby")
            high.nfqlb("ha", "yield")
            high.nfqlb("ha", "resume")
            assert low.active, "now the one to keep the addresses is the one that had none"


def test_keepalived_is_killed() -> None:
    with running() as lab:
        first, second, moment = lab.active, lab.standby, time.time()
        first.kill_keepalived()
        assert until(lambda: second.active)
        assert first.active, "nobody has taken the addresses away"
        assert moves(first, moment) == []
        assert any("BOTH nodes" in each for each in checked(first))
        assert any("keepalived does not run on this node" in each for each in checked(first))
        assert any("keepalived does not run on the peer" in each for each in checked(second))
        assert "keepalived does not run here" in first.nfqlb("ha", "status")
        found, _ = heard(lab, lambda: time.sleep(0.5))
        assert found.lost <= 5, "either node serves"
        first.start_keepalived()
        lab.wait_settled()
        active, other, moment = lab.active, lab.standby, time.time()
        found, _ = heard(lab, active.kill_keepalived_parent)
        assert until(lambda: moves(other, moment) == ["active"]), "its child gives the addresses back"
        assert until(lambda: moves(active, moment)[-1:] == ["standby"])
        assert found.lost <= 20
        active.start_keepalived()
        lab.wait_settled()
        assert other.active


def test_unequal_nodes_are_told() -> None:
    with running() as lab:
        one, other = lab.halves
        text = other.config.read_text()
        other.config.write_text(text.replace('hash_on = "call-id"', 'hash_on = "from-uri"', 1))
        other.nfqlb("reload")
        assert any("pools differ" in each for each in checked(one))
        file = lab.dir / "other.json"
        file.write_text(other.nfqlb("ha", "digest"))
        done = one.command("ha", "check", "--json", "--peer", str(file))
        assert done.returncode == 1
        assert any("pools differ" in each for each in json.loads(done.stdout)["problems"])
        other.config.write_text(text)
        other.nfqlb("reload")
        assert until(lambda: not checked(one)), checked(one)


def test_keepalived_conf_that_does_not_fit_any_more_is_told_everywhere() -> None:
    with running() as lab:
        one = lab.standby
        one.config.write_text(one.config.read_text().replace("[ha]\n", "[ha]\nrouter_id = 77\n"))
        remedy = f"nfqlb ha render -c {one.config} --write"
        answer = json.loads(one.nfqlb("reload", "--json"))
        assert any(each.startswith("warning: ") and remedy in each for each in answer["changes"]), answer
        assert remedy in one.nfqlb("ha", "status")
        assert remedy in one.status()["keepalived_conf"]
        assert remedy in one.command("check", "--live").stderr
        assert any(remedy in each for each in checked(one))
        one.nfqlb("ha", "render", "--write")
        assert not one.status()["keepalived_conf"]
        assert not any(remedy in each for each in checked(one))
        assert not any("warning" in each for each in json.loads(one.nfqlb("reload", "--json"))["changes"])


def test_reload_and_upgrade_move_nothing_and_a_stop_hands_over(pair: PairLab) -> None:
    first = pair.active
    for words in (["reload", "--force"], ["upgrade"], ["reload", "--force"]):
        found, _ = heard(pair, partial(first.nfqlb, *words), after=1.0)
        assert found.lost == 0, words
        assert pair.active is first
        assert first.status()["lifeline"]
    pid = supervisor(first)
    found, _ = heard(pair, lambda: os.kill(pid, signal.SIGTERM))
    assert pair.active is not first
    assert found.lost <= 20
    assert until(lambda: not first.gateway_pids)
    assert first.gateway is not None
    first.gateway.wait(10)
    first.start_gateway()
    first.wait_gateway()
    assert until(lambda: well(first))
    assert pair.active is not first
