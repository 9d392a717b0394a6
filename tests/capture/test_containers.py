"""pcap and pcapng, read as scapy, dpkt and tshark understand them."""

import gzip
import io
import itertools
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import dpkt
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pcap_files import EPOCH, RAW_IP, Blocks, Stored, frames_of, packets_of, udp, write_pcap

from nfqlb.capture.errors import CaptureError, Damaged, NotACapture, Truncated, UnsupportedLinkType
from nfqlb.capture.frame import Frame
from nfqlb.capture.frames import has_nanoseconds, read_frames
from nfqlb.capture.packets import PacketReader
from nfqlb.capture.source import Source
from nfqlb.capture.writer import PcapWriter

NANO_TIME = EPOCH * 10**9 + 123_456_789
STORED = [
    Stored(udp(b"one"), NANO_TIME),
    Stored(udp(b"two", version=6), NANO_TIME + 10**9),
    Stored(udp(b"cut off")[:30], NANO_TIME + 5, 500),
    Stored(b"", NANO_TIME + 6),
]


def micro(time_ns: int) -> int:
    return time_ns // 1000 * 1000


# ---- pcap


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("nano", [False, True])
def test_pcap_in_both_byte_orders_and_resolutions(tmp_path: Path, order: str, nano: bool) -> None:
    path = write_pcap(tmp_path / "in.pcap", STORED, order=order, nano=nano)
    assert frames_of(path) == [
        Frame(
            number,
            stored.time_ns if nano else micro(stored.time_ns),
            RAW_IP,
            stored.data,
            stored.wire_length or len(stored.data),
        )
        for number, stored in enumerate(STORED, 1)
    ]
    assert [frame.cut_off for frame in frames_of(path)] == [False, False, True, False]
    with Source(path) as source:
        assert has_nanoseconds(source) is nano


def test_the_length_of_a_frame_check_sequence_is_not_part_of_the_link_type(tmp_path: Path) -> None:
    path = write_pcap(tmp_path / "in.pcap", STORED[:1], link_type=1)
    data = bytearray(path.read_bytes())
    data[23] = 0x44  # "f" bit and 4 bytes of FCS
    path.write_bytes(data)
    assert [frame.link_type for frame in frames_of(path)] == [1]


@pytest.mark.skipif(not shutil.which("editcap"), reason="needs editcap")
@pytest.mark.parametrize("kind", ["modpcap", "nsecpcap", "pcap", "pcapng"])
def test_what_wireshark_writes(tmp_path: Path, kind: str) -> None:
    whole = [STORED[0], STORED[1]]
    plain = write_pcap(tmp_path / "in.pcap", whole, nano=True)
    other = tmp_path / "other"
    subprocess.run(["editcap", "-F", kind, plain, other], check=True, timeout=30, capture_output=True)
    frames = frames_of(other)
    assert [frame.data for frame in frames] == [stored.data for stored in whole]
    for frame, stored in zip(frames, whole, strict=True):
        assert frame.time_ns in (stored.time_ns, micro(stored.time_ns))


# ---- pcapng


def two_interfaces(order: str) -> Blocks:
    """Microseconds; nanoseconds; a power of two with an offset; no time; an obsolete block."""
    return (
        Blocks(order)
        .other(0x80000001, b"a local block")
        .interface(1, 65535)
        .interface(RAW_IP, resolution=9)
        .interface(RAW_IP, resolution=0x80 | 20, offset=3600)
        .packet(b"\0" * 12 + b"\x08\0" + udp(b"a"), EPOCH * 10**6 + 7)
        .packet(udp(b"bb"), NANO_TIME, interface=1)
        .other(4, b"\0" * 8)
        .packet(udp(b"ccc")[:30], EPOCH << 20 | 1 << 19, interface=2, wire_length=31)
        .simple_packet(b"\0" * 12 + b"\x08\0" + udp(b"d"))
        .old_packet(udp(b"e"), NANO_TIME + 1, interface=1)
    )


