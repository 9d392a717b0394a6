"""The prober's process, when something is wrong with it: what is heard of it, when it is replaced, what is left of it.

The processes are real, and do what a test tells them instead of asking backends; time is made up.
"""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faultcase
import pytest
from faultcase import Act, HelperScene, Processes, fails, says, stays

from nfqlb.balance.health import Check
from nfqlb.balance.states import State
from nfqlb.config.model import Log
from nfqlb.gateway.health import manager as module
from nfqlb.gateway.health.manager import STUCK_AFTER, HealthManager
from nfqlb.gateway.health.probe import Round, Target
from nfqlb.gateway.runtime import log as runtime_log
from nfqlb.gateway.runtime.helper import RESPAWN_AFTER
from nfqlb.gateway.shm.board import About, Board
from nfqlb.gateway.shm.probe_results import ProbeResult
from nfqlb.net.endpoint import Endpoint

BACKEND, INTERNAL = Endpoint.parse("192.0.2.2:5060"), Endpoint.parse("192.0.2.1:5060")
ROUND = Round((Target(BACKEND, INTERNAL, Check(), (("regs", "reg1"),), (0,)),), (INTERNAL,), "lb")
DOWN = {"target": 0, "state": int(State.DOWN), "error": "no answer"}
DIED = "the prober of health (pid N) died ({}); what is known of backends stands until another asks"


def line(said: dict[str, Any]) -> bytes:
    return json.dumps(said).encode() + b"\n"


class Scene(HelperScene):
    def __init__(self, folder: Path, processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(module, processes, monkeypatch)
        self.board = Board(folder / "board", About("lb", (300,), ("reg1",)))
        self.heard: list[dict[str, Any]] = []
        self.asked_for_known = 0
        self.manager: HealthManager

    def start(self, *acts: Act) -> HealthManager:
        """One prober after the other does what is told."""
        act = faultcase.in_turn(self.processes, acts)
        self._patch.setattr(HealthManager, "_work", lambda _manager, _known, writing: act(writing))
        self.manager = HealthManager(ROUND, self.board, self.known, self.heard.append, self.selector)
        return self.manager

    def known(self) -> list[State]:
        self.asked_for_known += 1
        return [State.UNKNOWN]

    def tick(self, seconds: float = 0.0) -> float:
        return self.manager.tick(self.clock.after(seconds))


@pytest.fixture
def scene(tmp_path: Path, processes: Processes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    made = Scene(tmp_path, processes, monkeypatch)
    yield made
    made.close()
    faultcase.close_board(made.board)


def test_half_a_line_waits_for_its_other_half(scene: Scene) -> None:
    whole = line(DOWN)
    scene.start(says(whole + whole[:9], whole[9:]))
    scene.listen()
    assert scene.heard == [DOWN]
    os.kill(scene.manager.pid, signal.SIGUSR1)
    scene.listen()
    assert scene.heard == [DOWN, DOWN]


def test_half_a_line_of_a_prober_that_died_is_not_put_before_what_the_next_one_says(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    whole = line(DOWN)
    scene.start(says(whole + whole[:9], then=fails), says(whole))
    scene.bury()
    assert scene.heard == [DOWN], "what it has said in whole holds, though nobody had listened before it died"
    assert faultcase.told(caplog) == [DIED.format("exit status 7")]
    assert scene.tick(RESPAWN_AFTER / 2) == pytest.approx(RESPAWN_AFTER / 2)
    assert not scene.manager.pid
    scene.tick(RESPAWN_AFTER / 2)
    scene.listen()
    assert scene.heard == [DOWN, DOWN]


def test_one_that_dies_at_every_start_is_tried_again_for_ever(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    scene.start(fails, fails, fails, stays)
    for _ in range(3):
        scene.bury()
        scene.tick(RESPAWN_AFTER)
    assert scene.manager.pid == scene.processes.pids[-1]
    assert len(scene.processes.pids) == 4
    assert faultcase.told(caplog) == [DIED.format("exit status 7")] * 3
    assert scene.asked_for_known == 4, "each goes on from what is known at its start"


def test_one_that_hangs_is_killed_once_and_replaced(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scene.start(stays)
    hanging = scene.manager.pid
    scene.tick(STUCK_AFTER / 2)
    scene.manager.results.heartbeat = scene.clock.monotonic_ns()
    scene.tick(STUCK_AFTER)
    assert faultcase.told(caplog) == [], "it gave a sign of life meanwhile"
    signals: list[tuple[int, int]] = []
    with monkeypatch.context() as slow_death:
        slow_death.setattr(os, "kill", lambda *told: signals.append(told))
        for _ in range(3):
            scene.tick(0.1)
    assert signals == [(hanging, signal.SIGKILL)]
    assert faultcase.told(caplog) == ["the prober of health (pid N) hangs and is killed"]
    os.kill(hanging, signal.SIGKILL)
    scene.bury()
    scene.tick(RESPAWN_AFTER)
    assert faultcase.told(caplog) == [DIED.format("killed by SIGKILL")]
    scene.tick(STUCK_AFTER - 1.0)
    assert scene.manager.pid not in (0, hanging)
    assert faultcase.told(caplog) == [], "the old sign of life is not held against the new one"


@pytest.mark.parametrize("lacking", ["processes", "files"])
def test_one_that_cannot_be_forked_is_tried_again_and_leaves_no_pipe(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, lacking: str
) -> None:
    with monkeypatch.context() as lack:
        if lacking == "processes":
            lack.setattr(scene.processes, "none_to_be_had", True)
        else:
            faultcase.no_files(lack)
        scene.start(stays)
        scene.tick(RESPAWN_AFTER)
        assert scene.tick(RESPAWN_AFTER / 2) == pytest.approx(RESPAWN_AFTER / 2)
    why = {"processes": "Resource temporarily unavailable", "files": "Too many open files"}[lacking]
    assert faultcase.told(caplog) == [f"the prober of health cannot be forked: {why}"] * 2
    assert scene.manager.result(0) == ProbeResult(0.0, 0.0, 0), "who asks for results meanwhile gets an answer"
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()
    scene.tick(RESPAWN_AFTER / 2)
    assert scene.manager.pid


def test_one_that_logs_as_before_a_reload_is_replaced_at_once(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scene.start(stays)
    first = scene.manager.pid
    monkeypatch.setattr(runtime_log, "settings", lambda: Log("debug", "json"))
    scene.tick()
    assert scene.manager.pid not in (0, first)
    scene.tick()
    assert len(scene.processes.pids) == 2, "it logs as it shall"
    assert faultcase.told(caplog) == []


@pytest.mark.parametrize("state", ["lives", "has died", "is being killed"])
def test_the_end_leaves_nothing_whatever_it_does_at_that_moment(scene: Scene, state: str) -> None:
    scene.start(fails if state == "has died" else stays)
    if state == "has died":
        scene.processes.wait_for_end()
    elif state == "is being killed":
        scene.tick(2 * STUCK_AFTER)
    scene.manager.end()
    assert scene.processes.left() == []
    assert not scene.selector.get_map()
