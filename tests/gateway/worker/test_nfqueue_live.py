"""The queue with real packets between namespaces: each measured fact about NFQUEUE that the gateway is built on."""

import os
import re
import socket
import struct
import time

import pytest
import standin
from livenet import Counter, Net, until

from nfqlb import fast
from nfqlb.gateway.shm.board import Cell
from nfqlb.gateway.worker.nfqueue import MAX_PACKET
from nfqlb.lab import namespaces
from nfqlb.proxy.verdict import Reason

pytestmark = pytest.mark.root

PACKET_AUXDATA = 8
CHECKSUM_NOT_READY = 8  # TP_STATUS_CSUMNOTREADY: CHECKSUM_PARTIAL, seen from outside the kernel


@pytest.fixture(autouse=True)
def loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which loop serves the queue: the compiled one where there is one, unless a test asks for `pure` by `BOTH`."""
    if getattr(request, "param", "compiled") == "pure":
        monkeypatch.setenv(fast.PURE, "1")


BOTH = pytest.mark.parametrize("loop", ["compiled", "pure"], indirect=True)


@BOTH
@pytest.mark.parametrize("family", [4, 6])
def test_60_kB_datagrams_arrive_whole(net: Net, family: int) -> None:
    net.start()
    net.divert(1)
    send, farm = net.sender(family), net.receiver(family)
    content = b"pass " + os.urandom(60_000)
    send(content)
    got, source = farm.recvfrom(65535)
    assert got == content
    assert source[:2] == (standin.INTERNAL[family].host, 5060)
    assert net.queue().copy_range == MAX_PACKET  # the library alone asks for 4,016


@BOTH
def test_a_packet_too_long_for_a_netlink_attribute_is_dropped_and_counted(net: Net) -> None:
    net.start()
    net.divert(1)
    send, farm = net.sender(), net.receiver()
    send(b"pass " + bytes(MAX_PACKET - 28 - 5))  # the longest that fits
    assert len(farm.recv(65535)) == MAX_PACKET - 28
    send(b"pass " + bytes(MAX_PACKET - 28 - 5 + 1))
    assert until(lambda: net.counted(Reason.BAD_DATAGRAM) == 1)


@BOTH
def test_an_exception_costs_only_its_packet(net: Net) -> None:
    net.start()
    net.divert(1)
    send, farm = net.sender(), net.receiver()
    for content in (b"pass 1", b"raise", b"leave", b"empty", b"pass 2"):
        send(content)
    assert [farm.recv(100), farm.recv(100)] == [b"pass 1", b"pass 2"]
    assert net.counted(Reason.INTERNAL_ERROR) == 3
    assert net.queue().waiting == 0  # each of them got its verdict
    told = [line for line in net.log.splitlines() if "internal error" in line]
    assert len(told) == 1  # one line for all three, the rest is counted
    assert re.search(r"Error at \S+standin\.py:\d+; the packet has bytes 33, source 198\.51\.100\.2:", told[0])
    assert b"raise".hex() not in net.log  # nobody has asked for what was in it
    assert net.board().slots[0].cells[Cell.RESTARTS] == 0


@BOTH
def test_a_steady_trickle_does_not_hide_that_the_worker_lives(net: Net) -> None:
    """Packets that come more often than the queue times out, and yet too rarely to be counted on for a heartbeat."""
    net.start()
    net.divert(1)
    send, farm = net.sender(), net.receiver()
    beats, oldest = set(), 0.0
    end = time.monotonic() + 4
    while (now := time.monotonic()) < end:
        send(b"pass")
        farm.recv(100)
        beat = net.board().slots[0].cells[Cell.HEARTBEAT] / 1e9
        beats.add(beat)
        oldest = max(oldest, now - beat)
        time.sleep(0.05)
    assert len(beats) >= 3
    assert oldest < 1.5


@pytest.mark.parametrize(("socket_buffer", "full"), [(8 << 20, "queue"), (1 << 17, "buffer")])
def test_an_overflow_is_dropped_and_counted_to_the_packet(net: Net, socket_buffer: int, full: str) -> None:
    net.start(1, f"buffer={socket_buffer}")
    net.divert(1)
    send, farm = net.sender(), Counter(net.receiver())
    send(b"sleep 0.5")
    sent = 6000
    for number in range(sent):
        send(b"pass %06d" % number + bytes(200))
    assert until(lambda: net.queue().waiting == 0, 10)
    arrived = len(farm.finish()) - 1  # without the sleeper
    queue = net.queue()
    assert arrived + queue.dropped + queue.user_dropped == sent
    assert (queue.dropped > 0, queue.user_dropped > 0) == (full == "queue", full == "buffer")
    assert net.counted(Reason.REQUEST_ENTERING) == arrived + 1


def test_a_full_buffer_costs_only_what_does_not_fit(net: Net) -> None:
    net.start(1, f"buffer={1 << 17}")
    net.divert(1)
    send, farm = net.sender(), Counter(net.receiver())
    send(b"sleep 0.2")
    for _ in range(1000):
        send(b"sleep 0.004")
    full = net.queue()
    assert full.user_dropped > 0
    assert until(lambda: net.queue().waiting < full.waiting - 20)
    send(b"pass through")
    assert net.queue().waiting > 0, "the buffer was empty again, so this proves nothing"
    assert until(lambda: net.queue().waiting == 0, 10)
    assert farm.finish()[-1] == b"pass thr"
    assert net.queue().user_dropped == full.user_dropped


def test_unfinished_checksums_are_finished_before_we_see_them(net: Net) -> None:
    net.start()
    net.divert(1)
    send, farm = net.sender(), net.receiver()
    tap = namespaces.inside(net.gateway, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800)))
    with tap:
        tap.bind(("out", 0x0800))
        tap.settimeout(3)
        tap.setsockopt(263, PACKET_AUXDATA, 1)  # SOL_PACKET
        send(b"pass me")
        while b"pass me" not in (seen := tap.recvmsg(2000, 200))[0]:
            pass
    status = struct.unpack_from("=I", next(data for _, kind, data in seen[1] if kind == PACKET_AUXDATA))[0]
    assert status & CHECKSUM_NOT_READY, "the veth did not leave the checksum to its card, so this proves nothing"
    assert farm.recv(100) == b"pass me"
    assert net.counted(Reason.BAD_CHECKSUM) == 0


@BOTH
def test_the_mark_that_chose_the_queue_is_gone_afterwards(net: Net) -> None:
    net.start()
    net.divert(1)
    drop = ["-A", "FORWARD", "-m", "mark", "!", "--mark", "0", "-j", "DROP"]
    namespaces.run(net.gateway, ["iptables", "-t", "mangle", *drop])
    send, farm = net.sender(), net.receiver()
    send(b"pass unmarked")
    assert farm.recv(100) == b"pass unmarked"


def test_a_taken_queue_is_refused_and_its_holder_named(net: Net) -> None:
    first = net.start()
    second = net.start(1, run_dir="other", wait=False)
    refusal = net.refusal(second)
    assert refusal["error"] == "QueueTaken"
    assert f"(pid {first.pid})" in refusal["text"]
    assert second.wait(5) == 1
    send, farm = net.sender(), net.receiver()
    net.divert(1)
    send(b"pass still")
    assert farm.recv(100) == b"pass still"


def test_a_second_gateway_in_the_same_run_directory_is_refused(net: Net) -> None:
    first = net.start()
    refusal = net.refusal(net.start(wait=False))
    assert refusal["error"] == "PidfileError"
    assert f"pid {first.pid}" in refusal["text"]
    assert net.board().pid == first.pid  # the first one's board is untouched