@pytest.mark.parametrize("order", ["<", ">"])
def test_pcapng_interfaces_have_their_own_link_type_and_time(tmp_path: Path, order: str) -> None:
    path = two_interfaces(order).write(tmp_path / "in.pcapng")
    assert [(frame.time_ns, frame.link_type, frame.cut_off) for frame in frames_of(path)] == [
        (EPOCH * 10**9 + 7000, 1, False),
        (NANO_TIME, RAW_IP, False),
        ((EPOCH + 3600) * 10**9 + 5 * 10**8, RAW_IP, True),
        (None, 1, False),
        (NANO_TIME + 1, RAW_IP, False),
    ]
    with Source(path) as source:
        assert has_nanoseconds(source)
    whole = [packet for packet in packets_of(path) if not packet.skipped]
    assert [packet.data for packet in whole] == [udp(b"a"), udp(b"bb"), udp(b"d"), udp(b"e")]


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("tshark"), reason="needs tshark")
@pytest.mark.parametrize("order", ["<", ">"])
def test_tshark_reads_the_same_frames(tmp_path: Path, order: str) -> None:
    path = two_interfaces(order).write(tmp_path / "in.pcapng")
    command = ["tshark", "-r", str(path), "-T", "fields", "-E", "separator=,"]
    for field in ("frame.number", "frame.time_epoch", "frame.cap_len", "frame.len"):
        command += ["-e", field]
    result = subprocess.run(command, check=True, timeout=60, capture_output=True, text=True)
    shown = [line.split(",") for line in result.stdout.splitlines()]
    assert [(int(number), int(cap), int(wire)) for number, _, cap, wire in shown] == [
        (frame.number, len(frame.data), frame.wire_length) for frame in frames_of(path)
    ]
    for (_, time, _, _), frame in zip(shown, frames_of(path), strict=True):
        if frame.time_ns is not None:
            seconds, fraction = time.split(".")
            assert int(seconds) * 10**9 + int(fraction.ljust(9, "0")) == frame.time_ns


def test_sections_may_differ_in_byte_order_and_interfaces_start_anew(tmp_path: Path) -> None:
    blocks = two_interfaces("<")
    blocks.section(">").interface(RAW_IP, resolution=3).packet(udp(b"f"), EPOCH * 1000 + 5)
    frames = frames_of(blocks.write(tmp_path / "in.pcapng"))
    assert [frame.number for frame in frames] == [1, 2, 3, 4, 5, 6]
    assert frames[-1] == Frame(6, EPOCH * 10**9 + 5_000_000, RAW_IP, udp(b"f"), len(udp(b"f")))


def test_a_simple_packet_is_as_long_as_snaplen_says(tmp_path: Path) -> None:
    data = udp(b"0123456789")
    blocks = Blocks().interface(RAW_IP, snaplen=30).simple_packet(data[:30], wire_length=len(data))
    (frame,) = frames_of(blocks.write(tmp_path / "in.pcapng"))
    assert (frame.data, frame.wire_length) == (data[:30], len(data))


# ---- where the bytes come from


def test_gzip_is_unpacked(tmp_path: Path) -> None:
    plain = write_pcap(tmp_path / "in.pcap", STORED)
    packed = tmp_path / "in.pcap.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert frames_of(packed) == frames_of(plain)
    assert frames_of(packed)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: type[bytes]) -> None:
    plain = write_pcap(tmp_path / "in.pcap", STORED)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(pack(plain.read_bytes()))))
    assert frames_of("-") == frames_of(plain)
    assert not sys.stdin.buffer.closed


# ---- files that end too early


def record_ends(path: Path) -> list[int]:
    """Byte positions at which each record of a little-endian pcap file ends, by dpkt's own reader."""
    ends = []
    with path.open("rb") as file:
        for _ in dpkt.pcap.Reader(file):
            ends.append(file.tell())
    return ends


