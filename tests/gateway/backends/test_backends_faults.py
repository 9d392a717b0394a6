"""What the supervisor does about backends when something fails it: processes, disks, the prober, a reload.

Where a child builds tables it is a real one; the prober and time are made up.
"""

import errno
import json
import logging
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import faultcase
import pytest
from faultcase import EPOCH, Clock, Processes

from nfqlb.balance.health import Check
from nfqlb.balance.states import Place, State
from nfqlb.balance.tables import Built, Draft
from nfqlb.config.build import load
from nfqlb.engine import Engine
from nfqlb.gateway.backends import activity
from nfqlb.gateway.backends import manager as module
from nfqlb.gateway.backends import overrides as override_file
from nfqlb.gateway.backends import plan as backends_plan
from nfqlb.gateway.backends import status as backends_status
from nfqlb.gateway.backends.manager import ACTIVITY_INTERVAL, BUILD_AGAIN, SAVE_INTERVAL, BackendsManager
from nfqlb.gateway.backends.plan import BackendsPlan
from nfqlb.gateway.health.probe import Round
from nfqlb.gateway.runtime.event_loop import Loop
from nfqlb.gateway.shm.board import BACKENDS, About, Board, Traffic
from nfqlb.gateway.shm.probe_results import ProbeResult
from nfqlb.net.endpoint import Endpoint
from nfqlb.proxy.setup import Backend, Setup

EXAMPLE = Path(__file__).parents[3] / "docs/nfqlb.example.toml"
KEYS = (b"0123456789abcdef0123456789abcdef",)
REG1: Place = ("registrars", "reg1")
REG2: Place = ("registrars", "reg2")
KEPT = "rebuilding the tables of backends failed; the current ones stay in use: "


@dataclass
class NoProber:
    """Takes the place of HealthManager."""

    round: Round
    board: Board
    known: Callable[[], Iterable[State]]
    heard: Callable[[dict[str, Any]], None]
    selector: object

    def tick(self, _now: float) -> float:
        return 1.0

    def result(self, _target: int) -> ProbeResult:
        return ProbeResult(0.0, 0.0, 0)

    def end(self) -> None:
        pass


