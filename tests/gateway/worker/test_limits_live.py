"""Bounds on what leaves, and what a full queue lets go of: with real queues, rules and packets."""

import os
import signal
import socket
import time

import pytest
from livehost import CONFIG, Host, request
from livenet import PHONE, Counter, Net, until

from nfqlb.gateway.shm.board import Cell
from nfqlb.net import stun
from nfqlb.proxy.verdict import Reason

pytestmark = pytest.mark.root

LIMITS = """
[limits]
replies_per_network = 20
"""


@pytest.fixture
def host(net: Net) -> Host:
    return Host(net)


@pytest.mark.parametrize("family", [4, 6])
def test_a_phone_learns_its_address_by_stun(host: Host, family: int) -> None:
    host.start("--apply-rules")
    phone = host.net.phone_socket(family)
    asked = b"\0\1\0\0" + stun.COOKIE + b"transaction!"
    phone.send(asked)
    port = phone.getsockname()[1]
    address = socket.inet_pton({4: socket.AF_INET, 6: socket.AF_INET6}[family], PHONE[family])
    mask = stun.COOKIE + b"transaction!"
    xored = bytes(one ^ other for one, other in zip(address, mask, strict=False))
    assert phone.recv(2000).endswith((port ^ 0x2112).to_bytes(2, "big") + xored)
    assert host.net.counted(Reason.STUN_ANSWERED) == 1


def test_one_network_gets_so_many_replies_and_others_theirs(host: Host) -> None:
    host.write(CONFIG + LIMITS)
    host.start("--apply-rules")
    pings = [request(phone, "p", "OPTIONS").replace(b"sip:alice@example.org SIP", b"sip:198.51.100.1 SIP")
             for phone in (host.net.phone_socket(4),)]  # fmt: skip
    phone = host.net.phone_socket(4)
    for _ in range(300):
        phone.send(pings[0])
    counted = host.net.counted
    assert until(lambda: counted(Reason.PING) + counted(Reason.REPLY_LIMIT) == 300)
    assert counted(Reason.REPLY_LIMIT) > 100
    assert phone.recv(2000).startswith(b"SIP/2.0 200 ")
    other = host.net.phone_socket(6)
    other.send(request(other, "o", "OPTIONS", b"").replace(b"sip:alice@example.org SIP", b"sip:[2001:db8:1::1] SIP"))
    assert other.recv(2000).startswith(b"SIP/2.0 200 ")


def test_what_waits_in_a_full_queue_is_shed_but_for_calls(host: Host) -> None:
    """The workers are stopped for a moment, so that their queues fill."""
    host.write(CONFIG.replace("count = ", "queue_length = 256\ncount = "))
    host.start("--apply-rules")
    workers = [slot.cells[Cell.PID] for slot in host.net.board().slots]
    phone, farm = host.net.phone_socket(4), Counter(host.net.receiver(), keep=4)
    new, dialog = (
        request(phone, "n", "INVITE"),
        request(phone, "d", "INVITE").replace(b"org>\r\nCall", b"org>;tag=2\r\nCall"),
    )
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    for number in range(120):
        phone.send(new.replace(b": n@", b": n%d@" % number))
        phone.send(dialog.replace(b": d@", b": d%d@" % number))
    time.sleep(0.02)  # workers look at their queues every 10 ms, and are done with all of this in less
    for pid in workers:
        os.kill(pid, signal.SIGCONT)
    counted = host.net.counted
    reasons = (Reason.REQUEST_ENTERING, Reason.OVERLOADED, Reason.SHED)
    assert until(lambda: sum(map(counted, reasons)) == 240)
    assert counted(Reason.OVERLOADED) + counted(Reason.SHED) > 20
    assert phone.recv(2000).startswith(b"SIP/2.0 503 ")
    assert counted(Reason.REQUEST_ENTERING) >= 120  # those of the dialogs, and the new ones before it was noticed
    assert len(farm.finish()) == counted(Reason.REQUEST_ENTERING)
    assert "new requests are shed, calls go on" in host.net.log
    assert until(lambda: not any(slot.cells[Cell.SHEDDING] for slot in host.net.board().slots))
    phone.send(new)
    assert until(lambda: counted(Reason.REQUEST_ENTERING) + counted(Reason.OVERLOADED) == 241 - counted(Reason.SHED))


def test_under_a_load_that_is_too_much_calls_go_on(net: Net) -> None:
    """As long as new requests come faster than a worker can take them, what belongs to calls is not lost."""
    net.divert(1)
    net.start(1, "slow")
    phone = net.phone_socket(4)
    farm = Counter(net.receiver(), keep=200)
    new, dialog = request(phone, "n", "INVITE"), request(phone, "d", "BYE")
    sent = {b"INVITE": 0, b"BYE": 0}
    deadline = time.monotonic() + 20
    while net.counted(Reason.SHED) < 4000 and time.monotonic() < deadline:
        if net.queue().waiting > 3000:  # no more than fits, or a slow machine decides what is lost
            time.sleep(0.01)
            continue
        for _ in range(20):
            phone.send(dialog)
            for _ in range(19):
                phone.send(new)
        sent[b"BYE"] += 20
        sent[b"INVITE"] += 380
    assert until(lambda: net.queue().waiting == 0, 15)
    got = [seen.partition(b" ")[0] for seen in farm.finish()]
    assert net.counted(Reason.SHED) >= 4000
    assert net.queue().dropped + net.queue().user_dropped == 0
    assert got.count(b"BYE") == sent[b"BYE"]
    assert got.count(b"INVITE") == sent[b"INVITE"] - net.counted(Reason.SHED)
