"""A running gateway hands over to one of new code: what the two supervisors say to each other, and how one starts the
other.

The old one starts the new one with the command line that it was started with itself, and gives it the lock on the run
directory, a channel to talk by, and its own stderr. Until the new one has got as far as its workers, its stderr is a
pipe to the old one, who can then tell why a start failed. They say, a line each:

    new: ready           its workers run, on queues of their own
    old: go              from now on it changes nothing any more
    new: done PID        the rules lead to its queues: the old workers may leave
    new: failed TEXT     instead of ready or done; it ends, and nothing has changed
"""

import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Self

from nfqlb.gateway.runtime import log as runtime_log
from nfqlb.gateway.runtime.child import close_all_but
from nfqlb.gateway.runtime.event_loop import Loop, Task
from nfqlb.gateway.runtime.job import Refused
from nfqlb.gateway.runtime.sd_notify import for_successor
from nfqlb.gateway.supervisor.rollover import READY_WITHIN, SETTLE, WORK_WITHIN

VARIABLE = "NFQLB_HANDOVER"
"""Environment variable with three file numbers: lock, channel, stderr."""

TAIL = 2000
"""Bytes of the end of stderr that are kept to tell why."""


class Lines:
    """One end of the channel, which speaks in lines."""

    def __init__(self, channel: socket.socket) -> None:
        channel.setblocking(False)
        self._channel = channel
        self._heard = b""
        self.ended = False

    def fileno(self) -> int:
        return self._channel.fileno()

    def say(self, line: str) -> None:
        try:
            self._channel.send(line.replace("\n", "\v").encode() + b"\n")  # far less than a socket buffer
        except OSError:
            self.ended = True

    def hear(self) -> str | None:
        """The next line that has come, None when there is none yet."""
        if b"\n" not in self._heard and not self.ended:
            try:
                piece = self._channel.recv(65536)
            except BlockingIOError:
                piece = None
            except OSError:
                piece = b""
            if piece is not None:
                self._heard += piece
                self.ended = not piece
        line, found, rest = self._heard.partition(b"\n")
        if not found:
            return None
        self._heard = rest
        return line.decode().replace("\v", "\n")

    def close(self) -> None:
        self._channel.close()


class Successor:
    """The new supervisor, as the old one sees it."""

    def __init__(self, lock: int) -> None:
        """Start it. `lock`: the file that holds the lock on the run directory. Raises OSError."""
        ours, theirs = socket.socketpair()
        self.lines = Lines(ours)
        self._errors, errors = os.pipe()
        os.set_blocking(self._errors, False)
        stderr = os.dup(2)
        shared = (lock, theirs.fileno(), stderr)
        environment = {**for_successor(os.environ), VARIABLE: " ".join(map(str, shared))}
        try:
            for descriptor in shared:
                os.set_inheritable(descriptor, True)
            self.pid = os.posix_spawn(
                sys.executable,
                [sys.executable, *sys.orig_argv[1:]],
                environment,
                file_actions=[(os.POSIX_SPAWN_DUP2, errors, 2)],
                setsigmask=[],
                setsigdef=[signal.SIGINT, signal.SIGHUP, signal.SIGUSR1],
            )
        finally:
            os.set_inheritable(lock, False)
            theirs.close()
            os.close(stderr)
            os.close(errors)
        self._tail = self._rest = b""

    @property
    def filenos(self) -> tuple[int, int]:
        """Readable when there is something to hear, or to `relay`."""
        return self.lines.fileno(), self._errors

    def relay(self) -> None:
        """Pass on what it wrote to stderr so far, in whole lines: others write there, too."""
        ended = False
        with suppress(BlockingIOError):
            while piece := os.read(self._errors, 65536):
                self._tail = (self._tail + piece)[-TAIL:]
                self._rest += piece
            ended = True
        lines, end, rest = self._rest.rpartition(b"\n")
        told, self._rest = (self._rest, b"") if ended else (lines + end, rest)
        if told:
            with suppress(OSError):  # nobody reads it any more
                os.write(runtime_log.STDERR, told)

    @property
    def complaint(self) -> list[str]:
        """The last lines that it wrote to stderr, without their times."""
        self.relay()
        return [runtime_log.message_in(line) for line in self._tail.decode("utf-8", "replace").strip().splitlines()]

    def kill(self) -> None:
        """End it, if it still lives, and take its remains away."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0

    def close(self) -> None:
        self.lines.close()
        os.close(self._errors)


class Predecessor:
    """The old supervisor, as the new one sees it."""

    def __init__(self, lock: int, channel: int, stderr: int) -> None:
        self.lock = lock
        """The file that holds the lock on the run directory."""
        self.lines = Lines(socket.socket(fileno=channel))
        self.stderr = stderr
        """The file that its stderr is, and ours will be."""

    @classmethod
    def from_environment(cls) -> Self | None:
        """The one that started us, None when nobody hands over. Closes what we should not have from it."""
        text = os.environ.pop(VARIABLE, "")
        try:
            lock, channel, stderr = map(int, text.split())
        except ValueError:
            return None
        close_all_but((0, 1, 2, lock, channel, stderr))
        for descriptor in (lock, channel, stderr):
            os.set_inheritable(descriptor, False)
        return cls(lock, channel, stderr)

    def take_stderr(self) -> None:
        """From here on failures are told by the channel; our stderr becomes the old one's. Before any worker runs."""
        sys.stderr.flush()
        os.dup2(self.stderr, runtime_log.STDERR)
        os.close(self.stderr)


def hand_over(loop: Loop, lock: int, tell: Callable[[str], None], commit: Callable[[], None]) -> Task[int]:
    """The old supervisor's part, from start to end; the pid of the one that is in force after. `tell` hears how far it
    is; `commit` is called when the new one begins to change things. Raises Refused: then the new one is dead.
    """
    try:
        successor = Successor(lock)
    except OSError as error:
        raise Refused(f"The new code cannot be started: {error.strerror}.") from None
    try:
        tell("the new code starts")
        yield from _listen(loop, successor, "ready", READY_WITHIN)
        tell("it is ready; the rules change")
        commit()
        successor.lines.say("go")
        said = yield from _listen(loop, successor, "done", WORK_WITHIN)
        successor.pid = 0  # from now on it is nobody's child
    finally:
        successor.kill()
        successor.close()
    yield from loop.pause(SETTLE)
    return int(said.split()[1])


def _listen(loop: Loop, successor: Successor, word: str, seconds: float) -> Task[str]:
    """The line that begins with `word`, once the successor says it. Raises Refused."""
    said: list[str] = []

    def heard() -> bool:
        successor.relay()
        while (line := successor.lines.hear()) is not None:
            said.append(line)
        return bool(said) or successor.lines.ended

    if not (yield from loop.until(heard, seconds)):
        raise Refused(f"The new code is not ready after {seconds:.0f} s.", *successor.complaint)
    if not said:
        what = "it was ready" if word == "ready" else "it had taken over"
        raise Refused(f"The new code has ended before {what}:", *successor.complaint)
    if not said[0].startswith(word):
        raise Refused(*said[0].removeprefix("failed ").splitlines())
    return said[0]
