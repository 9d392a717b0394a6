"""The life of workers with real packets in their queues: killed, crashed, orphaned, stopped."""

import os
import signal
import time
from functools import partial

import pytest
import standin
from livenet import Counter, Net, until

from nfqlb.gateway.host.procfs import Holder, alive, holders, process_name
from nfqlb.gateway.shm.board import Cell, Traffic
from nfqlb.gateway.stats import gather
from nfqlb.lab import namespaces
from nfqlb.proxy.verdict import Reason

pytestmark = pytest.mark.root

RATE = 2500
"""Datagrams per second while workers are killed."""
KILLS = 10


def pid_of(net: Net, worker: int = 0) -> int:
    return net.board().slots[worker].cells[Cell.PID]


def nothing_left(net: Net) -> bool:
    return not (namespaces.members([net.gateway]) or os.listdir(net.run_dir) or net.queues())


def test_a_killed_worker_loses_at_most_the_packet_in_its_hands(net: Net) -> None:
    net.start()
    net.divert(1)
    send, farm = net.sender(), Counter(net.receiver())
    begin, sent, kills = time.monotonic(), 0, 0
    while kills < KILLS or time.monotonic() - begin < (KILLS + 1) * 0.3:
        elapsed = time.monotonic() - begin
        for _ in range(int(elapsed * RATE) - sent):
            send(b"%08d" % sent)
            sent += 1
        if kills < KILLS and elapsed > (kills + 1) * 0.3:
            os.kill(pid_of(net), signal.SIGKILL)
            kills += 1
        time.sleep(0.004)
    assert until(lambda: net.queue().waiting == 0)
    seen = farm.finish()
    assert len(set(seen)) == len(seen), "a packet came twice"
    queue = net.queue()
    assert (queue.dropped, queue.user_dropped) == (0, 0)
    assert sent - len(seen) <= KILLS
    assert net.board().slots[0].cells[Cell.RESTARTS] == KILLS


def test_a_packet_that_kills_its_worker_is_not_served_again(net: Net) -> None:
    net.start()
    net.divert(1)
    send, farm = net.sender(), net.receiver()
    for content in (b"pass 1", b"die", b"pass 2", b"die", b"pass 3"):
        send(content)
    assert [farm.recv(100) for _ in range(3)] == [b"pass 1", b"pass 2", b"pass 3"]
    assert net.board().slots[0].cells[Cell.RESTARTS] == 2
    assert net.queue().waiting == 0  # the two that killed were taken back from the dead and dropped
    assert net.log.count("died (exit status 7)") == 2


def test_a_worker_that_cannot_start_ends_the_service(net: Net) -> None:
    process = net.start(1, "crash", wait=False)
    refusal = net.refusal(process)
    assert refusal["error"] == "CannotRun"
    assert "3 times" in refusal["text"]
    assert process.wait(5) == 1
    assert "ordered by the test" in net.log
    assert nothing_left(net)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_waits_for_rules_that_are_being_put_in_place(net: Net, number: signal.Signals) -> None:
    """Else they come after `nfqlb run` has taken them out, and stay."""
    process = net.start(1, "tardy", wait=False)
    assert net.line(process) == "placing"
    process.send_signal(number)
    assert net.line(process) == "rules"
    assert process.wait(5) == 0
    assert nothing_left(net)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_after_the_packets_that_wait(net: Net, number: signal.Signals) -> None:
    process = net.start(2)
    net.divert(2)
    send, farm = net.sender(), net.receiver()
    send(b"sleep 0.3")
    for index in range(20):
        send(b"pass %d" % index)
    assert until(lambda: sum(queue.waiting for queue in net.queues().values()) > 0)
    process.send_signal(number)
    assert process.wait(5) == 0
    assert farm.recv(100) == b"sleep 0.3"
    assert [farm.recv(100) for _ in range(20)] == [b"pass %d" % index for index in range(20)]
    assert nothing_left(net)


def test_a_worker_that_hangs_is_killed_at_the_end(net: Net) -> None:
    process = net.start()
    net.divert(1)
    net.sender()(b"sleep 30")
    assert until(lambda: net.queue().waiting == 1)
    assert net.end(process) == 0
    assert "does not stop and is killed" in net.log
    assert nothing_left(net)


