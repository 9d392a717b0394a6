"""The fast path against the slow one: the same verdict, byte for byte, the same memory of choices, or None.

Real messages of every kind, over gateways of every kind, are mutilated; nothing may tell the two apart. What the fast
path must answer itself is in a table, so that it cannot pass by answering nothing.
"""

import hashlib
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sipcase import (
    EXT,
    INT,
    OTHER,
    PHONE,
    PROXY1,
    REG1,
    REG2,
    endpoint,
    request,
    standing,
    wire,
)
from twins import BASE, SETUPS, Packet, Twins, passed, six, twin_of

from nfqlb import fast
from nfqlb.balance import tables
from nfqlb.capture.packets import PacketReader
from nfqlb.capture.source import Source
from nfqlb.config.build import load
from nfqlb.engine import Engine
from nfqlb.net import datagram
from nfqlb.proxy.setup import State
from nfqlb.proxy.verdict import Reason

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(fast.which() != "compiled", reason=f"no fast path here: {fast.which()}")


@pytest.mark.parametrize("name", SETUPS)
def test_plain_messages_have_the_same_verdict(name: str) -> None:
    twins = Twins(SETUPS[name])
    for _, packet in passed(name) * 2:  # the second time, choices are remembered
        twins.process(*packet)
    twins.check_memory()


SLOW = {
    "source-ip, no paths": {"register"},
}
"""Kinds that take the slow path there: Path depends on Supported."""


@pytest.mark.slow
@pytest.mark.parametrize("name", SETUPS)
def test_plain_messages_take_the_fast_path(name: str) -> None:
    twins = Twins(SETUPS[name])
    slow = {kind for kind, packet in passed(name) if not twins.answers(*packet) and not kind.startswith("hairpin")}
    versions = {endpoint(src).version for _, (src, _, _) in passed(name)}
    assert versions == ({6} if name.endswith("IPv6") else {4, 6} if name.startswith("both") else {4})
    assert len(passed(name)) > 25 * len(versions)
    assert slow <= SLOW.get(name.removesuffix(", IPv6"), set())


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", Reason.KEEPALIVE),
        (b"\r\n\r\n", Reason.KEEPALIVE),
        (b"\0 \t", Reason.KEEPALIVE),
        (bytes(range(128, 256)), Reason.NOT_SIP),
        (b"GET / HTTP/1.1\r\n\r\nSIP/2.0", Reason.NOT_SIP),
        (b"x", Reason.NOT_SIP),
    ],
)
def test_what_is_no_sip_takes_the_fast_path(payload: bytes, reason: Reason) -> None:
    twins = Twins(BASE)
    assert twins.process(PHONE, EXT, payload).reason is reason
    assert twins.answers(PHONE, EXT, payload)
    assert twins.process("192.168.1.99:5060", INT, payload).reason is Reason.NOT_FROM_BACKEND
    assert twins.answers("192.168.1.99:5060", INT, payload)


def test_scanners_and_stray_responses_take_the_fast_path() -> None:
    twins = Twins(SETUPS["other ports"])
    scan = wire(request("OPTIONS", "sip:100@203.0.113.5", User_Agent="Friendly-Scanner"))
    assert twins.process(PHONE, EXT, scan).reason is Reason.SCANNER
    assert twins.answers(PHONE, EXT, scan)
    real = next(packet for kind, packet in passed("other ports") if kind == "response-leaving")
    at = real[2].index(b"z9hG4bKnfq") + 12
    for payload in (
        real[2].replace(b"192.168.1.5", b"192.168.1.6", 1),
        real[2].replace(b"z9hG4bKnfq", b"z9hG4bK", 1),
        real[2][:at] + (b"1" if real[2][at : at + 1] == b"0" else b"0") + real[2][at + 1 :],
    ):
        assert twins.process(*real[:2], payload).reason is Reason.STRAY_RESPONSE
        assert twins.answers(*real[:2], payload)


JUNK = [b"SIP/", b"xsip/", b"x sip/2.0", b" SIP/2.0 200", b"\r\n\r\nx", b"\0\1", b"SIP/2.0 200", b"INVITE"]
STUN = b"\0\1\0\0\x21\x12\xa4\x42" + bytes(12)


