"""The process that bans sources, when something is wrong with it: when it is replaced, and what it has counted.

The processes are real, and do what a test tells them instead of banning anybody; time is made up.
"""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import faultcase
import pytest
from faultcase import Act, HelperScene, Processes, fails, stays

from nfqlb.gateway.bans import manager as module
from nfqlb.gateway.bans.manager import STUCK_AFTER, BansManager
from nfqlb.gateway.bans.plan import BansPlan
from nfqlb.gateway.runtime.helper import RESPAWN_AFTER
from nfqlb.gateway.shm.board import About, Board, Header
from nfqlb.gateway.shm.offence_ring import Tally

PLAN = BansPlan(60, 600, ())
DIED = "the process that bans sources (pid N) died ({}); floods are still stopped"


class Scene(HelperScene):
    def __init__(self, folder: Path, processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(module, processes, monkeypatch)
        self.board = Board(folder / "board", About("lb", (300,), ()))
        self.manager: BansManager = BansManager(self.selector)

    def start(self, *acts: Act) -> None:
        """One process after the other does what is told."""
        act = faultcase.in_turn(self.processes, acts)
        self._patch.setattr(BansManager, "_work", lambda _manager, _plan, _supervisor: act(-1))
        self.manager.apply_plan(PLAN)

    def tick(self, seconds: float = 0.0) -> None:
        self.manager.tick(self.clock.after(seconds), self.board)

    def count(self, offences: int, bans: int) -> None:
        """What the process does: it only counts up."""
        self.manager._tally[Tally.OFFENCES] += offences
        self.manager._tally[Tally.BANS] += bans

    def on_board(self) -> tuple[int, int]:
        return self.board.get(Header.OFFENCES), self.board.get(Header.BANS)


@pytest.fixture
def scene(tmp_path: Path, processes: Processes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    made = Scene(tmp_path, processes, monkeypatch)
    yield made
    made.close()
    faultcase.close_board(made.board)


def test_one_that_dies_at_every_start_is_tried_again_and_nothing_that_was_counted_is_lost(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.board.set(Header.OFFENCES, 1000)  # of a supervisor before this one
    scene.board.set(Header.BANS, 10)
    scene.start(fails, fails, fails, stays)
    for number in range(1, 4):
        scene.count(offences=5, bans=1)
        scene.bury()
        assert scene.on_board() == (1000 + 5 * number, 10 + number)
        scene.tick(RESPAWN_AFTER / 2)
        assert not scene.manager.pid, "not before its time"
        scene.tick(RESPAWN_AFTER / 2)
    assert scene.manager.pid == scene.processes.pids[-1]
    assert faultcase.told(caplog) == [DIED.format("exit status 7")] * 3


def test_counts_go_on_when_a_reload_puts_another_board_in_the_place(scene: Scene, tmp_path: Path) -> None:
    scene.start(stays)
    scene.count(offences=5, bans=1)
    scene.tick()
    fresh = Board(tmp_path / "fresh", scene.board.about)
    fresh.carry_over(scene.board.snapshot())
    scene.count(offences=2, bans=1)  # between the two
    scene.manager.tick(scene.clock.now, fresh)
    assert (fresh.get(Header.OFFENCES), fresh.get(Header.BANS)) == (7, 2), "neither lost nor counted twice"
    faultcase.close_board(fresh)


def test_one_that_hangs_is_killed_and_its_last_sign_of_life_is_not_held_against_the_next(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.start(stays)
    hanging = scene.manager.pid
    scene.tick(STUCK_AFTER)
    scene.manager._tally[Tally.HEARTBEAT] = scene.clock.monotonic_ns()
    scene.tick(STUCK_AFTER)
    assert faultcase.told(caplog) == []
    scene.tick(0.1)
    assert faultcase.told(caplog) == ["the process that bans sources (pid N) hangs and is killed"]
    scene.bury()
    assert faultcase.told(caplog) == [DIED.format("killed by SIGKILL")]
    scene.tick(RESPAWN_AFTER)
    scene.tick(STUCK_AFTER - 0.1)
    assert scene.manager.pid not in (0, hanging)
    assert faultcase.told(caplog) == []


def test_one_that_cannot_be_forked_is_tried_again(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    scene.processes.none_to_be_had = True
    scene.start(stays)
    scene.tick(RESPAWN_AFTER / 2)
    assert faultcase.told(caplog) == [
        "the process that bans sources cannot be forked: Resource temporarily unavailable"
    ], "not twice in a second"
    scene.processes.none_to_be_had = False
    scene.tick(RESPAWN_AFTER / 2)
    assert scene.manager.pid
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()


def test_a_reload_that_bans_nobody_ends_it_for_good(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    scene.start(fails, stays)
    scene.bury()
    scene.manager.apply_plan(None)  # while it waits to be replaced
    scene.tick(RESPAWN_AFTER)
    assert not scene.manager.pid
    assert scene.on_board() == (0, 0)
    scene.manager.apply_plan(PLAN)
    assert scene.manager.pid, "a reload that bans again waits for nothing"
    assert faultcase.told(caplog) == [DIED.format("exit status 7")]
    scene.manager.apply_plan(None)
    assert scene.processes.left() == []


def test_only_another_plan_is_a_reason_for_another_process(scene: Scene) -> None:
    scene.start(stays)
    first = scene.manager.pid
    scene.manager.apply_plan(replace(PLAN))
    assert scene.manager.pid == first
    scene.manager.apply_plan(replace(PLAN, seconds=60))
    assert scene.manager.pid not in (0, first)
    with pytest.raises(ChildProcessError):
        os.waitpid(first, os.WNOHANG)


def test_a_reload_replaces_at_once_one_that_has_died_unseen(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    scene.start(fails, stays)
    scene.processes.wait_for_end()
    scene.manager.apply_plan(replace(PLAN, seconds=60))
    scene.tick()
    assert scene.manager.pid == scene.processes.pids[1]
    assert faultcase.told(caplog) == []
