"""The engine under messages that were tampered with: it never fails, never touches what is not its own to touch, and
never sends anywhere but to backends, signed flows and permitted addresses (P1, P18–P21, P35, P36, P39).

The messages are real ones of every kind that passes a gateway; hypothesis drops, doubles, moves, splices, folds and
cuts their rows, and mixes in Route, Path and Via values that are forged, stolen from another dialog, or turned by
maddr.
"""

import re
from functools import cache
from ipaddress import ip_address
from typing import NamedTuple

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
    REGISTER,
    Gateway,
    Result,
    check_packet,
    endpoint,
    one_armed,
    request,
    response_to,
    setup,
    wire,
)

from nfqlb.engine import Engine
from nfqlb.net import datagram
from nfqlb.net.endpoint import Endpoint
from nfqlb.proxy.setup import Setup
from nfqlb.proxy.verdict import Action, Reason, Verdict

SETUPS = {"two-armed": setup(), "one-armed": one_armed()}
BACKENDS = {endpoint(text) for text in (REG1, REG2, PROXY1)}
PEERS = {endpoint(PHONE), endpoint(OTHER)}


class Stage(NamedTuple):
    """A gateway and what has passed it: messages to tamper with, and the values that it signed."""

    setup: Setup
    engine: Engine
    inside: str
    outside: str
    seen: list[tuple[str, str, bytes]]
    """Source, destination, payload."""
    routes: list[str]
    """Route values: signed for two dialogs and for no dialog, forged, and foreign."""


@cache
def stage(name: str) -> Stage:
    gateway = Gateway(SETUPS[name])
    inside = INT if name == "two-armed" else EXT
    seen: list[tuple[str, str, bytes]] = []
    routes: list[str] = []

    def pass_through(src: str, dst: str, text: str) -> Result:
        seen.append((src, dst, wire(text)))
        result = gateway.send(src, dst, text)
        assert result.verdict.action is Action.FORWARD, result.trace
        return result

    for call, phone in (("call-1", PHONE), ("call-2", OTHER)):
        registered = pass_through(phone, EXT, REGISTER)
        pass_through(str(registered.verdict.dst), inside, response_to(registered))
        path = registered.header("Path")
        via = "SIP/2.0/UDP 192.168.1.21;branch=z9hG4bKk;i=2"
        invite = pass_through(
            phone, EXT, request("INVITE", Call_ID=call, Via=f"SIP/2.0/UDP {phone};branch=z9hG4bKa;rport")
        )
        pass_through(PROXY1, inside, response_to(invite))
        towards = pass_through(
            PROXY1, inside, request("INVITE", "sip:alice@10.1.1.9", f"Route: {path}", Call_ID=call, Via=via)
        )
        pass_through(phone, EXT, response_to(towards, "180 Ringing"))
        for result in (invite, towards):
            routes += result.headers("Record-Route")
        back = [f"Route: {value}" for value in towards.headers("Record-Route")]
        pass_through(phone, EXT, request("BYE", f"sip:b2bua@{PROXY1}", *back, Call_ID=call, To="<sip:a@b>;tag=t"))
        set_ = [f"Route: {value}" for value in invite.headers("Record-Route")]
        pass_through(
            PROXY1, inside, request("BYE", f"sip:alice@{phone}", *set_, Call_ID=call, To="<sip:a@b>;tag=t", Via=via)
        )
        hairpin = [f"Route: {value}" for value in towards.headers("Record-Route") + invite.headers("Record-Route")]
        via = f"SIP/2.0/UDP {phone};branch=z9hG4bKh"
        bye = request("BYE", "sip:alice@10.1.1.9", *hairpin, Call_ID=call, To="<sip:a@b>;tag=t", Via=via)
        pass_through(phone, EXT, response_to(pass_through(phone, EXT, bye)))
        routes.append(path)
        forged = path.replace("sig=", "sig=0")
        routes += [
            forged,
            re.sub(r"received=[^;>]*", "received=sip:198.51.100.200:5060", path),
            re.sub(r";sig=\w+", "", path),
        ]
        routes.append(path.replace("sip:lb@", "sip:lb@evil.example;maddr=").replace("maddr=203", "x;maddr=203"))
    routes += [
        f"<sip:{EXT};lr>",
        f"<sip:{INT};lr;r2=on>",
        f"<sip:lb@{EXT};lr;r2=on>",
        f"<sip:{PROXY1};lr>",
        "<sip:192.168.1.21>",
        "<sip:192.168.1.99;lr>",
        f"<sip:x@{EXT};maddr=192.168.1.99>",
        f"<sip:192.168.1.99;maddr={EXT.partition(':')[0]};lr>",
        "<sip:127.0.0.1;lr>",
        "<sip:lb@[::ffff:203.0.113.5];lr>",
        "<sip:evil.example;lr>",
        '"<sip:203.0.113.5>" <sip:198.51.100.9;lr>',
        "<sip:203.0.113.5>, <sip:198.51.100.9;lr>",
        "sip:203.0.113.5;lr",
        "<sip:a@b@c>",
        '"',
        "<",
        ",",
    ]
    seen.append((PHONE, EXT, wire(request("OPTIONS", f"sip:{EXT}"))))
    seen.append((PHONE, EXT, wire(request("CANCEL"))))
    seen.append((PHONE, EXT, wire(request("ACK", "tel:+49", To="<sip:a@b>;tag=nfq"))))
    seen.append((PROXY1, inside, wire(request("OPTIONS", "sip:10.0.0.9", Max_Forwards="0"))))
    return Stage(gateway.setup, gateway.engine, inside, EXT, seen, routes)


