"""The supervisor's event loop: flows, signals, jobs."""

import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from nfqlb.gateway.host.procfs import alive
from nfqlb.gateway.runtime.event_loop import JOB_NICE, Loop, Task
from nfqlb.gateway.runtime.job import Refused

SIGNALS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD)


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop(SIGNALS, lambda: None)
    yield made
    made.close()


def turns(loop: Loop, done: Callable[[], object], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        loop.turn(0.05)


def test_flows_go_on_in_the_order_in_which_they_began(loop: Loop) -> None:
    told: list[str] = []

    def flow(name: str) -> Task[None]:
        for step in range(3):
            told.append(f"{name}{step}")
            yield lambda: True

    for name in "abc":
        loop.begin(flow(name))
    assert told == []
    for _ in range(4):
        loop.turn(0)
    assert told == [f"{name}{step}" for step in range(3) for name in "abc"]


def test_a_flow_may_begin_another(loop: Loop) -> None:
    told: list[str] = []

    def inner() -> Task[None]:
        told.append("inner")
        yield lambda: True

    def outer() -> Task[None]:
        loop.begin(inner())
        told.append("outer")
        yield lambda: True
        told.append("end")

    loop.begin(outer())
    turns(loop, lambda: len(told) == 3)
    assert told == ["outer", "end", "inner"] or told == ["outer", "inner", "end"]


def test_only_one_of_those_who_wait_for_the_same_goes_on(loop: Loop) -> None:
    """The condition is looked at again after each step: what changes one at a time, stays one at a time."""
    busy, most, ended = 0, 0, 0

    def change() -> Task[None]:
        nonlocal busy, most, ended
        yield lambda: not busy
        busy += 1
        most = max(most, busy)
        yield from loop.pause(0.01)
        busy -= 1
        ended += 1

    for _ in range(5):
        loop.begin(change())
    turns(loop, lambda: ended == 5)
    assert most == 1


@pytest.mark.parametrize("holds", [True, False])
def test_until_says_whether_it_held(loop: Loop, holds: bool) -> None:
    said: list[bool] = []

    def flow() -> Task[None]:
        said.append((yield from loop.until(lambda: holds, 0.1)))

    loop.begin(flow())
    begin = time.monotonic()
    turns(loop, lambda: said)
    assert said == [holds]
    assert holds or time.monotonic() - begin >= 0.1


def test_what_a_flow_raises_the_turn_raises_and_the_others_go_on(loop: Loop) -> None:
    told: list[int] = []

    def broken() -> Task[None]:
        yield lambda: True
        raise LookupError("ordered by the test")

    def sound() -> Task[None]:
        for step in range(4):
            told.append(step)
            yield lambda: True

    loop.begin(broken())
    loop.begin(sound())
    loop.turn(0)
    with pytest.raises(LookupError):
        loop.turn(0)
    turns(loop, lambda: len(told) == 4)


def test_a_dropped_flow_takes_back_what_it_began(loop: Loop) -> None:
    told: list[str] = []

    def flow() -> Task[None]:
        try:
            yield from loop.pause(60)
        except BaseException:
            told.append("taken back")
            raise
        finally:
            told.append("ended")

    loop.begin(flow())
    loop.turn(0)
    loop.drop_tasks()
    assert told == ["taken back", "ended"]
    loop.turn(0)


def test_signals_are_told_by_number_and_wake_the_loop(loop: Loop) -> None:
    begin = time.monotonic()
    os.kill(os.getpid(), signal.SIGHUP)
    os.kill(os.getpid(), signal.SIGUSR1)
    assert set(loop.turn(30)) == {signal.SIGHUP, signal.SIGUSR1}
    assert time.monotonic() - begin < 20
    assert loop.turn(0) == []


def test_the_end_gives_the_signals_back() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    files = os.listdir("/proc/self/fd")
    Loop(SIGNALS, lambda: None).close()
    assert [signal.getsignal(number) for number in SIGNALS] == before
    assert os.listdir("/proc/self/fd") == files


def result_of(loop: Loop, work: Callable[[], object], seconds: float = 10.0) -> object:
    outcome: list[object] = []

    def flow() -> Task[None]:
        try:
            outcome.append((yield from loop.work(work, seconds)))
        except Refused as error:
            outcome.append(error)

    loop.begin(flow())
    turns(loop, lambda: outcome)
    return outcome[0]


def test_work_comes_back_while_the_loop_turns(loop: Loop) -> None:
    assert result_of(loop, lambda: b"x" * 300_000) == b"x" * 300_000


def test_work_is_apart_from_our_signals_and_group(loop: Loop) -> None:
    def work() -> tuple[int, bool, bool]:
        os.kill(os.getpid(), signal.SIGCHLD)
        return signal.set_wakeup_fd(-1), os.getpgid(0) == os.getpid(), os.nice(0) == max(JOB_NICE, nice)

    nice = os.nice(0)
    assert result_of(loop, work) == (-1, True, True)


def test_work_that_takes_too_long_is_given_up(loop: Loop) -> None:
    files = os.listdir("/proc/self/fd")
    outcome = result_of(loop, lambda: time.sleep(60), 0.1)
    assert isinstance(outcome, Refused)
    assert "given up" in str(outcome)
    assert os.listdir("/proc/self/fd") == files


@pytest.mark.parametrize("whole", [True, False])
def test_dropped_work_ends_at_once_unless_it_must_be_whole(loop: Loop, whole: bool) -> None:
    reading, writing = os.pipe()

    def work() -> None:
        os.write(writing, str(os.getpid()).encode())
        time.sleep(0.4)
        os.write(writing, b" whole")

    def flow() -> Task[None]:
        yield from loop.work(work, 10, whole=whole)

    loop.begin(flow())
    loop.turn(0)
    pid = int(os.read(reading, 20))
    loop.drop_tasks()
    assert not alive(pid)
    os.close(writing)
    assert os.read(reading, 20) == (b" whole" if whole else b"")
    os.close(reading)
