"""Stored packets through the engine: one outcome for each frame, and what is written."""

import json
from collections.abc import Iterable
from pathlib import Path

import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pcap_files import EPOCH, Blocks, Stored, write_pcap
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet import fragment as fragment4
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment, fragment6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw
from scapy.utils import rdpcap
from sipcase import EXT, INT, OTHER, PHONE, PROXY1, REG1, REGISTER, Gateway, endpoint, request, response_to, setup, wire

from nfqlb.capture.frame import Frame
from nfqlb.capture.packets import SKIPPED, Packet, PacketReader
from nfqlb.capture.source import Source
from nfqlb.capture.writer import PcapWriter
from nfqlb.cli._outcomes import Rows
from nfqlb.engine import Engine
from nfqlb.net import datagram
from nfqlb.offline.explain import explain
from nfqlb.offline.replay import Outcome, Replay, Row, describe
from nfqlb.proxy.setup import Backend, Listener, Pool, RouteRule, Setup
from nfqlb.proxy.verdict import Reason

KEYS = [
    "frame", "time", "side", "listener", "method", "status", "call_id", "verdict", "reason", "backend",
    "src", "dst", "out_src", "out_dst", "out_frame",
]  # fmt: skip


def packet(src: str, dst: str, message: str | bytes) -> bytes:
    payload = wire(message) if isinstance(message, str) else message
    return datagram.build(endpoint(src), endpoint(dst), payload)


def replayed(path: Path, with_setup: Setup, out: Path | None = None) -> list[Outcome]:
    with Source(path) as source:
        if out is None:
            replay = Replay(with_setup)
            return [replay.process(item) for item in PacketReader(source)]
        with out.open("wb") as file:
            replay = Replay(with_setup, PcapWriter(file))
            return [replay.process(item) for item in PacketReader(source)]


def capture_of(tmp_path: Path, packets: Iterable[bytes]) -> Path:
    """One packet each millisecond, raw IP."""
    frames = [Stored(data, EPOCH * 10**9 + number * 10**6) for number, data in enumerate(packets)]
    return write_pcap(tmp_path / "in.pcap", frames)


def a_registration_and_a_call() -> list[bytes]:
    gateway = Gateway()
    register = gateway.from_phone(REGISTER)
    invite = gateway.from_phone(request("INVITE"))
    return [
        packet(PHONE, EXT, REGISTER),
        packet(register.dst, INT, response_to(register)),
        packet(PHONE, EXT, request("INVITE")),
        packet(PROXY1, INT, response_to(invite, "180 Ringing")),
        packet(PHONE, EXT, request("OPTIONS", "sip:203.0.113.5")),
        packet(PHONE, EXT, b"\r\n\r\n"),
        packet(OTHER, INT, request("INVITE")),
        packet(PHONE, "198.51.100.1:5060", request("OPTIONS")),
    ]


def test_each_frame_has_one_row(tmp_path: Path) -> None:
    outcomes = replayed(capture_of(tmp_path, a_registration_and_a_call()), setup(), tmp_path / "out.pcap")
    rows = [outcome.row for outcome in outcomes]
    assert list(Row._fields) == KEYS
    assert [row.frame for row in rows] == list(range(1, 9))
    assert [row.time for row in rows] == [EPOCH + n / 1000 for n in range(8)]
    register = rows[0].backend
    address = {"reg1": REG1, "reg2": "192.168.1.12:5060"}[str(register)]
    reg_id, call_id, elsewhere = "reg-1@10.1.1.9", "call-1@172.31.23.177", "198.51.100.1:5060"
    entering, leaving = ("forward", "request-entering"), ("forward", "response-leaving")
    # fmt: off
    assert [tuple(row)[2:] for row in rows] == [
        ("outside", "main", "REGISTER", None, reg_id, *entering, register, PHONE, EXT, INT, address, 1),
        ("inside", "main", None, 200, reg_id, *leaving, register, address, INT, EXT, PHONE, 2),
        ("outside", "main", "INVITE", None, call_id, *entering, "proxy1", PHONE, EXT, INT, PROXY1, 3),
        ("inside", "main", None, 180, call_id, *leaving, "proxy1", PROXY1, INT, EXT, PHONE, 4),
        ("outside", "main", "OPTIONS", None, call_id, "reply", "ping", None, PHONE, EXT, EXT, PHONE, 5),
        ("outside", "main", None, None, None, "drop", "keepalive", None, PHONE, EXT, None, None, None),
        ("inside", "main", "INVITE", None, call_id, "drop", "not-from-backend", None, OTHER, INT, None, None, None),
        (None, None, "OPTIONS", None, call_id, "ignore", "not-ours", None, PHONE, elsewhere, None, None, None),
    ]
    # fmt: on