# -- tampering --------------------------------------------------------------------------------------------------------

EXTRA = [
    "Via: SIP/2.0/UDP 203.0.113.5;branch=z9hG4bKnfq00.00",
    "v: SIP/2.0/UDP 192.168.1.99:5060;received=192.168.1.99;rport=1;maddr=192.168.1.98, SIP/2.0/UDP 6.6.6.6",
    'Via: SIP/2.0/UDP h;x="',
    "Max-Forwards: 0",
    "Max-Forwards: 00071",
    "Max-Forwards: 1\r\n 2",
    "Content-Length: 3",
    "l: 0",
    "Call-ID: call-2",
    "f: <sip:x@y>;tag=1;tag=2",
    "CSeq: 1 ACK",
    "Proxy-Require: privacy",
    "Contact: *",
    "Record-Route: <sip:lb@192.168.1.5;lr;r2=on;received=sip:192.168.1.99;sig=00;nat=yes>",
    "Path: <sip:lb@192.168.1.5;lr;received=sip:192.168.1.99>",
    "Subject: folded\r\n \r\n\tand again",
    "No colon",
    " no name",
    "X: \0",
    "X: \n",
    "Subject: ünï ☎",
]


@st.composite
def tampered(draw: st.DrawFn, name: str) -> tuple[str, str, bytes]:
    """A packet that passed, with up to four changes to its rows."""
    here = stage(name)
    src, dst, payload = draw(st.sampled_from(here.seen))
    head, _, body = payload.partition(b"\r\n\r\n")
    start, *lines = head.decode("latin-1").split("\r\n")
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(lines))) if lines else 0
        how = draw(
            st.sampled_from(
                [
                    "route",
                    "route",
                    "extra",
                    "steer",
                    "drop",
                    "double",
                    "move",
                    "case",
                    "fold",
                    "blank",
                    "join",
                    "other",
                    "start",
                ]
            )
        )
        if how == "route":
            header = draw(st.sampled_from(["Route", "route", "Path", "Record-Route"]))
            chosen = draw(st.lists(st.sampled_from(here.routes), min_size=1, max_size=4))
            lines.insert(at, f"{header}: {', '.join(chosen)}")
        elif how == "extra":
            lines.insert(at, draw(st.sampled_from(EXTRA)).encode().decode("latin-1"))
        elif how == "start":
            start = draw(
                st.sampled_from(
                    [
                        f"INVITE sip:lb@{EXT};lr;r2=on SIP/2.0",
                        "BYE sip:x@192.168.1.99 SIP/2.0",
                        "REGISTER sip:[::1] SIP/2.0",
                        "INVITE sip:a@b;maddr=127.0.0.1 SIP/2.0",
                        "SIP/2.0 200 OK",
                        "INVITE  sip:a SIP/2.0",
                    ]
                )
            )
        elif lines:
            at = min(at, len(lines) - 1)
            row = lines[at]
            if how == "drop":
                del lines[at]
            elif how == "steer":
                if row.lower().startswith("via"):
                    what = draw(st.sampled_from(["maddr", "received", "rport", "MADDR ", "x"]))
                    lines[at] = f"{row};{what}={draw(st.sampled_from(['192.168.1.99', '198.51.100.200', '9']))}"
            elif how == "double":
                lines.insert(at, row)
            elif how == "move":
                lines.insert(draw(st.integers(0, len(lines) - 1)), lines.pop(at))
            elif how == "case":
                field, colon, value = row.partition(":")
                lines[at] = draw(st.sampled_from([field.upper(), field.lower(), field[:1]])) + colon + value
            elif how == "fold":
                lines[at] = row.replace(" ", "\r\n ", 1).replace(";", "\r\n\t;", draw(st.integers(0, 2)))
            elif how == "blank":
                lines[at] = row.replace(":", " \t:  ", 1) + " \t"
            elif how == "join" and at + 1 < len(lines):
                lines[at] = row + ", " + lines.pop(at + 1).partition(":")[2]
            elif how == "other":
                lines[at] = draw(st.text(st.characters(codec="latin-1"), max_size=12))
    raw = "\r\n".join([start, *lines, "", ""]).encode("latin-1") + body
    if draw(st.integers(0, 9)) == 0:
        raw = raw[: draw(st.integers(0, len(raw)))]
    if draw(st.booleans()):
        src = draw(st.sampled_from([PHONE, OTHER, PROXY1, REG1, "192.168.1.99:5060"]))
    if draw(st.integers(0, 4)) == 0:
        dst = draw(st.sampled_from([here.inside, here.outside]))
    return src, dst, raw


