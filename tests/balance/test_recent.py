"""The memory of recent choices (P31): what is found is right, whatever was torn, driven out or left from long ago."""

import mmap
import os
import struct
import traceback
from collections.abc import Iterator
from itertools import product

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nfqlb.balance import recent
from nfqlb.balance.recent import ENTRIES, NOTHING, WAYS, Key, Recent

WRAP = 2**24
"""Seconds come round."""
CELLS = memoryview(bytearray(recent.SIZE)).cast("Q")
"""For tests that begin with an empty table: to make 8 MiB anew each time would take longer than the tests."""

seconds = st.integers(0, 3 * WRAP) | st.integers(-700, 700).map(lambda off: WRAP + off)
tokens = st.integers(1, 2**40 - 1)


def table(now: int = 0, *, keep: bool = False) -> Recent:
    """A table, empty unless it is another view of the one that is there."""
    if not keep:
        Recent.format(CELLS)
    made = Recent(CELLS)
    made.now = now
    return made


def rivals(count: int, place: int = 7) -> list[Key]:
    """Keys of one set."""
    return [(recent.key(b"%d" % number)[0], place) for number in range(count)]


def entry(key: Key, token: int, lifetime: int, now: int = 0) -> tuple[int, int]:
    """The two cells of an entry, as an otherwise empty table holds them."""
    made = table(now)
    made.store(key, token, lifetime)
    first = recent.HEADER_CELLS + 2 * WAYS * key[1]
    return CELLS[first], CELLS[first + 1]


# -- what is stored is found, as long as it lasts


@pytest.mark.slow
@given(st.binary(max_size=40), tokens, st.sampled_from([recent.LIFETIME, recent.INVITE_LIFETIME]), seconds, st.data())
def test_P31_found_for_its_lifetime_and_not_much_longer(
    transaction: bytes, token: int, lifetime: int, now: int, data: st.DataObject
) -> None:
    memory, key = table(now), recent.key(transaction)
    memory.store(key, token, lifetime)
    memory.now = now + data.draw(st.integers(0, lifetime))
    assert memory.find(key) == token
    memory.now = now + lifetime + data.draw(st.integers(1, WRAP - 601))
    assert memory.find(key) == NOTHING


def test_P31_an_end_is_an_end() -> None:
    memory, key = table(100), recent.key(b"x")
    memory.store(key, 5, recent.LIFETIME)
    found = []
    for memory.now in range(100, 200):
        found.append(memory.find(key))
    assert found == [5] * 33 + [NOTHING] * 67


@pytest.mark.slow
@given(
    st.lists(st.tuples(st.integers(0, 11), tokens, st.sampled_from([32, 180]), st.integers(0, 40)), max_size=60),
    seconds,
)
def test_P31_never_another_token_than_the_last_one_stored(steps: list[tuple[int, int, int, int]], start: int) -> None:
    """Against a dictionary: twelve transactions that fight for one set, while time goes on."""
    memory, keys = table(start), rivals(12)
    model: dict[int, tuple[int, int]] = {}
    for which, token, lifetime, pause in steps:
        memory.store(keys[which], token, lifetime)
        model[which] = token, memory.now + lifetime
        memory.now += pause
        alive = {number for number, (_, end) in model.items() if memory.now <= end}
        found = {number: memory.find(key) for number, key in enumerate(keys)}
        assert {number for number in found if found[number]} <= alive
        assert all(found[number] in (NOTHING, model[number][0]) for number in alive)
        assert len(alive) - sum(map(bool, found.values())) <= memory.evicted, "who is not there was driven out"
    assert memory.stored == len(steps)


def test_P31_the_entry_that_ends_soonest_is_driven_out() -> None:
    memory, keys = table(1000), rivals(7)
    for number, lifetime in enumerate((180, 32, 180, 100)):
        memory.store(keys[number], number + 1, lifetime)
    assert memory.evicted == 0
    memory.store(keys[4], 5, 180)
    assert [memory.find(key) for key in keys] == [1, 0, 3, 4, 5, 0, 0]
    memory.store(keys[5], 6, 180)
    assert [memory.find(key) for key in keys] == [1, 0, 3, 0, 5, 6, 0]
    assert memory.evicted == 2
    memory.now += 181  # what has ended makes room for nothing
    memory.store(keys[6], 7, 32)
    assert (memory.find(keys[6]), memory.evicted) == (7, 2)


def test_P31_a_new_choice_takes_the_place_of_the_old_one() -> None:
    memory, keys = table(1000), rivals(4)
    for number, key in enumerate(keys):
        memory.store(key, number + 1, 180)
    memory.store(keys[2], 9, 32)
    assert [memory.find(key) for key in keys] == [1, 2, 9, 4]
    assert memory.evicted == 0


# -- the table comes from others: at the same time, from long ago, from elsewhere


