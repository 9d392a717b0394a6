"""When backends are asked, and how long it takes until one that is dead is down: with a clock that the test turns."""

from collections.abc import Callable
from itertools import pairwise
from random import Random

import pytest

from nfqlb.balance.health import CONFIRM, Check
from nfqlb.balance.states import State
from nfqlb.gateway.health.scheduler import DOUBT_PAUSE, DOUBT_TIMEOUT, GAP, CannotAsk, ProbeScheduler, Report

CHECK = Check(interval=5.0, timeout=1.0, jitter=0.2, rise=2, fall=3)
RTT = 0.002
START = 1000.0


class World:
    """Backends that answer or do not, and a clock."""

    def __init__(self, count: int = 1, check: Check = CHECK, known: State = State.UP, seed: int = 1) -> None:
        self.now = START
        self.check = check
        self.answers: list[int] = [200] * count
        """The status that each answers with; 0: none."""
        self.way: list[str] = [""] * count
        """What is wrong with the way to each."""
        self.traffic = [0] * count
        self.asked: list[tuple[float, int]] = []
        self.reports: list[tuple[float, Report]] = []
        self.on_ask: Callable[[int], None] = lambda _: None
        self.blocked = False
        self._underway: list[tuple[float, int, int, int]] = []
        self.rounds = ProbeScheduler(
            [check] * count, [known] * count, self.now, self._send, self.traffic.__getitem__, self._tell, Random(seed)
        )

    def _send(self, number: int, probe: int) -> str:
        if self.blocked:
            raise CannotAsk
        self.asked.append((self.now, number))
        if self.answers[number] and not self.way[number]:
            self._underway.append((self.now + RTT, number, probe, self.answers[number]))
        self.on_ask(number)
        return self.way[number]

    def _tell(self, report: Report) -> None:
        self.reports.append((self.now, report))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while True:
            wake = self.rounds.turn(self.now)
            if self._underway:
                wake = min(wake, self._underway[0][0])
            if wake > end:
                self.now = end
                return
            assert wake > self.now or self._underway or wake == self.now
            self.now = max(self.now, wake)
            while self._underway and self._underway[0][0] <= self.now:
                _, number, probe, status = self._underway.pop(0)
                self.rounds.answered(number, probe, status, self.now)

    def changes(self) -> list[tuple[float, State]]:
        """When, since the start."""
        return [(at - START, report.state) for at, report in self.reports if report.changed]

    def times(self, number: int = 0) -> list[float]:
        return [at for at, asked in self.asked if asked == number]


def test_a_backend_that_answers_is_up_and_asked_once_an_interval() -> None:
    world = World(known=State.UNKNOWN)
    world.run(60)
    assert [state for _, state in world.changes()] == [State.UP]
    _, *pauses = (later - sooner for sooner, later in pairwise(world.times()))
    assert all(4.0 <= pause <= 5.0 for pause in pauses)
    assert len({round(pause, 3) for pause in pauses}) > 5, "no jitter"
    assert 12 <= len(world.asked) <= 16


@pytest.mark.parametrize("seed", range(20))
def test_one_that_falls_silent_is_down_within_interval_times_fall_and_a_timeout(seed: int) -> None:
    world = World(seed=seed)
    world.run(7.0 + seed * 0.37)
    silent_from = world.now
    world.answers[0] = 0
    world.run(30)
    [(at, state)] = world.changes()
    assert state is State.DOWN
    assert silent_from < at + START <= silent_from + CHECK.interval * CHECK.fall + CHECK.timeout


def test_one_lost_probe_changes_nothing() -> None:
    world = World()
    world.run(6)
    world.answers[0] = 0
    world.on_ask = lambda number: world.answers.__setitem__(number, 200)  # the next one is answered again
    world.run(30)
    assert world.changes() == []


def test_one_that_answers_others_is_not_down_however_often_it_does_not_answer_us() -> None:
    world = World()
    world.answers[0] = 0

    def answer_others(number: int) -> None:
        world.traffic[number] += 3

    world.on_ask = answer_others
    world.run(120)
    assert world.changes() == []
    world.on_ask = lambda _: None
    world.run(CHECK.interval * CHECK.fall + CHECK.timeout)
    assert [state for _, state in world.changes()] == [State.DOWN]


def test_answers_that_are_not_accepted_make_it_down_whatever_else_it_answers() -> None:
    world = World()
    world.answers[0] = 503
    world.on_ask = lambda number: world.traffic.__setitem__(number, world.traffic[number] + 1)
    world.run(20)
    assert [state for _, state in world.changes()] == [State.DOWN]
    assert world.reports[-1][1].error == "answers 503"


def test_it_comes_back_after_rise_answers_and_stays() -> None:
    world = World(known=State.DOWN)
    world.run(120)
    [(at, state)] = world.changes()
    assert state is State.UP
    assert at <= CHECK.interval * CHECK.rise


