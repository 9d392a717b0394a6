"""The fast path and IPv6: packets, what was stored of them, and who may not meet whom."""

import re
from collections import Counter
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sipcase import EXT, INT, PHONE, REG1, REGISTER, Result, check_packet, endpoint, request, response_to, wire
from test_fast import stored
from twins import BASE, SETUPS, SIX_LISTENER, Twins, both_versions, of_kind, passed, six, twin_of

from nfqlb import fast
from nfqlb.config.build import load
from nfqlb.engine import Engine
from nfqlb.net import datagram
from nfqlb.proxy.setup import HashOn, Listener, Pool, RouteRule
from nfqlb.proxy.triage import Triage
from nfqlb.proxy.verdict import Action, Reason

ROOT = Path(__file__).parents[2]
NAME = "two-armed, IPv6"
E6, I6, PHONE6, REG6 = map(six, (EXT, INT, PHONE, REG1))

pytestmark = pytest.mark.skipif(fast.which() != "compiled", reason=f"no fast path here: {fast.which()}")


@pytest.mark.parametrize("kind", ["two-armed-ipv6", "one-armed-ipv6"])
def test_stored_packets_take_the_fast_path(kind: str) -> None:
    """All that are forwarded, but answers of phones that write all their Vias in one row."""
    engine = Engine(load(ROOT / "pcaps" / kind / "nfqlb.toml").setup(), verify_checksums=False)
    assert engine.fast is not None
    counted: Counter[bool] = Counter()
    for packet in stored(ROOT / "pcaps" / kind):
        if engine.process(packet).action is Action.FORWARD and b", SIP/2.0/UDP" not in packet:
            counted[engine.fast.process(packet) is not None] += 1
    assert counted[True] > 35
    assert not counted[False]


# -- who is who -------------------------------------------------------------------------------------------------------


def test_P16_a_pair_and_an_alias_are_ours_in_each_form() -> None:
    """The alias of the listener is an address, written in upper case in the configuration."""
    for host in ("[2001:db8::7]", "[2001:DB8::7]", "[2001:0db8:0::7]", "six.example", "SIX.example"):
        payload = wire(six(request("INVITE", "sip:bob@example.org", f"Route: <sip:{host};lr>")))
        verdict = twin_of("both versions").process(PHONE6, E6, payload)
        assert verdict.reason is Reason.REQUEST_ENTERING
        assert b"Route: <sip:[2001:db8::7]" not in verdict.packet
        assert twin_of("both versions").answers(PHONE6, E6, payload)


@pytest.mark.slow
def test_P29_rules_and_keys_are_asked_of_ipv6() -> None:
    """A host in brackets is a domain as it is written, in lower case; a source is its 16 bytes."""
    keys: tuple[HashOn, ...] = ("from-uri", "to-uri", "source-ip", "request-user")
    pools = [Pool(f"p{n}", BASE.pools[0].backends, hash_on=(key,)) for n, key in enumerate(keys)]
    routes = (
        RouteRule("p0", domains=frozenset(("[2001:db8::77]",))),
        RouteRule("p1", from_domains=frozenset(("[2001:db8::78]",))),
        RouteRule("p2", sources=(IPv6Network("2001:db8:9::/64"),), methods=frozenset(("REGISTER",))),
        RouteRule("p3", sources=(IPv6Network("2001:db8::/32"), IPv4Network("172.31.0.0/16"))),
    )
    here = Twins(both_versions(replace(BASE, pools=tuple(pools), routes=routes)))
    chosen = set()
    for number in range(40):
        for text in (
            REGISTER,
            request("MESSAGE", "sip:bob@[2001:DB8::77]:5080", From=f"<sip:a{number}@[2001:DB8::F]>;tag=1"),
            request("MESSAGE", f"sip:b{number}@[2001:db8:0::77]", From="<sip:a@[2001:DB8::78]>;tag=1"),
            request("MESSAGE", f"sip:b{number}@[2001:db8::77]", To="<sip:a@[2001:DB8::78]:9>", Call_ID=str(number)),
        ):
            payload = wire(six(text))
            src = f"[2001:db8:9::{number:x}]:5060"
            chosen.add(here.process(src, E6, payload).backend)
            assert here.answers(src, E6, payload)
    assert len(chosen - {-1}) > 1
    here.check_memory()


