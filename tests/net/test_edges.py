"""Addresses and packets at the edges of what is read: each is refused for what is wrong with it."""

import struct

import pytest

from nfqlb.net import datagram
from nfqlb.net.datagram import DatagramError, Fault
from nfqlb.net.endpoint import Endpoint, pack_host

ROUTING, FRAGMENT, HOP_BY_HOP, TCP, UDP = 43, 44, 0, 6, 17
HEADER = struct.pack("!HHHH", 5060, 5060, 12, 1) + b"abcd"
"""UDP of 12 bytes, with some checksum."""


def ipv6(first: int, rest: bytes, *, length: int | None = None) -> bytes:
    told = len(rest) if length is None else length
    return struct.pack("!IHBB", 6 << 28, told, first, 64) + bytes(15) + b"\1" + bytes(15) + b"\2" + rest


@pytest.mark.parametrize(
    ("packet", "fault"),
    [
        (ipv6(UDP, HEADER)[:47], Fault.BROKEN),
        (ipv6(UDP, HEADER, length=13), Fault.BROKEN),
        (ipv6(UDP, HEADER, length=7), Fault.BROKEN),
        (ipv6(UDP, HEADER[:4] + b"\0\7" + HEADER[6:]), Fault.BROKEN),
        (ipv6(UDP, HEADER[:4] + b"\0\15" + HEADER[6:]), Fault.BROKEN),
        (ipv6(TCP, HEADER), Fault.NOT_UDP),
        (ipv6(HOP_BY_HOP, bytes([UDP, 1, 0, 0, 0, 0, 0, 0])), Fault.BROKEN),
        (ipv6(HOP_BY_HOP, bytes([HOP_BY_HOP, 0, 0, 0, 0, 0, 0, 0])), Fault.BROKEN),
        (ipv6(ROUTING, bytes([UDP, 0, 0, 1, 0, 0, 0, 0]) + HEADER), Fault.BROKEN),
        (ipv6(FRAGMENT, bytes([UDP, 0, 0, 1, 0, 0, 0, 0]) + HEADER), Fault.FRAGMENT),
    ],
    ids=[
        "shorter than its headers", "longer than told", "no room for UDP", "UDP shorter than itself",
        "UDP longer than the packet", "TCP", "UDP begins beyond the end", "nothing behind an extension",
        "segments left", "a fragment",
    ],
)  # fmt: skip
def test_P37_a_broken_ipv6_packet_is_refused_for_what_it_is(packet: bytes, fault: Fault) -> None:
    with pytest.raises(DatagramError) as caught:
        datagram.parse(packet, verify=False)
    assert caught.value.fault is fault


@pytest.mark.parametrize("first", [HOP_BY_HOP, ROUTING, FRAGMENT])
def test_P37_a_whole_one_is_read_behind_an_extension(first: int) -> None:
    read = datagram.parse(ipv6(first, bytes([UDP, 0, 0, 0, 0, 0, 0, 0]) + HEADER), verify=False)
    assert (read.payload, read.src.port) == (b"abcd", 5060)


@pytest.mark.parametrize("host", [b"[192.0.2.1]", b"fe80::1%eth0", b"[fe80::1%25eth0]", b"1.2.3", "é".encode()])
def test_a_host_that_is_no_address_is_none(host: bytes) -> None:
    assert pack_host(host) is None


@pytest.mark.parametrize("text", ["192.0.2.1:0", "192.0.2.1:65536", "192.0.2.1:", "192.0.2.1:x", "192.0.2.1:²"])
def test_a_port_that_is_none_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="a port from 1 to 65535"):
        Endpoint.parse(text, 5060)