def test_what_is_written_is_what_the_engine_says(tmp_path: Path) -> None:
    """P39: a fresh engine says the same; scapy and dpkt read it; times are those of the frames that came."""
    packets = a_registration_and_a_call()
    out = tmp_path / "out.pcap"
    outcomes = replayed(capture_of(tmp_path, packets), setup(), out)
    engine = Engine(setup())
    said = [engine.process(data).packet for data in packets]
    written = rdpcap(str(out))
    assert [bytes(item) for item in written] == [data for data in said if data]
    assert [int(item.time * 1000) for item in written] == [EPOCH * 1000 + n for n in range(5)]
    for outcome in outcomes:
        if outcome.row.out_frame is None:
            assert outcome.after == b""
            continue
        item = written[outcome.row.out_frame - 1]
        assert f"{item[IP].src}:{item[UDP].sport}" == outcome.row.out_src
        assert f"{item[IP].dst}:{item[UDP].dport}" == outcome.row.out_dst
        assert outcome.after == bytes(item[UDP].payload) != outcome.before
    with out.open("rb") as file:
        assert dpkt.pcap.Reader(file).datalink() == 101


def test_counts_and_their_descriptions(tmp_path: Path) -> None:
    with Source(capture_of(tmp_path, a_registration_and_a_call())) as source:
        replay = Replay(setup())
        for item in PacketReader(source):
            replay.process(item)
    assert replay.counts == {
        ("forward", "request-entering"): 2,
        ("forward", "response-leaving"): 2,
        ("reply", "ping"): 1,
        ("drop", "keepalive"): 1,
        ("drop", "not-from-backend"): 1,
        ("ignore", "not-ours"): 1,
    }


def test_every_reason_is_described() -> None:
    assert all(describe(reason.slug) == reason.doc for reason in Reason)
    assert all(describe(reason) == doc for reason, doc in SKIPPED.items())
    assert not SKIPPED.keys() & {reason.slug for reason in Reason}


@pytest.mark.parametrize("version", [4, 6])
def test_fragments_are_one_packet_for_the_engine(tmp_path: Path, version: int) -> None:
    body = "x" * 4000
    message = wire(request("INVITE", Content_Length="4000")) + body.encode()
    if version == 4:
        gateway = setup()
        pieces = [bytes(piece) for piece in fragment4(IP(packet(PHONE, EXT, message)), fragsize=1400)]
        phone, outer = PHONE, EXT
    else:
        gateway = ipv6_setup()
        phone, outer = "[2001:db8:1::177]:5060", "[2001:db8::5]:5060"
        whole = IPv6(src="2001:db8:1::177", dst="2001:db8::5") / IPv6ExtHdrFragment(id=1)
        pieces = [bytes(p) for p in fragment6(whole / UDP(sport=5060, dport=5060) / Raw(message), 1280)]
    outcomes = replayed(capture_of(tmp_path, pieces), gateway, tmp_path / "out.pcap")
    *held, last = [outcome.row for outcome in outcomes]
    assert [(row.verdict, row.reason, row.out_frame) for row in held] == [("ignore", "fragment", None)] * len(held)
    assert len(held) >= 2
    assert (held[0].src, held[0].dst, held[1].src) == (phone, outer, None)
    assert (last.verdict, last.src, last.dst, last.method, last.out_frame) == ("forward", phone, outer, "INVITE", 1)
    assert outcomes[-1].after.endswith(body.encode())
    (out,) = rdpcap(str(tmp_path / "out.pcap"))
    assert bytes(out[UDP].payload) == outcomes[-1].after


def ipv6_setup() -> Setup:
    inside = endpoint("[2001:db8:2::11]:5060")
    return setup(
        listeners=(Listener("six", endpoint("[2001:db8::5]:5060"), endpoint("[2001:db8:2::5]:5060")),),
        pools=(Pool("all", (Backend("b6", inside),)),),
        routes=(RouteRule("all"),),
    )