class Scene:
    def __init__(self, folder: Path, setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = Clock()
        monkeypatch.setattr(module, "time", self.clock)
        monkeypatch.setattr(module, "HealthManager", NoProber)
        self.run_dir, self.state_dir = folder / "run", folder / "state"
        self.run_dir.mkdir()
        self.loop = Loop((), lambda: None)
        self.board = Board(folder / "board", About("lb", (1,), tuple(each.name for each in setup.known)))
        self.plan = self.make(setup)
        self.manager = BackendsManager(self.loop, self.plan, self.run_dir, past=False)
        self.manager.apply_plan(self.plan, self.board)

    def make(self, setup: Setup) -> BackendsPlan:
        checks = {pool.name: Check() for pool in setup.pools}
        return backends_plan.make(setup, Engine(setup).tables, checks, self.state_dir)

    def hear(self, said: dict[str, Any]) -> None:
        assert isinstance(self.manager._health, NoProber)
        self.manager._health.heard(said)

    def hear_of_reg1(self, state: State) -> None:
        prober: Any = self.manager._health
        (number,) = [number for number, each in enumerate(prober.round.targets) if REG1 in each.places]
        self.hear({"target": number, "state": int(state), "error": "" if state is State.UP else "no answer"})

    def tick(self, seconds: float = 0.0) -> float:
        """So many seconds later, until what follows from that is done."""
        pause = self.manager.tick(self.clock.after(seconds))
        self.loop.turn(0.0)
        while self.loop._tasks:
            self.loop.turn(0.05)
        return pause

    def in_table(self, place: Place) -> bool:
        return place in self.plan.tables.shares()


class Make(Protocol):
    def __call__(self, setup: Setup) -> Scene: ...


@pytest.fixture
def setup() -> Setup:
    """One pool of reg1 and reg2, and others."""
    return load(EXAMPLE).setup(KEYS)


@pytest.fixture
def scene(
    tmp_path: Path,
    setup: Setup,
    processes: Processes,  # noqa: ARG001  none may be left
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> Iterator[Scene]:
    made = Scene(tmp_path, setup, monkeypatch)
    made.tick()
    caplog.clear()
    yield made
    made.manager.end(others_go_on=False)
    made.loop.close()
    faultcase.close_board(made.board)


# -- tables that are built in a child


def test_without_a_process_to_build_tables_the_old_ones_stay_until_it_can_be_done(
    scene: Scene, processes: Processes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "DIRECT_SLOTS", 0)
    processes.none_to_be_had = True
    scene.hear_of_reg1(State.DOWN)
    assert scene.tick(1.0) == 1.0
    assert faultcase.told(caplog, logging.ERROR) == [
        "backend registrars/reg1 is down: no answer",
        f"{KEPT}No process can be started for it: Resource temporarily unavailable.",
    ]
    assert scene.in_table(REG1)
    processes.none_to_be_had = False
    scene.tick(BUILD_AGAIN - 0.1)
    assert scene.in_table(REG1), "not before its time"
    scene.tick(0.1)
    assert not scene.in_table(REG1)
    assert scene.in_table(REG2)
    assert faultcase.told(caplog, logging.ERROR) == []


def test_a_child_that_dies_over_the_tables_is_followed_by_another_and_no_order_is_forgotten(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def die(_: Iterable[Draft]) -> list[Built]:
        os.kill(os.getpid(), signal.SIGKILL)
        return []

    scene.manager.override("drain", "reg2", seconds=BUILD_AGAIN / 2)
    scene.tick()
    assert not scene.in_table(REG2)
    monkeypatch.setattr(module, "DIRECT_SLOTS", 0)
    with monkeypatch.context() as no_memory:
        no_memory.setattr(module, "_build", die)
        scene.hear_of_reg1(State.DOWN)
        scene.tick(BUILD_AGAIN / 2)  # the order runs out at this moment
    assert faultcase.told(caplog, logging.ERROR)[1:] == [f"{KEPT}It failed inside; the log says more."]
    scene.tick(BUILD_AGAIN)
    assert not scene.in_table(REG1)
    assert scene.in_table(REG2), "its order has run out"


# -- disks


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_health_that_cannot_be_kept_is_told_once_and_kept_when_there_is_room(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    with monkeypatch.context() as full:
        faultcase.no_room(full, number)
        scene.hear_of_reg1(State.DOWN)
        for _ in range(3):
            scene.tick(SAVE_INTERVAL)
    text = "the health of backends cannot be saved for the next supervisor: "
    assert [line.partition("[")[0] for line in faultcase.told(caplog, logging.ERROR)][1:] == [text]
    assert backends_status.load(scene.run_dir)[REG1].state is State.UNKNOWN, "what was kept before is still whole"
    assert [path.name for path in scene.run_dir.iterdir() if path.name.startswith("health.")] == []
    assert not scene.in_table(REG1), "what is heard holds, whatever can be written"
    scene.tick(SAVE_INTERVAL)
    assert backends_status.load(scene.run_dir)[REG1].state is State.DOWN, "though nothing more was heard"
    with monkeypatch.context() as full:
        faultcase.no_room(full, number)
        scene.hear_of_reg1(State.UP)
        scene.tick(SAVE_INTERVAL)
    assert len(faultcase.told(caplog, logging.ERROR)) == 1, "it is told when it comes again"


def test_activity_that_cannot_be_kept_is_told_once_and_kept_when_there_is_room(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as full:
        faultcase.no_room(full)
        for _ in range(3):
            scene.board.slot(0)[BACKENDS + Traffic.REQUESTS_TO] += 1
            at = scene.clock.time() + ACTIVITY_INTERVAL
            scene.tick(ACTIVITY_INTERVAL)
    text = "the times of the last requests to backends cannot be saved: "
    assert [line.partition("[")[0] for line in faultcase.told(caplog, logging.ERROR)] == [text]
    assert [path.name for path in scene.run_dir.iterdir() if "." in path.name] == []
    scene.tick(ACTIVITY_INTERVAL)
    seen = activity.load(scene.run_dir)["reg1"]
    assert (seen.requests, seen.last_request) == (3, at)


def test_an_order_that_cannot_be_kept_is_in_force_and_the_operator_is_told(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as full:
        faultcase.no_room(full, errno.EROFS)
        _, warning = scene.manager.override("disable", "reg1", None)
    text = f"{scene.state_dir}/backends.json cannot be written (Read-only file system): a restart will forget it."
    assert warning == text
    assert faultcase.told(caplog, logging.ERROR) == [text]
    assert list(scene.state_dir.iterdir()) == []
    scene.tick()
    assert not scene.in_table(REG1)
    scene.manager.override("drain", "reg2", None)
    assert set(override_file.read(scene.state_dir)) == {REG1, REG2}, "the next order keeps both"


# -- the prober, and reloads


def test_trouble_of_the_prober_is_told_and_changes_nothing(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    scene.hear({"trouble": "192.0.2.1 cannot be asked from: Cannot assign requested address"})
    scene.tick(SAVE_INTERVAL)
    assert faultcase.told(caplog) == [
        "health checks of backends: 192.0.2.1 cannot be asked from: Cannot assign requested address"
    ]
    assert scene.in_table(REG1)
    assert all(row["probe"] is None and row["error"] is None for row in scene.manager.report())
    json.dumps(scene.manager.report())


def test_what_is_heard_during_a_reload_that_is_refused_is_in_the_tables_that_stay(scene: Scene, setup: Setup) -> None:
    added = replace(setup.pools[0], backends=(*setup.pools[0].backends, Backend("new", Endpoint.parse("10.0.0.9:1"))))
    coming = scene.make(replace(setup, pools=(added, *setup.pools[1:])))
    prepared = scene.manager.prepare(coming)
    assert list(prepared) == []
    scene.hear_of_reg1(State.DOWN)
    scene.tick()
    assert not scene.in_table(REG1)
    assert REG1 not in coming.tables.shares(), "its workers are about to be forked"
    scene.manager.apply_plan(scene.plan, scene.board)  # they were not ready in time
    scene.hear_of_reg1(State.UP)
    scene.tick()
    assert scene.in_table(REG1)
    assert REG1 not in coming.tables.shares(), "nobody looks into these any more"
    assert ("registrars", "new") not in scene.manager._statuses.records


def test_before_there_are_workers_there_is_nothing_to_do_or_to_say(tmp_path: Path, setup: Setup) -> None:
    loop: Any = None  # nothing may be begun
    plan = backends_plan.make(setup, Engine(setup).tables, {pool.name: Check() for pool in setup.pools}, tmp_path)
    manager = BackendsManager(loop, plan, tmp_path, past=False)
    assert manager.tick(EPOCH) == 1.0
    assert manager.report() == []
    assert manager.prober == 0
    manager.end(others_go_on=False)
    assert list(tmp_path.iterdir()) == []
