"""Changes of what runs, when they meet each other, an upgrade, the end, or a host that fails them.

Operator, workers and the parts that follow a plan are made up here, and so is time: in which order changes come, and
what they leave behind, is what is tested.
"""

import errno
import logging
import os
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import faultcase
import pytest
from faultcase import Clock, Processes
from standin import make_plan

from nfqlb.config.model import Log
from nfqlb.gateway.plan.model import LINGER, Plan, Reading
from nfqlb.gateway.runtime import event_loop
from nfqlb.gateway.runtime import log as runtime_log
from nfqlb.gateway.runtime.event_loop import Loop, Task
from nfqlb.gateway.runtime.job import Refused
from nfqlb.gateway.shm.board import About, Board
from nfqlb.gateway.supervisor import reload as module
from nfqlb.gateway.supervisor.reload import Changes, Parts
from nfqlb.gateway.supervisor.rollover import CannotRun
from nfqlb.gateway.worker.nfqueue import QueueError
from nfqlb.names.target import Answers

T = TypeVar("T")

FAULTS: dict[str, Callable[[], Exception]] = {
    "refused": lambda: Refused("nfqlb.toml: two", "mistakes"),
    "no queue": lambda: QueueError("Queue 302 is taken."),
    "no workers": lambda: CannotRun("/run/nfqlb cannot be written (No space left on device)."),
    "full disk": lambda: OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
}


class InlineLoop(Loop):
    """Work is done here and now, unless somebody holds it up."""

    busy = False

    def work(self, work: Callable[[], T], _seconds: float, *, whole: bool = False) -> Task[T]:
        assert not whole
        yield lambda: not self.busy
        return work()