def test_P19_P20_no_packet_changes_its_IP_version() -> None:
    """Neither by the Request-URI of a dialog, nor by Route, nor by a Via."""
    with_setup = both_versions(BASE)
    here = Twins(with_setup)
    to = {"To": "<sip:bob@example.org>;tag=t"}
    four, sixth = str(BASE.pools[0].backends[0].address), str(with_setup.pools[0].backends[2].address)
    assert sixth == REG6
    cases = [
        (PHONE6, E6, six(request("BYE", **to)).replace("sip:bob@example.org", f"sip:b@{four}", 1)),
        (PHONE6, E6, six(request("BYE", "sip:b@b", **to)).replace("Max-", f"Route: <sip:{four};lr>\nMax-", 1)),
        (PHONE, EXT, request("BYE", f"sip:b@{sixth}", **to)),
        (PHONE, EXT, request("BYE", "sip:b@b", f"Route: <sip:{sixth};lr>", **to)),
        (REG1, INT, request("BYE", "sip:b@[2001:db8:9::1]", **to)),
        (REG6, I6, request("BYE", "sip:b@198.51.100.77", **to)),
        (PHONE6, E6, request(Via="SIP/2.0/UDP 172.31.23.177:5060;branch=z9hG4bK-1")),
        (PHONE, EXT, request(Via="SIP/2.0/UDP [2001:db8:9::1]:5060;branch=z9hG4bK-1")),
    ]
    for src, dst, text in cases * 2:
        verdict = here.process(src, dst, wire(text))
        assert verdict.dst is not None
        assert verdict.dst.version == endpoint(src).version
    here.check_memory()


@pytest.mark.slow
def test_P18_P20_a_signed_flow_does_not_change_the_IP_version() -> None:
    """Each Route that makes sense somewhere, with every request of every side, in both versions."""
    here = Twins(both_versions(BASE))
    found = [packet for _, packet in passed("both versions") if b"\r\nRoute:" in packet[2]]
    routes = {b"".join(re.findall(rb"\r\nRoute:[^\r]*", payload)) for _, _, payload in found}
    routes |= {b", ".join(pair).replace(b", \r\nRoute:", b",") for pair in product(routes, repeat=2)}
    ends = {(src, dst) for src, dst, _ in found}
    versions = set()
    for (src, dst), route, (_, _, payload) in product(ends, sorted(routes), found[::9]):
        changed = re.sub(rb"\r\nRoute:[^\r]*", b"", payload).replace(b"\r\nMax-", route + b"\r\nMax-", 1)
        verdict = here.process(src, dst, changed)
        if verdict.action is Action.FORWARD and verdict.dst is not None:
            versions.add((endpoint(src).version, verdict.dst.version))
    assert versions == {(4, 4), (6, 6)}
    here.check_memory()


def test_P35_a_response_stays_in_its_IP_version() -> None:
    """Though the Via below, which is signed, may name an address of the other one."""
    without = replace(both_versions(BASE), listeners=(*BASE.listeners, replace(SIX_LISTENER, force_rport="never")))
    here = Twins(without)
    for kind, (src, dst, payload) in passed("both versions"):
        for one, other in ((b"[2001:db8:9::1]", b"172.31.23.177"), (b"172.31.23.177", b"[2001:db8:9::1]")):
            if kind in ("invite", "leaving"):
                found = here.process(src, dst, payload.replace(one, other))
                if found.action is Action.FORWARD:
                    answer = wire(response_to(Result(found, [])))
                    here.process(str(found.dst), str(found.src), answer)
                    here.process(str(found.dst), str(found.src), answer.replace(b";received=2001:db8:9::1", b""))


