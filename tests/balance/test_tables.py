"""The tables of pools: even, stable, the same on every node (P30, P39), and one memory for many readers."""

import mmap
import os
import pickle
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sipcase import EXT, PHONE, REG1, REG2, REGISTER, endpoint, setup, standing, wire

from nfqlb.balance import maglev, tables
from nfqlb.balance.pool import Backend, Pool
from nfqlb.balance.states import WHOLE, Place, Standing, Standings, State
from nfqlb.balance.tables import Built, Draft, Ready, Tables, build
from nfqlb.engine import Engine
from nfqlb.net import datagram
from nfqlb.proxy.setup import RouteRule
from nfqlb.proxy.verdict import Reason

COUNTS = [2, 3, 5, 8, 21, 50, 100, 200]


def weighted(count: int, most: int) -> list[tuple[str, int]]:
    """Members with weights from 1 to `most`, the same in each run."""
    chance = random.Random(count * most)
    return [(f"b{n}", chance.randint(1, most)) for n in range(count)]


def whose(members: list[tuple[str, int]], size: int) -> list[str]:
    """The name that each slot belongs to."""
    return [members[index][0] for index in maglev.build(members, size)]


def pool_of(weights: list[int], **changes: Any) -> Pool:
    backends = (Backend(f"b{n}", endpoint(f"10.0.{n}.1:5060"), weight) for n, weight in enumerate(weights))
    return Pool("p", tuple(backends), **changes)


def made(*pools: Pool, standings: Standings | None = None, ready: Ready | None = None) -> Tables:
    return Tables(pools, setup(pools=pools).places, standings, ready)


def bring(into: Tables, standings: Standings) -> list[Draft]:
    """What the supervisor does; the drafts that had to be built."""
    drafts = into.changed(standings)
    into.put(standings, [build(draft) for draft in drafts])
    return list(drafts)


KEYS = [b"call-%d@192.0.2.1" % number for number in range(300)]


def answers(of: Tables, *pools: str) -> list[int]:
    return [of.choose(pool, 4, key) for pool in pools or ("p",) for key in KEYS]


# -- the table


@pytest.mark.slow
@pytest.mark.parametrize("most", [1, 3, 20])
@pytest.mark.parametrize("count", COUNTS)
def test_P30_weights_are_kept_to_two_percent(count: int, most: int) -> None:
    members = weighted(count, most)
    total = sum(weight for _, weight in members)
    table = whose(members, maglev.table_size([weight for _, weight in members]))
    counts = Counter(table)
    for name, weight in members:
        assert counts[name] / len(table) == pytest.approx(weight / total, rel=0.02)


@settings(max_examples=30)
@given(st.lists(st.integers(1, 1000), min_size=2, max_size=30))
def test_P30_no_share_is_off_by_more_than_a_slot_and_a_turn_of_each(weights: list[int]) -> None:
    """Also where one member is a thousand times as heavy as another, and the table cannot be large enough for 2 %."""
    size = 8191
    counts = Counter(maglev.build([(f"b{n}", weight) for n, weight in enumerate(weights)], size))
    for index, weight in enumerate(weights):
        exact = size * weight / sum(weights)
        assert abs(counts[index] - exact) <= 1 + len(weights) * weight / sum(weights)


