"""Part G of the rules: the packet (P37–P39); P38's socket is shown by the live tests."""

import re
from pathlib import Path

import dpkt
import pytest
from sipcase import EXT, PHONE, Gateway, check_packet, endpoint, request, wire

from nfqlb.engine import Engine
from nfqlb.net import datagram
from nfqlb.net.datagram import DatagramError, Fault
from nfqlb.proxy.verdict import Reason

V6A, V6B = endpoint("[2001:db8::1]:5060"), endpoint("[2001:db8::2]:5070")


def test_P37_addresses_ports_ttl_tos_df_and_ident() -> None:
    gateway = Gateway()
    first, second = (dpkt.ip.IP(gateway.from_phone(request()).verdict.packet) for _ in range(2))
    assert (first.ttl, first.tos, first.df, first.mf, first.offset) == (64, 0xB8, 0, 0, 0)
    assert second.id == first.id + 1
    assert (first.data.sport, first.data.dport) == (5060, 5060)
    check_packet(bytes(first))


def test_P37_the_traffic_class_of_ipv6_is_kept() -> None:
    packet = datagram.build(V6A, V6B, b"x", tos=0xB8)
    assert datagram.parse(packet).tos == 0xB8
    assert dpkt.ip6.IP6(packet).fc == 0xB8


def test_P37_a_checksum_of_zero_is_written_as_ffff() -> None:
    for source, target in ((V6A, V6B), (endpoint(PHONE), endpoint(EXT))):
        sums = set()
        for number in range(65536):
            packet = datagram.build(source, target, number.to_bytes(2, "big"))
            at = 26 if source.version == 4 else 46
            sums.add(packet[at : at + 2])
            if packet[at : at + 2] == b"\xff\xff":
                check_packet(packet)
                assert datagram.parse(packet).payload == number.to_bytes(2, "big")
        assert b"\0\0" not in sums
        assert b"\xff\xff" in sums


@pytest.mark.slow
def test_P37_the_ip_header_checksum_of_every_identification() -> None:
    sums = set()
    for ident in range(65536):
        packet = datagram.build(endpoint(PHONE), endpoint(EXT), b"x", ident=ident)
        sums.add(packet[10:12])
        if packet[10:12] in (b"\0\0", b"\xff\xff"):
            check_packet(packet)
    assert b"\0\0" in sums
    assert b"\xff\xff" not in sums


def test_P37_a_damaged_datagram_is_not_made_to_look_sound() -> None:
    packet = bytearray(datagram.build(endpoint(PHONE), endpoint(EXT), wire(request())))
    packet[-20] ^= 1
    setup = Gateway().setup
    assert Engine(setup).process(bytes(packet)).reason is Reason.BAD_CHECKSUM
    assert Engine(setup, verify_checksums=False).process(bytes(packet)).reason is Reason.REQUEST_ENTERING


def test_P37_an_ipv4_sender_may_leave_the_checksum_out_an_ipv6_one_may_not() -> None:
    four = bytearray(datagram.build(endpoint(PHONE), endpoint(EXT), wire(request())))
    four[26:28] = b"\0\0"
    assert Engine(Gateway().setup).process(bytes(four)).reason is Reason.REQUEST_ENTERING
    six = bytearray(datagram.build(V6A, V6B, b"x"))
    six[46:48] = b"\0\0"
    with pytest.raises(DatagramError) as caught:
        datagram.parse(bytes(six))
    assert caught.value.fault is Fault.CHECKSUM


@pytest.mark.parametrize("payload", [65507, 65508])
def test_P37_the_longest_ipv4_packet(payload: int) -> None:
    if payload == 65507:
        assert len(datagram.build(endpoint(PHONE), endpoint(EXT), bytes(payload))) == 65535
    else:
        with pytest.raises(DatagramError) as caught:
            datagram.build(endpoint(PHONE), endpoint(EXT), bytes(payload))
        assert caught.value.fault is Fault.TOO_LARGE


def test_P38_an_enlarged_ipv6_packet_is_whole_in_the_verdict() -> None:
    """The engine says what leaves; that what exceeds the MTU leaves by a socket is the worker's part."""
    packet = datagram.build(V6A, V6B, bytes(3000))
    assert datagram.parse(packet).payload == bytes(3000)


def test_P39_same_input_same_output_but_for_the_identification() -> None:
    setup = Gateway().setup
    packet = datagram.build(endpoint(PHONE), endpoint(EXT), wire(request()))
    one = Engine(setup, first_ident=7).process(packet).packet
    other = Engine(setup, first_ident=40000).process(packet).packet
    assert one[4:6] != other[4:6]
    assert (one[:4], one[6:10], one[12:]) == (other[:4], other[6:10], other[12:])


def test_every_rule_has_a_test_that_names_it() -> None:
    named = set()
    for file in Path(__file__).parent.parent.rglob("test_*.py"):
        named |= {int(number) for number in re.findall(r"def test_P(\d+)_", file.read_text())}
    assert named >= set(range(1, 40))
