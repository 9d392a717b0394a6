"""The workers of one configuration, when something is wrong with them: who is replaced, when, and what is told.

Processes are made up here, and so is time: the seats and what the pool does about them are what is tested.
"""

import errno
import gc
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from selectors import DefaultSelector
from typing import Any

import faultcase
import pytest
from faultcase import Clock, open_files
from standin import make_plan

from nfqlb.gateway.runtime.child import HAND_ON
from nfqlb.gateway.shm.board import STUCK_AFTER, About, Board, Cell, Header, State
from nfqlb.gateway.supervisor import worker_pool as module
from nfqlb.gateway.supervisor.worker_pool import BOOT_DELAY, BOOT_FAILURES, SHORT_LIFE, SHORT_LIFE_DELAY, WorkerPool

CRASHED = 7 << 8
"""Exit status 7, as of os.wait."""


class MadeUp:
    """Processes: what os.fork, os.kill and os.waitpid would do to real ones."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.last = 70_000
        self.alive: set[int] = set()
        self.dead: dict[int, int] = {}
        """Not reaped yet, and their status."""
        self.signals: list[tuple[int, int]] = []
        self.fork_fails = False
        self.before_death: Callable[[], object] = lambda: None
        """What a worker does in the moment before it is seen to have died."""
        for name in ("fork", "kill", "waitpid"):
            monkeypatch.setattr(os, name, getattr(self, name))

    def fork(self) -> int:
        if self.fork_fails:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        self.last += 1
        self.alive.add(self.last)
        return self.last

    def dies(self, pid: int, status: int = CRASHED) -> None:
        self.alive.remove(pid)
        self.dead[pid] = status

    def kill(self, pid: int, number: int) -> None:
        self.signals.append((pid, number))
        if pid not in self.alive and pid not in self.dead:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        if number == signal.SIGKILL and pid in self.alive:
            self.dies(pid, signal.SIGKILL)

    def waitpid(self, pid: int, options: int) -> tuple[int, int]:
        if pid in self.dead:
            self.before_death()
            return pid, self.dead.pop(pid)
        assert pid in self.alive, f"{pid} is nobody's child"
        assert options == os.WNOHANG, f"it would wait for {pid} for ever"
        return 0, 0


class FakeQueue:
    filenos = ()


class Scene:
    """A pool of two workers."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.processes = MadeUp(monkeypatch)
        self.clock = Clock()
        monkeypatch.setattr(module, "time", self.clock)
        monkeypatch.setattr(gc, "freeze", lambda: None)
        self.board = Board(folder / "board", About("lb", (300, 301), ()))
        self.files_before = open_files()
        self.selector = DefaultSelector()
        queues: Any = [FakeQueue(), FakeQueue()]
        unused: Any = None  # of these, only workers make use
        self.pool = WorkerPool(
            make_plan(str(folder), "2"), queues, unused, self.board, unused, self.selector, unused, unused, unused
        )

    def ready(self, *indices: int) -> None:
        """Those workers say that they take packets."""
        os.write(self.pool._ready_write, bytes(indices))
        self.pool._take_ready()

    def lives(self) -> None:
        """All workers that there are give a sign of life."""
        for seat in self.pool.seats:
            seat.slot[Cell.HEARTBEAT] = self.clock.monotonic_ns()

    def dies(self, index: int) -> None:
        self.processes.dies(self.pool.seats[index].pid)
        assert self.pool.reap() == [index]

    def tick(self, seconds: float) -> float:
        """So many seconds later."""
        return self.pool.tick(self.clock.after(seconds))


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    made = Scene(tmp_path, monkeypatch)
    yield made
    made.processes.before_death = lambda: None
    made.pool.destroy()
    made.pool.close()
    made.selector.close()
    assert not made.processes.alive
    assert not made.processes.dead
    assert open_files().items() <= made.files_before.items()
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()