@pytest.mark.slow
@pytest.mark.parametrize("most", [1, 3])
@pytest.mark.parametrize("count", COUNTS)
def test_P30_when_one_leaves_the_keys_of_the_others_stay(count: int, most: int) -> None:
    members = weighted(count, most)
    size = maglev.table_size([weight for _, weight in members])
    before = whose(members, size)
    for gone in {0, count // 2} if count > 50 else {0, count // 2, count - 1}:
        after = whose([member for n, member in enumerate(members) if n != gone], size)
        moved = sum(old not in (new, members[gone][0]) for old, new in zip(before, after, strict=True))
        assert moved / size <= 0.01


@pytest.mark.parametrize("count", [2, 5, 20])
def test_P30_while_one_warms_up_keys_move_to_it_and_next_to_none_elsewhere(count: int) -> None:
    members = [(name, weight * WHOLE) for name, weight in weighted(count, 3)]
    size = maglev.table_size([weight for _, weight in members])
    name, whole = members[count // 2]
    before = whose([member for member in members if member[0] != name], size)
    share = 0.0
    for tenths in range(1, WHOLE + 1):
        after = whose([(each, whole * tenths // WHOLE if each == name else w) for each, w in members], size)
        astray = sum(new not in (old, name) for old, new in zip(before, after, strict=True))
        assert astray / size <= 0.01
        assert share < (share := after.count(name) / size)
        before = after
    assert before == whose(members, size)


def test_P30_a_table_keeps_its_size_when_states_change() -> None:
    """Another size would move every key."""
    pool = pool_of([1] * 30)
    drafts = made(pool).changed(standing({("p", f"b{n}"): State.DOWN for n in range(29)}))
    assert [draft.intake.slots for draft in drafts] == [maglev.table_size([1] * 30)]


# -- P39: nodes


STATES = st.sampled_from(list(State))
STANDINGS = st.builds(Standing, STATES, st.integers(1, WHOLE))
BACKENDS = st.integers(0, 4).map(lambda n: f"b{n}")
EVENTS = st.lists(st.tuples(st.sampled_from("pq"), BACKENDS, STANDINGS), max_size=12)


@pytest.mark.slow
@settings(max_examples=40)
@given(EVENTS, st.randoms(use_true_random=False))
def test_P39_nodes_with_the_same_states_have_the_same_tables_whatever_came_before(
    events: list[tuple[str, str, Standing]], chance: random.Random
) -> None:
    one_pool = pool_of([1, 2, 1, 3, 1])
    pools = (one_pool, Pool("q", one_pool.backends, panic="none"))
    final: dict[Place, Standing] = {(pool, name): now for pool, name, now in events}
    one, other, late = made(*pools), made(*pools), made(*pools, standings=final)
    now: dict[Place, Standing] = {}
    for pool, name, heard in events:
        now[pool, name] = heard
        bring(one, now)
    for place in chance.sample(sorted(final), len(final)):
        bring(other, {place: final[place]})  # others may have been forgotten meanwhile
    bring(other, final)
    assert {**one.standings} == {**other.standings} == {**late.standings}
    assert one.shares() == other.shares() == late.shares()
    assert answers(one, "p", "q") == answers(other, "p", "q") == answers(late, "p", "q")
    for each in (one, other):
        assert each.changed(final) == ()


# -- the memory


def test_what_is_put_is_what_everyone_reads() -> None:
    here = made(pool_of([1, 1, 1]))
    memory = memoryview(bytearray(here.size))
    before = answers(here)
    here.share(memory)
    assert answers(here) == before, "to move changes nothing"
    reader = pickle.loads(pickle.dumps(here))
    bring(here, standing({("p", "b1"): State.DOWN}))
    assert answers(reader) == before, "what is loaded has a memory of its own"
    assert 1 not in answers(here)
    assert [here.alive(number) for number in range(3)] == [True, False, True]
    bring(here, {})
    assert answers(here) == before
    assert all(map(here.alive, range(3)))


def test_to_share_again_is_to_move_with_all_that_is_there() -> None:
    here = made(pool_of([1, 1, 1]), standings=standing({("p", "b0"): State.DRAINING}))
    before = answers(here)
    for _ in range(2):
        here.share(memoryview(mmap.mmap(-1, here.size)))
        assert answers(here) == before


def test_states_can_be_put_without_tables() -> None:
    """A table may take long to build; that a backend is dead need not wait for it."""
    here = made(pool_of([1, 1]))
    before = answers(here)
    down = standing({("p", "b0"): State.DOWN})
    here.put(down)
    assert not here.alive(0)
    assert answers(here) == before
    assert len(here.changed(down)) == 1


def test_only_what_changes_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    many = [Pool(f"p{n}", pool_of([1, 1]).backends) for n in range(5)]
    here = made(*many)
    assert [draft.which for draft in bring(here, standing({("p3", "b0"): State.DOWN}))] == [("p3", 4)]
    assert bring(here, standing({("p3", "b0"): State.DISABLED})) == []
    built: list[Draft] = []

    def building(draft: Draft) -> Built:
        built.append(draft)
        return build(draft)

    monkeypatch.setattr(tables, "build", building)
    again = made(*many, standings=here.standings, ready=here.built)
    assert built == []
    assert answers(again, "p2", "p3") == answers(here, "p2", "p3")
    changed = made(many[0], pool_of([1, 2, 3]), ready=here.built)
    assert [draft.which for draft in built] == [("p", 4)]
    assert answers(changed, "p0") == answers(here, "p0")


def test_ready_is_by_what_is_in_a_table_not_by_name() -> None:
    here = made(pool_of([1, 1, 1]))
    turned = Pool("p", here_backends := pool_of([1, 1, 1]).backends[::-1])
    names = [turned.backends[number].name for number in answers(made(turned, ready=here.built))]
    assert names == [here_backends[2 - number].name for number in answers(here)]


def test_a_pool_with_nobody_of_a_version_has_nothing_to_choose_from() -> None:
    here = made(pool_of([1, 1]))
    assert here.choose("p", 6, b"x") == -1
    assert here.choose("nobody's", 4, b"x") == -1
    bring(here, standing({("p", "b0"): State.DISABLED, ("p", "b1"): State.DRAINING}))
    assert here.choose("p", 4, b"x") == -1
    assert here.shares() == {}


def test_numbers_are_those_of_the_setup() -> None:
    """Members of one table may stand anywhere among the backends: of other versions, without weight, of other pools."""
    mixed = Pool(
        "mixed",
        (
            Backend("six", endpoint("[2001:db8::1]:5060")),
            Backend("zero", endpoint("10.9.9.9:5060"), weight=0),
            Backend("four", endpoint(REG2)),
            Backend("spare", endpoint(REG1), priority=2),
        ),
    )
    here = made(pool_of([1, 1]), mixed)
    assert {here.choose("mixed", 4, key) for key in KEYS} == {4}
    assert {here.choose("mixed", 6, key) for key in KEYS} == {2}
    bring(here, standing({("mixed", "four"): State.DOWN}))
    assert {here.choose("mixed", 4, key) for key in KEYS} == {5}


@pytest.fixture
def forked() -> Iterator[list[int]]:
    """Pids of children to be ended."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def test_a_worker_sees_at_its_next_packet_what_the_supervisor_puts(forked: list[int]) -> None:
    engine = Engine(setup(routes=(RouteRule("registrars"),)))
    engine.share(memoryview(mmap.mmap(-1, engine.tables.size)))
    packet = datagram.build(endpoint(PHONE), endpoint(EXT), wire(REGISTER))
    ask, asked = os.pipe()
    answer, answered = os.pipe()
    pid = os.fork()
    if not pid:
        worker = engine.sibling(7)
        while os.read(ask, 1):
            os.write(answered, str(worker.process(packet).dst).encode().ljust(64))
        os._exit(0)
    forked.append(pid)

    def seen() -> str:
        os.write(asked, b"?")
        return os.read(answer, 64).decode().strip()

    first = seen()
    name = {REG1: "reg1", REG2: "reg2"}[first]
    for state in (State.DOWN, State.UP, State.DRAINING, State.UNKNOWN):
        bring(engine.tables, standing({("registrars", name): state}))
        assert (seen() == first) is state.takes_new
    nobody: Mapping[Place, State] = dict.fromkeys((("registrars", "reg1"), ("registrars", "reg2")), State.DISABLED)
    bring(engine.tables, standing(nobody))
    assert engine.process(packet).reason is Reason.NO_BACKEND
    assert seen() == PHONE, "503"
    for each in (ask, asked, answer, answered):
        os.close(each)


def test_who_reads_while_tables_change_gets_an_answer_of_before_or_after(forked: list[int]) -> None:
    """A child changes the tables as fast as it can; every answer here is that of one of the three."""
    pool = Pool("p", (*pool_of([1] * 6).backends, Backend("spare", endpoint(REG1), priority=2)))
    here = made(pool)
    here.share(memoryview(mmap.mmap(-1, here.size)))
    primary = [("p", f"b{n}") for n in range(6)]
    wanted: list[Standings] = [{}, standing({primary[1]: State.DOWN}), standing(dict.fromkeys(primary, State.DOWN))]
    ready: list[tuple[Standings, list[Built]]] = []
    allowed: list[list[int]] = []
    for standings in wanted:  # tables of two sizes
        ready.append((standings, [build(draft) for draft in here.changed(standings)] or list(here._built.values())))
        allowed.append(answers(made(pool, standings=standings)))
    pid = os.fork()
    if not pid:
        while True:
            for standings, built in ready:
                here.put(standings, built)
    forked.append(pid)
    seen = set()
    for _ in range(60):
        for number, key in enumerate(KEYS):
            got = here.choose("p", 4, key)
            assert got in {answer[number] for answer in allowed}
            seen.add(got)
    assert seen == set(range(7)), "it did change meanwhile"


def test_what_went_through_a_pipe_is_as_it_was() -> None:
    here = made(pool_of([1, 2, 3]), standings={("p", "b1"): Standing(State.UP, 4)})
    draft, *_ = here.changed({})
    there = pickle.loads(pickle.dumps(here))
    assert answers(there) == answers(here)
    assert {**there.standings} == {**here.standings}
    assert pickle.loads(pickle.dumps(build(draft))) == build(draft)
