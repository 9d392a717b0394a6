"""Tables built in several processes are those that one process builds."""

import os
from pathlib import Path

import pytest

from nfqlb.balance.pool import Backend, Pool
from nfqlb.balance.states import Standing, State
from nfqlb.balance.tables import Draft, Ready, Tables, build, missing
from nfqlb.gateway.plan import tables as plan_tables
from nfqlb.gateway.plan.tables import TableBuild, parts
from nfqlb.gateway.runtime.job import Refused
from nfqlb.net.endpoint import Endpoint


def pool(name: str, count: int, weight: int = 1) -> Pool:
    backends = (Backend(f"{name}-{n}", Endpoint.parse(f"10.0.{n}.1:5060"), 1 + n * weight) for n in range(count))
    return Pool(name, tuple(backends))


POOLS = [pool("a", 2), pool("b", 5), pool("c", 3), pool("d", 1), pool("e", 4)]


def tables(pools: list[Pool], ready: Ready | None = None) -> Tables:
    places = [(each.name, backend.name) for each in pools for backend in each.backends]
    return Tables(pools, places, None, ready)


def children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


@pytest.fixture
def several(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any table is worth a process, and there are cores."""
    monkeypatch.setattr(plan_tables, "WORTH_A_PROCESS", 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})


@pytest.mark.usefixtures("several")
def test_they_are_those_that_one_process_builds() -> None:
    with TableBuild(POOLS) as begun:
        assert len(children()) == 3
        found = begun.finish()
    assert children() == []
    assert found == tables(POOLS).built
    assert tables(POOLS, found).digest() == tables(POOLS).digest()


@pytest.mark.usefixtures("several")
def test_with_the_standings_of_before_and_only_what_is_other() -> None:
    before = tables(POOLS)
    standings = {("a", "a-0"): Standing(State.DOWN)}
    before.put(standings, [build(each) for each in before.changed(standings)])
    changed = [*POOLS[:-1], pool("e", 4, weight=2)]
    with TableBuild(changed, before) as begun:
        assert len(children()) == 1
        found = begun.finish()
    assert {which for which in found if found[which] is not before.built.get(which)} == {("e", 4)}
    assert not missing(changed, before.standings, found)


@pytest.mark.usefixtures("several")
def test_what_nobody_waits_for_ends() -> None:
    with TableBuild(POOLS):
        assert children()
    assert children() == []


@pytest.mark.usefixtures("several")
def test_where_nothing_can_be_forked_it_is_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def fork() -> int:
        raise BlockingIOError

    monkeypatch.setattr(os, "fork", fork)
    with TableBuild(POOLS) as begun:
        assert begun.finish() == tables(POOLS).built


@pytest.mark.usefixtures("several")
def test_a_builder_that_dies_is_no_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_tables, "build", lambda _: os._exit(1))
    with TableBuild(POOLS) as begun, pytest.raises(Refused):
        begun.finish()
    assert children() == []


def test_for_little_nothing_is_forked() -> None:
    with TableBuild(POOLS[:1]) as begun:
        assert children() == []
        assert begun.finish() == tables(POOLS[:1]).built


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 9])
def test_parts_have_all_and_as_much(count: int) -> None:
    drafts: list[Draft] = missing(POOLS, {}, {})
    found = parts(drafts, count)
    assert len(found) == min(count, len(drafts))
    assert sorted(each for part in found for each in part) == (sorted(drafts) if count else [])
    if count == 2:
        sums = [sum(each.intake.slots for each in part) for part in found]
        assert max(sums) - min(sums) <= max(each.intake.slots for each in drafts)
