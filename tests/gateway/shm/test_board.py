"""The board: what one process writes, another reads; and what is no board is refused in a sentence."""

import os
from pathlib import Path

import pytest

from nfqlb.errors import BoardError, NotRunning
from nfqlb.gateway.shm import board
from nfqlb.gateway.shm.board import BACKENDS, REASONS, About, Board, Cell, FoundBoard, Header, State, Traffic, read
from nfqlb.proxy.verdict import REASON_SLOTS, Reason

ABOUT = About("lb", (5060, 5061), ("reg1", "reg2", "größer"))


def published(path: Path, about: About = ABOUT) -> Board:
    board = Board(path, about)
    board.publish()
    return board


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / board.FILE_NAME


def test_a_fresh_board_is_all_zero_and_starting(path: Path) -> None:
    published(path)
    seen = read(path)
    assert seen.about == ABOUT
    assert (seen.state, seen.generation) == (State.STARTING, 1)
    assert [slot.cells for slot in seen.slots] == [(0,) * len(Cell)] * 2
    assert [slot.reasons for slot in seen.slots] == [(0,) * REASON_SLOTS] * 2
    assert [slot.backends for slot in seen.slots] == [((0,) * len(Traffic),) * 3] * 2
    assert os.listdir(path.parent) == [board.FILE_NAME]
    assert path.stat().st_mode & 0o777 == 0o644  # `nfqlb stats` needs no root


def test_each_cell_is_where_the_reader_looks_for_it(path: Path) -> None:
    made = published(path)
    made.set(Header.STATE, State.RUNNING)
    made.set(Header.PID, 77)
    for worker in (0, 1):
        slot = made.slot(worker)
        for cell in range(len(slot)):
            slot[cell] = worker * 10_000 + cell + 1
    seen = read(path)
    assert (seen.state, seen.pid, seen.about) == (State.RUNNING, 77, ABOUT)
    for worker, told in enumerate(seen.slots):
        base = worker * 10_000 + 1
        assert told.cells == tuple(base + cell for cell in Cell)
        assert told.reasons == tuple(base + REASONS + number for number in range(REASON_SLOTS))
        assert told.backends[2][Traffic.RESPONSES_4XX] == base + BACKENDS + 2 * len(Traffic) + 6


def test_a_child_writes_what_the_parent_reads(path: Path) -> None:
    slot = published(path).slot(1)
    pid = os.fork()
    if not pid:
        slot[Cell.TIMED] += 2**40
        os._exit(0)
    os.waitpid(pid, 0)
    assert [each.cells[Cell.TIMED] for each in read(path).slots] == [0, 2**40]


def test_every_reason_has_a_counter() -> None:
    assert max(Reason) < REASON_SLOTS


def test_a_new_board_replaces_one_that_was_left_behind(path: Path) -> None:
    published(path).slot(0)[Cell.PID] = 1
    path.with_name(f"{path.name}.{os.getpid()}").write_bytes(b"half made")
    published(path, About("other", (1,), ()))
    assert read(path).about.gateway == "other"


def test_what_earlier_workers_counted_goes_on_by_the_names_of_backends(path: Path) -> None:
    first = published(path)
    for worker in (0, 1):
        first.slot(worker)[Cell.TIMED] = first.slot(worker)[Cell.PID] = 10
        first.slot(worker)[REASONS + Reason.PING] = 3
        first.slot(worker)[BACKENDS + 1 * len(Traffic) + Traffic.REQUESTS_TO] = 7  # reg2
        first.slot(worker)[BACKENDS + 2 * len(Traffic) + Traffic.REQUESTS_TO] = 9  # one that will be gone
    second = Board(path, About("lb", (5070,), ("new", "reg2")))
    second.carry_over(first.snapshot())
    second.publish()
    second.settle()
    second.slot(0)[REASONS + Reason.PING] = 100
    third = Board(path, About("lb", (5080,), ("reg2",)))
    third.carry_over(second.snapshot())
    retired = third.snapshot().retired
    assert (retired.cells[Cell.TIMED], retired.cells[Cell.PID]) == (20, 0)
    assert retired.reasons[Reason.PING] == 106
    assert [each[Traffic.REQUESTS_TO] for each in retired.backends] == [14]
    assert second.snapshot().retired.backends == ((0,) * len(Traffic), (14, *(0,) * (len(Traffic) - 1)))
    assert third.sums(Traffic.REQUESTS_TO) == [14]


def test_until_it_settles_a_board_can_be_taken_back(path: Path) -> None:
    published(path)
    second = Board(path, About("other", (1,), ()))
    second.publish()
    assert read(path).about.gateway == "other"
    second.withdraw()
    assert read(path).about == ABOUT
    never = Board(path, About("never", (1,), ()))
    never.withdraw()
    assert read(path).about == ABOUT
    assert os.listdir(path.parent) == [board.FILE_NAME]


def test_workers_of_a_found_board_are_told_to_leave(path: Path) -> None:
    first = published(path)
    FoundBoard(path).retire()
    assert first.header[Header.STATE] == State.RETIRED
    with pytest.raises(BoardError):
        FoundBoard(path.with_name("none"))


def test_without_a_board_nothing_runs(path: Path) -> None:
    with pytest.raises(NotRunning, match="No gateway runs here"):
        read(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"#!/bin/sh\n", bytes(128), bytes(4096), os.urandom(999)],
    ids=["empty", "text", "0", "00", "noise"],
)
def test_a_foreign_file_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(BoardError, match="not a board"):
        read(path)


def test_another_layout_is_refused_with_its_number(path: Path) -> None:
    published(path).set(Header.LAYOUT, 99)
    with pytest.raises(BoardError, match="layout 99"):
        read(path)


@pytest.mark.parametrize("cell", [Header.WORKERS, Header.SLOT_CELLS, Header.ABOUT, Header.STATE])
@pytest.mark.parametrize("value", [0, 4, 2**63])
def test_a_header_that_contradicts_the_file_is_refused(path: Path, cell: Header, value: int) -> None:
    made = published(path)
    if (cell, value) == (Header.STATE, 0):
        value = 9
    made.set(cell, value)
    with pytest.raises(BoardError, match="not a board"):
        read(path)


def test_a_board_cut_short_is_refused(path: Path) -> None:
    published(path)
    os.truncate(path, path.stat().st_size - 8)
    with pytest.raises(BoardError, match="not a board"):
        read(path)


def test_names_of_another_shape_are_refused(path: Path) -> None:
    published(path)
    path.write_bytes(path.read_bytes().replace(b'"queues"', b'"Queues"'))
    with pytest.raises(BoardError, match="not a board"):
        read(path)


def test_an_unreadable_board_says_why(path: Path) -> None:
    path.mkdir()
    with pytest.raises(BoardError, match="Is a directory"):
        read(path)
