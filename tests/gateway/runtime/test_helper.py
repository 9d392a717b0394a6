"""A process beside the workers: what it says is heard, its death is told and waited for, and it may not come at all."""

import errno
import json
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from selectors import DefaultSelector
from typing import Any

import pytest

from nfqlb.gateway.runtime.helper import RESPAWN_AFTER, Helper


class Scene:
    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.selector = DefaultSelector()
        self.helper = Helper("nfqlb-test", "the test's process", "nothing changes", self.heard.append, self.selector)

    def until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline
            for key, _ in self.selector.select(0.05):
                key.data()

    def close(self) -> None:
        self.helper.end()
        self.selector.close()


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.close()


def _fails(_: int) -> None:
    raise ZeroDivisionError


def says(text: str) -> Callable[[int], None]:
    def work(pipe: int) -> None:
        os.write(pipe, json.dumps(text).encode() + b"\n")
        signal.pause()

    return work


def test_what_it_says_is_heard_until_it_is_ended(scene: Scene) -> None:
    before = os.listdir("/proc/self/fd")
    scene.helper.start(says("hello"))
    scene.until(lambda: scene.heard)
    assert scene.heard == ["hello"]
    scene.helper.end()
    assert scene.helper.pid == 0
    assert os.listdir("/proc/self/fd") == before
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()


def test_its_death_is_told_and_another_may_come_a_while_later(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "nfqlb")
    scene.helper.start(_fails)
    os.waitid(os.P_PID, scene.helper.pid, os.WEXITED | os.WNOWAIT)
    scene.helper.tick(100.0, 100.0, 5.0)
    assert scene.helper.pid == 0
    assert scene.helper.start_at == 100.0 + RESPAWN_AFTER
    assert "died (exit status 70); nothing changes" in caplog.messages[-1]


def test_one_that_hangs_is_killed_once(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "nfqlb")
    scene.helper.start(says("hello"))
    scene.helper.tick(105.0, 100.0, 5.0)
    assert caplog.messages == []
    scene.helper.tick(105.1, 100.0, 5.0)
    os.waitid(os.P_PID, scene.helper.pid, os.WEXITED | os.WNOWAIT)
    scene.helper.tick(105.2, 100.0, 5.0)
    assert [("hangs and is killed" in text, "killed by SIGKILL" in text) for text in caplog.messages] == [
        (True, False),
        (False, True),
    ]


def test_no_process_to_be_had_is_told_and_tried_again(
    scene: Scene, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> int:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    before = os.listdir("/proc/self/fd")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fork", none)
        scene.helper.start(says("hello"))
    assert caplog.messages == ["the test's process cannot be forked: Resource temporarily unavailable"]
    assert scene.helper.pid == 0
    assert scene.helper.start_at > 0
    assert os.listdir("/proc/self/fd") == before
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()
    scene.helper.start(says("hello"))
    scene.until(lambda: scene.heard)
