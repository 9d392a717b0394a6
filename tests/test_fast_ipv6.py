"""The fast path and IPv6: addresses in all their forms, packets, and who may not meet whom."""

import re
from collections import Counter
from dataclasses import replace
from functools import cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sipcase import EXT, INT, PHONE, REG1, REGISTER, Result, check_packet, endpoint, request, response_to, wire
from test_fast import stored
from twins import BASE, SETUPS, SIX_LISTENER, Packet, Twins, both_versions, passed, six

from nfqlb import fast
from nfqlb.config import load
from nfqlb.engine import Engine
from nfqlb.net import datagram
from nfqlb.net.endpoint import Endpoint
from nfqlb.proxy.setup import HashOn, Listener, Pool, RouteRule
from nfqlb.proxy.triage import Triage
from nfqlb.proxy.verdict import Action, Reason

ROOT = Path(__file__).parent.parent
NAME = "two-armed, IPv6"
RECEIVED = b";received=2001:db8:9::1"
E6, I6, PHONE6, REG6 = map(six, (EXT, INT, PHONE, REG1))

pytestmark = pytest.mark.skipif(fast.which() != "compiled", reason=f"no fast path here: {fast.which()}")


@cache
def twins(name: str = NAME) -> Twins:
    return Twins(SETUPS[name])


def answer_with_received() -> Packet:
    return next(packet for _, packet in passed(NAME) if b"SIP/2.0 200" in packet[2] and RECEIVED in packet[2])


def of_kind(kind: str, name: str = NAME) -> Packet:
    return next(packet for each, packet in passed(name) if each == kind)


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


# -- texts ------------------------------------------------------------------------------------------------------------

REFERENCE = re.compile(rb"(?<=\[)[0-9a-f:]+(?=\])")
ROUTING = re.compile(rb"^(?:Via|Route|Contact):.*|\A.*", re.MULTILINE)


def respelled(payload: bytes, form: str) -> bytes:
    """The references that routing goes by, each in another form of the same address."""

    def other(found: re.Match[bytes]) -> bytes:
        whole = IPv6Address(found[0].decode()).exploded
        short = ":".join(group.lstrip("0") or "0" for group in whole.split(":"))
        forms = {"upper": found[0].decode().upper(), "whole": whole, "zeros": short, "WHOLE": whole.upper()}
        return forms[form].encode()

    return ROUTING.sub(lambda row: REFERENCE.sub(other, row[0]), payload)


@pytest.mark.parametrize("form", ["upper", "whole", "zeros", "WHOLE"])
@pytest.mark.parametrize("name", [NAME, "one-armed, IPv6", "1:1 NAT, IPv6", "both versions"])
def test_P24_an_address_is_the_same_in_all_its_forms(name: str, form: str) -> None:
    """Whoever re-serialises our Vias, or signed flows, may write addresses as it likes."""
    for kind, (src, dst, payload) in passed(name):
        other = respelled(payload, form)
        verdict = twins(name).process(src, dst, other)
        assert verdict.reason is twins(name).process(src, dst, payload).reason, kind
        assert twins(name).answers(src, dst, other) or kind.startswith("hairpin")


def test_P22_received_is_read_with_and_without_brackets() -> None:
    src, dst, payload = answer_with_received()
    for received in (b"[2001:db8:9::1]", b"2001:DB8:9::1", b"[2001:0db8:9:0:0:0:0:1]"):
        other = payload.replace(RECEIVED, b";received=" + received)
        verdict = twins().process(src, dst, other)
        assert (verdict.reason, str(verdict.dst)) == (Reason.RESPONSE_LEAVING, six("172.31.23.177:40001"))
        assert twins().answers(src, dst, other)


def test_P25_flows_are_in_brackets() -> None:
    found = twins().process(*of_kind("register"))
    assert twins().answers(*of_kind("register"))
    assert b"\r\nPath: <sip:lb@[2001:db8:1::5];lr;received=sip:[2001:db8:9::1]:40001;sig=" in found.packet
    assert b";received=2001:db8:9::1\r\n" in found.packet


groups = st.one_of(st.just(0), st.just(0), st.integers(0, 0xFFFF), st.sampled_from([1, 0x10, 0xDB8, 0xFFFF, 0xFE80]))
addresses = st.lists(groups, min_size=8, max_size=8).map(lambda g: b"".join(each.to_bytes(2, "big") for each in g))


@given(addresses, st.integers(1, 65535))
@settings(max_examples=400, deadline=None)
def test_addresses_are_written_as_the_careful_path_writes_them(addr: bytes, port: int) -> None:
    """RFC 5952, in Via, Path and Record-Route."""
    src = Endpoint(addr, port)
    verdict = twins().process(str(src), E6, wire(six(REGISTER)))
    assert twins().process(str(src), E6, wire(six(request()))).action is verdict.action
    plain = not addr.startswith(bytes(10) + b"\xff\xff") and addr[0] != 0xFF and any(addr)
    if plain and src.addr not in twins().swift._proxy.identity.addresses:
        assert verdict.reason is Reason.REQUEST_ENTERING
        assert twins().answers(str(src), E6, wire(six(REGISTER)))