@pytest.mark.slow
@given(st.one_of(st.sampled_from([*JUNK, STUN, b"\1" + STUN[1:]]), st.binary(max_size=40)), st.binary(max_size=30))
@settings(max_examples=300, deadline=None)
def test_junk_has_the_same_verdict(before: bytes, after: bytes) -> None:
    twin_of("two-armed").process(PHONE, EXT, before + after)


PIECES = [
    "\r\n", "\n", "\r", "\0", " ", "\t", ",", ";", ":", "<", ">", '"', "\\", "%41", "@", "=", "?", "[", "[::1]", "0",
    "00", "1", "9999999999", "65536", "é", ";tag=x", ";tag", ";lr", ";LR", ";maddr=6.6.6.6", ";received=1.2.3.4",
    ";received=010.1.1.1", ";rport", ";rport=1", ";rport=01", ";branch=z9hG4bKz", ";nat=yes", ";r2=on", ";r2=off",
    ";nat=no", ";received=", ";sig=0", "nfq", "sip:", "sips:", "tel:", "SIP:", "203.0.113.5", "192.168.1.5", "lb@",
    "192.168.1.21", "127.0.0.1", "10.0.0.1", "172.31.23.177", "example.org", ":5060", ":5070", "INVITE", "ACK",
    "CANCEL", "OPTIONS", "TCP", "z9hG4bK", "z9hG4bKnfq", "sbc.example.org", "six.example", "friendly-scanner",
    "\r\nUser-Agent: friendly-scanner", "\r\nContact: <sip:a@10.9.9.9>", "\r\nContact: *", "\r\nMax-Forwards: 7",
    "\r\nl: 0", "\r\nContent-Length: 4", "\r\nProxy-Require: x", "\r\nv: SIP/2.0/UDP 1.1.1.1;branch=z9hG4bKq",
    "\r\nRoute: <sip:lb@203.0.113.5;lr>", "\r\nRoute: <sip:192.168.1.21;lr>, <sip:lb@192.168.1.5>", "\r\n X: folded",
    "\r\nX: 1", "\r\nSubject: x", "example.com", "example.net", "INFO", "username=", "\r\nPath: <sip:lb@192.168.1.5>",
    "\r\nRoute: <sip:lb@sbc.example.org;lr;r2=on>", "\r\nRoute:", "\r\nroute: <sip:lb@six.example;lr>",
    "[2001:db8::5]", "[2001:DB8:1::5]", "[2001:0db8:9::1]", "2001:db8:9::1", "[2001:db8:1::11]", "[::ffff:1.2.3.4]",
    "[ff02::1]", "[fe80::1%1]", "[fd00::1]", ";received=2001:db8:9::1", ";received=[2001:db8:9:0::1]", "]", "::", ":0",
    "\r\nRoute: <sip:lb@[2001:db8::5];lr>", "\r\nv: SIP/2.0/UDP [2001:db8:9::2];branch=z9hG4bKq", ";maddr=[::1]",
]  # fmt: skip


@st.composite
def mutilated(draw: st.DrawFn, name: str) -> Packet:
    """A message that passed, with some bytes gone, and others come."""
    packets = passed(name)
    src, dst, payload = draw(st.sampled_from(packets))[1]
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(payload)))
        if draw(st.booleans()):  # most of what is of interest stands at such places
            marks = [i for i, byte in enumerate(payload[:1200]) if byte in b'\r\n:;<>,@="']
            at = draw(st.sampled_from(marks)) if marks else 0
        gone = draw(st.sampled_from([0, 0, 1, 2, 5, 11]))
        new = draw(st.one_of(st.sampled_from(PIECES), st.just(""))).encode()
        payload = payload[:at] + new + payload[at + gone :]
    if draw(st.integers(0, 5)) == 0:
        payload = payload.replace(
            *draw(st.sampled_from([(b"Via", b"v"), (b"From", b"f"), (b": ", b":"), (b"T", b"t")]))
        )
    if draw(st.integers(0, 5)) == 0:
        src = draw(st.sampled_from([PHONE, OTHER, PROXY1, REG1, REG2, "192.168.1.99:5060", EXT, "224.0.0.1:5060"]))
    if draw(st.integers(0, 9)) == 0:
        dst = draw(st.sampled_from([EXT, INT, "203.0.113.6:5070", "192.168.1.5:5080"]))
    return (src, dst, payload) if src[0] != "[" and dst[0] != "[" else (six(src), six(dst), payload)


