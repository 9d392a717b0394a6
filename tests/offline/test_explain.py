"""Why a packet went where it went, told from the engine's own trace."""

import pytest
from pcap_files import EPOCH
from scapy.layers.l2 import ARP, Ether
from sipcase import (
    EXT,
    INT,
    OTHER,
    PHONE,
    PROXY1,
    REG1,
    REGISTER,
    Gateway,
    Result,
    endpoint,
    one_armed,
    request,
    response_to,
    setup,
    wire,
)

from nfqlb.capture.frame import Frame
from nfqlb.capture.packets import NOT_IP, Packet
from nfqlb.net import datagram
from nfqlb.offline.explain import Explanation, explain
from nfqlb.offline.header_diff import Line
from nfqlb.offline.replay import Replay
from nfqlb.offline.rule_titles import RULES
from nfqlb.proxy.setup import Backend, Pool, RouteRule, Setup
from nfqlb.proxy.verdict import Reason


def told(src: str, dst: str, message: str | bytes, with_setup: Setup | None = None) -> Explanation:
    payload = wire(message) if isinstance(message, str) else message
    data = datagram.build(endpoint(src), endpoint(dst), payload)
    frame = Frame(1, EPOCH * 10**9, 101, data, len(data))
    return explain(Replay(with_setup or setup()), Packet(frame, data, (1,)))


def stored_path(register: Result) -> str:
    """The Path value that a registrar gives back as Route."""
    return register.header("Path")


def test_a_registration() -> None:
    explanation = told(PHONE, EXT, REGISTER)
    backend = explanation.row.backend
    assert explanation.sentence == (
        "request from outside 172.31.23.177:5060 → listener main → pool registrars by call-id "
        f"→ {backend} {explanation.row.out_dst}"
    )
    rules = [step.rule for step in explanation.rules]
    assert rules == Gateway().from_phone(REGISTER).rules
    assert {"P22", "P23", "P24", "P25", "P29"} <= set(rules)
    changed = [line for line in explanation.changes if line.mark != " "]
    assert Line("-", "Via: SIP/2.0/UDP 10.1.1.9:5060;rport;branch=z9hG4bK-524287-1") in changed
    assert any(
        mark == "+" and text.startswith("Path: <sip:lb@192.168.1.5;lr;received=sip:172.31.23.177:5060;sig=")
        for mark, text in changed
    )
    assert Line(" ", "Expires: 300") in explanation.changes
    assert explanation.body == (0, 0)


def test_the_pool_is_the_one_that_was_asked_though_another_has_the_backend_too() -> None:
    shared = Backend("reg1", endpoint(REG1))
    with_setup = setup(
        pools=(Pool("first", (shared,)), Pool("second", (shared,), ("from-uri",))), routes=(RouteRule("second"),)
    )
    assert " → pool second by from-uri → reg1 " in told(PHONE, EXT, REGISTER, with_setup).sentence


def test_a_request_to_a_registered_phone() -> None:
    route = f"Route: {stored_path(Gateway().from_phone(REGISTER))}"
    explanation = told(PROXY1, INT, request("INVITE", "sip:alice@10.1.1.9", route))
    assert explanation.sentence == (
        "request from inside 192.168.1.21:5060 (proxy1) → listener main → by its signed flow "
        "→ outside 172.31.23.177:5060"
    )
    assert "P18" in [step.rule for step in explanation.rules]


@pytest.mark.parametrize(
    ("row", "by"),
    [("Route: <sip:198.51.100.9;lr>", "by Route → outside 198.51.100.9:5060"), ("X: y", "by Request-URI → outside ")],
)
def test_a_request_to_the_outside_world(row: str, by: str) -> None:
    assert f" → listener main → {by}" in told(PROXY1, INT, request("INVITE", "sip:bob@198.51.100.7", row)).sentence


@pytest.mark.parametrize(
    ("uri", "row", "by"),
    [
        ("sip:bob@example.org", "Route: <sip:192.168.1.21;lr>", "by Route → proxy1 192.168.1.21:5060"),
        ("sip:bob@192.168.1.21", "X: y", "by Request-URI → proxy1 192.168.1.21:5060"),
    ],
)
def test_a_request_in_a_dialog_to_its_backend(uri: str, row: str, by: str) -> None:
    message = request("BYE", uri, row, To="<sip:bob@example.org>;tag=t1")
    assert told(PHONE, EXT, message).sentence.endswith(f" → listener main → {by}")