def test_ipv6_endpoints_are_written_with_brackets(tmp_path: Path) -> None:
    data = packet("[2001:db8:1::177]:40000", "[2001:db8::5]:5060", request("MESSAGE"))
    (outcome,) = replayed(capture_of(tmp_path, [data]), ipv6_setup(), tmp_path / "out.pcap")
    assert outcome.row[10:] == (
        "[2001:db8:1::177]:40000", "[2001:db8::5]:5060", "[2001:db8:2::5]:5060", "[2001:db8:2::11]:5060", 1,
    )  # fmt: skip


def test_unfinished_checksums_of_a_sending_host_do_not_matter(tmp_path: Path) -> None:
    data = bytearray(packet(PHONE, EXT, REGISTER))
    data[26:28] = b"\xbe\xef"
    (outcome,) = replayed(capture_of(tmp_path, [bytes(data)]), setup())
    assert outcome.row.verdict == "forward"


def test_frames_that_give_no_packet(tmp_path: Path) -> None:
    whole = bytes(Ether() / IP(packet(PHONE, EXT, REGISTER)))
    frames = [
        Stored(whole[:100], 0, len(whole)),
        Stored(bytes(Ether() / ARP()), 0),
        Stored(bytes(Ether() / IP(src="192.0.2.1", dst="203.0.113.5") / TCP(sport=5060, dport=5060)), 0),
    ]
    path = write_pcap(tmp_path / "in.pcap", frames, link_type=1)
    rows = [outcome.row for outcome in replayed(path, setup(), tmp_path / "out.pcap")]
    assert [(row.verdict, row.reason, row.side, row.src, row.dst) for row in rows] == [
        ("ignore", "cut-off", None, PHONE, EXT),
        ("ignore", "not-ip", None, None, None),
        ("ignore", "not-ours", None, "192.0.2.1:5060", EXT),
    ]
    assert len(rdpcap(str(tmp_path / "out.pcap"))) == 0


def test_a_frame_without_a_time_is_written_with_that_of_the_frame_before(tmp_path: Path) -> None:
    data = packet(PHONE, EXT, REGISTER)
    blocks = Blocks().interface(101).simple_packet(data).packet(data, EPOCH * 10**6).simple_packet(data)
    outcomes = replayed(blocks.write(tmp_path / "in.pcapng"), setup(), tmp_path / "out.pcap")
    assert [outcome.row.time for outcome in outcomes] == [None, EPOCH, None]
    assert [float(item.time) for item in rdpcap(str(tmp_path / "out.pcap"))] == [0, EPOCH, EPOCH]


MESSAGES = [
    REGISTER,
    request("INVITE"),
    response_to(Gateway().from_phone(REGISTER)),
    "OPTIONS sip:203.0.113.5 SIP/2.0\n\n",
]


@pytest.mark.slow
@given(
    message=st.sampled_from(MESSAGES),
    ends=st.sampled_from([(PHONE, EXT), (REG1, INT), (OTHER, INT)]),
    changes=st.lists(st.tuples(st.integers(0, 600), st.binary(max_size=4), st.integers(0, 4)), max_size=4),
)
def test_any_packet_has_an_outcome_and_an_explanation(
    message: str, ends: tuple[str, str], changes: list[tuple[int, bytes, int]]
) -> None:
    """A capture from anywhere never stops the commands: bytes are cut out of a packet, and others put in."""
    data = packet(*ends, message)
    for at, new, cut in changes:
        at %= len(data)
        data = data[:at] + new + data[at + cut :]
    frame = Frame(1, EPOCH * 10**9, 101, data, len(data))
    outcome = Replay(setup()).process(Packet(frame, data, (1,)))
    explanation = explain(Replay(setup()), Packet(frame, data, (1,)))
    assert explanation.row == outcome.row
    assert outcome.row.verdict in ("forward", "reply", "drop", "ignore")
    assert bool(outcome.after) == (outcome.row.verdict in ("forward", "reply"))
    assert (explanation.rules != ()) or outcome.row.reason in ("not-ours", "bad-datagram")
    table = Rows(colour=True, room=120, diff=True, out_frames=True).lines(outcome)
    assert all(line.replace("\x1b[", "").isprintable() for line in table.split("\n"))
    json.dumps(outcome.row._asdict(), ensure_ascii=False).encode()