def test_a_worker_dies_while_another_one_is_being_started(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    scene.pool.fill()
    first, second = scene.pool.pids
    scene.ready(0)
    scene.clock.after(SHORT_LIFE)
    scene.lives()
    scene.dies(0)
    assert faultcase.told(caplog) == ["worker 0 (pid N) died (exit status 7)"]
    scene.tick(0.0)
    assert scene.pool.pids == [first + 2, second], "it is replaced at once, and the other is left in peace"
    scene.ready(1)
    assert not scene.pool.ready, "that the first one was ready says nothing of its successor"
    scene.ready(0)
    assert scene.pool.ready
    assert not scene.pool.failed


def test_a_worker_that_is_ready_and_dead_at_once_does_not_vouch_for_its_successor(scene: Scene) -> None:
    scene.pool.fill()
    scene.processes.before_death = lambda: os.write(scene.pool._ready_write, b"\0")
    scene.dies(0)
    scene.processes.before_death = lambda: None
    assert scene.tick(0.0) == pytest.approx(SHORT_LIFE_DELAY), "it took packets, so that it is replaced soon"
    scene.tick(SHORT_LIFE_DELAY)
    scene.ready(1)
    assert not scene.pool.ready
    assert scene.pool.seats[0].boot_failures == 0


def test_three_deaths_in_a_row_before_the_first_packet_are_the_end(scene: Scene) -> None:
    scene.pool.fill()
    for number in range(BOOT_FAILURES):
        assert not scene.pool.failed
        scene.dies(0)
        if number < BOOT_FAILURES - 1:
            assert scene.tick(0.0) == pytest.approx(BOOT_DELAY)
            assert scene.tick(BOOT_DELAY / 2) == pytest.approx(BOOT_DELAY / 2)
            assert scene.pool.seats[0].pid == 0, "not before its time"
            scene.tick(BOOT_DELAY / 2)
    assert scene.pool.failed == (
        "Worker 0 failed 3 times at its start (exit status 7): giving up. The lines above say more."
    )
    forked = scene.processes.last
    scene.tick(60.0)
    assert scene.processes.last == forked, "nobody is started any more"


def test_deaths_at_the_start_that_are_not_in_a_row_are_not_the_end(scene: Scene) -> None:
    scene.pool.fill()
    for _ in range(BOOT_FAILURES):
        for _ in range(BOOT_FAILURES - 1):
            scene.dies(0)
            scene.tick(BOOT_DELAY)
        scene.ready(0)
        scene.dies(0)
        scene.tick(SHORT_LIFE_DELAY)
    assert not scene.pool.failed


def test_without_a_process_to_be_had_the_others_go_on_and_it_is_tried_again(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.pool.fill()
    scene.ready(0, 1)
    scene.lives()
    scene.clock.after(SHORT_LIFE)
    scene.dies(0)
    caplog.clear()
    scene.processes.fork_fails = True
    scene.tick(0.0)
    for _ in range(2 * BOOT_FAILURES):
        assert scene.tick(0.0) == pytest.approx(BOOT_DELAY)
        scene.lives()
        scene.tick(BOOT_DELAY)
    assert faultcase.told(caplog) == ["worker 0 cannot be forked: Resource temporarily unavailable"] * 7
    assert not scene.pool.failed
    assert not scene.pool.alive(), "a watchdog is told of the empty seat"
    scene.processes.fork_fails = False
    scene.tick(BOOT_DELAY)
    assert len(scene.pool.pids) == 2
    assert scene.pool.seats[0].slot[Cell.RESTARTS] == 1, "one process had the place before, however often was tried"


def test_without_a_process_to_be_had_at_the_start_it_is_given_up_as_soon_as_after_deaths(scene: Scene) -> None:
    scene.processes.fork_fails = True
    scene.pool.fill()
    for _ in range(BOOT_FAILURES - 1):
        assert not scene.pool.failed
        scene.tick(BOOT_DELAY)
    assert "failed 3 times at its start (fork failed): giving up." in scene.pool.failed


@pytest.mark.parametrize("lacking", ["processes", "files"])
def test_a_gated_worker_that_cannot_be_started_leaves_no_gate(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, lacking: str
) -> None:
    before = open_files()
    with monkeypatch.context() as lack:
        if lacking == "processes":
            lack.setattr(scene.processes, "fork_fails", True)
        else:
            faultcase.no_files(lack)
        scene.pool.fill(gated=True)
    assert scene.pool.gone
    assert open_files() == before
    why = {"processes": "Resource temporarily unavailable", "files": "Too many open files"}[lacking]
    assert faultcase.told(caplog) == [f"worker {index} cannot be forked: {why}" for index in (0, 1)]
    scene.tick(BOOT_DELAY)
    assert len(scene.pool.pids) == 2
    assert all(seat.gate >= 0 for seat in scene.pool.seats), "they wait as the first ones would have"


def test_a_worker_that_dies_at_its_gate_is_replaced_by_one_that_waits_there(scene: Scene) -> None:
    scene.pool.fill(gated=True)
    scene.ready(0, 1)
    before = open_files()
    scene.dies(0)
    assert len(open_files()) == len(before) - 1, "its gate is closed"
    scene.pool.let_in(1)  # nobody has the other end any more: that is no error
    scene.tick(SHORT_LIFE_DELAY)
    assert scene.pool.seats[0].gate >= 0
    assert scene.pool.seats[1].gate == -1
    scene.dies(0)
    scene.pool.let_in(0)  # while the seat is empty
    scene.tick(BOOT_DELAY)
    assert scene.pool.seats[0].pid
    assert scene.pool.seats[0].gate == -1, "there is nobody to wait for"


def test_a_worker_that_stands_still_is_killed_once_and_replaced(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    scene.pool.fill(gated=True)
    scene.ready(0, 1)
    scene.tick(2 * STUCK_AFTER)
    assert scene.processes.signals == [], "who waits at a gate does not stand still"
    for index in (0, 1):
        scene.pool.let_in(index)
    scene.clock.after(STUCK_AFTER)
    scene.pool.seats[1].slot[Cell.HEARTBEAT] = scene.clock.monotonic_ns()
    stuck, busy = scene.pool.pids
    for _ in range(3):
        scene.tick(0.1)
    assert scene.processes.signals == [(stuck, signal.SIGKILL)]
    assert scene.pool.reap() == [0]
    assert faultcase.told(caplog) == [
        "worker 0 (pid N) is stuck: it gave no sign of life for 5 s and is killed",
        "worker 0 (pid N) died (killed by SIGKILL)",
    ]
    scene.tick(0.0)
    assert scene.pool.pids == [busy + 1, busy]
    scene.tick(0.0)
    assert len(scene.processes.signals) == 1, "the last heartbeat of its predecessor is not held against it"


@pytest.mark.parametrize("why", ["told to leave", "another supervisor has taken over"])
def test_nobody_is_replaced_any_more(scene: Scene, caplog: pytest.LogCaptureFixture, why: str) -> None:
    scene.pool.fill()
    scene.ready(0, 1)
    scene.processes.dies(scene.pool.seats[0].pid)
    if why == "told to leave":
        scene.pool.leave(HAND_ON)  # one is dead and not reaped yet
    else:
        scene.board.set(Header.STATE, State.RETIRED)
    assert scene.pool.reap() == [0]
    scene.tick(60.0)
    assert scene.pool.seats[0].pid == 0
    assert faultcase.told(caplog) == []
