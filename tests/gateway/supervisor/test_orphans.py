"""Workers of a supervisor that is gone: found on every board of the run directory, and nobody else taken for one."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from livenet import until

from nfqlb.gateway.host.procfs import alive
from nfqlb.gateway.shm import board
from nfqlb.gateway.shm.board import About, Board, Cell, Header, State
from nfqlb.gateway.supervisor.orphans import Orphans

ABOUT = About("lb", (5060, 5061), ("reg1",), ("10.0.0.1:5060",))

Worker = Callable[..., int]


@pytest.fixture
def worker() -> Iterator[Worker]:
    """Forks a process that looks like a worker of a board, waits for any signal, and ends."""
    pids: list[int] = []

    def fork(made: Board, index: int, name: str = "") -> int:
        pid = os.fork()
        if not pid:
            for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            with open("/proc/self/comm", "w") as comm:
                comm.write(name or f"nfqlb-{index}")
            made.slot(index)[Cell.PID] = os.getpid()
            signal.pause()
            os._exit(0)
        pids.append(pid)
        assert until(lambda: made.snapshot().slots[index].cells[Cell.PID] == pid)
        return pid

    yield fork
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def boards(run_dir: Path) -> tuple[Board, Board]:
    """One in its place, and one that was to take it."""
    first = Board(run_dir / board.FILE_NAME, ABOUT)
    first.publish()
    return first, Board(run_dir / board.FILE_NAME, ABOUT)


def test_without_a_board_there_are_none(tmp_path: Path) -> None:
    assert Orphans.find(tmp_path) is None
    (tmp_path / board.FILE_NAME).write_text("not a board")
    assert Orphans.find(tmp_path) is None


def test_they_are_found_on_every_board_and_told_to_leave(tmp_path: Path, worker: Worker) -> None:
    first, coming = boards(tmp_path)
    pids = [worker(first, 0), worker(first, 1), worker(coming, 1)]
    orphans = Orphans.find(tmp_path)
    assert orphans is not None
    assert sorted(orphans.pids) == sorted(pids)
    assert not orphans.gone()
    orphans.retire()
    assert until(orphans.gone)
    assert not any(map(alive, pids))
    assert first.get(Header.STATE) == coming.get(Header.STATE) == State.RETIRED
    orphans.close()
    assert os.listdir(tmp_path) == [board.FILE_NAME]


def test_one_that_was_replaced_since_is_told_too(tmp_path: Path, worker: Worker) -> None:
    first, _ = boards(tmp_path)
    worker(first, 0)
    orphans = Orphans.find(tmp_path)
    assert orphans is not None
    later = worker(first, 1)
    orphans.stop()
    assert later in orphans.pids
    assert until(orphans.gone)


def test_our_own_are_not_among_them(tmp_path: Path, worker: Worker) -> None:
    first, coming = boards(tmp_path)
    worker(first, 0)
    stranger = worker(coming, 0)
    orphans = Orphans.find(tmp_path, but=first)
    assert orphans is not None
    assert orphans.pids == [stranger]
    orphans.retire()
    assert until(orphans.gone)
    assert first.get(Header.STATE) == State.STARTING
    orphans.close()
    assert Orphans.find(tmp_path, but=first) is None


def test_a_process_that_only_has_the_number_is_left_alone(tmp_path: Path, worker: Worker) -> None:
    first, _ = boards(tmp_path)
    other = worker(first, 0, "bystander")
    first.slot(1)[Cell.PID] = os.getpid()
    orphans = Orphans.find(tmp_path)
    assert orphans is not None
    assert orphans.pids == []
    assert orphans.gone()
    orphans.kill()
    assert alive(other)


@pytest.mark.parametrize("number", [0, 2**22 + 1, 2**31, 2**63, 2**64 - 1])
def test_a_number_that_is_no_process_is_passed_over(tmp_path: Path, number: int) -> None:
    first, _ = boards(tmp_path)
    first.slot(0)[Cell.PID] = number
    orphans = Orphans.find(tmp_path)
    assert orphans is not None
    assert orphans.pids == []


def test_boards_of_those_who_still_run_stay(tmp_path: Path, worker: Worker) -> None:
    first, coming = boards(tmp_path)
    worker(coming, 0)
    orphans = Orphans.find(tmp_path)
    assert orphans is not None
    before = len(os.listdir("/proc/self/fd"))
    orphans.close()
    assert len(os.listdir("/proc/self/fd")) == before - 1
    assert len(os.listdir(tmp_path)) == 2
    assert first.get(Header.STATE) == State.STARTING