def test_pcap_truncated_at_every_offset(tmp_path: Path) -> None:
    path = write_pcap(tmp_path / "in.pcap", STORED)
    whole, ends, frames = path.read_bytes(), record_ends(path), frames_of(path)
    for size in range(24, len(whole)):
        path.write_bytes(whole[:size])
        complete = sum(end <= size for end in ends)
        got, error = collect(path)
        assert got == frames[:complete]
        if size in (24, *ends):
            assert error is None
        else:
            assert isinstance(error, Truncated)
            assert (error.frame, error.offset) == (complete + 1, [24, *ends][complete])
            assert f"byte {error.offset}" in str(error)
            assert f"frame {error.frame}" in str(error)
            assert str(path) in str(error)


@pytest.mark.slow
def test_pcapng_truncated_at_every_offset(tmp_path: Path) -> None:
    path = two_interfaces("<").write(tmp_path / "in.pcapng")
    whole, frames = path.read_bytes(), frames_of(path)
    edges = block_edges(whole)
    counts = set()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        got, error = collect(path)
        assert got == frames[: len(got)]
        counts.add(len(got))
        if size in edges:
            assert error is None
        elif size < 8:
            assert isinstance(error, NotACapture)
        else:
            assert isinstance(error, Truncated)
            assert error.frame == len(got) + 1
            assert error.offset == max(edge for edge in edges | {0} if edge <= size)
    assert counts == {0, 1, 2, 3, 4}


def block_edges(data: bytes) -> set[int]:
    edges, at = set(), 0
    while at < len(data):
        at += int.from_bytes(data[at + 4 : at + 8], "little")
        edges.add(at)
    return edges


def test_gzip_truncated_at_every_offset(tmp_path: Path) -> None:
    plain = write_pcap(tmp_path / "in.pcap", STORED)
    frames = frames_of(plain)
    packed = gzip.compress(plain.read_bytes())
    path = tmp_path / "in.gz"
    for size in range(2, len(packed)):
        path.write_bytes(packed[:size])
        got, error = collect(path)
        assert got == frames[: len(got)]
        assert isinstance(error, NotACapture | Truncated)
        assert "gzip" in str(error)


def collect(path: Path) -> tuple[list[Frame], CaptureError | None]:
    frames: list[Frame] = []
    try:
        with Source(path) as source:
            for frame in read_frames(source):
                frames.append(frame)
    except CaptureError as error:
        return frames, error
    return frames, None