def test_a_hairpin() -> None:
    """P16: a backend that does not record-route leaves two of our pairs in the dialog's route set."""
    gateway = Gateway()
    register = gateway.from_phone(REGISTER)
    invite = gateway.from_phone(request("INVITE", "sip:alice@example.org"), src=OTHER)
    record_routes = [f"Record-Route: {value}" for value in invite.headers("Record-Route")]
    onward = gateway.from_backend(
        request("INVITE", "sip:alice@10.1.1.9", f"Route: {stored_path(register)}", *record_routes), src=PROXY1
    )
    routes = [f"Route: {value}" for value in reversed(onward.headers("Record-Route"))]
    explanation = told(OTHER, EXT, request("BYE", "sip:alice@10.1.1.9", *routes, To="<sip:bob@example.org>;tag=t1"))
    assert explanation.row.reason == "request-hairpin"
    assert explanation.sentence == (
        f"request from outside {OTHER} → listener main → by its signed flow → outside 172.31.23.177:5060"
    )


def test_responses() -> None:
    gateway = Gateway()
    register = gateway.from_phone(REGISTER)
    assert told(register.dst, INT, response_to(register)).sentence.endswith(
        " → listener main → by the Via below ours → outside 172.31.23.177:5060"
    )
    route = f"Route: {stored_path(register)}"
    message = request("INVITE", "sip:alice@10.1.1.9", route, Via="SIP/2.0/UDP 192.168.1.21;branch=z9hG4bK-9")
    invite = gateway.from_backend(message, src=PROXY1)
    assert told(PHONE, EXT, response_to(invite)).sentence == (
        "response from outside 172.31.23.177:5060 → listener main → by the Via below ours → proxy1 192.168.1.21:5060"
    )


def test_a_reply() -> None:
    explanation = told(PHONE, EXT, request("INVITE", "mailto:bob@example.org"))
    assert explanation.sentence.startswith(
        "request from outside 172.31.23.177:5060 → listener main → answered 416 Unsupported URI Scheme"
    )
    assert explanation.rules[0].rule == "P9"
    assert any(mark == "+" and text.startswith("SIP/2.0 416") for mark, text in explanation.changes)


@pytest.mark.parametrize(
    ("src", "dst", "message", "ends"),
    [
        (PHONE, EXT, b"\r\n\r\n", "listener main → dropped: CRLF, NUL or blank keepalive"),
        (PHONE, EXT, b"hello", "listener main → dropped: no SIP start line"),
        (OTHER, INT, REGISTER, "dropped: packet to the internal socket from a source that is no backend"),
        (PHONE, EXT, "SIP/2.0 200 OK\nVia: SIP/2.0/UDP 192.0.2.1\n\n", "dropped: top Via is not the socket it came to"),
    ],
)
def test_drops(src: str, dst: str, message: str | bytes, ends: str) -> None:
    explanation = told(src, dst, message)
    assert explanation.sentence.endswith(ends)
    assert explanation.body[1] is None
    assert {line.mark for line in explanation.changes} <= {" "}


def test_what_is_not_sip_is_not_printed_as_if_it_were() -> None:
    assert told(PHONE, EXT, b"hello\r\n\r\n").changes == ()


def test_a_packet_to_somebody_else_is_told_which_sockets_are_ours() -> None:
    explanation = told(PHONE, "203.0.113.6:5060", REGISTER)
    assert explanation.sentence == (
        "packet from 172.31.23.177:5060 to 203.0.113.6:5060 → ignored: it is not UDP to one of our sockets "
        "(main 203.0.113.5:5060 and 192.168.1.5:5060)"
    )
    assert explanation.rules == ()
    assert told(PHONE, "203.0.113.6:5060", REGISTER, one_armed()).sentence.endswith("(main 203.0.113.5:5060)")


def test_a_frame_without_a_packet() -> None:
    data = bytes(Ether() / ARP())
    explanation = explain(Replay(setup()), Packet(Frame(1, 0, 1, data, len(data)), b"", (1,), NOT_IP))
    assert explanation.sentence == "frame without ports → ignored: no IP packet in the frame"


def test_the_rules_have_names() -> None:
    assert list(RULES) == [f"P{number}" for number in range(1, 40)]
    assert all(reason.rule in RULES for reason in Reason if reason.rule)
    assert all(0 < len(title) <= 70 for title in RULES.values())
