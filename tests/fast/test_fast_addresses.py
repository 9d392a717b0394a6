"""The fast path and the texts of IPv6 addresses: each in all its forms, and what is none of them."""

import re
from ipaddress import IPv6Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sipcase import EXT, PHONE, REGISTER, request, wire
from twins import Packet, of_kind, passed, six, twin_of

from nfqlb import fast
from nfqlb.net.endpoint import Endpoint
from nfqlb.proxy.verdict import Reason

NAME = "two-armed, IPv6"
RECEIVED = b";received=2001:db8:9::1"
E6, PHONE6 = map(six, (EXT, PHONE))

pytestmark = pytest.mark.skipif(fast.which() != "compiled", reason=f"no fast path here: {fast.which()}")


def answer_with_received() -> Packet:
    return next(packet for _, packet in passed(NAME) if b"SIP/2.0 200" in packet[2] and RECEIVED in packet[2])


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


@pytest.mark.slow
@pytest.mark.parametrize("form", ["upper", "whole", "zeros", "WHOLE"])
@pytest.mark.parametrize("name", [NAME, "one-armed, IPv6", "1:1 NAT, IPv6", "both versions"])
def test_P24_an_address_is_the_same_in_all_its_forms(name: str, form: str) -> None:
    """Whoever re-serialises our Vias, or signed flows, may write addresses as it likes."""
    for kind, (src, dst, payload) in passed(name):
        other = respelled(payload, form)
        verdict = twin_of(name).process(src, dst, other)
        assert verdict.reason is twin_of(name).process(src, dst, payload).reason, kind
        assert twin_of(name).answers(src, dst, other) or kind.startswith("hairpin")


def test_P22_received_is_read_with_and_without_brackets() -> None:
    src, dst, payload = answer_with_received()
    for received in (b"[2001:db8:9::1]", b"2001:DB8:9::1", b"[2001:0db8:9:0:0:0:0:1]"):
        other = payload.replace(RECEIVED, b";received=" + received)
        verdict = twin_of(NAME).process(src, dst, other)
        assert (verdict.reason, str(verdict.dst)) == (Reason.RESPONSE_LEAVING, six("172.31.23.177:40001"))
        assert twin_of(NAME).answers(src, dst, other)


def test_P25_flows_are_in_brackets() -> None:
    found = twin_of(NAME).process(*of_kind("register", NAME))
    assert twin_of(NAME).answers(*of_kind("register", NAME))
    assert b"\r\nPath: <sip:lb@[2001:db8:1::5];lr;received=sip:[2001:db8:9::1]:40001;sig=" in found.packet
    assert b";received=2001:db8:9::1\r\n" in found.packet


groups = st.one_of(st.just(0), st.just(0), st.integers(0, 0xFFFF), st.sampled_from([1, 0x10, 0xDB8, 0xFFFF, 0xFE80]))
addresses = st.lists(groups, min_size=8, max_size=8).map(lambda g: b"".join(each.to_bytes(2, "big") for each in g))


@pytest.mark.slow
@given(addresses, st.integers(1, 65535))
@settings(max_examples=400, deadline=None)
def test_addresses_are_written_as_the_careful_path_writes_them(addr: bytes, port: int) -> None:
    """RFC 5952, in Via, Path and Record-Route."""
    src = Endpoint(addr, port)
    verdict = twin_of(NAME).process(str(src), E6, wire(six(REGISTER)))
    assert twin_of(NAME).process(str(src), E6, wire(six(request()))).action is verdict.action
    plain = not addr.startswith(bytes(10) + b"\xff\xff") and addr[0] != 0xFF and any(addr)
    if plain and src.addr not in twin_of(NAME).swift._proxy.identity.addresses:
        assert verdict.reason is Reason.REQUEST_ENTERING
        assert twin_of(NAME).answers(str(src), E6, wire(six(REGISTER)))


texts = st.one_of(
    st.text("0123456789abcdefABCDEF:.%", max_size=12),
    st.lists(st.sampled_from(["0", "1", "00", "db8", "0DB8", "12345", "", "ffff", "1.2.3.4"]), max_size=10).map(
        ":".join
    ),
    addresses.map(lambda addr: IPv6Address(addr).compressed),
)


@pytest.mark.slow
@given(texts, st.sampled_from(["Via", "received", "Contact", "uri", "flow"]))
@settings(max_examples=600, deadline=None)
def test_texts_are_read_as_the_careful_path_reads_them(text: str, place: str) -> None:
    if place == "flow":
        src, dst, payload = next(packet for kind, packet in passed(NAME) if kind == "leaving" and b"sig=" in packet[2])
        payload = re.sub(rb"received=sip:\[[^]]*\]", b"received=sip:[%b]" % text.encode(), payload)
        twin_of(NAME).process(src, dst, payload)
        return
    if place == "received":
        src, dst, payload = answer_with_received()
        twin_of(NAME).process(src, dst, payload.replace(RECEIVED, b";received=" + text.encode()))
        return
    lines = {"Via": f"SIP/2.0/UDP [{text}]:5060;branch=z9hG4bK-1", "Contact": f"<sip:a@[{text}]>"}
    changed = {place: lines[place]} if place in lines else {}
    uri = f"sip:bob@[{text}]" if place == "uri" else "sip:bob@example.org"
    twin_of(NAME).process(PHONE6, E6, wire(request("INVITE", uri, **changed)))


ODD = [
    "[::ffff:1.2.3.4]", "[::ffff:102:304]", "[2001:DB8::1]", "[2001:0db8::0001]", "[::1]", "[::]", "[ff02::1]",
    "[fe80::1]", "[fe80::1%25eth0]", "[fe80::1%eth0]", "2001:db8::1", "[2001:db8::1", "2001:db8::1]", "[]", "[",
    "[:]", "[:::]", "[1::2::3]", "[1:2:3:4:5:6:7:8:9]", "[1:2:3:4:5:6:7::8]", "[1:2:3:4:5:6:7::]", "[::2:3:4:5:6:7:8]",
    "[12345::]", "[g::]", "[1.2.3.4]", "[2001:db8::1].", "[2001:db8::1]x", "[[2001:db8::1]]", "[v1.a]", "[::1.2.3]",
    "[2001:db8:1::11]", "[2001:db8::5]", "[2001:DB8:1::5]", "[2001:db8:1::99]", "[64:ff9b::1.2.3.4]",
    "[2001:db8:9::1 ]", "192.168.1.11", "192.168.1.5",
]  # fmt: skip
"""What may stand where a host should."""


@pytest.mark.slow
@pytest.mark.parametrize("name", [NAME, "one-armed, IPv6", "both versions"])
@pytest.mark.parametrize("odd", ODD)
def test_odd_references_have_the_same_verdict(name: str, odd: str) -> None:
    """In each place where one may stand, with ports of all kinds."""
    here = twin_of(name)
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
                    twin_of(name).process(src, dst, b"\r\n".join(changed))
        twin_of(name).check_memory()