texts = st.one_of(
    st.text("0123456789abcdefABCDEF:.%", max_size=12),
    st.lists(st.sampled_from(["0", "1", "00", "db8", "0DB8", "12345", "", "ffff", "1.2.3.4"]), max_size=10).map(
        ":".join
    ),
    addresses.map(lambda addr: IPv6Address(addr).compressed),
)


@given(texts, st.sampled_from(["Via", "received", "Contact", "uri", "flow"]))
@settings(max_examples=600, deadline=None)
def test_texts_are_read_as_the_careful_path_reads_them(text: str, place: str) -> None:
    if place == "flow":
        src, dst, payload = next(packet for kind, packet in passed(NAME) if kind == "leaving" and b"sig=" in packet[2])
        payload = re.sub(rb"received=sip:\[[^]]*\]", b"received=sip:[%b]" % text.encode(), payload)
        twins().process(src, dst, payload)
        return
    if place == "received":
        src, dst, payload = answer_with_received()
        twins().process(src, dst, payload.replace(RECEIVED, b";received=" + text.encode()))
        return
    lines = {"Via": f"SIP/2.0/UDP [{text}]:5060;branch=z9hG4bK-1", "Contact": f"<sip:a@[{text}]>"}
    changed = {place: lines[place]} if place in lines else {}
    uri = f"sip:bob@[{text}]" if place == "uri" else "sip:bob@example.org"
    twins().process(PHONE6, E6, wire(request("INVITE", uri, **changed)))


ODD = [
    "[::ffff:1.2.3.4]", "[::ffff:102:304]", "[2001:DB8::1]", "[2001:0db8::0001]", "[::1]", "[::]", "[ff02::1]",
    "[fe80::1]", "[fe80::1%25eth0]", "[fe80::1%eth0]", "2001:db8::1", "[2001:db8::1", "2001:db8::1]", "[]", "[",
    "[:]", "[:::]", "[1::2::3]", "[1:2:3:4:5:6:7:8:9]", "[1:2:3:4:5:6:7::8]", "[1:2:3:4:5:6:7::]", "[::2:3:4:5:6:7:8]",
    "[12345::]", "[g::]", "[1.2.3.4]", "[2001:db8::1].", "[2001:db8::1]x", "[[2001:db8::1]]", "[v1.a]", "[::1.2.3]",
    "[2001:db8:1::11]", "[2001:db8::5]", "[2001:DB8:1::5]", "[2001:db8:1::99]", "[64:ff9b::1.2.3.4]",
    "[2001:db8:9::1 ]", "192.168.1.11", "192.168.1.5",
]  # fmt: skip
"""What may stand where a host should."""


@pytest.mark.parametrize("name", [NAME, "one-armed, IPv6", "both versions"])
@pytest.mark.parametrize("odd", ODD)
def test_odd_references_have_the_same_verdict(name: str, odd: str) -> None:
    """In each place where one may stand, with ports of all kinds."""
    here = twins(name)
    packets = {kind: packet for kind, packet in passed(name) if packet[1].startswith("[2001:db8::5]") or
               packet[1].startswith("[2001:db8:1::5]")}  # fmt: skip
    for src, dst, payload in packets.values():
        found = [m.span() for m in re.finditer(rb"\[[0-9a-f:]+\](?::[0-9]+)?|(?<=received=)[0-9a-f:]{4,}", payload)]
        for start, end in found:
            for port in ("", ":5060", ":0", ":65536", ":", ":05060", ":1"):
                text = odd.strip("[]") if port == "" and payload[start : start + 1] != b"[" else odd
                here.process(src, dst, payload[:start] + (text + port).encode() + payload[end:])
    here.check_memory()


@pytest.mark.parametrize(
    "parameter",
    [";maddr=[2001:db8:9::1]", ";maddr=2001:db8:9::1", ";maddr=[2001:db8:1::5]", ";rport=0", ";rport=65536", ";rport=1",
     ";rport=", ";rport", ";received=::ffff:1.2.3.4", ";received=[::1]", ";received=ff02::1", ";received=1.2.3.4",
     ";received=2001:db8:9::1%1", ";received=[2001:db8:9::1", ";received=", ";received=2001:db8::5"],
)  # fmt: skip
def test_odd_parameters_have_the_same_verdict(parameter: str) -> None:
    for name in (NAME, "both versions"):
        for _, (src, dst, payload) in passed(name):
            rows = payload.split(b"\r\n")
            for at, row in enumerate(rows):
                if row.startswith((b"Via:", b"Route:")):
                    end = len(row) - row.endswith(b">")
                    changed = [*rows[:at], row[:end] + parameter.encode() + row[end:], *rows[at + 1 :]]
                    twins(name).process(src, dst, b"\r\n".join(changed))
        twins(name).check_memory()


