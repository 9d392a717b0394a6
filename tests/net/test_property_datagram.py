"""The datagram codec against dpkt and scapy, both ways (P37)."""

import struct
import warnings
from collections.abc import Callable

import dpkt
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from nfqlb.net import datagram
from nfqlb.net.checksum import word_sum
from nfqlb.net.datagram import DatagramError, Fault
from nfqlb.net.endpoint import Endpoint, host_text, pack_host

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # scapy warns of its own imports
    from scapy.layers.inet import IP, UDP, IPOption
    from scapy.layers.inet6 import (
        IPv6,
        IPv6ExtHdrDestOpt,
        IPv6ExtHdrFragment,
        IPv6ExtHdrHopByHop,
        IPv6ExtHdrRouting,
        PadN,
    )

ports = st.integers(1, 65535)
payloads = st.binary(max_size=60) | st.integers(0, 65507 - 20).map(lambda size: bytes(range(256)) * (size // 256 + 1))
tos = st.integers(0, 255)


def ends(version: int) -> st.SearchStrategy[tuple[Endpoint, Endpoint]]:
    size = 4 if version == 4 else 16
    one = st.builds(Endpoint, st.binary(min_size=size, max_size=size), ports)
    return st.tuples(one, one)


both = st.sampled_from([4, 6]).flatmap(ends)


def naive_sum(data: bytes) -> int:
    """RFC 1071, word by word."""
    total = 0
    for at in range(0, len(data), 2):
        total += int.from_bytes(data[at : at + 2].ljust(2, b"\0"), "big")
        total = (total & 0xFFFF) + (total >> 16)
    return total


def naive_udp_checksum(src: Endpoint, dst: Endpoint, udp: bytes) -> int:
    """RFC 768 and RFC 8200 8.1; `udp` with its checksum field zero. 0 is sent as 0xffff."""
    pseudo = src.addr + dst.addr + struct.pack("!HH", 17, len(udp))
    return (0xFFFF ^ naive_sum(pseudo + udp)) or 0xFFFF


@given(st.binary(max_size=70))
@example(b"")
@example(b"\xff\xff")
@example(b"\xff")
@example(b"\xff\xfe\x00\x01")
def test_P37_word_sum_is_the_one_s_complement_sum(data: bytes) -> None:
    assert word_sum(data) % 0xFFFF == naive_sum(data) % 0xFFFF
    assert 0 <= word_sum(data) < 0xFFFF


@pytest.mark.slow
@given(both, payloads, tos, st.integers(0, 70000))
def test_P37_what_we_write_dpkt_and_scapy_read(
    pair: tuple[Endpoint, Endpoint], payload: bytes, tos: int, ident: int
) -> None:
    src, dst = pair
    payload = payload[: 65535 - 28]
    packet = datagram.build(src, dst, payload, tos=tos, ident=ident)
    ip = dpkt.ip.IP(packet) if src.version == 4 else dpkt.ip6.IP6(packet)
    assert (ip.src, ip.dst) == (src.addr, dst.addr)
    udp = ip.data
    assert (udp.sport, udp.dport, bytes(udp.data), udp.ulen) == (src.port, dst.port, payload, 8 + len(payload))
    bare = packet[len(packet) - 8 - len(payload) :]
    assert udp.sum == naive_udp_checksum(src, dst, bare[:6] + b"\0\0" + bare[8:])
    assert udp.sum != 0
    if src.version == 4:
        assert (ip.tos, ip.id, ip.ttl, ip.p, ip.len) == (tos, ident & 0xFFFF, 64, 17, len(packet))
        assert not ip.df
        assert not ip.mf
        assert naive_sum(packet[:20]) == 0xFFFF
    else:
        assert (packet[0] << 8 | packet[1]) >> 4 & 255 == tos
        assert (ip.hlim, ip.nxt, ip.plen) == (64, 17, len(packet) - 40)
    # scapy computes every length and checksum itself
    layer = IP(packet) if src.version == 4 else IPv6(packet)
    stated = layer[UDP].chksum
    assert bytes(layer[UDP].payload) == payload
    del layer[UDP].chksum, layer[UDP].len
    if src.version == 4:
        del layer.chksum, layer.len
    else:
        del layer.plen
    assert bytes(layer) == packet
    assert stated == udp.sum


@given(both, st.integers(0, 65535))
def test_P37_a_checksum_of_zero_is_written_as_ffff(pair: tuple[Endpoint, Endpoint], word: int) -> None:
    src, dst = pair
    # Solve for the payload word that makes the whole sum 0xffff, so that the checksum would be 0.
    head = struct.pack("!HHHH", src.port, dst.port, 12, 0) + struct.pack("!H", word)
    missing = 0xFFFF - naive_sum(src.addr + dst.addr + struct.pack("!HH", 17, 12) + head)
    packet = datagram.build(src, dst, struct.pack("!HH", word, missing))
    assert packet[-6:-4] == b"\xff\xff"
    assert datagram.parse(packet).payload == struct.pack("!HH", word, missing)


options = st.lists(st.sampled_from([b"\x01", b"\x94\x04\x00\x00", b"\x82\x0b" + b"\0" * 9]), max_size=3)


@pytest.mark.slow
@given(ends(4), st.binary(max_size=40), tos, options, st.binary(max_size=5), st.sampled_from(["", "DF", "evil"]))
def test_P37_ipv4_of_scapy_with_options_and_padding(
    pair: tuple[Endpoint, Endpoint], payload: bytes, tos: int, extra: list[bytes], padding: bytes, flags: str
) -> None:
    src, dst = pair
    packet = bytes(
        IP(src=src.host, dst=dst.host, tos=tos, flags=flags, options=[IPOption(one) for one in extra])
        / UDP(sport=src.port, dport=dst.port)
        / payload
    )
    assert datagram.parse(packet + padding) == (src, dst, payload, tos)


headers: list[Callable[[], object]] = [
    lambda: IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * 4)]),
    lambda: IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 12)]),
    lambda: IPv6ExtHdrRouting(segleft=0),
    lambda: IPv6ExtHdrFragment(offset=0, m=0, id=7),
]


