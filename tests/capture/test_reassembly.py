"""Fragments as scapy makes them, put together by us."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pcap_files import EPOCH, Stored, packets_of, udp, write_pcap
from scapy.layers.inet import IP, UDP
from scapy.layers.inet import fragment as fragment4
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    defragment6,
    fragment6,
)
from scapy.packet import Packet, Raw

from nfqlb.capture import ip
from nfqlb.capture.reassembly import Reassembler, Whole

SECOND = 10**9


def pieces_of(payload: bytes, size: int, version: int, *, ident: int = 7, options: bool = False) -> list[bytes]:
    """A UDP packet cut by scapy into fragments with `size` bytes of data each (in IPv6, at most)."""
    upper = UDP(sport=5060, dport=5060) / Raw(payload)
    if version == 4:
        network = IP(src="192.0.2.1", dst="192.0.2.2", id=ident, options=b"\1" * 8 if options else [])
        return [bytes(piece) for piece in fragment4(network / upper, fragsize=size)]
    network6: Packet = IPv6(src="2001:db8::1", dst="2001:db8::2")
    if options:
        network6 /= IPv6ExtHdrHopByHop()
    packet = network6 / IPv6ExtHdrFragment(id=ident) / upper
    return [bytes(piece) for piece in fragment6(packet, max(1280, size + 48 + 8 * options))]


def whole_packet(payload: bytes, version: int, *, ident: int = 7, options: bool = False) -> bytes:
    upper = UDP(sport=5060, dport=5060) / Raw(payload)
    if version == 4:
        return bytes(IP(src="192.0.2.1", dst="192.0.2.2", id=ident, options=b"\1" * 8 if options else []) / upper)
    network: Packet = IPv6(src="2001:db8::1", dst="2001:db8::2")
    return bytes((network / IPv6ExtHdrHopByHop() if options else network) / upper)


def feed(reassembler: Reassembler, packet: bytes, frame: int = 1, now_ns: int = 0) -> Whole | None:
    piece = ip.fragment(packet)
    assert piece is not None
    return reassembler.feed(piece, frame, now_ns)


def feed_all(reassembler: Reassembler, packets: list[bytes]) -> list[Whole]:
    fed = (feed(reassembler, packet, frame) for frame, packet in enumerate(packets, 1))
    return [whole for whole in fed if whole is not None]


PAYLOAD = random.Random(5060).randbytes(7000)


@pytest.mark.slow
@given(
    version=st.sampled_from([4, 6]),
    length=st.integers(1500, 7000),
    size=st.integers(8, 3000),
    options=st.booleans(),
    seed=st.randoms(use_true_random=False),
)
def test_any_order_with_duplicates(version: int, length: int, size: int, options: bool, seed: random.Random) -> None:
    pieces = pieces_of(PAYLOAD[:length], size, version, options=options)
    assert len(pieces) > 1 or size > length
    if len(pieces) == 1:
        return
    order = pieces + seed.sample(pieces, seed.randrange(len(pieces)))
    seed.shuffle(order)
    reassembler = Reassembler()
    (whole, *again) = feed_all(reassembler, order)
    assert whole.packet == whole_packet(PAYLOAD[:length], version, options=options)
    assert not again or set(pieces) <= set(order[whole.frames[-1] :])
    # Each piece counts once, with the frame that brought it first.
    assert [order[frame - 1] for frame in whole.frames] == list(dict.fromkeys(order[: whole.frames[-1]]))


def test_interleaved_packets_do_not_mix() -> None:
    streams = [
        pieces_of(PAYLOAD[n : n + 3000], 1000, version, ident=ident)
        for n, (version, ident) in enumerate([(4, 1), (4, 2), (6, 1), (6, 2)])
    ]
    other_host = [piece[:15] + b"\x09" + piece[16:] for piece in streams[0]]
    other_protocol = [piece[:9] + b"\x84" + piece[10:] for piece in streams[0]]
    longest = max(map(len, streams))
    streams += [other_host, other_protocol]
    mixed = [stream[n] for n in range(longest) for stream in streams if n < len(stream)]
    wholes = {whole.packet for whole in feed_all(Reassembler(), mixed)}
    assert len(wholes) == 6
    assert {whole_packet(PAYLOAD[n : n + 3000], 4, ident=n + 1) for n in (0, 1)} <= wholes
    assert {whole_packet(PAYLOAD[n : n + 3000], 6) for n in (2, 3)} <= wholes


@pytest.mark.parametrize("version", [4, 6])
def test_scapy_agrees_with_what_was_put_together(version: int) -> None:
    pieces = pieces_of(PAYLOAD, 1400, version)
    (whole,) = feed_all(Reassembler(), pieces)
    if version == 6:
        # scapy keeps no length and no checksum when it defragments; both are computed afresh from here.
        scapy_made = defragment6([IPv6(piece) for piece in pieces])
        del scapy_made.plen
        assert bytes(IPv6(bytes(scapy_made))) == whole.packet
    parsed = IP(whole.packet) if version == 4 else IPv6(whole.packet)
    assert bytes(parsed[UDP].payload) == PAYLOAD
    fresh = parsed.copy()
    if version == 4:
        assert (parsed.frag, int(parsed.flags)) == (0, 0)
        del fresh.chksum, fresh.len
    else:
        del fresh.plen
    assert bytes(fresh) == whole.packet


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("missing", [0, 1, -1])
def test_a_missing_piece_leaves_nothing(version: int, missing: int) -> None:
    pieces = pieces_of(PAYLOAD, 1400, version)
    del pieces[missing]
    reassembler = Reassembler()
    assert feed_all(reassembler, pieces) == []
    assert reassembler.never_whole == 1


def changed(packet: bytes, **changes: int) -> bytes:
    """A fragment with another offset (in 8-byte units), more-flag or length of data."""
    parsed: Packet = IP(packet) if packet[0] >> 4 == 4 else IPv6(packet)
    if "cut" in changes:
        parsed[Raw].load = parsed[Raw].load[: changes["cut"]]
    if parsed.version == 4:
        parsed.frag = changes.get("offset", parsed.frag)
        parsed.flags = changes.get("more", int(parsed.flags))
        del parsed.len, parsed.chksum
    else:
        parsed[IPv6ExtHdrFragment].offset = changes.get("offset", parsed[IPv6ExtHdrFragment].offset)
        parsed[IPv6ExtHdrFragment].m = changes.get("more", parsed[IPv6ExtHdrFragment].m)
        del parsed.plen
    return bytes(parsed)


def offset_of(packet: bytes) -> int:
    piece = ip.fragment(packet)
    assert piece is not None
    return piece.offset // 8


BAD: dict[str, Callable[[list[bytes]], bytes]] = {
    "overlaps the one before": lambda p: changed(p[1], offset=offset_of(p[1]) - 1),
    "overlaps the one behind": lambda p: changed(p[1], offset=offset_of(p[1]) + 1),
    "same place, other data": lambda p: p[1][:-1] + bytes([p[1][-1] ^ 1]),
    "same place, shorter": lambda p: changed(p[1], cut=64),
    "ends before another piece": lambda p: changed(p[1], more=0),
    "second end, further on": lambda p: changed(p[-1], offset=offset_of(p[-1]) + 100),
    "goes on behind the end": lambda p: changed(p[1], offset=offset_of(p[-1]) + 200),
    "not a multiple of eight": lambda p: changed(p[1], offset=2000, cut=65),
    "no data": lambda p: changed(p[1], offset=2000, cut=0),
    "beyond 65,535 bytes": lambda p: changed(p[1], offset=8180),
}


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("fault", BAD)
@pytest.mark.parametrize("place", ["early", "late"])
def test_contradicting_pieces_condemn_the_packet(version: int, fault: str, place: str) -> None:
    """RFC 5722: the packet is dropped with every piece of it, also those that come later."""
    pieces = pieces_of(PAYLOAD, 1000, version)
    bad = BAD[fault](pieces)
    order = [pieces[0], pieces[2], pieces[-1], bad, *pieces[1:]]
    if place == "late":
        order = [pieces[0], *pieces[2:-1], bad, pieces[1], *pieces]
    reassembler = Reassembler()
    assert feed_all(reassembler, order) == []
    assert reassembler.never_whole == 1


@pytest.mark.parametrize("version", [4, 6])
def test_the_right_number_of_bytes_is_not_yet_a_packet(version: int) -> None:
    """A hole as large as what lies behind the end: nothing may be put together from that."""
    pieces = pieces_of(PAYLOAD, 1000, version)
    ends_early = changed(pieces[2], more=0)
    lengths = {len(piece) for piece in (pieces[0], pieces[4], ends_early)}
    assert len(lengths) == 1
    assert feed_all(Reassembler(), [pieces[0], pieces[4], ends_early]) == []
    assert feed_all(Reassembler(), [pieces[0], ends_early, pieces[4]]) == []


@pytest.mark.parametrize(("version", "seconds"), [(4, 30), (6, 60)])
def test_pieces_too_far_apart_in_time_do_not_meet(version: int, seconds: int) -> None:
    pieces = pieces_of(PAYLOAD[:2000], 1200, version)
    assert len(pieces) == 2
    for gap, expected in ((seconds, True), (seconds + 1, False), (-seconds - 1, False)):
        reassembler = Reassembler()
        start = EPOCH * SECOND
        assert feed(reassembler, pieces[0], 1, start) is None
        assert (feed(reassembler, pieces[1], 2, start + gap * SECOND) is not None) is expected
        assert reassembler.never_whole == (0 if expected else 2)
        if not expected:  # what came late begins anew
            assert feed(reassembler, pieces[0], 3, start + gap * SECOND) is not None


def test_an_atomic_fragment_stands_for_itself() -> None:
    packet = bytes(
        IPv6(src="2001:db8::1", dst="2001:db8::2")
        / IPv6ExtHdrDestOpt()
        / IPv6ExtHdrFragment(id=9, offset=0, m=0)
        / UDP(sport=1, dport=2)
        / Raw(b"whole")
    )
    whole = feed(Reassembler(), packet, 4)
    assert whole is not None
    assert whole.frames == (4,)
    wanted = IPv6(src="2001:db8::1", dst="2001:db8::2") / IPv6ExtHdrDestOpt() / UDP(sport=1, dport=2)
    assert whole.packet == bytes(wanted / Raw(b"whole"))


def test_the_oldest_unfinished_packets_go_when_memory_is_full() -> None:
    reassembler = Reassembler(max_memory=20_000)
    sets = [pieces_of(PAYLOAD[:2000], 1000, 4, ident=ident) for ident in range(1, 100)]
    for pieces in sets:
        assert feed(reassembler, pieces[0]) is None
    assert reassembler.never_whole == 99
    assert feed_all(reassembler, sets[-1][1:])[0].packet == whole_packet(PAYLOAD[:2000], 4, ident=99)
    assert feed_all(reassembler, sets[0][1:]) == []


@pytest.mark.slow
def test_the_largest_packet_in_the_smallest_pieces() -> None:
    payload = bytes(65_535 - 20 - 8)
    pieces = pieces_of(payload, 8, 4)
    assert len(pieces) == 8190
    (whole,) = feed_all(Reassembler(), pieces[::-1])
    assert whole.packet == whole_packet(payload, 4)


def test_each_frame_of_a_capture_says_what_became_of_it(tmp_path: Path) -> None:
    pieces = pieces_of(PAYLOAD[:3000], 1400, 4)
    frames = [udp(b"between"), pieces[2], pieces[0], udp(b"more"), pieces[1], pieces[0]]
    path = write_pcap(tmp_path / "in.pcap", [Stored(data, EPOCH * SECOND) for data in frames])
    packets = packets_of(path)
    assert [(packet.skipped, packet.frames) for packet in packets] == [
        ("", (1,)),
        ("fragment", (2,)),
        ("fragment", (3,)),
        ("", (4,)),
        ("", (2, 3, 5)),
        ("fragment", (6,)),
    ]
    assert packets[4].data == whole_packet(PAYLOAD[:3000], 4)


def test_a_fragment_cut_off_by_snaplen_is_not_used(tmp_path: Path) -> None:
    pieces = pieces_of(PAYLOAD[:2000], 1000, 4)
    frames = [Stored(pieces[0][:100], 0, len(pieces[0])), Stored(pieces[1], 0), Stored(pieces[2], 0)]
    packets = packets_of(write_pcap(tmp_path / "in.pcap", frames))
    assert [packet.skipped for packet in packets] == ["cut-off", "fragment", "fragment"]