def test_P31_halves_of_two_entries_are_no_entry() -> None:
    """Every mixture of two entries that a reader may meet in the middle of a store, in their transactions' set."""
    (one, two), first = rivals(2, 0), recent.HEADER_CELLS
    old, new = entry(one, 111, 180), entry(two, 222, 32)
    again = entry(one, 333, 180)
    for before, after in product((old, new, again), repeat=2):
        memory = table()
        CELLS[first], CELLS[first + 1] = before[0], after[1]
        whole = before == after
        assert memory.find(one) == (NOTHING if not whole else {old: 111, new: NOTHING, again: 333}[before])
        assert memory.find(two) == (222 if before == after == new else NOTHING)
        memory.store(two, 444, 32)
        assert memory.find(two) == 444


@pytest.mark.slow
@given(st.binary(min_size=64, max_size=64), seconds, st.binary(max_size=10))
def test_P31_garbage_is_nothing_and_can_be_written_over(garbage: bytes, now: int, transaction: bytes) -> None:
    check, place = recent.key(transaction)
    memory, first = table(now), recent.HEADER_CELLS + 2 * WAYS * (place % recent.SETS)
    CELLS[first : first + 2 * WAYS] = memoryview(garbage).cast("Q")
    assert memory.find((check, place)) == NOTHING
    memory.store((check, place), 77, 32)
    assert memory.find((check, place)) == 77


@pytest.mark.slow
@given(seconds)
@example(0)
@example(WRAP - 100)
def test_P31_an_empty_table_is_empty_at_any_time(now: int) -> None:
    memory = table(now)
    assert memory.used() == 0
    for key in ((0, 0), recent.key(b"x")):
        assert memory.find(key) == NOTHING
        memory.store(key, 3, 180)
        assert (memory.find(key), memory.evicted) == (3, 0)


def test_P31_another_process_sees_it_though_its_clock_lags() -> None:
    ahead, behind = table(5000), table(4995, keep=True)
    key = recent.key(b"x")
    ahead.store(key, 8, recent.INVITE_LIFETIME)
    assert behind.find(key) == 8
    for rival in rivals(4, key[1]):
        behind.store(rival, 1, 32)
    assert behind.find(key) == 8, "it ends last"


@pytest.mark.slow
def test_P31_many_processes_write_at_once() -> None:
    """Three writers on a few sets; none ever finds another token than the one that goes with the transaction."""
    shared = mmap.mmap(-1, recent.SIZE)
    cells = memoryview(shared).cast("Q")
    Recent.format(cells)
    keys = [(recent.key(b"%d" % number)[0], number % 8) for number in range(400)]
    children = [_forked(cells, keys, turn) for turn in (1, 7, 13)]
    ends = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert ends == [0, 0, 0]
    reader = Recent(cells)
    assert sum(reader.find(key) == _token_of(key) for key in keys) == 8 * WAYS
    del reader
    cells.release()
    shared.close()


def _token_of(key: Key) -> int:
    return key[0] % (2**40 - 1) + 1


def _forked(cells: memoryview, keys: list[Key], turn: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        memory, found = Recent(cells), 0
        for count in range(20_000):
            written, read = keys[count * turn % len(keys)], keys[(count * turn + 11) % len(keys)]
            memory.store(written, _token_of(written), 32)
            token = memory.find(read)
            found += bool(token)
            assert token in (NOTHING, _token_of(read))
        assert found
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


# -- header, size, numbers


@pytest.fixture
def header() -> Iterator[memoryview]:
    Recent.format(CELLS)
    yield CELLS
    Recent.format(CELLS)


def test_what_another_version_wrote_does_not_fit(header: memoryview) -> None:
    assert Recent.fits(header)
    for cell in range(3):
        header[cell] += 1
        assert not Recent.fits(header)
        header[cell] -= 1
    assert Recent.fits(header)
    assert not Recent.fits(header[:-1])
    assert not Recent.fits(header[:0])
    assert not Recent.fits(memoryview(bytearray(recent.SIZE)).cast("Q"))


def test_formatting_empties_whatever_it_was(header: memoryview) -> None:
    header.cast("B")[:] = os.urandom(recent.SIZE)
    Recent.format(header)
    assert Recent.fits(header)
    assert not any(header[8:])


def test_the_size_is_what_the_documentation_says() -> None:
    assert recent.SIZE == 64 + 16 * ENTRIES
    assert ENTRIES == 524_288
    assert (8 * recent.HEADER_CELLS) % 64 == (16 * WAYS) % 64 == 0, "a set is a cache line"


def test_used_is_about_right_and_keys_spread_evenly() -> None:
    memory = table(1000)
    for number in range(60_000):
        memory.store(recent.key(b"call-%d\0tag" % number), 1 + number % 3, 180 if number % 2 else 32)
    assert memory.used() == pytest.approx(60_000, rel=0.1)
    # Sets of Poisson's distribution with 60,000 / 131,072 in the mean: P(a fifth comes) times the sets, about.
    assert memory.evicted < 60_000 * 0.002
    memory.now += 100
    assert memory.used() == pytest.approx(30_000, rel=0.1)


@given(st.binary(max_size=30), st.binary(max_size=30))
def test_keys_and_tokens_are_hashes(one: bytes, other: bytes) -> None:
    assert (recent.key(one) == recent.key(other)) is (one == other)
    assert (recent.token(one) == recent.token(other)) is (one == other)
    assert 0 < recent.token(one) < 2**40
    assert struct.pack("=QI", *recent.key(one))