# -- what must hold ---------------------------------------------------------------------------------------------------

OURS_TO_WRITE = {"via", "v", "route", "max-forwards", "record-route", "path"}
Row = tuple[str, bytes]


def naive(payload: bytes) -> tuple[bytes, list[Row], bytes]:
    """Start line, rows by lower-case name with all their bytes, body."""
    payload = re.sub(rb"^(\r\n)*", b"", payload)
    head, _, body = payload.partition(b"\r\n\r\n")
    start, *lines = head.split(b"\r\n")
    rows: list[Row] = []
    for line in lines:
        if line[:1] in (b" ", b"\t"):
            rows[-1] = (rows[-1][0], rows[-1][1] + b"\r\n" + line)
        else:
            rows.append((line.partition(b":")[0].strip().decode("latin-1").lower(), line))
    lengths = [row.partition(b":")[2].strip(b" \t\r\n") for name, row in rows if name in ("content-length", "l")]
    return start, rows, body[: int(lengths[0])] if lengths else body


def named(rows: list[Row], *names: str) -> list[bytes]:
    return [row for name, row in rows if name in names]


def without_source(row: bytes) -> bytes:
    """A Via row without received and rport, which are ours to fill in."""
    return re.sub(
        rb"\s*;\s*(received|rport)(\s*=\s*[0-9A-Fa-f:.]*)?(?=\s*([;,]|$))", b"", row, flags=re.IGNORECASE
    ).rstrip()


def check_request(before: bytes, after: bytes) -> None:
    start, rows, body = naive(before)
    new_start, new_rows, new_body = naive(after)
    assert new_body == body
    assert [row for row in new_rows if row[0] not in OURS_TO_WRITE] == [
        row for row in rows if row[0] not in OURS_TO_WRITE
    ]
    for name in ("record-route", "path"):
        kept = named(rows, name)
        assert named(new_rows, name)[len(named(new_rows, name)) - len(kept) :] == kept
    vias = named(new_rows, "via", "v")
    assert vias[0].startswith(b"Via: SIP/2.0/UDP ")
    assert [*map(without_source, vias[1:])] == [*map(without_source, named(rows, "via", "v"))]
    assert len(named(new_rows, "max-forwards")) == 1
    assert new_start.split()[0] == start.split()[0]
    if not named(rows, "route"):
        assert new_start == start, "P28"


def check_response(before: bytes, after: bytes) -> None:
    start, rows, body = naive(before)
    new_start, new_rows, new_body = naive(after)
    assert (new_start, new_body) == (start, body)
    assert [row for row in new_rows if row[0] not in ("via", "v")] == [
        row for row in rows if row[0] not in ("via", "v")
    ]
    left = b",".join(row.partition(b":")[2] for row in named(new_rows, "via", "v"))
    all_ = b",".join(row.partition(b":")[2] for row in named(rows, "via", "v"))
    assert re.sub(rb"\s", b"", all_).endswith(re.sub(rb"\s", b"", left))


def check_verdict(here: Stage, src: str, payload: bytes, verdict: Verdict) -> None:
    if verdict.action not in (Action.FORWARD, Action.REPLY):
        assert verdict.packet == b""
        return
    check_packet(verdict.packet)
    read = datagram.parse(verdict.packet)
    assert (read.src, read.dst) == (verdict.src, verdict.dst)
    own = {listener.external for listener in here.setup.listeners} | {each.internal for each in here.setup.listeners}
    assert read.src in own
    assert read.dst.addr not in {socket.addr for socket in own}
    if verdict.action is Action.REPLY:
        assert read.dst.addr == endpoint(src).addr
        assert read.payload.startswith(b"SIP/2.0 %d " % verdict.reason.status)
        return
    check_destination(verdict.reason, read.dst, payload)
    if verdict.reason.name.startswith("REQUEST"):
        check_request(payload, read.payload)
    else:
        check_response(payload, read.payload)