# ---- files that are something else, or wrong


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"frame,time\n1,2\n", "seems to be text, beginning with 'frame,ti'"),
        (b"PK\x03\x04 and so on", "zip archive"),
        (b"\xfd7zXZ\0and so on", "xz archive"),
        (b"\x28\xb5\x2f\xfdand so on", "zstd archive"),
        (b"snoop\0\0\0\0\0\0\2", "Solaris snoop"),
        (b"\x7fELF\2\1\1", "a program"),
        (b"\x1f\x8b\x08nonsense", "gzip archive that is cut off or damaged"),
        (gzip.compress(b"what text there is", mtime=0), "seems to be text"),
        (b"\xde\xad\xbe\xef\0\1", "begins with the bytes de ad be ef 00 01"),
        (b"\xd4\xc3\xb2\xa1\2\0\4\0", "cut off in the pcap file header: 8 of 24"),
        (b"\xd4\xc3\xb2\xa1\3\0\4\0" + bytes(16), "pcap version 3.4"),
        (b"\x0a\x0d\x0d\x0a", "cut off inside the first pcapng block"),
    ],
)
def test_a_foreign_file_is_named_for_what_it_seems_to_be(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "in.pcap"
    path.write_bytes(content)
    with pytest.raises(NotACapture) as caught:
        frames_of(path)
    assert says in str(caught.value)
    assert str(path) in str(caught.value)


def with_bytes(blocks: Blocks, at: int, new: bytes) -> Blocks:
    at %= len(blocks.out)
    blocks.out[at : at + len(new)] = new
    return blocks


@pytest.mark.parametrize(
    ("blocks", "says"),
    [
        (Blocks().packet(b"", 0), "interface 0 has not been described"),
        (Blocks().interface(1).packet(b"", 0, interface=1), "interface 1 has not been described"),
        (Blocks().simple_packet(b""), "interface 0 has not been described"),
        (Blocks().other(3, b""), "too short"),
        (Blocks().interface(1).other(6, bytes(16)), "too short"),
        (Blocks().other(1, b""), "interface description that is too short"),
        (with_bytes(Blocks(), 8, b"nope"), "no byte-order magic"),
        (with_bytes(Blocks(), 12, b"\2\0"), "pcapng version 2"),
        (with_bytes(Blocks(), 4, b"\x10\0\0\0"), "cannot be 16 bytes"),
        (with_bytes(Blocks(), -4, b"\0\0\0\0"), "two lengths of a block differ"),
        (with_bytes(Blocks().interface(1), -4, b"\0\0\0\0"), "two lengths of a block differ"),
        (Blocks().interface(1).simple_packet(b"1234", wire_length=8), "more than its block has"),
        (with_bytes(Blocks().other(0xBAD, b"1234"), -12, b"\x0d\0\0\0"), "cannot be 13 bytes"),
        (with_bytes(Blocks().interface(1).simple_packet(b""), -12, b"\0\0\0\x10"), "any capture holds"),
    ],
)
def test_damaged_pcapng(tmp_path: Path, blocks: Blocks, says: str) -> None:
    with pytest.raises(Damaged, match=says) as caught:
        frames_of(blocks.write(tmp_path / "in.pcapng"))
    assert caught.value.frame == 1


def test_a_length_that_cannot_be_is_damage_and_takes_no_memory(tmp_path: Path) -> None:
    path = write_pcap(tmp_path / "in.pcap", STORED[:2])
    data = bytearray(path.read_bytes())
    second = record_ends(path)[0]
    data[second + 8 : second + 12] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    got, error = collect(path)
    assert len(got) == 1
    assert isinstance(error, Damaged)
    assert (error.frame, error.offset) == (2, second)
    assert "claims 4294967295 bytes" in str(error)


def test_an_unsupported_link_type_is_named(tmp_path: Path) -> None:
    path = write_pcap(tmp_path / "in.pcap", STORED, link_type=105)
    with pytest.raises(UnsupportedLinkType, match=r"IEEE802_11 \(105\)"):
        packets_of(path)
    path = write_pcap(tmp_path / "in.pcap", STORED, link_type=4711)
    with pytest.raises(UnsupportedLinkType, match=r"unknown \(4711\)"):
        packets_of(path)


def test_another_interface_with_an_unsupported_link_type_does_not_stop_the_rest(tmp_path: Path) -> None:
    blocks = Blocks().interface(105).interface(RAW_IP)
    blocks.packet(b"radio", 1).packet(udp(), 2, interface=1).packet(b"radio", 3)
    path = blocks.write(tmp_path / "in.pcapng")
    got = []
    with Source(path) as source, pytest.raises(UnsupportedLinkType, match=r"2 of IEEE802_11 \(105\)"):  # noqa: PT012
        for packet in PacketReader(source):
            got.append(packet.skipped)
    assert got == ["link-type", "", "link-type"]


# ---- any bytes at all


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    head=st.sampled_from([b"", b"\xd4\xc3\xb2\xa1\2\0\4\0", b"\xa1\xb2\x3c\x4d\0\2\0\4", b"\x0a\x0d\x0d\x0a"]),
    data=st.binary(max_size=200),
)
@example(b"\x1f\x8b\x08\0\0\0\0\0\0\0", b"\xff" * 50)
def test_any_bytes_give_frames_or_a_capture_error(tmp_path: Path, head: bytes, data: bytes) -> None:
    path = tmp_path / "any"
    path.write_bytes(head + data)
    read_all(path)


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["<", ">", "pcap", "gzip"]),
    changes=st.lists(st.tuples(st.integers(0, 2000), st.binary(max_size=5)), min_size=1, max_size=4),
)
def test_a_damaged_capture_gives_frames_or_a_capture_error(
    tmp_path: Path, kind: str, changes: list[tuple[int, bytes]]
) -> None:
    path = tmp_path / "damaged"
    whole = two_interfaces(kind).out if kind in "<>" else write_pcap(path, STORED).read_bytes()
    data = bytearray(gzip.compress(whole) if kind == "gzip" else whole)
    for at, new in changes:
        at %= len(data)
        data[at : at + len(new)] = new
    path.write_bytes(data)
    read_all(path)