def test_a_worker_that_hangs_is_replaced(net: Net) -> None:
    process = net.start()
    net.divert(1)
    stuck = pid_of(net, 0)
    send, farm = net.sender(), net.receiver()
    farm.settimeout(15)
    send(b"sleep 60")
    send(b"pass behind it")
    assert farm.recv(100) == b"pass behind it"  # from the replacement, in STUCK_AFTER and a little
    assert not alive(stuck)
    assert f"worker 0 (pid {stuck}) is stuck" in net.log
    assert net.end(process) == 0
    assert nothing_left(net)


def test_without_supervisor_the_workers_go_on(net: Net) -> None:
    process = net.start(2)
    net.divert(2)
    send, farm = net.sender(), net.receiver()
    process.kill()
    process.wait()
    send(b"pass orphan")
    assert farm.recv(100) == b"pass orphan"
    report = gather(net.run_dir)
    assert (report.state, report.healthy) == ("orphaned", False)
    # Each worker holds its own queue and no other, so that the end of one leaves nothing waiting for nobody.
    pids = [pid_of(net, worker) for worker in (0, 1)]
    held = [namespaces.inside(net.gateway, partial(holders, queue)) for queue in net.queues().values()]
    assert held == [(Holder(pid, f"nfqlb-{index}"),) for index, pid in enumerate(pids)]
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
    assert until(lambda: not any(map(alive, pids)))
    assert net.queues() == {}


def test_the_next_supervisor_takes_over_from_one_that_was_killed(net: Net) -> None:
    """Under traffic, and whatever the old workers have waiting: nothing is lost, nothing comes twice."""
    first = net.start(2)
    net.divert(2)
    senders, farm = [net.sender() for _ in range(20)], Counter(net.receiver())
    begin, sent, second, old = time.monotonic(), 0, None, [pid_of(net, 0), pid_of(net, 1)]
    while (elapsed := time.monotonic() - begin) < 2.5:
        for _ in range(int(elapsed * RATE) - sent):
            senders[sent % len(senders)](b"%08d" % sent)
            sent += 1
        if elapsed > 0.5 and not second:
            first.kill()
            first.wait()
            second = net.start(2, wait=False)
        time.sleep(0.004)
    assert second is not None
    assert net.line(second) == "ready"
    assert until(lambda: not any(map(alive, old)))
    assert until(lambda: net.counted(Reason.REQUEST_ENTERING) + net.retired(Reason.REQUEST_ENTERING) == sent)
    seen = farm.finish()
    assert len(set(seen)) == len(seen), "a packet came twice"
    assert [n for n in range(sent) if b"%08d" % n not in set(seen)] == []
    assert sorted(net.queues()) == [standin.QUEUE + 2, standin.QUEUE + 3]
    report = gather(net.run_dir)
    assert (report.state, report.healthy, report.generation) == ("running", True, 2)
    assert net.end(second) == 0
    assert nothing_left(net)


def test_a_worker_that_ends_leaves_its_queue_bound(net: Net) -> None:
    net.start()
    net.divert(1)
    send, farm = net.sender(), net.receiver()
    before = net.queue().port
    first = pid_of(net)
    os.kill(first, signal.SIGTERM)
    assert until(lambda: not alive(first))
    for index in range(10):
        send(b"pass %d" % index)
    assert [farm.recv(100) for _ in range(10)] == [b"pass %d" % index for index in range(10)]
    assert net.queue().port == before
    assert process_name(pid_of(net)) == "nfqlb-0"


def test_ctrl_c_in_a_terminal_reaches_all_and_stops_cleanly(net: Net) -> None:
    process = net.start(2)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(5) == 0
    assert "Traceback" not in net.log
    assert nothing_left(net)
    assert net.log.count("died") == 0


def test_workers_share_the_load_and_each_counts_its_own(net: Net) -> None:
    net.start(2)
    net.divert(2)
    farm = Counter(net.receiver())
    for _ in range(40):
        net.sender()(b"pass")
    assert until(lambda: net.counted(Reason.REQUEST_ENTERING) == 40)
    assert len(farm.finish()) == 40
    each = [slot.reasons[Reason.REQUEST_ENTERING] for slot in net.board().slots]
    assert min(each) > 5, each
    assert [slot.backends[0][Traffic.REQUESTS_TO] for slot in net.board().slots] == each