@pytest.mark.slow
@given(ends(6), st.binary(max_size=40), tos, st.lists(st.sampled_from(headers), max_size=4), st.binary(max_size=5))
def test_P37_ipv6_of_scapy_with_extension_headers(
    pair: tuple[Endpoint, Endpoint], payload: bytes, tos: int, extra: list[Callable[[], object]], padding: bytes
) -> None:
    src, dst = pair
    layer = IPv6(src=src.host, dst=dst.host, tc=tos)
    for header in extra:
        layer = layer / header()
    packet = bytearray(bytes(layer / UDP(sport=src.port, dport=dst.port) / payload))
    # scapy takes an empty routing header for a destination; the checksum is ours to see to.
    udp = len(packet) - 8 - len(payload)
    packet[udp + 6 : udp + 8] = b"\0\0"
    packet[udp + 6 : udp + 8] = naive_udp_checksum(src, dst, bytes(packet[udp:])).to_bytes(2, "big")
    assert datagram.parse(bytes(packet) + padding) == (src, dst, payload, tos)


@pytest.mark.parametrize(
    ("header", "fault"),
    [
        (lambda: IPv6ExtHdrFragment(offset=0, m=1), Fault.FRAGMENT),
        (lambda: IPv6ExtHdrFragment(offset=1, m=0), Fault.FRAGMENT),
        (lambda: IPv6ExtHdrRouting(addresses=["2001:db8::9"], segleft=1), Fault.BROKEN),
        (lambda: IPv6(src="::1", dst="::1"), Fault.NOT_UDP),
    ],
)
def test_P37_ipv6_that_is_not_for_us_to_read(header: Callable[[], object], fault: Fault) -> None:
    packet = bytes(IPv6(src="2001:db8::1", dst="2001:db8::2") / header() / UDP(sport=1, dport=2) / b"x")
    with pytest.raises(DatagramError) as caught:
        datagram.parse(packet)
    assert caught.value.fault is fault