def read_all(path: Path) -> None:
    try:
        for number, packet in enumerate(packets_of(path), 1):
            assert packet.frame.number == number
            assert packet.frame.wire_length >= len(packet.frame.data)
    except CaptureError:
        pass


# ---- memory


MEASURE = """
import re, sys
from pathlib import Path
from nfqlb.capture.packets import PacketReader
from nfqlb.capture.source import Source
with Source(sys.argv[1]) as source:
    count = sum(1 for packet in PacketReader(source))
# Not ru_maxrss: that includes what the parent had when it forked.
print(count, re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["whole", "fragments", "pcapng", "gzip"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, kind: str) -> None:
    """Resident size for 30,000 large frames against 300. Fragments that never complete are the worst case."""
    sizes = {}
    for count in (300, 30_000):
        path = tmp_path / f"{count}.pcap"
        numbers = range(count)
        if kind == "fragments":
            template = udp(b"x" * 1400, flags=1)
            data: Iterable[bytes] = (template[:4] + n.to_bytes(2, "big") + template[6:] for n in numbers)
        else:
            data = itertools.repeat(udp(b"x" * 1400), count)
        if kind == "pcapng":
            blocks = Blocks().interface(RAW_IP).packet(udp(b"x" * 1400), 0)
            packet = bytes(blocks.out[-1480:])
            with path.open("wb") as file:
                file.write(blocks.out[:-1480])
                file.writelines(itertools.repeat(packet, count))
        else:
            write_pcap(path, (Stored(item, EPOCH * 10**9) for item in data))
        if kind == "gzip":
            path.write_bytes(gzip.compress(path.read_bytes(), 1))
        result = subprocess.run(
            [sys.executable, "-c", MEASURE, path], check=True, timeout=60, capture_output=True, text=True
        )
        frames, kib = map(int, result.stdout.split())
        assert frames == count
        sizes[count] = kib
    assert (tmp_path / "30000.pcap").stat().st_size > (40e6 if kind != "gzip" else 1e5)
    # The bound on unfinished fragments (16 MiB) is part of what may be taken.
    assert sizes[30_000] - sizes[300] < (20_000 if kind == "fragments" else 2_000)


# ---- writing


def test_what_we_write_reads_back_to_the_nanosecond(tmp_path: Path) -> None:
    for nano in (False, True):
        path = tmp_path / "out.pcap"
        with path.open("wb") as file:
            writer = PcapWriter(file, nanoseconds=nano)
            assert [writer.write(stored.data, stored.time_ns) for stored in STORED] == [1, 2, 3, 4]
        wanted = [stored.time_ns if nano else micro(stored.time_ns) for stored in STORED]
        assert [frame.time_ns for frame in frames_of(path)] == wanted
        with path.open("rb") as file:
            reader = dpkt.pcap.Reader(file)
            assert reader.datalink() == RAW_IP
            assert [data for _, data in reader] == [stored.data for stored in STORED]


@pytest.mark.parametrize("time_ns", [-1, 0, 2**32 * 10**9, 10**30, 1_999_999_999_999_999_999])
def test_a_time_beyond_the_format_is_clamped(tmp_path: Path, time_ns: int) -> None:
    path = tmp_path / "out.pcap"
    with path.open("wb") as file:
        PcapWriter(file, nanoseconds=True).write(udp(), time_ns)
    (frame,) = frames_of(path)
    assert frame.time_ns == min(max(time_ns, 0), 2**32 * 10**9 - 1)
