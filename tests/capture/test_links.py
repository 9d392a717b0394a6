"""Each link type as scapy builds it, and the plain IP packet that comes out."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pcap_files import EPOCH, Stored, packets_of, udp, write_pcap
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrHopByHop
from scapy.layers.l2 import ARP, CookedLinux, CookedLinuxV2, Dot1AD, Dot1Q, Ether, Loopback
from scapy.packet import Packet, Raw

from nfqlb.capture import link
from nfqlb.capture.ip import endpoints, fragment, length
from nfqlb.net.endpoint import Endpoint

V4, V6 = udp(b"four"), udp(b"six", version=6)


def behind(header: Packet, version: int) -> bytes:
    """scapy fills in the EtherType when it sees the layers together."""
    return bytes(header / (IP(V4) if version == 4 else IPv6(V6)))


def big_endian_loopback(family: int, packet: bytes) -> bytes:
    return family.to_bytes(4, "big") + packet


CASES = {
    "ethernet": (1, behind(Ether(), 4), V4),
    "ethernet-v6": (1, behind(Ether(), 6), V6),
    "vlan": (1, behind(Ether() / Dot1Q(vlan=7), 4), V4),
    "qinq": (1, behind(Ether() / Dot1AD(vlan=7) / Dot1Q(vlan=8), 6), V6),
    "three-tags": (1, behind(Ether() / Dot1AD() / Dot1Q() / Dot1Q(), 4), V4),
    "old-qinq": (1, behind(Ether(type=0x9100) / Dot1Q(), 4), V4),
    "cooked": (113, behind(CookedLinux(), 4), V4),
    "cooked-v6": (113, behind(CookedLinux(), 6), V6),
    "cooked-vlan": (113, behind(CookedLinux(proto=0x8100) / Dot1Q(vlan=3), 4), V4),
    "cooked2": (276, behind(CookedLinuxV2(), 4), V4),
    "cooked2-v6": (276, behind(CookedLinuxV2(), 6), V6),
    "cooked2-vlan": (276, behind(CookedLinuxV2(proto=0x8100) / Dot1Q(vlan=3), 6), V6),
    "raw": (101, V4, V4),
    "raw-v6": (101, V6, V6),
    "raw-bsd": (12, V4, V4),
    "raw-openbsd": (14, V6, V6),
    "ipv4": (228, V4, V4),
    "ipv6": (229, V6, V6),
    "loopback": (0, bytes(Loopback(type=2) / IP(V4)), V4),
    "loopback-linux-v6": (0, bytes(Loopback(type=10) / IPv6(V6)), V6),
    "loopback-freebsd-v6": (0, bytes(Loopback(type=28) / IPv6(V6)), V6),
    "loopback-darwin-v6": (0, bytes(Loopback(type=30) / IPv6(V6)), V6),
    "loopback-other-order": (0, big_endian_loopback(2, V4), V4),
    "loopback-other-order-v6": (0, big_endian_loopback(24, V6), V6),
    "loop": (108, big_endian_loopback(2, V4), V4),
    "loop-v6": (108, big_endian_loopback(24, V6), V6),
}


@pytest.mark.parametrize("name", CASES)
def test_the_ip_packet_behind_each_link_header(tmp_path: Path, name: str) -> None:
    link_type, frame, inner = CASES[name]
    path = write_pcap(tmp_path / "in.pcap", [Stored(frame, EPOCH * 10**9)], link_type=link_type)
    (packet,) = packets_of(path)
    assert (packet.data, packet.frames, packet.skipped) == (inner, (1,), "")


@pytest.mark.parametrize("name", CASES)
def test_a_frame_cut_off_anywhere_says_so(tmp_path: Path, name: str) -> None:
    link_type, frame, _ = CASES[name]
    cuts = [Stored(frame[:size], 0, len(frame)) for size in range(len(frame))]
    packets = packets_of(write_pcap(tmp_path / "in.pcap", cuts, link_type=link_type))
    assert {packet.skipped for packet in packets} == {"cut-off"}


def test_the_cases_cover_every_supported_link_type() -> None:
    assert {link_type for link_type, _, _ in CASES.values()} == link.SUPPORTED


@pytest.mark.parametrize(
    ("link_type", "frame"),
    [
        (1, bytes(Ether() / ARP())),
        (1, bytes(Ether() / Dot1Q() / ARP())),
        (1, bytes(Ether(type=0x0026) / Raw(b"802.3 length and LLC"))),
        (1, bytes(Ether(type=0x88B5) / Raw(V4))),
        (1, b"short"),
        (113, bytes(CookedLinux() / ARP())),
        (276, bytes(CookedLinuxV2() / ARP())),
        (101, b"\x50 no such IP version"),
        (101, b""),
        (0, b"\x07\0\0\0" + V4),
        (108, b"\x02\0\0\0" + V4),
        (108, b"\0\0"),
    ],
)
def test_other_protocols_are_not_ip(tmp_path: Path, link_type: int, frame: bytes) -> None:
    (packet,) = packets_of(write_pcap(tmp_path / "in.pcap", [Stored(frame, 0)], link_type=link_type))
    assert (packet.data, packet.skipped) == (b"", "not-ip")


@pytest.mark.parametrize("inner", [V4, V6], ids=["IPv4", "IPv6"])
def test_padding_behind_the_packet_is_taken_off(tmp_path: Path, inner: bytes) -> None:
    frame = behind(Ether(), inner[0] >> 4)
    cut_padding = Stored(frame + b"\0" * 3, 0, len(frame) + 10)
    path = write_pcap(tmp_path / "in.pcap", [Stored(frame + b"\0" * 20, 0), cut_padding], link_type=1)
    assert [(packet.data, packet.skipped) for packet in packets_of(path)] == [(inner, "")] * 2


def test_a_packet_that_lies_about_its_length_is_left_to_the_engine(tmp_path: Path) -> None:
    long = V4[:2] + b"\xff\xff" + V4[4:]
    jumbo = V6[:4] + b"\0\0" + V6[6:]
    path = write_pcap(tmp_path / "in.pcap", [Stored(long, 0), Stored(jumbo, 0)])
    assert [(packet.data, packet.skipped) for packet in packets_of(path)] == [(long, ""), (jumbo, "")]


HERE, THERE = ("192.0.2.1", 1234), ("192.0.2.2", 80)


@pytest.mark.parametrize("upper", [UDP, TCP])
@pytest.mark.parametrize(
    "network",
    [
        IP(src="192.0.2.1", dst="192.0.2.2"),
        IP(src="192.0.2.1", dst="192.0.2.2", options=b"\1\1\1\1"),
        IPv6(src="2001:db8::1", dst="2001:db8::2"),
        IPv6(src="2001:db8::1", dst="2001:db8::2") / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt(),
    ],
)
def test_endpoints(network: Packet, upper: type[Packet]) -> None:
    packet = network / upper(sport=1234, dport=80)
    hosts = (f"[{packet.src}]", f"[{packet.dst}]") if ":" in packet.src else (packet.src, packet.dst)
    assert endpoints(bytes(packet)) == (
        Endpoint.parse(f"{hosts[0]}:1234"),
        Endpoint.parse(f"{hosts[1]}:80"),
    )


def test_what_has_no_ports_has_no_endpoints() -> None:
    assert endpoints(bytes(IP() / ICMP())) is None
    assert endpoints(bytes(IP(frag=3) / Raw(b"12345678"))) is None
    assert endpoints(V4[:22]) is None
    assert endpoints(V6[:39]) is None


@given(
    st.sampled_from([b"", V4[:20], V6[:40], V6[:6] + b"\x2c" + V6[7:40], V6[:6] + b"\0" + V6[7:40]]),
    st.binary(),
)
def test_any_bytes_are_read_without_an_exception(head: bytes, tail: bytes) -> None:
    packet = head + tail
    for link_type in link.SUPPORTED:
        assert link.network_offset(link_type, packet) in range(-2, max(len(packet), 1))
    if packet:
        assert length(packet) > 0
        fragment(packet)
        endpoints(packet)