class FakeOperator:
    """Makes each plan that is wanted from the one that is in force."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Plan]] = []
        self.made = 0
        self.fault: Exception | None = None
        self.leaving = 0
        self.log = Log()

    def read(self, current: Plan, _queues: range, *, force: bool) -> Reading:
        plan = self._next("reload", current)
        return Reading(not force, plan, [f"plan {self.made}"])

    def drop_removed(self, current: Plan) -> Plan:
        return replace(self._next("drop removed", current), leaving=0)

    def rename(self, current: Plan, _answers: Answers) -> Plan:
        return self._next("rename", current)

    def _next(self, what: str, current: Plan) -> Plan:
        self.asked.append((what, current))
        if self.fault is not None:
            raise self.fault
        self.made += 1
        return replace(current, summary=f"plan {self.made}", leaving=self.leaving, log=self.log)


class FakeRollover:
    """Workers come at once, unless somebody holds them up, or they do not come at all."""

    def __init__(self, plan: Plan, board: Board) -> None:
        self.worker_pool = SimpleNamespace(plan=plan, board=board, seats=[])
        self.queues = range(300, 302)
        self.slow = False
        self.fault: Exception | None = None
        self.dismissed = 0

    def put_in_force(self, plan: Plan) -> Task[None]:
        try:
            yield lambda: not self.slow
            if self.fault is not None:
                raise self.fault
        except BaseException:
            self.dismissed += 1
            raise
        self.worker_pool.plan = plan


class Follower:
    """Backends, pair, names and bans: what they were told, each."""

    pid = prober = 0

    def __init__(self) -> None:
        self.followed = 0
        self.is_due = False

    def prepare(self, _plan: object) -> Iterator[Any]:
        return iter(())

    def apply_plan(self, *_: object) -> None:
        self.followed += 1

    def due(self, _now: float) -> bool:
        return self.is_due

    def take(self, _now: float) -> Mapping[Any, Any]:
        self.is_due = False
        return {}

    def alarms(self) -> dict[str, str]:
        return {}

    def status(self) -> dict[str, str]:
        return {}


class FakeNotifier:
    def __init__(self) -> None:
        self.told: list[str] = []

    def reloading(self) -> None:
        self.told.append("reloading")

    def ready(self, _summary: str) -> None:
        self.told.append("ready")


class Client:
    """Of the control socket: what it is told."""

    def __init__(self) -> None:
        self.answers: list[Any] = []

    def end(self, ok: bool, **fields: Any) -> None:
        assert ok
        self.answers.append(fields["changes"])

    def refuse(self, *errors: str) -> None:
        self.answers.append(errors)


class Scene:
    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = Clock()
        monkeypatch.setattr(event_loop, "time", self.clock)
        monkeypatch.setattr(module, "time", self.clock)
        self.logs: list[Log] = []
        monkeypatch.setattr(runtime_log, "apply", self.logs.append)
        self.board = Board(folder / "board", About("lb", (300, 301), ()))
        self.first = make_plan(str(folder), "2")
        self.loop = InlineLoop((), lambda: None)
        self.operator = FakeOperator()
        self.rollover = FakeRollover(self.first, self.board)
        self.followers = [Follower() for _ in range(4)]
        self.names = self.followers[2]
        self.notifier = FakeNotifier()
        fakes: Any = (self.rollover, *self.followers)
        notifier: Any = self.notifier
        self.changes = Changes(self.loop, self.operator, Parts(*fakes), notifier)

    @property
    def plan(self) -> Plan:
        """In force."""
        plan: Plan = self.rollover.worker_pool.plan
        return plan

    def ask(self, *, force: bool = False) -> Client:
        """A reload by the control socket."""
        client: Any = Client()
        self.loop.begin(self.changes.reload(client, force=force))
        return client  # type: ignore[no-any-return]  # a stand-in

    def turns(self, count: int = 20) -> None:
        for _ in range(count):
            self.loop.turn(0.0)

    def followed(self) -> list[int]:
        return [each.followed for each in self.followers]


@pytest.fixture
def scene(
    tmp_path: Path, processes: Processes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Iterator[Scene]:
    caplog.set_level(logging.INFO, "nfqlb")
    made = Scene(tmp_path, monkeypatch)
    yield made
    assert processes.pids == [], "all work is done inline"
    made.loop.close()
    faultcase.close_board(made.board)


def test_two_reloads_at_once_come_one_after_the_other(scene: Scene) -> None:
    scene.loop.busy = True
    scene.changes.reload_waits = True  # that of a signal, which is yet to begin
    first, second = scene.ask(), scene.ask()
    scene.turns()
    assert scene.changes.under_way == "reload"
    assert (first.answers, second.answers) == ([], [])
    assert scene.notifier.told == ["reloading"]
    scene.loop.busy = False
    scene.turns()
    assert (first.answers, second.answers) == ([["plan 1"]], [["plan 2"]])
    assert [current.summary for _, current in scene.operator.asked] == ["", "plan 1"], "the second knows of the first"
    assert scene.plan.summary == "plan 2"
    assert scene.notifier.told == ["reloading", "ready"] * 2
    assert scene.changes.under_way == ""
    assert scene.changes.reload_waits, "neither of them was the signal's"


def test_a_reload_that_is_asked_for_during_an_upgrade_waits_for_its_outcome(scene: Scene) -> None:
    scene.changes.under_way = "upgrade"
    scene.changes.reload_waits = True
    client = scene.ask()
    scene.loop.begin(scene.changes.reload(None))  # and by a signal, too
    scene.turns()
    assert scene.operator.asked == []
    assert scene.notifier.told == [], "the service manager is not told of what has not begun"
    assert scene.changes.reload_waits, "of another signal nobody has need"
    scene.changes.under_way = ""  # the upgrade is refused
    scene.turns()
    assert client.answers == [["plan 1"]]
    assert not scene.changes.reload_waits
    assert scene.plan.summary == "plan 2"


def test_a_reload_that_waits_for_an_upgrade_is_none_when_that_has_handed_over(scene: Scene) -> None:
    scene.changes.under_way = "upgrade"
    scene.ask()
    scene.turns()
    scene.loop.drop_tasks()  # this supervisor is at its end
    assert scene.operator.asked == []
    assert scene.notifier.told == [], "the service is another's by now"
    assert scene.followed() == [0] * 4
    assert scene.changes.under_way == "upgrade"


@pytest.mark.parametrize("at", ["reading", "the workers"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_reload_that_fails_leaves_all_as_it_was_and_the_next_one_begins(
    scene: Scene, caplog: pytest.LogCaptureFixture, fault: str, at: str
) -> None:
    error = FAULTS[fault]()
    (scene.operator if at == "reading" else scene.rollover).fault = error
    scene.operator.log = Log("debug")
    client = scene.ask()
    scene.turns()
    text = "nfqlb.toml: two mistakes" if fault == "refused" else str(error)
    assert faultcase.told(caplog) == [f"the reload is refused; nothing has changed: {text}"]
    assert client.answers == [("nfqlb.toml: two", "mistakes") if fault == "refused" else (text,)]
    assert scene.plan is scene.first
    if at == "the workers":
        assert scene.followed() == [1] * 4, "all that prepared for the new plan goes back to the old one"
        assert scene.logs == [Log("debug"), Log()]
    assert scene.changes.under_way == ""
    assert scene.notifier.told == ["reloading", "ready"]
    scene.operator.fault = scene.rollover.fault = None
    client = scene.ask()
    scene.turns()
    assert client.answers == [["plan 1" if at == "reading" else "plan 2"]]


def test_a_reload_without_a_process_to_read_in_is_refused(
    scene: Scene, processes: Processes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr(InlineLoop, "work")  # the real one forks
    processes.none_to_be_had = True
    client = scene.ask()
    scene.turns()
    why = "No process can be started for it: Resource temporarily unavailable."
    assert client.answers == [(why,)]
    assert faultcase.told(caplog) == [f"the reload is refused; nothing has changed: {why}"]
    assert scene.changes.under_way == ""


def test_a_stop_in_the_middle_of_a_reload_takes_back_what_it_has_begun(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.rollover.slow = True
    client = scene.ask()
    scene.turns()
    scene.loop.drop_tasks()
    assert scene.rollover.dismissed == 1
    assert scene.plan is scene.first
    assert scene.followed() == [1] * 4
    assert client.answers == [], "its connection ends with the gateway"
    assert faultcase.told(caplog) == []


# -- names


def test_names_that_change_during_a_reload_wait_and_are_asked_for_once(scene: Scene) -> None:
    scene.loop.busy = True
    scene.ask()
    scene.turns()
    scene.names.is_due = True
    for _ in range(3):
        scene.changes.tick_names(scene.clock.after(0.1))
        scene.turns()
    assert len(scene.loop._tasks) == 2, "the reload, and one that waits for it"
    scene.loop.busy = False
    scene.turns()
    assert [what for what, _ in scene.operator.asked] == ["reload", "rename"]


def test_names_that_a_reload_has_asked_itself_make_no_plan_of_their_own(scene: Scene) -> None:
    scene.loop.busy = True
    scene.ask()
    scene.turns()
    scene.names.is_due = True
    scene.changes.tick_names(scene.clock.now)
    scene.names.is_due = False  # that reload knows it already
    scene.loop.busy = False
    scene.turns()
    assert [what for what, _ in scene.operator.asked] == ["reload"]
    scene.names.is_due = True
    scene.changes.tick_names(scene.clock.now)
    scene.turns()
    assert [what for what, _ in scene.operator.asked] == ["reload", "rename"], "the next change is not missed"


@pytest.mark.parametrize("fault", FAULTS)
def test_names_whose_plan_fails_keep_their_addresses_and_are_tried_again(
    scene: Scene, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    scene.rollover.fault = error = FAULTS[fault]()
    scene.names.is_due = True
    scene.changes.tick_names(scene.clock.now)
    scene.turns()
    assert faultcase.told(caplog) == [f"names have new addresses, but the old ones stay in use: {error}"]
    assert scene.plan is scene.first
    assert scene.followed() == [1] * 4
    assert scene.changes.under_way == ""
    scene.rollover.fault = None
    scene.names.is_due = True
    scene.changes.tick_names(scene.clock.now)
    scene.turns()
    assert scene.plan.summary == "plan 2"


# -- backends that were removed


def test_removed_backends_are_forgotten_when_their_time_is_over(scene: Scene) -> None:
    scene.operator.leaving = 1
    scene.ask()
    scene.turns()
    assert scene.plan.leaving == 1
    scene.clock.after(LINGER - 0.1)
    scene.turns()
    assert scene.plan.leaving == 1
    scene.changes.under_way = "upgrade"
    scene.clock.after(0.1)
    scene.turns()
    assert scene.plan.leaving == 1, "one change at a time"
    scene.changes.under_way = ""
    scene.turns()
    assert scene.plan.leaving == 0
    assert scene.notifier.told == ["reloading", "ready"], "it is no reload"


@pytest.mark.parametrize("held", [False, True], ids=["forgotten", "held by somebody"])
def test_removed_backends_of_a_plan_that_was_replaced_are_not_forgotten_before_their_time(
    scene: Scene, held: bool
) -> None:
    scene.operator.leaving = 1
    scene.ask()
    scene.turns()
    old = weakref.ref(scene.plan)
    holder = [scene.plan] if held else []
    scene.clock.after(LINGER / 2)
    scene.ask()
    scene.turns()
    scene.operator.asked.clear()
    assert old() is (holder[0] if held else None), "nothing here keeps the old plan and its tables"
    scene.clock.after(LINGER / 2)
    scene.turns()
    assert scene.operator.asked == []
    scene.clock.after(LINGER / 2)
    scene.turns()
    assert [what for what, _ in scene.operator.asked] == ["drop removed"]


@pytest.mark.parametrize("fault", FAULTS)
def test_removed_backends_that_cannot_be_forgotten_stay_known(
    scene: Scene, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    scene.operator.leaving = 1
    scene.ask()
    scene.turns()
    caplog.clear()
    scene.rollover.fault = error = FAULTS[fault]()
    scene.clock.after(LINGER)
    scene.turns()
    assert faultcase.told(caplog) == [f"backends that a reload removed cannot be removed from the state yet: {error}"]
    assert scene.plan.leaving == 1
    assert scene.changes.under_way == ""