MIXED = [
    Listener("mixed", endpoint(E6), endpoint(INT)),
    Listener("mixed", endpoint(EXT), endpoint(I6)),
    Listener("mixed", endpoint(E6), endpoint(I6), endpoint("198.51.100.7:5060")),
    Listener("mixed", endpoint(EXT), endpoint(INT), endpoint("[2001:db8::7]:5060")),
]


@pytest.mark.slow
@pytest.mark.parametrize("listener", MIXED)
def test_a_listener_of_two_IP_versions_goes_the_careful_way(listener: Listener) -> None:
    """No configuration makes one; the engine takes what a Setup says."""
    here = Twins(replace(both_versions(BASE), listeners=(listener,)))
    for _, packet in passed("both versions"):
        here.process(*packet)
        assert not here.answers(*packet)
    here.check_memory()


def test_P20_networks_of_both_versions_and_many() -> None:
    """Up to 64 of each; then there is no fast path for that gateway."""
    four = tuple(IPv4Network(f"198.51.{n}.0/24") for n in range(100, 164))
    sixes = tuple(IPv6Network(f"2001:db8:{n:x}::/48") for n in range(9, 73))
    with_setup = both_versions(BASE, egress=four + sixes)
    here = Twins(with_setup)
    for host in ("[2001:db8:9::5]", "[2001:db8:48::5]", "[2001:db8:49::5]", "198.51.163.1", "198.51.164.1"):
        src, dst = (REG6, I6) if host.startswith("[") else (REG1, INT)
        payload = wire(request("MESSAGE", f"sip:a@{host}"))
        verdict = here.process(src, dst, payload)
        assert here.answers(src, dst, payload) is (verdict.reason is Reason.REQUEST_LEAVING)
    for more in (*four, IPv4Network("10.0.0.0/8")), (*sixes, IPv6Network("fd00::/8")):
        assert Engine(replace(with_setup, egress=more)).path == "pure"


# -- packets ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_P37_mutilated_ipv6_packets_have_the_same_verdict(data: st.DataObject) -> None:
    """Headers of IPv6 and UDP; extension headers; no checksum, which IPv6 does not allow; padding."""
    src, dst, payload = data.draw(st.sampled_from(passed(NAME)))[1]
    packet = bytearray(datagram.build(endpoint(src), endpoint(dst), payload, tos=data.draw(st.integers(0, 255))))
    for _ in range(data.draw(st.integers(0, 2))):
        packet[data.draw(st.integers(0, 55))] = data.draw(st.sampled_from([0, 1, 8, 0x45, 0x60, 0x6F, 17, 43, 44, 255]))
    if data.draw(st.integers(0, 5)) == 0:
        packet[46:48] = bytes(2)
    if data.draw(st.integers(0, 5)) == 0:
        header = data.draw(st.sampled_from([0, 60, 43, 44, 51]))
        packet[40:40] = bytes((17, 0, 0, 0, 0, 0, 0, 0))
        packet[4:7] = (len(packet) - 40).to_bytes(2, "big") + bytes((header,))
    twin_of(NAME).packet(bytes(packet[: data.draw(st.sampled_from([len(packet), 27, 28, 47, 48, 60]))]))
    twin_of(NAME).packet(bytes(packet) + b"padding")


def test_P37_traffic_class_is_kept_and_the_flow_label_is_not() -> None:
    src, dst, payload = of_kind("register", NAME)
    for tos in range(256):
        packet = bytearray(datagram.build(endpoint(src), endpoint(dst), payload, tos=tos))
        packet[1] |= 7
        packet[2:4] = b"\x12\x34"
        packet[7] = 1
        written = twin_of(NAME).packet(bytes(packet)).packet
        assert written[:4] == (6 << 28 | tos << 20).to_bytes(4, "big")
        assert written[6:8] == bytes((17, 64))
        check_packet(written)


