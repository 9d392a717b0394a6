"""P31: a transaction stays where it began, while the tables change under it and its backend lives."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sipcase import (
    EXT,
    INT,
    PHONE,
    PROXY1,
    REG1,
    REG2,
    REGISTER,
    Gateway,
    Result,
    endpoint,
    request,
    response_to,
    setup,
    standing,
    wire,
)

from nfqlb.balance import recent
from nfqlb.balance.recent import Recent
from nfqlb.engine import Engine
from nfqlb.net import datagram
from nfqlb.proxy import facts, selection
from nfqlb.proxy.setup import LEAVING, Backend, HashOn, Listener, Place, Pool, RouteRule, Setup, State
from nfqlb.proxy.verdict import Reason
from nfqlb.sip.message import parse

CELLS = memoryview(bytearray(recent.SIZE)).cast("Q")

REGISTRARS = ("registrars", "reg1"), ("registrars", "reg2")


@pytest.fixture
def memory() -> Recent:
    return empty()


def empty() -> Recent:
    Recent.format(CELLS)
    made = Recent(CELLS)
    made.now = 1000
    return made


def farm(count: int, hash_on: HashOn = "call-id") -> Setup:
    backends = tuple(Backend(f"b{n}", endpoint(f"192.168.1.{n + 11}:5060")) for n in range(count))
    return setup(pools=(Pool("all", backends, (hash_on,)),), routes=(RouteRule("all"),))


@cache
def engine_of(with_setup: Setup, states: frozenset[tuple[Place, State]]) -> Engine:
    return Engine(with_setup, standings=standing(dict(states)))


def sent(with_setup: Setup, memory: Recent | None, message: str, states: Mapping[Place, State] | None = None) -> Result:
    """By a worker that has just begun: what it knows of earlier messages is in `memory` alone."""
    engine = engine_of(with_setup, frozenset((states or {}).items())).sibling(0, memory)
    return Result(engine.process(packet_of(message)), [])


def packet_of(message: str, src: str = PHONE, dst: str = EXT) -> bytes:
    return datagram.build(endpoint(src), endpoint(dst), wire(message))


STATES = st.sampled_from(list(State))
HASH_ON: st.SearchStrategy[HashOn] = st.sampled_from(
    ["call-id", "from-uri", "to-uri", "request-user", "auth-user", "source-ip"]
)
MESSAGES = st.tuples(st.integers(0, 5), st.sampled_from(["INVITE", "CANCEL", "ACK"]), st.booleans())


def message_of(number: int, method: str, cookie: bool) -> str:
    """One of the three messages of transaction `number`, by a client of RFC 3261 or of RFC 2543."""
    via = f"SIP/2.0/UDP 172.31.23.177:5060;branch={'z9hG4bK-' if cookie else ''}{number}"
    if method != "INVITE" and not cookie:
        via = "SIP/2.0/UDP 172.31.23.177:5060"
    to = "<sip:bob@example.org>" + (";tag=t" if method == "ACK" else "")
    return request(method, f"sip:bob{number}@x", Via=via, Call_ID=f"c{number}{cookie}", To=to)


@pytest.mark.slow
@settings(max_examples=60)
@given(
    HASH_ON,
    st.lists(st.tuples(st.lists(STATES, min_size=6, max_size=6), st.lists(MESSAGES, max_size=12)), max_size=6),
)
def test_P31_whatever_changes_the_transaction_stays_while_its_backend_lives(
    hash_on: HashOn, phases: list[tuple[list[State], list[tuple[int, str, bool]]]]
) -> None:
    (pool,) = farm(6, hash_on).pools
    memory, base = empty(), setup(pools=(replace(pool, panic="none"),), routes=(RouteRule("all"),))
    began: dict[tuple[int, bool], str] = {}
    for states, messages in phases:
        named = {("all", f"b{n}"): state for n, state in enumerate(states)}
        alive = {f"192.168.1.{n + 11}:5060" for n, state in enumerate(states) if state.alive}
        new = {f"192.168.1.{n + 11}:5060" for n, state in enumerate(states) if state.takes_new}
        for number, method, cookie in messages:
            result = sent(base, memory, message_of(number, method, cookie), named)
            by_table = sent(base, None, message_of(number, method, cookie), named)
            place = began.get((number, cookie))
            if place in alive:
                assert result.dst == place
            else:
                assert (result.reason, result.dst) == (by_table.reason, by_table.dst)
                if result.reason is Reason.REQUEST_ENTERING:
                    assert result.dst in new
                    if method != "ACK":
                        began[number, cookie] = result.dst
            if result.verdict.packet and result.reason is by_table.reason:
                assert result.payload == by_table.payload, "it changes no header, only the choice"


def moved(memory: Recent, method: str = "INVITE") -> tuple[Setup, str]:
    """Send a transaction, and change the table so that it says another backend; the changed setup, and where the
    transaction began.
    """
    base = farm(8)
    place = sent(base, memory, request(method)).dst
    (pool,) = base.pools
    for turn in range(10):
        # The same addresses under other names: another table. One of eight such tables agrees by chance.
        named = tuple(Backend(f"{turn}-{backend.name}", backend.address) for backend in pool.backends)
        changed = setup(pools=(Pool("all", named),), routes=base.routes)
        if sent(changed, None, request(method)).dst != place:
            return changed, place
    raise AssertionError("no table differs")


@pytest.mark.parametrize(("method", "lifetime"), [("INVITE", 180), ("REGISTER", 32), ("SUBSCRIBE", 32)])
def test_P31_for_32_seconds_an_invite_for_180_and_retransmissions_do_not_renew(
    memory: Recent, method: str, lifetime: int
) -> None:
    changed, place = moved(memory, method)
    kept = []
    for memory.now in range(1000, 1000 + lifetime + 2):
        kept.append(sent(changed, memory, request(method)).dst == place)
    assert kept == [True] * (lifetime + 1) + [False]


def test_P31_a_backend_that_is_dead_loses_it_and_does_not_get_it_back(memory: Recent) -> None:
    base = farm(2)
    first = sent(base, memory, request()).dst
    number = int(first == "192.168.1.12:5060")
    place = ("all", f"b{number}")
    for state in (State.DRAINING, State.UNKNOWN, State.UP):
        assert sent(base, memory, request(), states={place: state}).dst == first
    second = sent(base, memory, request(), states={place: State.DOWN}).dst
    assert second != first
    assert sent(base, memory, request("CANCEL")).dst == second
    assert sent(base, memory, request("CANCEL"), states={("all", f"b{1 - number}"): State.DISABLED}).dst == first


def test_P31_the_counters_say_what_happened(memory: Recent) -> None:
    changed, _ = moved(memory)
    counts = [(memory.stored, memory.kept, memory.misses)]
    for message in (
        request(),  # kept where it was
        request("ACK", To="<sip:bob@example.org>;tag=1"),
        request("ACK", Via="SIP/2.0/UDP 172.31.23.177:5060;branch=z9hG4bK-of-the-200"),
        request("OPTIONS", Call_ID="other"),
        request("OPTIONS", Call_ID="other"),
        request("CANCEL", Call_ID="unheard-of"),
    ):
        sent(changed, memory, message)
        counts.append((memory.stored, memory.kept, memory.misses))
    assert counts == [(1, 0, 0), (1, 1, 0), (1, 2, 0), (1, 2, 0), (2, 2, 0), (2, 2, 0), (3, 2, 1)]


def test_P31_is_told_where_it_decided(memory: Recent) -> None:
    changed, place = moved(memory)
    trace: dict[str, str] = {}
    packet = packet_of(request())
    verdict = Gateway(changed, recent=memory).engine.process(packet, trace.__setitem__)
    assert str(verdict.dst) == place
    assert trace["P31"].startswith("stays where its transaction began")
    assert place in trace["P31"]
    assert place not in trace["P29"]
    trace.clear()
    Gateway(changed, recent=empty()).engine.process(packet, trace.__setitem__)
    assert "P31" not in trace


def test_P31_what_makes_a_transaction() -> None:
    """Each row: messages of one transaction; none of another row belongs to it."""
    old, also_old = "SIP/2.0/UDP 172.31.23.177;branch=1", "SIP/2.0/UDP 172.31.23.177:5060"
    rows = [
        [
            request(),
            request("CANCEL"),
            request("ACK", To="<sip:bob@example.org>;tag=9"),
            request("INVITE", "sip:other@x"),
        ],
        [request(Call_ID="other")],
        [request(CSeq="2 INVITE"), request("ACK", CSeq="2 ACK")],
        [request(From="<sip:alice@example.org>;tag=f2"), request("CANCEL", From="<sip:alice@example.org>;tag=f2")],
        [request(From="<sip:alice@example.org>")],
        [request(Via="SIP/2.0/UDP 172.31.23.177:5060;branch=z9hG4bK-2")],
        [request(Via=old), request("CANCEL", Via=also_old), request("ACK", Via=old.replace("=1", "=2"))],
        [request(Via="SIP/2.0/UDP 172.31.23.178")],
        [request(Via="SIP/2.0/UDP 172.31.23.177:5070")],
    ]
    keys = [{selection.transaction(facts.read(parse(wire(message)))) for message in row} for row in rows]
    assert [len(row) for row in keys] == [1] * len(rows)
    assert len(set().union(*keys)) == len(rows)


def test_P31_two_backends_with_one_token_are_forgotten_rather_than_mistaken(
    memory: Recent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recent, "token", lambda _address: 5)
    for number in range(10):
        message = REGISTER.replace("reg-1@", f"reg-{number}@")
        gateway = Gateway(recent=memory)
        by_table = gateway.twin.process(packet_of(message)).dst
        for _ in range(2):
            assert gateway.engine.process(packet_of(message)).dst == by_table
    assert memory.kept == 0


def test_P31_a_request_that_passes_again_is_another_one(memory: Recent) -> None:
    """A spiral: same Call-ID, From-tag and CSeq, another Via on top, and another rule for its new Request-URI."""
    routes = (RouteRule("registrars", domains=frozenset(("a.example.org",))), RouteRule("proxies"))
    spiral = setup(routes=routes)
    assert sent(spiral, memory, request("INVITE", "sip:bob@a.example.org")).dst in (REG1, REG2)
    again = request("INVITE", "sip:bob@b.example.org", Via="SIP/2.0/UDP 198.51.100.9;branch=z9hG4bK-p1")
    assert sent(spiral, memory, again).dst == PROXY1
    assert memory.kept == 0


def test_P31_no_rule_and_no_pool_is_left_for_it(memory: Recent) -> None:
    first = sent(setup(), memory, REGISTER).dst
    only_invites = setup(routes=(RouteRule("proxies", methods=frozenset(("INVITE",))),))
    assert sent(only_invites, memory, REGISTER).dst == first
    drained = dict.fromkeys(REGISTRARS, State.DRAINING)
    assert sent(setup(), memory, REGISTER, drained).dst == first
    assert (memory.stored, memory.kept) == (1, 2)
    for without in (sent(only_invites, None, REGISTER), sent(setup(), None, REGISTER, drained)):
        assert without.reason is Reason.NO_BACKEND


def test_P31_the_ack_of_a_refusal_whose_request_uri_names_a_backend(memory: Recent) -> None:
    """The INVITE was sent by its rule, for it had no To-tag; the ACK has the one of the answer (P19 is for dialogs)."""
    assert sent(setup(), memory, request("INVITE", f"sip:x@{REG2}")).dst == PROXY1
    assert sent(setup(), memory, request("ACK", f"sip:x@{REG2}", To="<sip:b@c>;tag=1")).dst == PROXY1
    other = request("ACK", f"sip:x@{REG2}", To="<sip:b@c>;tag=1", Via="SIP/2.0/UDP 172.31.23.177;branch=z9hG4bK-2")
    assert sent(setup(), memory, other).dst == REG2


def test_P31_a_backend_of_the_other_ip_version_is_no_choice(memory: Recent) -> None:
    """Somebody's request with the same identifiers by a listener of the other version."""
    both = setup(
        listeners=(
            Listener("four", endpoint(EXT), endpoint(INT)),
            Listener("six", endpoint("[2001:db8::5]:5060"), endpoint("[2001:db8:1::5]:5060")),
        ),
        pools=(Pool("all", (Backend("a", endpoint(REG1)), Backend("b", endpoint("[2001:db8:1::11]:5060")))),),
        routes=(RouteRule("all"),),
    )
    gateway = Gateway(both, recent=memory)
    for _ in range(2):
        assert gateway.send_only(PHONE, EXT, request()).dst == REG1
        assert gateway.send_only("[2001:db8:9::1]:5060", "[2001:db8::5]:5060", request()).dst == "[2001:db8:1::11]:5060"


