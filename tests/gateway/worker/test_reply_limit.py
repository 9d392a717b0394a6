"""Replies of our own have a bound, and strangers do not use up what others need."""

from ipaddress import ip_address, ip_network

import pytest

from nfqlb.gateway.worker.reply_limit import BURST, CELLS, ReplyLimit
from nfqlb.net.networks import NetworkSet

NOBODY = NetworkSet(())


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def asked(reply_limit: ReplyLimit, clock: Clock, addr: str, rate: float, seconds: float) -> int:
    """How many of so many a second are granted."""
    granted = 0
    for _ in range(int(rate * seconds)):
        clock.now += 1 / rate
        granted += reply_limit.grants(ip_address(addr).packed)
    return granted


@pytest.mark.parametrize("addr", ["192.0.2.1", "2001:db8:1:2::3"])
def test_a_network_gets_its_share_and_a_burst(clock: Clock, addr: str) -> None:
    reply_limit = ReplyLimit(10_000, 50, NOBODY, clock)
    assert asked(reply_limit, clock, addr, 1000, 4) == pytest.approx(50 * (4 + BURST), abs=2)
    assert asked(reply_limit, clock, addr, 40, 10) == pytest.approx(400, abs=2)  # below the share nothing is refused
    clock.now += 100
    assert asked(reply_limit, clock, addr, 1e6, 0.001) == pytest.approx(50 * BURST, abs=2)


def test_addresses_of_one_network_share_and_others_do_not(clock: Clock) -> None:
    reply_limit = ReplyLimit(10_000, 50, NOBODY, clock)
    asked(reply_limit, clock, "192.0.2.1", 1e6, 0.001)
    asked(reply_limit, clock, "2001:db8:1:200::3", 1e6, 0.001)
    assert not reply_limit.grants(ip_address("192.0.2.200").packed)
    assert not reply_limit.grants(ip_address("2001:db8:1:2ff::9").packed)
    assert reply_limit.grants(ip_address("192.0.3.1").packed)
    assert reply_limit.grants(ip_address("2001:db8:1:300::1").packed)


def test_all_together_have_a_bound_and_peers_do_not_depend_on_it(clock: Clock) -> None:
    reply_limit = ReplyLimit(200, 50, NetworkSet((ip_network("198.51.100.0/24"),)), clock)
    granted = 0
    for number in range(40_000):  # each from a network of its own
        clock.now += 1 / 10_000
        granted += reply_limit.grants((0x0A000000 + 256 * number).to_bytes(4, "big"))
    assert granted == pytest.approx(200 * (4 + BURST), abs=2)
    assert not reply_limit.room(b"\x0a\xff\xff\x01")
    peer = ip_address("198.51.100.7").packed
    assert reply_limit.room(peer)
    assert asked(reply_limit, clock, "198.51.100.7", 40, 2) == 80
    assert (
        asked(reply_limit, clock, "198.51.100.7", 1e6, 0.001) <= 50 * BURST + 2
    )  # the share of a network is theirs, too


def test_room_tells_what_would_be_granted_and_takes_nothing(clock: Clock) -> None:
    reply_limit = ReplyLimit(10, 5, NOBODY, clock)
    addr = b"\xc0\0\2\1"
    granted = 0
    while reply_limit.room(addr):
        assert reply_limit.room(addr)
        assert reply_limit.grants(addr)
        granted += 1
    assert not reply_limit.grants(addr)
    assert granted == pytest.approx(5 * BURST, abs=1)


@pytest.mark.slow
def test_a_million_sources_take_no_memory_and_shut_nobody_out(clock: Clock) -> None:
    reply_limit = ReplyLimit(5000, 500, NOBODY, clock)
    for number in range(1_000_000):
        clock.now += 1e-5
        reply_limit.grants(number.to_bytes(3, "big") + b"\1")
    assert len(reply_limit._cells) == CELLS
    clock.now += BURST
    assert all(reply_limit.room(number.to_bytes(3, "big") + b"\1") for number in range(0, 1_000_000, 1009))