@pytest.mark.parametrize("name", ["two-armed", NAME])
def test_P37_the_checksum_is_never_0(name: str) -> None:
    """A body that makes the sum a multiple of 0xffff, in what goes and in what comes."""
    at = slice(46, 48) if name == NAME else slice(26, 28)
    src, dst, payload = of_kind("response-leaving", name)
    payload = payload.replace(b"Content-Length: 0\r\n", b"")
    for odd in (b"", b"x"):
        came = datagram.build(endpoint(src), endpoint(dst), payload + odd + bytes(2))
        sent = twin_of(name).process(src, dst, payload + odd + bytes(2)).packet
        for packet in (came, sent):
            # The checksum as the last word. Where the length is odd, it lies across two words.
            tail = packet[at] if len(packet) % 2 == 0 else packet[at][::-1]
            assert (
                datagram.build(endpoint(src), endpoint(dst), payload + odd + tail)[at] == b"\xff\xff" or packet is sent
            )
            written = twin_of(name).process(src, dst, payload + odd + tail).packet
            assert twin_of(name).answers(src, dst, payload + odd + tail)
            check_packet(written)
            assert written[at] == b"\xff\xff" or packet is came


@pytest.mark.parametrize("size", [65_535 - 8 - grown for grown in range(0, 300, 20)])
def test_P7_large_ipv6_messages_have_the_same_verdict(size: int) -> None:
    for kind in ("register", "invite", "leaving", "response-leaving"):
        src, dst, payload = of_kind(kind, NAME)
        larger = payload.replace(b"Content-Length", b"X").ljust(size, b"x")
        verdict = twin_of(NAME).process(src, dst, larger)
        assert twin_of(NAME).answers(src, dst, larger) is (verdict.action is Action.FORWARD)


def test_sources_that_are_no_backends_are_dropped_at_once() -> None:
    """P21, and what is not SIP; IPv4 addresses inside IPv6 take the slow path, which knows both of their texts."""
    stranger = six("192.168.1.99:5060")
    for src, dst, payload, reason in (
        (stranger, I6, b"x", Reason.NOT_FROM_BACKEND),
        (PHONE6, E6, b"x", Reason.NOT_SIP),
        (PHONE6, E6, b"\r\n", Reason.KEEPALIVE),
    ):
        assert twin_of(NAME).process(src, dst, payload).reason is reason
        assert twin_of(NAME).answers(src, dst, payload)
    assert twin_of(NAME).process("[::ffff:102:304]:5060", E6, wire(six(REGISTER))).reason is Reason.REQUEST_ENTERING
    assert not twin_of(NAME).answers("[::ffff:102:304]:5060", E6, wire(six(REGISTER)))
    assert twin_of(NAME).process("[ff02::1]:5060", E6, wire(six(REGISTER))).reason is Reason.BAD_SOURCE


# -- overload ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETUPS)
def test_the_lane_and_triage_say_the_same_of_what_is_new(name: str) -> None:
    from nfqlb.fast.path import WorkerPath

    def nobody(*_: object) -> None:
        raise AssertionError

    triage, path = Triage(SETUPS[name]), Engine(SETUPS[name]).fast
    assert path is not None
    slot, layout = memoryview(bytearray(8)).cast("Q"), (0, 0, 0, [-1] * 6, 0)
    lane = WorkerPath(path, slot, layout, (0, 0, 1), nobody, nobody, nobody)
    told = set()
    for _, (src, dst, payload) in passed(name):
        for changed in (payload, payload.replace(b";tag=t1", b""), payload.replace(b"To:", b"t :"), b"\r\n" + payload):
            packet = datagram.build(endpoint(src), endpoint(dst), changed)
            assert lane.is_new(packet) is triage.is_new(packet)
            told.add(triage.is_new(packet))
    assert told == {False, True}