@given(both, st.binary(max_size=40), st.data())
def test_P37_one_wrong_bit_under_the_checksum_is_found(
    pair: tuple[Endpoint, Endpoint], payload: bytes, data: st.DataObject
) -> None:
    src, dst = pair
    packet = bytearray(datagram.build(src, dst, payload))
    udp = len(packet) - 8 - len(payload)
    where = data.draw(st.integers(udp * 8, len(packet) * 8 - 1))
    packet[where // 8] ^= 1 << where % 8
    # An IPv4 checksum of 0 says "none"; a wrong length is found for what it is, a lack or an excess of bytes.
    assume(src.version == 6 or packet[udp + 6 : udp + 8] != b"\0\0")
    with pytest.raises(DatagramError) as caught:
        datagram.parse(bytes(packet))
    assert caught.value.fault in (Fault.CHECKSUM, Fault.BROKEN)
    assert datagram.build(src, dst, payload) != bytes(packet)


@given(ends(4), st.binary(max_size=40))
def test_P37_ipv4_may_leave_the_checksum_out_and_ipv6_may_not(pair: tuple[Endpoint, Endpoint], payload: bytes) -> None:
    packet = bytearray(datagram.build(*pair, payload))
    packet[26:28] = b"\0\0"
    assert datagram.parse(bytes(packet)).payload == payload
    six = (Endpoint(pair[0].addr * 4, pair[0].port), Endpoint(pair[1].addr * 4, pair[1].port))
    packet = bytearray(datagram.build(*six, payload))
    packet[46:48] = b"\0\0"
    with pytest.raises(DatagramError):
        datagram.parse(bytes(packet))
    assert datagram.parse(bytes(packet), verify=False).payload == payload


@given(st.binary(max_size=120))
def test_P37_any_bytes_are_a_datagram_or_a_fault(packet: bytes) -> None:
    for verify in (True, False):
        try:
            read = datagram.parse(packet, verify=verify)
        except DatagramError:
            continue
        assert read.payload in packet


@given(both, st.binary(max_size=30), st.data())
def test_P37_a_cut_or_changed_packet_is_read_or_refused(
    pair: tuple[Endpoint, Endpoint], payload: bytes, data: st.DataObject
) -> None:
    packet = bytearray(datagram.build(*pair, payload))
    for _ in range(data.draw(st.integers(0, 3))):
        packet[data.draw(st.integers(0, len(packet) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(packet[: data.draw(st.integers(0, len(packet)))])
    try:
        read = datagram.parse(cut, verify=False)
    except DatagramError:
        return
    assert len(read.payload) <= len(cut) - (28 if cut[0] >> 4 == 4 else 48)


@pytest.mark.parametrize("version", [4, 6])
def test_P7_the_longest_datagram_and_one_byte_more(version: int) -> None:
    src = Endpoint(bytes(range(1, 5 if version == 4 else 17)), 5060)
    longest = 65535 - 28 if version == 4 else 65535 - 8
    packet = datagram.build(src, src, b"x" * longest)
    assert len(datagram.parse(packet).payload) == longest
    with pytest.raises(DatagramError) as caught:
        datagram.build(src, src, b"x" * (longest + 1))
    assert caught.value.fault is Fault.TOO_LARGE


# -- endpoints --------------------------------------------------------------------------------------------------------


@given(both)
def test_endpoints_are_read_as_they_are_written(pair: tuple[Endpoint, Endpoint]) -> None:
    for one in pair:
        assert Endpoint.parse(str(one)) == one
        assert pack_host(one.uri_host) == pack_host(host_text(one.addr)) == one.addr
        assert one.hostport == (one.uri_host if one.port == 5060 else str(one).encode())


@given(st.text("0123456789.:[]abf%/x ", max_size=20) | st.text(max_size=10))
def test_any_text_is_an_endpoint_or_an_error(text: str) -> None:
    try:
        read = Endpoint.parse(text, 5060)
    except ValueError:
        return
    assert Endpoint.parse(str(read)) == read
    pack_host(text.encode())