# -- who is who -------------------------------------------------------------------------------------------------------


def test_P16_a_pair_and_an_alias_are_ours_in_each_form() -> None:
    """The alias of the listener is an address, written in upper case in the configuration."""
    for host in ("[2001:db8::7]", "[2001:DB8::7]", "[2001:0db8:0::7]", "six.example", "SIX.example"):
        payload = wire(six(request("INVITE", "sip:bob@example.org", f"Route: <sip:{host};lr>")))
        verdict = twins("both versions").process(PHONE6, E6, payload)
        assert verdict.reason is Reason.REQUEST_ENTERING
        assert b"Route: <sip:[2001:db8::7]" not in verdict.packet
        assert twins("both versions").answers(PHONE6, E6, payload)


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
    twins().packet(bytes(packet[: data.draw(st.sampled_from([len(packet), 27, 28, 47, 48, 60]))]))
    twins().packet(bytes(packet) + b"padding")


def test_P37_traffic_class_is_kept_and_the_flow_label_is_not() -> None:
    src, dst, payload = of_kind("register")
    for tos in range(256):
        packet = bytearray(datagram.build(endpoint(src), endpoint(dst), payload, tos=tos))
        packet[1] |= 7
        packet[2:4] = b"\x12\x34"
        packet[7] = 1
        written = twins().packet(bytes(packet)).packet
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
        sent = twins(name).process(src, dst, payload + odd + bytes(2)).packet
        for packet in (came, sent):
            # The checksum as the last word. Where the length is odd, it lies across two words.
            tail = packet[at] if len(packet) % 2 == 0 else packet[at][::-1]
            assert (
                datagram.build(endpoint(src), endpoint(dst), payload + odd + tail)[at] == b"\xff\xff" or packet is sent
            )
            written = twins(name).process(src, dst, payload + odd + tail).packet
            assert twins(name).answers(src, dst, payload + odd + tail)
            check_packet(written)
            assert written[at] == b"\xff\xff" or packet is came


@pytest.mark.parametrize("size", [65_535 - 8 - grown for grown in range(0, 300, 20)])
def test_P7_large_ipv6_messages_have_the_same_verdict(size: int) -> None:
    for kind in ("register", "invite", "leaving", "response-leaving"):
        src, dst, payload = of_kind(kind)
        larger = payload.replace(b"Content-Length", b"X").ljust(size, b"x")
        verdict = twins().process(src, dst, larger)
        assert twins().answers(src, dst, larger) is (verdict.action is Action.FORWARD)


def test_sources_that_are_no_backends_are_dropped_at_once() -> None:
    """P21, and what is no SIP; IPv4 addresses inside IPv6 go the careful way, which knows both of their texts."""
    stranger = six("192.168.1.99:5060")
    for src, dst, payload, reason in (
        (stranger, I6, b"x", Reason.NOT_FROM_BACKEND),
        (PHONE6, E6, b"x", Reason.NOT_SIP),
        (PHONE6, E6, b"\r\n", Reason.KEEPALIVE),
    ):
        assert twins().process(src, dst, payload).reason is reason
        assert twins().answers(src, dst, payload)
    assert twins().process("[::ffff:102:304]:5060", E6, wire(six(REGISTER))).reason is Reason.REQUEST_ENTERING
    assert not twins().answers("[::ffff:102:304]:5060", E6, wire(six(REGISTER)))
    assert twins().process("[ff02::1]:5060", E6, wire(six(REGISTER))).reason is Reason.BAD_SOURCE


# -- overload ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETUPS)
def test_the_lane_and_triage_say_the_same_of_what_is_new(name: str) -> None:
    from nfqlb.fast.path import Lane

    def nobody(*_: object) -> None:
        raise AssertionError

    triage, path = Triage(SETUPS[name]), Engine(SETUPS[name]).fast
    assert path is not None
    slot, layout = memoryview(bytearray(8)).cast("Q"), (0, 0, 0, [-1] * 6, 0)
    lane = Lane(path, slot, layout, (0, 0, 1), nobody, nobody, nobody)
    told = set()
    for _, (src, dst, payload) in passed(name):
        for changed in (payload, payload.replace(b";tag=t1", b""), payload.replace(b"To:", b"t :"), b"\r\n" + payload):
            packet = datagram.build(endpoint(src), endpoint(dst), changed)
            assert lane.is_new(packet) is triage.is_new(packet)
            told.add(triage.is_new(packet))
    assert told == {False, True}