@pytest.mark.slow
@pytest.mark.parametrize("name", SETUPS)
@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_mutilated_messages_have_the_same_verdict(name: str, data: st.DataObject) -> None:
    twins = twin_of(name)
    twins.process(*data.draw(mutilated(name)))
    assert twins.memories[0].stored == twins.memories[1].stored


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_P37_mutilated_packets_have_the_same_verdict(data: st.DataObject) -> None:
    """Headers of IP and UDP."""
    src, dst, payload = data.draw(st.sampled_from(passed("two-armed")))[1]
    packet = bytearray(datagram.build(endpoint(src), endpoint(dst), payload))
    for _ in range(data.draw(st.integers(1, 2))):
        packet[data.draw(st.integers(0, 35))] = data.draw(st.sampled_from([0, 1, 4, 0x45, 0x46, 0x60, 17, 127, 255]))
    if data.draw(st.booleans()):
        packet[26:28] = bytes(2)  # no checksum
    twin_of("two-armed").packet(bytes(packet[: data.draw(st.sampled_from([len(packet), 27, 28, 60]))]))
    twin_of("two-armed").packet(bytes(packet) + b"padding")


@pytest.mark.parametrize("name", ["two-armed", "two-armed, IPv6"])
def test_P31_what_has_begun_stays_where_it_is(name: str) -> None:
    twins = Twins(SETUPS[name])
    packets = [
        (src, dst, payload.replace(b"Call-ID: ", b"Call-ID: %d-" % number))
        for number in range(40)
        for kind, (src, dst, payload) in passed(name)
        if kind in ("register", "invite", "cancel")
    ]
    states = [{}, {("registrars", "reg1"): State.DRAINING}, {("registrars", "reg2"): State.DOWN}]
    for each in states:
        for engine in (twins.swift, twins.slow):
            built = [tables.build(draft) for draft in engine.tables.changed(standing(each))]
            engine.tables.put(standing(each), built)
        for packet in packets:
            twins.process(*packet)
        twins.memories[0].now += 20
        twins.memories[1].now += 20
        twins.check_memory()
    assert twins.memories[0].kept > 10


@pytest.mark.parametrize("size", [60_000, 65_000, 65_300, 65_507])
def test_P7_large_messages_have_the_same_verdict(size: int) -> None:
    twins = Twins(BASE)
    for kind, (src, dst, payload) in passed("two-armed"):
        if kind in ("invite", "register-200", "leaving", "register"):
            filler = b"x" * (size - len(payload) - 12)
            start, _, cookie = payload.rpartition(b"z9hG4bK")
            for larger in (
                payload.replace(b"Content-Length", b"X") + filler,
                payload.replace(b"CSeq", b"Subject: " + filler + b"\r\nCSeq"),
                start + b"z9hG4bK" + filler + cookie,
            ):
                twins.process(src, dst, larger)


@pytest.mark.parametrize("kind", ["two-armed", "one-armed", "two-armed-ipv6", "one-armed-ipv6"])
def test_stored_packets_have_the_same_verdict(kind: str) -> None:
    with_setup = load(ROOT / "pcaps" / kind / "nfqlb.toml").setup()
    swift, slow = (
        pickle.loads(pickle.dumps(Engine(with_setup, verify_checksums=False, slow=each))) for each in (False, True)
    )
    assert (swift.path, slow.path) == ("compiled", "pure")
    for packet in stored(ROOT / "pcaps" / kind):
        assert swift.process(packet) == slow.process(packet)


def stored(directory: Path) -> Iterator[bytes]:
    for capture in sorted(directory.glob("*.pcap")):
        with Source(capture) as source:
            yield from (packet.data for packet in PacketReader(source) if not packet.skipped)


def test_what_was_compiled_is_what_is_written() -> None:
    """In a checkout, the sources may have changed since."""
    from nfqlb.fast import path

    sources = sorted(each for each in (ROOT / "nfqlb" / "fast").iterdir() if each.suffix in (".pyx", ".pxi", ".pxd"))
    digest = hashlib.sha256(b"".join(each.read_bytes() for each in sources)).hexdigest()
    assert digest == path.SOURCES, "compile it again: .venv/bin/pip install -e . (tools/test does)"
