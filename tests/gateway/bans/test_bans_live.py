"""The whole way from an offence to a ban: workers note, the guard bans, the kernel drops."""

import json
import os
import signal

import pytest
from livebans import ENOUGH, JUNK, banned, send
from livegateway import Gateway
from livehost import CONFIG, NFQLB, Host, request
from livenet import PHONE, Net, until

from nfqlb.lab import namespaces
from nfqlb.proxy.verdict import Reason

pytestmark = pytest.mark.root

ENDS_IN_THE_KERNEL = b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n"


@pytest.fixture
def gateway(net: Net) -> Gateway:
    return Gateway(Host(net))


@pytest.mark.parametrize("family", [4, 6])
def test_junk_is_banned_and_drops_in_the_kernel(gateway: Gateway, family: int) -> None:
    assert gateway.serves(family)
    send(gateway, JUNK, ENOUGH, family)
    source = {4: PHONE[4], 6: "2001:db8:1::/64"}[family]
    assert until(lambda: source in banned(gateway.net), 10), gateway.net.log
    assert banned(gateway.net)[source].why == "not-sip"
    before = gateway.net.counted(Reason.NOT_SIP)
    send(gateway, JUNK, 10, family)
    assert until(lambda: banned(gateway.net)[source].packets >= 10, 10)
    assert gateway.net.counted(Reason.NOT_SIP) == before
    assert until(lambda: gateway.net.board().bans == 1, 10)
    assert gateway.net.board().offences >= ENOUGH * 2 // 3
    assert f"{source} banned for 600 s" in gateway.net.log
    told = json.loads(gateway.host.call("stats", "--json").stdout)["limits"]
    assert (told["bans"], told["banned"], told["stopped"]["denied"]) == (1, 1, 0)
    assert told["stopped"]["banned"] >= 10
    assert "1 banned now" in gateway.host.call("stats").stdout
    gateway.stop()


@pytest.mark.parametrize("family", [4, 6])
def test_whom_the_kernel_bans_for_junk_is_told_of_once_with_the_reason(gateway: Gateway, family: int) -> None:
    source = {4: PHONE[4], 6: "2001:db8:1::/64"}[family]
    line = f"{source} banned for 600 s for junk: non-SIP bytes"
    send(gateway, ENDS_IN_THE_KERNEL, ENOUGH, family)
    assert until(lambda: line in gateway.net.log, 10), gateway.net.log
    save = ["ipset", "save", f"NFQLB-ban{family}"]
    assert 'comment "junk"' in namespaces.run(gateway.net.gateway, save)  # for who looks later, whatever is restarted
    assert banned(gateway.net)[source].packets > 0  # its counters went on
    left = banned(gateway.net)[source].left
    assert left is not None
    assert 500 < left <= 600
    assert namespaces.run(gateway.net.gateway, ["ipset", "save", f"NFQLB-junk{family}"]).count("add ") == 0
    gateway.reload()
    send(gateway, ENDS_IN_THE_KERNEL, ENOUGH, family)
    (row,) = json.loads(namespaces.run(gateway.net.gateway, [*NFQLB, "bans", "list", "--json"]))
    assert (row["source"], row["by"], row["why"]) == (source, "gateway", "junk: non-SIP bytes")
    assert gateway.net.log.count(line) == 1
    gateway.stop()


def test_whom_the_kernel_bans_for_a_flood_is_told_of_with_the_reason(net: Net) -> None:
    host = Host(net)
    host.write(CONFIG + "\n[limits]\nrequests = 10\nburst = 20\nban_above = 20\n")
    gateway = Gateway(host)
    phone = net.phone_socket(4)
    for number in range(ENOUGH):
        phone.send(request(phone, f"f{number}"))
    line = f"{PHONE[4]} banned for 600 s for a flood: too many requests a second"
    assert until(lambda: line in net.log, 10), net.log
    assert "too many requests a second" in namespaces.run(net.gateway, [*NFQLB, "bans"])
    gateway.stop()


def test_bans_outlive_reload_and_upgrade_and_are_counted_on(gateway: Gateway) -> None:
    send(gateway, JUNK, ENOUGH)
    assert until(lambda: gateway.net.board().bans == 1, 10)
    gateway.host.write(CONFIG + "\n[limits]\nban_for = 300\n")
    gateway.reload()
    gateway.upgrade()
    assert list(banned(gateway.net)) == [PHONE[4]]
    assert until(lambda: gateway.net.board().bans == 1, 10)
    assert until(lambda: gateway.status()["guard"] != 0, 10)
    gateway.stop()


def test_a_guard_that_dies_is_replaced(gateway: Gateway) -> None:
    first = gateway.status()["guard"]
    os.kill(first, signal.SIGKILL)
    assert until(lambda: gateway.status()["guard"] not in (0, first), 10)
    send(gateway, JUNK, ENOUGH)
    assert until(lambda: PHONE[4] in banned(gateway.net), 10)
    gateway.stop()


def test_without_limits_there_is_no_guard(net: Net) -> None:
    host = Host(net)
    host.write(CONFIG + "\n[limits]\nenabled = false\n")
    gateway = Gateway(host)
    assert gateway.status()["guard"] == 0
    send(gateway, JUNK, ENOUGH)
    assert until(lambda: net.counted(Reason.NOT_SIP) == ENOUGH, 10)
    assert gateway.serves()
    gateway.stop()


def test_a_carrier_with_a_bad_call_now_and_then_is_not_banned(gateway: Gateway) -> None:
    """1 % of a trunk's requests broken: docs/limits.md."""
    phone = gateway.net.phone_socket(4)
    for number in range(40):
        good = request(phone, f"b{number}")
        phone.send(good if number % 20 else good.replace(b"Max-Forwards: 70", b"Max-Forwards: many"))
    assert until(lambda: gateway.net.counted(Reason.BAD_MAX_FORWARDS) == 2, 10)
    assert gateway.serves()
    assert banned(gateway.net) == {}
    gateway.stop()
