"""What a change would do: the shares of keys that move, against a count of keys by the engine's own tables."""

from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest
from sipcase import OTHER, PROXY1, REG1, REG2, endpoint, setup

from nfqlb.balance.pool import HashOn, Pool
from nfqlb.balance.states import Standing, Standings, State
from nfqlb.balance.tables import Tables
from nfqlb.offline.whatif import Moved, carried_over, moved
from nfqlb.proxy.setup import Backend, RouteRule, Setup

KEYS = [b"%d@example.org" % number for number in range(4000)]


def pool(*weights: int, hash_on: tuple[HashOn, ...] = ("call-id",), first: int = 1, **fields: Any) -> Pool:
    backends = tuple(
        Backend(f"b{n}", endpoint(f"10.0.0.{n}:5060"), weight) for n, weight in enumerate(weights, first) if weight
    )
    return Pool("p", backends, hash_on, **fields)


def counted(old: Setup, new: Setup, standings: Standings) -> float:
    """The part of KEYS that goes elsewhere, asked key by key."""
    before, after = (
        Tables(old.pools, old.places, standings),
        Tables(new.pools, new.places, carried_over(old, standings, new)),
    )

    def end(setup: Setup, tables: Tables, key: bytes) -> object:
        number = tables.choose("p", 4, key)
        return None if number < 0 else setup.known[number].address

    return sum(end(old, before, key) != end(new, after, key) for key in KEYS) / len(KEYS)


B1, B2 = ("p", "b1"), ("p", "b2")

CHANGES: list[tuple[Pool, Pool, Standings, float | None]] = [
    # old, new, standings, the share where it is known beforehand
    (pool(1, 1), pool(1, 1), {}, 0.0),
    (pool(1, 1), replace(pool(1, 1), warmup=5.0, min_up=2), {}, 0.0),
    (pool(1, 1, 1), pool(1, 1), {}, None),
    (pool(1, 1), pool(1, 1, 1), {}, None),
    (pool(1, 1, 1), pool(1, 0, 1), {B2: Standing(State.DOWN)}, 0.0),
    (pool(1, 1, 1), pool(1, 1, 1, 1), {B1: Standing(State.DRAINING)}, None),
    (pool(1, 1), pool(3, 1), {}, None),
    (pool(1, 1, 1, 1), pool(1, 40, 1, 1), {}, None),
    (pool(1, 1), pool(1, 1, first=3), {}, 1.0),
    (pool(1, 1, panic="none"), pool(1, panic="none"), {B1: Standing(State.DOWN)}, None),
    (pool(1, 1, panic="none"), pool(1, 1, 1, panic="none"), dict.fromkeys((B1, B2), Standing(State.DOWN)), 0.0),
    (pool(1, 1), pool(1, 1, 1), {B1: Standing(State.UP, 3)}, None),
]


@pytest.mark.parametrize(("before", "after", "standings", "known"), CHANGES)
def test_the_share_of_keys_that_move(before: Pool, after: Pool, standings: Standings, known: float | None) -> None:
    old, new = setup(pools=(before,)), setup(pools=(after,))
    found = moved(old, new, standings)
    assert [(each.pool, each.version, each.at_most) for each in found] == [("p", 4, False)]
    if known is not None:
        assert found[0].share == known
    if before.backends and old is not new and known is None:
        assert 0 < found[0].share <= 1
        # 4000 keys: three standard deviations are 2.4 %.
        assert counted(old, new, standings) == pytest.approx(found[0].share, abs=0.03)


def test_a_backend_with_another_address_moves_its_keys_and_one_with_another_name_may_not() -> None:
    old = pool(1, 1)
    elsewhere = replace(old, backends=(old.backends[0], replace(old.backends[1], address=endpoint("10.9.9.9:5060"))))
    share = moved(setup(pools=(old,)), setup(pools=(elsewhere,)), {})[0].share
    assert share == pytest.approx(0.5, abs=0.02)
    alone = pool(1)
    renamed = replace(alone, backends=(replace(alone.backends[0], name="other"),))
    assert moved(setup(pools=(alone,)), setup(pools=(renamed,)), {})[0].share == 0.0


def test_another_key_moves_at_most_what_two_unrelated_tables_would() -> None:
    old, new = setup(pools=(pool(1, 1),)), setup(pools=(pool(1, 1, hash_on=("auth-user", "call-id")),))
    (found,) = moved(old, new, {})
    assert found._replace(share=0.5) == Moved("p", 4, 0.5, at_most=True)
    assert found.share == pytest.approx(0.5, abs=0.01)


def test_each_ip_version_counts_for_itself_and_only_pools_that_both_have() -> None:
    six = Backend("b6", endpoint("[2001:db8::1]:5060"))
    old = setup(pools=(replace(pool(1), backends=(*pool(1).backends, six)), Pool("gone", (six,))))
    new = setup(pools=(pool(1), Pool("come", (six,))))
    assert moved(old, new, {}) == [Moved("p", 4, 0.0, at_most=False), Moved("p", 6, 1.0, at_most=False)]


def test_what_is_known_of_a_backend_goes_with_its_address() -> None:
    down, draining = Standing(State.DOWN), Standing(State.DRAINING)
    old = setup()
    known = {("registrars", "reg1"): down, ("registrars", "reg2"): draining}
    renamed = (Backend("r1", endpoint(REG1)), Backend("reg2", endpoint(REG2)), Backend("n", endpoint(OTHER)))
    new = setup(pools=(Pool("other", renamed), Pool("proxies", (Backend("proxy1", endpoint(PROXY1)),))))
    carried = carried_over(old, known, new)
    assert [carried["other", name].state for name in ("r1", "reg2", "n")] == [State.DOWN, State.DRAINING, State.UNKNOWN]


def test_foreseen_routes_are_told_by_what_they_are() -> None:
    from nfqlb.config.diff import _routes

    rules = [RouteRule("a", methods=frozenset({"INVITE"})), RouteRule("b", sources=(ip_network("10.0.0.0/8"),))]
    canary = RouteRule("c", percent=5)

    def told(old: list[RouteRule], new: list[RouteRule]) -> list[str]:
        class Stub:
            def __init__(self, routes: list[RouteRule]) -> None:
                self.routes = tuple(routes)

        return list(_routes(Stub(old), Stub(new)))  # type: ignore[arg-type]  # of a Config it needs the routes alone

    assert told(rules, [canary, *rules]) == ["route[0]: added (5 %: pool c)"]
    assert told([canary, *rules], rules) == ["route[0] of before: removed (5 %: pool c)"]
    assert told([canary, rules[0]], [replace(canary, percent=10), rules[0]]) == ["route[0].percent: 5 → 10"]
    assert told(rules, rules[::-1]) != []
