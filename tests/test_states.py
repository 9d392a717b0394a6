"""What the states of backends mean for the tables (P30, P32) and for what has begun (P31)."""

import pytest
from sipcase import EXT, PHONE, REG1, REG2, Gateway, endpoint, request, setup

from nfqlb.balance.pool import Backend, Chooser, Pool
from nfqlb.balance.states import State
from nfqlb.proxy.setup import RouteRule

# takes new requests, keeps the transactions that began there
MEANING = {
    State.UNKNOWN: (True, True),
    State.UP: (True, True),
    State.DOWN: (False, False),
    State.DRAINING: (False, True),
    State.DISABLED: (False, False),
}


@pytest.mark.parametrize("state", State)
def test_what_each_state_means(state: State) -> None:
    assert (state.takes_new, state.alive) == MEANING[state]
    assert state.alive or not state.takes_new, "nothing begins where nothing may stay"


@pytest.mark.parametrize("state", State)
def test_P30_the_table_holds_who_takes_new_requests(state: State) -> None:
    pool = Pool("p", (Backend("a", endpoint(REG1)), Backend("b", endpoint(REG2))))
    assert ("a" in Chooser(pool, {("p", "a"): state}).shares(4)) is state.takes_new


def test_P30_a_name_in_two_pools_is_two_backends() -> None:
    one, other = (Pool(name, (Backend("a", endpoint(REG1)), Backend("b", endpoint(REG2)))) for name in ("one", "two"))
    states = {("one", "a"): State.DOWN}
    assert set(Chooser(one, states).shares(4)) == {"b"}
    assert set(Chooser(other, states).shares(4)) == {"a", "b"}


def test_P30_a_state_that_changes_nothing_changes_no_table() -> None:
    pool = Pool("p", tuple(Backend(f"b{n}", endpoint(f"10.0.0.{n + 1}:5060")) for n in range(5)))
    keys = [b"%d" % n for n in range(200)]
    plain = [Chooser(pool).choose(key, 4) for key in keys]
    up = {("p", f"b{n}"): State.UP for n in range(5)}
    assert [Chooser(pool, up).choose(key, 4) for key in keys] == plain


@pytest.mark.parametrize("state", State)
def test_P19_a_request_of_a_dialog_reaches_its_backend_in_any_state(state: State) -> None:
    only = setup(pools=(Pool("p", (Backend("a", endpoint(REG1)),)),), routes=(RouteRule("p"),))
    bye = request("BYE", "sip:bob@10.9.9.9", f"Route: <sip:{REG1};lr>", To="<sip:bob@example.org>;tag=1")
    assert Gateway(only, states={("p", "a"): state}).send_only(PHONE, EXT, bye).dst == REG1
