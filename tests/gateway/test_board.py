"""The board: what one process writes, another reads; and what is no board is refused in a sentence."""

import os
from pathlib import Path

import pytest

from nfqlb.gateway import board
from nfqlb.gateway.board import (
    BACKENDS,
    REASONS,
    About,
    Board,
    BoardError,
    Cell,
    Header,
    NotRunning,
    State,
    Traffic,
    read,
)
from nfqlb.proxy.verdict import REASON_SLOTS, Reason

ABOUT = About("lb", (5060, 5061), ("reg1", "reg2", "größer"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / board.FILE_NAME


def test_a_fresh_board_is_all_zero_and_starting(path: Path) -> None:
    Board(path, ABOUT)
    seen = read(path)
    assert seen.about == ABOUT
    assert (seen.state, seen.generation) == (State.STARTING, 1)
    assert [slot.cells for slot in seen.slots] == [(0,) * len(Cell)] * 2
    assert [slot.reasons for slot in seen.slots] == [(0,) * REASON_SLOTS] * 2
    assert [slot.backends for slot in seen.slots] == [((0,) * len(Traffic),) * 3] * 2
    assert os.listdir(path.parent) == [board.FILE_NAME]
    assert path.stat().st_mode & 0o777 == 0o644  # `nfqlb stats` needs no root


def test_each_cell_is_where_the_reader_looks_for_it(path: Path) -> None:
    made = Board(path, ABOUT)
    made.set(Header.STATE, State.RUNNING)
    made.set(Header.PID, 77)
    for worker in (0, 1):
        slot = made.slot(worker)
        for cell in range(len(slot)):
            slot[cell] = worker * 10_000 + cell + 1
    seen = read(path)
    assert (seen.state, seen.pid, seen.about) == (State.RUNNING, 77, ABOUT)
    for worker, slot in enumerate(seen.slots):
        base = worker * 10_000 + 1
        assert slot.cells == tuple(base + cell for cell in Cell)
        assert slot.reasons == tuple(base + REASONS + number for number in range(REASON_SLOTS))
        assert slot.backends[2][Traffic.RESPONSES_FROM] == base + BACKENDS + 2 * len(Traffic) + 3


def test_a_child_writes_what_the_parent_reads(path: Path) -> None:
    slot = Board(path, ABOUT).slot(1)
    pid = os.fork()
    if not pid:
        slot[Cell.TIMED] += 2**40
        os._exit(0)
    os.waitpid(pid, 0)
    assert [each.cells[Cell.TIMED] for each in read(path).slots] == [0, 2**40]


def test_every_reason_has_a_counter() -> None:
    assert max(Reason) < REASON_SLOTS


def test_a_new_board_replaces_one_that_was_left_behind(path: Path) -> None:
    Board(path, ABOUT).slot(0)[Cell.PID] = 1
    path.with_name(path.name + ".new").write_bytes(b"half made")
    Board(path, About("other", (1,), ()))
    assert read(path).about.gateway == "other"


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
    Board(path, ABOUT).set(Header.LAYOUT, 99)
    with pytest.raises(BoardError, match="layout 99"):
        read(path)


@pytest.mark.parametrize("cell", [Header.WORKERS, Header.SLOT_CELLS, Header.ABOUT, Header.STATE])
@pytest.mark.parametrize("value", [0, 3, 2**63])
def test_a_header_that_contradicts_the_file_is_refused(path: Path, cell: Header, value: int) -> None:
    made = Board(path, ABOUT)
    if (cell, value) == (Header.STATE, 0):
        value = 9
    made.set(cell, value)
    with pytest.raises(BoardError, match="not a board"):
        read(path)


def test_a_board_cut_short_is_refused(path: Path) -> None:
    Board(path, ABOUT)
    os.truncate(path, path.stat().st_size - 8)
    with pytest.raises(BoardError, match="not a board"):
        read(path)


def test_names_of_another_shape_are_refused(path: Path) -> None:
    Board(path, ABOUT)
    path.write_bytes(path.read_bytes().replace(b'"queues"', b'"Queues"'))
    with pytest.raises(BoardError, match="not a board"):
        read(path)


def test_an_unreadable_board_says_why(path: Path) -> None:
    path.mkdir()
    with pytest.raises(BoardError, match="Is a directory"):
        read(path)
