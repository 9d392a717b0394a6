"""What the states of backends mean for the tables (P30, P32) and for what has begun (P31)."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from sipcase import EXT, PHONE, PROXY1, REG1, REG2, Gateway, endpoint, request, setup, standing

from nfqlb.balance.pool import Backend, Pool
from nfqlb.balance.states import WHOLE, Place, Standing, State
from nfqlb.balance.tables import Tables
from nfqlb.proxy.setup import RouteRule
from nfqlb.proxy.verdict import Reason

# takes new requests, keeps the transactions that began there, is the operator's word
MEANING = {
    State.UNKNOWN: (True, True, False),
    State.UP: (True, True, False),
    State.DOWN: (False, False, False),
    State.DRAINING: (False, True, True),
    State.DISABLED: (False, False, True),
}

A, B, C = ("p", "a"), ("p", "b"), ("p", "c")
PAIR = Pool("p", (Backend("a", endpoint(REG1)), Backend("b", endpoint(REG2))))
THREE = Pool(
    "p",
    (
        *PAIR.backends,
        Backend("c", endpoint(PROXY1), priority=2),
        Backend("zero", endpoint("192.168.1.99:5060"), weight=0),
    ),
)


def tables(*pools: Pool, states: Mapping[Place, State] | None = None) -> Tables:
    return Tables(pools, setup(pools=pools).places, standing(states or {}))


def used(pool: Pool, states: Mapping[Place, State]) -> set[str]:
    """The names of who gets anything new."""
    return {name for _, name in tables(pool, states=states).shares()}


@pytest.mark.parametrize("state", State)
def test_what_each_state_means(state: State) -> None:
    assert (state.takes_new, state.alive, state.by_operator) == MEANING[state]
    assert state.alive or not state.takes_new, "nothing begins where nothing may stay"


@pytest.mark.parametrize("state", State)
def test_P30_the_table_holds_who_takes_new_requests(state: State) -> None:
    assert ("a" in used(PAIR, {A: state})) is state.takes_new


def test_P30_a_name_in_two_pools_is_two_backends() -> None:
    one, other = replace(PAIR, name="one"), replace(PAIR, name="two")
    shares = tables(one, other, states={("one", "a"): State.DOWN}).shares()
    assert set(shares) == {("one", "b"), ("two", "a"), ("two", "b")}


def test_P30_a_state_that_changes_nothing_changes_no_table() -> None:
    made = tables(THREE)
    for same in ({A: State.UP, B: State.UP}, {C: State.DOWN}, {C: State.DRAINING, ("p", "zero"): State.DOWN}):
        assert made.changed(standing(same)) == ()
    assert made.changed(standing({A: State.DOWN}))


def test_P30_priorities_a_group_is_used_only_when_no_lower_one_is_up() -> None:
    assert used(THREE, {}) == {"a", "b"}
    assert used(THREE, {A: State.DOWN}) == {"b"}
    assert used(THREE, {A: State.DRAINING, B: State.DISABLED}) == {"c"}
    assert used(THREE, {A: State.DOWN, B: State.DOWN}) == {"c"}
    assert used(THREE, {A: State.DOWN, B: State.DOWN, C: State.DRAINING}) == {"a", "b"}, "panic: health tells nonsense"
    assert used(THREE, dict.fromkeys((A, B, C), State.DRAINING)) == set()


def test_panic_when_all_are_down_not_one_key_moves() -> None:
    well = tables(THREE)
    # Whatever their shares were: there is nobody to protect those from that warm up.
    down = {A: Standing(State.DOWN, 1), B: Standing(State.DOWN, 3), C: Standing(State.DOWN)}
    panicking = Tables((THREE,), setup(pools=(THREE,)).places, down)
    keys = [b"%d" % number for number in range(500)]
    assert [panicking.choose("p", 4, key) for key in keys] == [well.choose("p", 4, key) for key in keys]
    assert (well.condition("p").panic, panicking.condition("p").panic) == ((), (4,))


def test_panic_is_the_pools_choice_and_never_takes_whom_the_operator_took_out() -> None:
    down = {A: State.DOWN, B: State.DOWN, C: State.DOWN}
    assert used(THREE, down) == {"a", "b"}
    assert used(replace(THREE, panic="none"), down) == set()
    assert used(THREE, {**down, A: State.DISABLED}) == {"b"}
    assert used(THREE, {**down, A: State.DISABLED, B: State.DRAINING}) == {"c"}


def test_panic_is_for_each_ip_version() -> None:
    both = Pool("p", (*PAIR.backends, Backend("six", endpoint("[2001:db8::1]:5060"))))
    made = tables(both, states={("p", "six"): State.DOWN})
    assert made.condition("p").panic == (6,)
    assert made.condition("p").alarm
    assert made.shares()["p", "six"] == 1


@pytest.mark.parametrize(
    ("states", "up", "alarm"),
    [
        ({}, 3, False),
        ({A: State.DRAINING}, 2, False),
        ({A: State.DRAINING, C: State.DOWN}, 1, True),
        ({A: State.DISABLED, B: State.DISABLED, C: State.DISABLED}, 0, True),
    ],
)
def test_min_up_is_an_alarm_and_changes_no_table(states: dict[Place, State], up: int, alarm: bool) -> None:
    made = tables(replace(THREE, min_up=2), states=states)
    condition = made.condition("p")
    assert (condition.up, condition.alarm, condition.panic) == (up, alarm, ())
    assert made.shares() == tables(replace(THREE, min_up=0), states=states).shares()
    assert not tables(replace(THREE, min_up=0, panic="none"), states=states).condition("p").alarm


def test_P32_without_panic_nothing_is_sent_where_all_are_down() -> None:
    down = standing({A: State.DOWN, B: State.DOWN})
    cautious, brave = (
        setup(pools=(replace(PAIR, panic=panic),), routes=(RouteRule("p"),)) for panic in ("none", "all")
    )
    assert Gateway(cautious, standings=down).send_only(PHONE, EXT, request()).reason is Reason.NO_BACKEND
    assert Gateway(brave, standings=down).send_only(PHONE, EXT, request()).dst in (REG1, REG2)


def test_a_share_is_a_part_of_the_weight() -> None:
    for share in range(1, WHOLE + 1):
        part = Tables((PAIR,), (A, B), {A: Standing(State.UP, share)}).shares()[A]
        assert part == pytest.approx(share / (share + WHOLE), rel=0.02)


def test_who_is_alone_in_its_group_takes_all_however_it_warms_up() -> None:
    assert Tables((PAIR,), (A, B), {A: Standing(State.UP, 1), B: Standing(State.DOWN)}).shares() == {A: 1.0}


@pytest.mark.parametrize("state", State)
def test_P19_a_request_of_a_dialog_reaches_its_backend_in_any_state(state: State) -> None:
    only = setup(pools=(Pool("p", (Backend("a", endpoint(REG1)),)),), routes=(RouteRule("p"),))
    bye = request("BYE", "sip:bob@10.9.9.9", f"Route: <sip:{REG1};lr>", To="<sip:bob@example.org>;tag=1")
    assert Gateway(only, standings=standing({A: state})).send_only(PHONE, EXT, bye).dst == REG1
