"""What the keeper writes for keepalived: it stands there while the gateway lives, whoever else touches the file."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from faultcase import Processes

from nfqlb.gateway.ha.liveness import Lifeline
from nfqlb.gateway.ha.manager import WELL, HaManager
from nfqlb.gateway.ha.plan import HaPlan
from nfqlb.gateway.ha.protocol import DEAD, TRACK_FILE, UNWELL, YIELDING
from nfqlb.gateway.runtime.event_loop import Loop

DUTIES = HaPlan({"all": ("192.0.2.1",)}, {"all": 250}, "192.0.2.2", "192.0.2.3", 0, {}, lambda _: "")


class Scene:
    def __init__(self, run_dir: Path) -> None:
        self.loop = Loop((), lambda: None)
        self.keeper = HaManager(self.loop, run_dir, str)
        self.file = run_dir / TRACK_FILE

    def look(self, *, alive: bool = True) -> int:
        """What stands in the file after the next look."""
        self.keeper.tick(1e6, alive=alive, ask_alarms=dict, queues=range(1), changing=True)
        return int(self.file.read_text())


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr(Lifeline, "take", lambda _: None)
    monkeypatch.chdir(tmp_path)
    made = Scene(Path())  # also who may not enter what it lies in gets there
    made.keeper.prepare(DUTIES, fresh=True)
    assert made.file.read_text() == "0\n", "nobody serves yet"
    made.keeper.apply_plan(DUTIES)
    yield made
    made.keeper.end(others_go_on=True)
    made.loop.close()


def test_unwell_is_what_keepalived_takes_a_missing_file_for() -> None:
    assert WELL + UNWELL == 0
    assert WELL + DEAD < WELL + UNWELL < WELL + YIELDING < WELL


def test_it_says_how_the_node_is(scene: Scene) -> None:
    assert scene.look() == WELL
    assert scene.file.stat().st_mode & 0o777 == 0o644
    assert scene.keeper.report()["weight"] == 0, "what is missing to a node that is well"
    scene.keeper._alive_at = 0.0
    assert scene.look(alive=False) == WELL + UNWELL
    assert scene.keeper.report()["weight"] == UNWELL
    assert os.listdir() == [TRACK_FILE], "nothing half-written is left"


def test_it_says_which_interfaces_keep_the_addresses_away(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    assert scene.keeper.report()["interfaces_down"] == []
    monkeypatch.setattr("nfqlb.gateway.ha.manager.is_running", lambda name: name == "up0")
    scene.keeper.apply_plan(replace(DUTIES, interfaces=("up0", "down0")))
    assert scene.keeper.report()["interfaces_down"] == ["down0"]


def test_what_stands_there_already_is_not_written_again(scene: Scene) -> None:
    scene.look()
    before = scene.file.stat()
    scene.look()
    assert scene.file.stat() == before


@pytest.mark.parametrize("how", ["removed", "written", "replaced"])
def test_whoever_touches_the_file_is_overruled(scene: Scene, how: str) -> None:
    scene.look()
    if how == "written":
        scene.file.write_text("-7\n")
    else:
        scene.file.unlink()
    if how == "replaced":
        scene.file.write_text("0\n")
    assert scene.look() == WELL


@pytest.mark.root
def test_a_file_that_is_not_ours_to_write_is_replaced(scene: Scene) -> None:
    """keepalived, which runs as root, may have made it; the service is somebody else."""
    scene.file.chmod(0o600)
    os.chown(".", 65534, 65534)
    os.seteuid(65534)
    try:
        with pytest.raises(PermissionError):
            scene.file.write_text("1")
        assert scene.look() == WELL
    finally:
        os.seteuid(0)


def test_what_cannot_be_written_is_told_once_and_written_when_it_can(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.file.unlink()
    scene.file.mkdir()
    for _ in range(3):
        with pytest.raises(IsADirectoryError):
            scene.look()
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
        "the pair: keepalived cannot be told how this node is: ha cannot be written (Is a directory)"
    ]
    scene.file.rmdir()
    assert scene.look() == WELL


def test_without_a_process_to_look_at_the_rules_it_is_unwell_until_there_is_one(
    scene: Scene, processes: Processes, caplog: pytest.LogCaptureFixture
) -> None:
    def look() -> int:
        for _ in range(2):  # the second one tells what the first has found out
            scene.keeper.tick(1e6, alive=True, ask_alarms=dict, queues=range(1), changing=False)
            scene.loop.turn(0.0)
            while scene.loop._tasks:
                scene.loop.turn(0.05)
        return int(scene.file.read_text())

    assert look() == WELL
    processes.none_to_be_had = True
    assert look() == WELL + UNWELL
    why = "No process can be started for it: Resource temporarily unavailable."
    assert caplog.messages[-1] == f"the pair: this node is unwell ({why})"
    processes.none_to_be_had = False
    assert look() == WELL