def test_P31_two_workers_share_it(memory: Recent) -> None:
    changed, place = moved(memory)
    other = Recent(CELLS)
    other.now = memory.now
    engine = Gateway(changed, recent=memory).engine
    sibling = engine.sibling(1, other)
    packet = packet_of(request())
    assert str(sibling.process(packet).dst) == str(engine.process(packet).dst) == place
    assert (memory.kept, other.kept) == (1, 1)
    assert str(engine.sibling(2).process(packet).dst) != place, "a sibling has the memory it is given, or none"


# -- backends that leave


def without_reg2(**changes: Any) -> Setup:
    pools = (Pool("registrars", (Backend("reg1", endpoint(REG1)),)), setup().pools[1])
    return setup(pools=pools, **changes)


LEFT = without_reg2(leaving=(Backend("reg2", endpoint(REG2)),))


def register_at(place: str) -> str:
    """A REGISTER that the table of both registrars sends there."""
    for number in range(50):
        message = REGISTER.replace("reg-1@", f"reg-{number}@")
        if Gateway().from_phone(message).dst == place:
            return message
    raise AssertionError("the table knows one registrar only")


def test_P31_a_leaving_backend_keeps_what_it_has_and_gets_nothing_new(memory: Recent) -> None:
    message = register_at(REG2)
    assert sent(setup(), memory, message).dst == REG2
    assert sent(LEFT, memory, message).dst == REG2
    assert sent(without_reg2(), memory, message).dst == REG1
    assert sent(LEFT, empty(), message).dst == REG1


