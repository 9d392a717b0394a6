"""Names as the supervisor has them, when something is wrong: answers that come too late, a process that looks them up
and hangs or dies, a full disk.

The processes are real, and say what a test tells them instead of asking DNS; time is made up.
"""

import json
import logging
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import faultcase
import pytest
from faultcase import Act, HelperScene, Processes, fails, says, stays

from nfqlb.gateway.dns import manager as module
from nfqlb.gateway.dns.manager import CHANGE_INTERVAL, STUCK_AFTER, DnsManager
from nfqlb.gateway.dns.plan import DnsPlan
from nfqlb.gateway.runtime.helper import RESPAWN_AFTER
from nfqlb.names import remembered
from nfqlb.names.target import Address, Dns, Known, Target, as_plain
from nfqlb.net.endpoint import Endpoint

NAME, OTHER = Target("reg.example.org", 5060), Target("other.example.org", 5060)
DIED = "the process that looks up names (pid N) died ({}); what is known stands"


def known(number: int, error: str = "") -> Known:
    return Known((Address(Endpoint.parse(f"192.0.2.{number}:5060")),), error)


def answer(target: Target, what: Known) -> bytes:
    return json.dumps(as_plain(target, what)).encode() + b"\n"


class Scene(HelperScene):
    def __init__(self, folder: Path, processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(module, processes, monkeypatch)
        self.state_dir = folder / "state"
        loop: Any = SimpleNamespace(selector=self.selector)
        self.manager: DnsManager = DnsManager(loop)

    def plan(self, answers: Mapping[Target, Known]) -> DnsPlan:
        """What was made with these answers."""
        return DnsPlan(
            dns=Dns(),
            state_dir=self.state_dir,
            versions=frozenset({4}),
            egress=True,
            answers=answers,
            places={("regs", target.host): target for target in answers},
            served=frozenset(("regs", target.host) for target, each in answers.items() if each.addresses),
            dismissed={},
        )

    def start(self, answers: Mapping[Target, Known], *acts: Act) -> DnsPlan:
        """A plan made with these answers, and one process after the other that does what is told."""
        act = faultcase.in_turn(self.processes, acts)
        self._patch.setattr(DnsManager, "_work", lambda _manager, _plan, writing: act(writing))
        plan = self.plan(answers)
        self.manager.apply_plan(plan)
        return plan

    def says(self, target: Target, what: Known) -> None:
        """What the process says besides."""
        self.manager._said(as_plain(target, what))

    def due(self, seconds: float = 0.0) -> bool:
        return self.manager.due(self.clock.after(seconds))

    def tick(self, seconds: float = 0.0) -> None:
        self.manager.tick(self.clock.after(seconds))

    def addresses(self, target: Target = NAME) -> list[str]:
        (row,) = [row for row in self.manager.status()["known"] if row["name"] == str(target)]
        found: list[str] = row["addresses"]
        return found


@pytest.fixture
def scene(tmp_path: Path, processes: Processes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    made = Scene(tmp_path, processes, monkeypatch)
    yield made
    made.close()


# -- answers that come late


def test_an_answer_that_comes_while_a_plan_is_made_of_the_one_before_makes_the_next_plan(scene: Scene) -> None:
    scene.start({NAME: known(1)}, says(answer(NAME, known(2))))
    assert not scene.due()
    scene.listen()
    assert scene.due()
    taken = scene.manager.take(scene.clock.now)
    scene.says(NAME, known(3))
    scene.manager.apply_plan(scene.plan(taken))
    assert scene.addresses() == ["192.0.2.3:5060"]
    assert not scene.due(CHANGE_INTERVAL - 0.1), "however fast DNS changes its mind"
    assert scene.due(0.1)


def test_an_answer_whose_plan_was_refused_is_tried_again_later(scene: Scene) -> None:
    plan = scene.start({NAME: known(1)}, stays)
    scene.says(NAME, known(2))
    scene.manager.take(scene.clock.now)
    scene.manager.apply_plan(plan)  # the one that was to come could not be put in force
    assert not scene.due(CHANGE_INTERVAL - 0.1)
    assert scene.due(0.1)
    assert scene.manager.take(scene.clock.now) == {NAME: known(2)}


def test_what_a_reload_has_asked_itself_is_newer_than_what_was_heard_before(scene: Scene) -> None:
    scene.start({NAME: known(1)}, stays)
    scene.says(NAME, known(2))
    first = scene.manager.pid
    scene.manager.apply_plan(scene.plan({NAME: known(3)}))
    assert scene.addresses() == ["192.0.2.3:5060"]
    assert not scene.due(2 * CHANGE_INTERVAL)
    assert scene.manager.pid == first, "it looks up the same names"


def test_an_answer_to_a_plan_that_was_replaced_is_nothing_to_the_next_one(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    late = answer(OTHER, known(9))
    scene.start({NAME: known(1), OTHER: known(2)}, says(late), says(late + answer(NAME, known(3))))
    first = scene.manager.pid
    scene.selector.select()  # it has answered, and nobody has listened
    scene.manager.apply_plan(scene.plan({NAME: known(1)}))
    assert scene.manager.pid not in (0, first), "a process that looks up what is wanted now"
    scene.listen()
    assert [row["name"] for row in scene.manager.status()["known"]] == [str(NAME)]
    assert scene.addresses() == ["192.0.2.3:5060"], "what stands behind it is heard"
    assert scene.manager.unresolved() == {}
    assert faultcase.told(caplog) == []


def test_a_lookup_that_fails_takes_no_address_away_and_is_told_once(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "nfqlb")
    scene.start({NAME: known(1), OTHER: Known(())}, stays)
    assert scene.manager.unresolved() == {("regs", OTHER.host): (str(OTHER), "not looked up yet")}
    caplog.clear()
    for _ in range(3):
        scene.says(NAME, Known((), "no server answers"))
        scene.says(OTHER, Known((), "no such name"))
    assert faultcase.told(caplog) == [
        "looking up the name reg.example.org:5060 failed: no server answers; the last good answer stands",
        "looking up the name other.example.org:5060 failed: no such name",
    ]
    assert scene.addresses() == ["192.0.2.1:5060"]
    assert not scene.due()
    assert scene.manager.unresolved() == {("regs", OTHER.host): (str(OTHER), "no such name")}
    scene.says(NAME, known(1))
    assert faultcase.told(caplog, logging.INFO) == ["the name reg.example.org:5060 is answered again"]


# -- the life of the process


def test_one_that_dies_at_every_start_is_tried_again_and_what_is_known_stands(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    half = answer(NAME, known(3))[:20]
    scene.start({NAME: known(1)}, says(answer(NAME, known(2)) + half, then=fails), fails, fails, stays)
    for _ in range(3):
        scene.bury()
        scene.tick(RESPAWN_AFTER / 2)
        assert not scene.manager.pid, "not before its time"
        scene.tick(RESPAWN_AFTER / 2)
    assert scene.manager.pid == scene.processes.pids[-1]
    assert scene.addresses() == ["192.0.2.2:5060"]
    assert faultcase.told(caplog) == [DIED.format("exit status 7")] * 3


def test_one_that_hangs_is_replaced_and_any_word_is_a_sign_of_life(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    counts = {"looked_up": 7, "failed": 0, "asked": 8, "refused": 0}
    scene.start({NAME: known(1)}, says(json.dumps({"counts": counts}).encode() + b"\n"), stays)
    scene.clock.after(STUCK_AFTER / 2)
    scene.listen()
    scene.tick(STUCK_AFTER)
    assert faultcase.told(caplog) == []
    scene.tick(0.1)
    assert faultcase.told(caplog) == ["the process that looks up names (pid N) hangs and is killed"]
    scene.bury()
    scene.tick(RESPAWN_AFTER)
    scene.tick(STUCK_AFTER)
    assert faultcase.told(caplog) == [DIED.format("killed by SIGKILL")], "the new one has time of its own"
    assert scene.manager.status()["looked_up"] == 7, "it counts on from there"


def test_a_question_for_which_no_process_is_to_be_had_waits_for_one(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.start({}, stays)
    assert not scene.manager.pid, "there is nothing to ask"
    scene.processes.none_to_be_had = True
    scene.manager.lookups._ask(b"question")
    scene.listen()
    assert not scene.selector.get_map(), "it does not keep the supervisor busy meanwhile"
    scene.tick(RESPAWN_AFTER / 2)
    assert faultcase.told(caplog) == [
        "the process that looks up names cannot be forked: Resource temporarily unavailable"
    ]
    scene.processes.none_to_be_had = False
    scene.tick(RESPAWN_AFTER / 2)
    assert scene.manager.pid
    assert scene.manager.lookups.questions.recv(100) == b"question", "it is there for the process to read"
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()


@pytest.mark.parametrize("state", ["lives", "has died", "waits to be replaced", "has not been asked"])
def test_a_plan_without_names_ends_it_for_good(scene: Scene, state: str) -> None:
    scene.start({} if state == "has not been asked" else {NAME: known(1)}, stays if state == "lives" else fails)
    if state == "has died":
        scene.processes.wait_for_end()
    elif state == "waits to be replaced":
        scene.bury()
    scene.manager.apply_plan(None)
    scene.tick(RESPAWN_AFTER)
    assert not scene.due(CHANGE_INTERVAL)
    assert scene.manager.pid == 0
    assert scene.processes.left() == []
    assert not scene.selector.get_map(), "questions wait for nobody"
    assert scene.manager.unresolved() == {}


# -- the disk


def test_a_full_disk_keeps_the_answers_of_before_and_the_plan_is_in_force(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scene.start({NAME: known(1)}, stays)
    with monkeypatch.context() as full:
        faultcase.no_room(full)
        scene.manager.apply_plan(scene.plan({NAME: known(2)}))
    (told,) = faultcase.told(caplog)
    assert told.startswith("the addresses of names cannot be kept for a restart: ")
    assert told.endswith(" cannot be written (No space left on device)")
    assert remembered.read(scene.state_dir) == {NAME: known(1)}
    assert [path.name for path in scene.state_dir.iterdir()] == [remembered.FILE_NAME], "nothing half-written is left"
    assert scene.addresses() == ["192.0.2.2:5060"]
    scene.manager.apply_plan(scene.plan({NAME: known(3)}))
    assert remembered.read(scene.state_dir) == {NAME: known(3)}