def check_destination(reason: Reason, dst: Endpoint, payload: bytes) -> None:
    if reason is Reason.REQUEST_ENTERING:
        assert dst in BACKENDS
    elif reason is Reason.REQUEST_HAIRPIN:
        call = next(
            value for value in (b"call-1", b"call-2") if re.search(rb"(?i)\n(call-id|i)\s*:\s*" + value, payload)
        )
        assert dst == endpoint(PHONE if call == b"call-1" else OTHER), "a flow of another dialog"
    elif reason is Reason.REQUEST_LEAVING:
        assert ip_address(dst.addr).is_global or ip_address(dst.addr).is_private
        assert not ip_address(dst.addr).is_loopback
        start, rows, _ = naive(payload)
        wanted = start + b"".join(named(rows, "route"))
        assert dst in PEERS or dst.host.encode() in wanted, "neither a signed flow nor asked for"
    else:
        # Sources of requests that the stage has seen: nobody else has a branch of ours to answer to.
        assert dst in PEERS | BACKENDS


@pytest.mark.slow
@pytest.mark.parametrize("name", SETUPS)
def test_P1_P18_P19_P35_tampered_messages(name: str) -> None:
    here = stage(name)

    @settings(max_examples=max(settings().max_examples, 1500), suppress_health_check=list(HealthCheck))
    @given(tampered(name))
    def holds(sample: tuple[str, str, bytes]) -> None:
        src, dst, payload = sample
        packet = datagram.build(endpoint(src), endpoint(dst), payload)
        verdict = here.engine.process(packet, lambda _rule, _text: None)
        check_verdict(here, src, payload, verdict)
        again = here.engine.process(packet)
        assert again[0] == verdict[0]
        if verdict.packet:
            assert datagram.parse(again.packet) == datagram.parse(verdict.packet), "P39"

    holds()


@pytest.mark.parametrize("name", SETUPS)
def test_the_stage_itself_passes_untampered(name: str) -> None:
    """Or the test above would prove little: what was seen is mostly forwarded, in every direction."""
    here = stage(name)
    reasons = set()
    for src, dst, payload in here.seen:
        verdict = here.engine.process(datagram.build(endpoint(src), endpoint(dst), payload))
        check_verdict(here, src, payload, verdict)
        reasons.add(verdict.reason)
    assert reasons >= {
        Reason.REQUEST_ENTERING,
        Reason.REQUEST_LEAVING,
        Reason.RESPONSE_ENTERING,
        Reason.RESPONSE_LEAVING,
        Reason.REQUEST_HAIRPIN,
        Reason.RESPONSE_HAIRPIN,
        Reason.PING,
        Reason.HOPS_PING,
    }


@given(st.binary(max_size=200), st.sampled_from([b"", b"INVITE sip:a@b SIP/2.0\r\n", b"SIP/2.0 200 OK\r\nVia: "]))
def test_any_payload_gets_a_verdict(tail: bytes, start: bytes) -> None:
    here = stage("two-armed")
    for src, dst in ((PHONE, EXT), (REG1, INT), (PHONE, INT)):
        verdict = here.engine.process(datagram.build(endpoint(src), endpoint(dst), start + tail))
        check_verdict(here, src, start + tail, verdict)
        assert dst == EXT or src == REG1 or verdict.reason is Reason.NOT_FROM_BACKEND


PIECES = st.sampled_from([b"SIP", b"S1P/", b"SIP /", b"SIP\r\n /", b"HTTP/", b"", b"\0"])


@given(st.sampled_from([REGISTER, request("INVITE"), request("OPTIONS", uri="sip:203.0.113.5")]), PIECES, st.binary())
def test_what_the_kernel_drops_as_junk_would_have_been_dropped(text: str, instead: bytes, noise: bytes) -> None:
    """The rule of NFQLB-JUNK: over 8 bytes, no blank, tab, CR, LF, 0 or 1 at the beginning, "SIP/" nowhere."""
    whole = wire(text).replace(b"SIP/", instead)
    for content in (whole, whole + noise, noise + whole, noise):
        if len(content) > 8 and content[0] not in b"\0\1\t\n\r " and b"sip/" not in content.lower():
            for name in SETUPS:
                verdict = stage(name).engine.process(datagram.build(endpoint(PHONE), endpoint(EXT), content))
                assert verdict.action is Action.DROP


@given(st.binary(max_size=200))
def test_any_packet_gets_a_verdict(packet: bytes) -> None:
    verdict = stage("two-armed").engine.process(packet)
    assert verdict.action in (Action.DROP, Action.IGNORE)