@pytest.mark.parametrize("refuses", [True, False], ids=["its host refuses", "all is silent"])
def test_after_an_icmp_error_one_that_is_dead_is_down_within_a_second(refuses: bool) -> None:
    world = World()
    world.run(7)
    world.answers[0] = 0
    if refuses:
        world.on_ask = lambda number: world.rounds.probe_unreachable(number, "ICMP: connection refused", world.now)
    began = world.now
    world.rounds.unreachable(0, "ICMP: connection refused", world.now)
    world.run(1.0)
    [(at, state)] = world.changes()
    assert state is State.DOWN
    assert at + START - began <= CONFIRM * DOUBT_TIMEOUT + 3 * GAP
    assert len([asked for asked in world.times() if asked >= began]) <= CONFIRM


def test_a_forged_icmp_error_costs_a_probe_and_nothing_else() -> None:
    world = World()
    world.run(7)
    before = len(world.asked)
    world.rounds.unreachable(0, "ICMP: connection refused", world.now)
    world.run(1.0)
    assert world.changes() == []
    assert len(world.asked) == before + 1


def test_a_storm_of_icmp_errors_is_no_storm_of_probes() -> None:
    world = World()
    world.run(7)
    before = len(world.asked)
    for _ in range(1000):
        world.rounds.unreachable(0, "ICMP: connection refused", world.now)
        world.run(0.01)
    assert 2 <= len(world.asked) - before <= 10 / DOUBT_PAUSE + 3
    assert world.changes() == []


def test_no_route_makes_it_down_at_once() -> None:
    world = World()
    world.way[0] = "Network is unreachable"
    world.run(CHECK.interval + 0.1)
    assert [state for _, state in world.changes()] == [State.DOWN]
    world.way[0] = ""
    world.run(CHECK.interval * CHECK.rise)
    assert [state for _, state in world.changes()] == [State.DOWN, State.UP]


def test_when_this_host_cannot_ask_nobody_is_to_blame() -> None:
    world = World()
    world.blocked = True
    world.run(300)
    assert world.reports == []
    world.blocked = False
    world.run(CHECK.interval)
    assert world.asked


def test_probes_never_pile_up() -> None:
    """Even with a timeout as long as the interval, there is one at a time."""
    world = World(check=Check(interval=1.0, timeout=1.0, jitter=0.9, fall=1000))
    world.answers[0] = 0
    world.run(100)
    assert all(later - sooner >= 1.0 for sooner, later in pairwise(world.times()))


def test_an_answer_to_an_earlier_question_counts_for_nothing() -> None:
    world = World(check=Check(interval=1.0, timeout=0.5, jitter=0.0, fall=2))
    world.answers[0] = 0
    seen: list[float | None] = []
    world.on_ask = lambda number: seen.append(world.rounds.answered(number, 1, 200, world.now))
    world.run(10)
    assert world.changes()[0][1] is State.DOWN
    assert seen
    assert not any(seen)


@pytest.mark.parametrize("known", [State.UNKNOWN, State.UP])
def test_a_thousand_backends_are_asked_without_a_burst(known: State) -> None:
    world = World(1000, known=known)
    world.run(30)
    times = sorted(at for at, _ in world.asked)
    assert min(later - sooner for sooner, later in pairwise(times)) >= GAP * 0.99
    assert all(5 <= len(world.times(number)) <= 8 for number in (0, 499, 999))
    second = [sum(1 for at in times if START + begin <= at < START + begin + 1) for begin in range(12, 29)]
    assert max(second) < 400, "the rounds of all fall into one second"


def test_when_all_fall_at_once_all_are_down_in_time() -> None:
    """A switch dies: every backend is complained about in one moment."""
    world = World(500)
    world.run(7)
    world.answers[:] = [0] * 500
    began = world.now
    for number in range(500):
        world.rounds.unreachable(number, "ICMP: no route to host", world.now)
    world.run(2.5)
    down = [at + START for at, state in world.changes() if state is State.DOWN]
    assert len(down) == 500
    assert max(down) - began <= 2 * 500 * GAP + CONFIRM * DOUBT_TIMEOUT + 0.1


def test_what_is_wrong_is_told_once_and_also_that_it_is_over() -> None:
    world = World(check=Check(interval=1.0, timeout=0.5, jitter=0.0, fall=3, method="OPTIONS"))
    world.answers[0] = 0
    world.run(10)
    world.answers[0] = 200
    world.run(10)
    told = [(report.state, report.changed, report.error) for _, report in world.reports]
    assert told == [
        (State.UP, False, "no answer to OPTIONS"),
        (State.DOWN, True, "no answer to OPTIONS"),
        (State.DOWN, False, ""),
        (State.UP, True, ""),
    ]
