"""Which packets can wait under overload: told at a glance, and never wrongly of those that belong to a call."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sipcase import EXT, INT, PHONE, PROXY1, REG1, Gateway, endpoint, one_armed, request, response_to, setup, wire

from devtools.fuzz.world import build_all
from nfqlb.net import datagram
from nfqlb.proxy.setup import Backend, Listener, Pool, RouteRule
from nfqlb.proxy.triage import Triage

TRIAGE = Triage(setup())
WORLD = build_all()[0]
"""Of the same sockets; it asks both."""
DIALOG = "<sip:bob@example.org>;tag=t1"


def packet(message: str | bytes, src: str = PHONE, dst: str = EXT) -> bytes:
    payload = wire(message) if isinstance(message, str) else message
    return datagram.build(endpoint(src), endpoint(dst), payload)


@pytest.mark.parametrize("method", ["INVITE", "REGISTER", "OPTIONS", "SUBSCRIBE", "MESSAGE", "PUBLISH", "x-new"])
def test_what_begins_something_is_new(method: str) -> None:
    assert TRIAGE.is_new(packet(request(method)))
    assert TRIAGE.is_new(packet(b"\r\n\r\n" + wire(request(method))))
    assert not TRIAGE.is_new(packet(request(method, To=DIALOG)))
    assert not TRIAGE.is_new(packet(request(method), PHONE, INT))
    assert not TRIAGE.is_new(packet(request(method), REG1, INT))
    assert not TRIAGE.is_new(packet(request(method), PHONE, "203.0.113.5:5070"))


@pytest.mark.parametrize("method", ["ACK", "BYE", "CANCEL", "PRACK", "UPDATE", "INFO"])
def test_what_follows_something_is_not(method: str) -> None:
    assert not TRIAGE.is_new(packet(request(method)))


@pytest.mark.parametrize(
    "to",
    [
        "To: <sip:b@x>;tag=1",
        "t:<sip:b@x>;TAG=1",
        "TO : <sip:b@x>\r\n ;tag=1",
        "To: b ; tag = 1",
        "To: <sip:b@x>;x;tag=1",
        "To:\r\n <sip:b@x>;tag=1",
        "To: <sip:b@x>\r\n \r\n\t;tag=1",
    ],
)
def test_a_to_tag_is_found_however_it_is_written(to: str) -> None:
    message = wire(request()).replace(b"To: <sip:bob@example.org>", to.encode())
    assert not TRIAGE.is_new(packet(message))
    assert not WORLD.is_new(packet(message)), "the compiled path, if there is one, says the same"


@pytest.mark.parametrize("to", ["To: <sip:stage@x>", 't: "tag=" <sip:b@x>', "Topic: ;tag=1\r\nTo: <sip:b@x>"])
def test_what_only_looks_like_one_is_none(to: str) -> None:
    message = wire(request()).replace(b"To: <sip:bob@example.org>", to.encode())
    assert TRIAGE.is_new(packet(message))


def test_responses_junk_and_pieces_get_their_decision() -> None:
    sent = Gateway().from_phone(request())
    assert not TRIAGE.is_new(packet(response_to(sent), PROXY1, INT))
    for junk in (b"", b"\r\n\r\n", b"junk", b"INVITE", b"INVITE sip:a SIP/2.0\r\n\r\n", b"\0" * 2000):
        assert not TRIAGE.is_new(packet(junk))


def test_one_armed_the_source_tells_the_side() -> None:
    triage = Triage(one_armed())
    assert triage.is_new(packet(request()))
    assert not triage.is_new(packet(request(), REG1))


def test_ipv6() -> None:
    six = Listener("six", endpoint("[2001:db8::5]:5060"), endpoint("[2001:db8:1::5]:5060"))
    pool = Pool("all", (Backend("b", endpoint("[2001:db8:1::9]:5060")),))
    triage = Triage(setup(listeners=(six,), pools=(pool,), routes=(RouteRule("all"),)))
    assert triage.is_new(packet(request(), "[2001:db8:7::1]:5060", "[2001:db8::5]:5060"))
    assert not triage.is_new(packet(request(To=DIALOG), "[2001:db8:7::1]:5060", "[2001:db8::5]:5060"))
    assert not triage.is_new(packet(request(), "[2001:db8:7::1]:5060", "[2001:db8:1::5]:5060"))


@given(st.binary(max_size=100), st.integers(0, 100))
def test_any_bytes_are_told(raw: bytes, cut: int) -> None:
    assert not TRIAGE.is_new(raw)
    TRIAGE.is_new(packet(request())[:cut])
    TRIAGE.is_new(packet(raw))
