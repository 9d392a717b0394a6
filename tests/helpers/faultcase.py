"""What tests of faults in the supervisor's parts need: a clock that stands still, children that do as they are told, a
host that has no processes to give, and a look at what is left behind.

Nothing here sleeps, and nothing needs root.
"""

import errno
import gc
import logging
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from selectors import DefaultSelector
from types import ModuleType
from typing import Any, Protocol

import pytest

from nfqlb import files
from nfqlb.gateway.runtime import helper
from nfqlb.gateway.shm.board import Board

EPOCH = 1_800_000_000.0
"""What the clock adds for times since 1970."""


class Clock:
    """Takes the place of a module's `time`; goes on when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def monotonic_ns(self) -> int:
        return int(self.now * 1e9)

    def time(self) -> float:
        return EPOCH + self.now

    def after(self, seconds: float) -> float:
        """So many seconds later: the time that it is then."""
        self.now += seconds
        return self.now


class Processes:
    """The children that the code under test forks, by number; `made` asserts that none is left."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pids: list[int] = []
        self.none_to_be_had = False
        """Forks fail as they do where the host or the service has used up its process numbers."""
        self._fork = os.fork
        monkeypatch.setattr(os, "fork", self._forked)

    def _forked(self) -> int:
        if self.none_to_be_had:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        if pid := self._fork():
            self.pids.append(pid)
        return pid

    def wait_for_end(self) -> None:
        """Until the last child has died; who looks after it may still reap it."""
        os.waitid(os.P_PID, self.pids[-1], os.WEXITED | os.WNOWAIT)

    def left(self) -> list[int]:
        """Those that nobody has reaped; they are ended here."""
        found = []
        for pid in self.pids:
            try:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            except (ProcessLookupError, ChildProcessError):
                continue
            found.append(pid)
        return found


def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[Processes]:
    """For a fixture: afterwards no child and no open file is left."""
    before = open_files()
    processes = Processes(monkeypatch)
    yield processes
    assert processes.left() == [], "children are left behind"
    assert open_files().items() <= before.items(), "files are left open"


def open_files() -> dict[str, str]:
    """Of this process: number → what it is. What only waits for the collector of garbage is not among them."""
    gc.collect()
    found = {}
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the one by which they were listed
            found[number] = os.readlink(f"/proc/self/fd/{number}")
    return found


# -- what a child is told to do

Act = Callable[[int], None]
"""Given the end of the pipe that it speaks by."""


def stays(_writing: int) -> None:
    """It says nothing and lives until it is killed."""
    while True:
        signal.pause()


def fails(_writing: int) -> None:
    """It dies at its start."""
    os._exit(7)


def says(*pieces: bytes, then: Act = stays) -> Act:
    """It writes the first piece at once, and each other one when it gets SIGUSR1."""

    def act(writing: int) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        for number, piece in enumerate(pieces):
            if number:
                signal.sigwait({signal.SIGUSR1})
            os.write(writing, piece)
        then(writing)

    return act


def in_turn(processes: Processes, acts: Sequence[Act]) -> Act:
    """The first child does the first of `acts`, and so on; from then on all do the last one."""

    def act(writing: int) -> None:
        acts[min(len(processes.pids), len(acts) - 1)](writing)  # a child does not count itself

    return act


# -- who has such a child


class Watched(Protocol):
    """A part of the supervisor that has a process beside the workers."""

    @property
    def pid(self) -> int: ...

    def end(self) -> None: ...


class HelperScene:
    """Such a part, whose processes are real and whose time is made up. The subclass makes the `manager`."""

    manager: Watched

    def __init__(self, module: ModuleType, processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
        """`module`: where the part stands."""
        self.processes, self._patch = processes, monkeypatch
        self.clock = Clock()
        monkeypatch.setattr(module, "time", self.clock)
        monkeypatch.setattr(helper, "time", self.clock)
        self.selector = DefaultSelector()

    def tick(self, seconds: float = 0.0) -> object:
        """What the supervisor does at every turn, so much later."""
        raise NotImplementedError

    def listen(self) -> None:
        """Until a process has said something or has died, or somebody has asked."""
        for key, _ in self.selector.select():
            key.data()

    def bury(self) -> None:
        """The process has died, or is about to; the supervisor sees it."""
        self.processes.wait_for_end()
        self.tick()
        assert not self.manager.pid

    def close(self) -> None:
        self.manager.end()
        self.selector.close()


def close_board(board: Board) -> None:
    """Let its file go, so that none is left open."""
    board._cells.release()
    board._map.close()


# -- what a host may lack


def no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process may open no more pipes."""

    def pipe() -> tuple[int, int]:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "pipe", pipe)


def no_room(monkeypatch: pytest.MonkeyPatch, number: int = errno.ENOSPC) -> None:
    """Files that replace others can be begun, but their second half meets a full disk (or another error)."""

    class Full:
        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        def write(self, descriptor: int, content: memoryview) -> int:
            os.write(descriptor, content[: len(content) // 2])
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files, "os", Full())


def told(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    """The lines of the log from that level on, with "N" for each number of a process; they are forgotten after."""
    lines = [record.getMessage() for record in caplog.records if record.levelno >= level]
    pids = {str(value) for record in caplog.records for key, value in _about(record) if key.endswith("pid")}
    for pid in sorted(pids, key=len, reverse=True):
        lines = [line.replace(f"pid {pid}", "pid N") for line in lines]
    caplog.clear()
    return lines


def _about(record: logging.LogRecord) -> list[tuple[str, object]]:
    fields = record.__dict__.get("about", {})
    return list(fields.items())