def test_P31_a_leaving_backend_that_is_dead(memory: Recent) -> None:
    message = register_at(REG2)
    sent(setup(), memory, message)
    assert sent(LEFT, memory, message, states={(LEAVING, "reg2"): State.DOWN}).dst == REG1


def test_P19_P21_a_leaving_backend_answers_and_is_reached_in_its_dialogs() -> None:
    began = Gateway().from_phone(register_at(REG2))
    answer = Gateway(LEFT).from_backend(response_to(began), REG2)
    assert (answer.reason, answer.dst) == (Reason.RESPONSE_LEAVING, PHONE)
    assert answer.verdict.backend == 2
    assert Gateway(without_reg2()).from_backend(response_to(began), REG2).reason is Reason.NOT_FROM_BACKEND
    bye = request("BYE", "sip:bob@10.9.9.9", f"Route: <sip:{REG2};lr>", To="<sip:bob@example.org>;tag=1")
    assert Gateway(LEFT).from_phone(bye).dst == REG2
    assert Gateway(without_reg2()).from_phone(bye).reason is Reason.NOT_A_BACKEND


def test_leaving_backends_are_numbered_after_the_others_each_address_once() -> None:
    back = Backend("again", endpoint(REG1))
    gone, twice = Backend("reg2", endpoint(REG2)), Backend("twin", endpoint(REG2))
    some = without_reg2(leaving=(back, gone, twice))
    assert [backend.name for backend in some.backends] == ["reg1", "proxy1"]
    assert some.known[:2] == some.backends
    assert [backend.address for backend in some.known[2:]] == [endpoint(REG2)]
    assert some.places[:2] == (("registrars", "reg1"), ("proxies", "proxy1"))
    assert [pool for pool, _ in some.places[2:]] == [LEAVING]
