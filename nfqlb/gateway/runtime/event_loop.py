"""The supervisor's event loop: signals, files that become readable, and flows, which are the sequences of steps of a
start, a reload or an upgrade.

Knows how to wait and whom to call. A flow is a generator that yields conditions: it goes on in the turn in which its
condition holds. So a sequence that takes seconds reads like one, and nothing that it waits for keeps the loop from the
workers. (asyncio would do as well, and put some 5 MB more into each worker, which are all forked from here.)
"""

import os
import signal
import socket
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from selectors import EVENT_READ, DefaultSelector
from typing import TypeVar

from nfqlb.gateway.runtime.child import let_go_of_signals
from nfqlb.gateway.runtime.job import Job, Refused

T = TypeVar("T")

Condition = Callable[[], object]
Task = Generator[Condition, None, T]

JOB_NICE = 0
"""Priority of work in children, below that of workers: reading a large configuration shall cost them little."""

SOON = 0.05
"""Seconds between two looks at the conditions of flows, which may hold without any event."""


class Loop:
    """Owns the selector (its keys' data are called without arguments) and the process' signal handlers."""

    def __init__(self, signals: Sequence[signal.Signals], in_child: Callable[[], None]) -> None:
        """From now on `signals` only write their number into a socket; `turn` returns them. `in_child` is called
        first in the child of each job.
        """
        self.selector = DefaultSelector()
        self._in_child = in_child
        self._tasks: list[tuple[Task[None], Condition]] = []
        self._caught: list[int] = []
        self._wakeup_read, self._wakeup_write = socket.socketpair()
        self._wakeup_read.setblocking(False)
        self._wakeup_write.setblocking(False)
        self.selector.register(self._wakeup_read, EVENT_READ, self._woken)
        signal.set_wakeup_fd(self._wakeup_write.fileno(), warn_on_full_buffer=False)
        self._old_handlers = {number: signal.signal(number, _noted) for number in signals}

    def drop_tasks(self) -> None:
        """End all flows where they stand; each takes back what it has begun."""
        tasks, self._tasks = self._tasks, []
        for task, _ in tasks:
            task.close()

    def close(self) -> None:
        """Give the signals back."""
        self.drop_tasks()
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(-1)
        self.selector.close()
        self._wakeup_read.close()
        self._wakeup_write.close()

    def begin(self, task: Task[None]) -> None:
        """Start a flow. It runs to its first condition in the next turn. What it raises, `turn` raises."""
        self._tasks.append((task, lambda: True))

    def turn(self, pause: float) -> list[int]:
        """Go on with the flows that can; else wait for something to happen, `pause` seconds at most. The signals that
        came meanwhile."""
        moved = self._step()
        if self._tasks:
            pause = min(pause, SOON)
        for key, _ in self.selector.select(0.0 if moved else pause):
            key.data()
        caught, self._caught = self._caught, []
        return caught

    def _step(self) -> bool:
        moved = False
        for place, (task, condition) in enumerate(list(self._tasks)):
            if condition():
                moved = True
                try:
                    self._tasks[place] = task, next(task)
                except BaseException as error:
                    self._tasks[place] = task, _never
                    if not isinstance(error, StopIteration):
                        raise
        self._tasks = [each for each in self._tasks if each[1] is not _never]
        return moved

    def _woken(self) -> None:
        self._caught += self._wakeup_read.recv(4096)

    # -- what flows are made of

    def until(self, condition: Condition, seconds: float) -> Task[bool]:
        """Wait for the condition, `seconds` at most; whether it holds."""
        end = time.monotonic() + seconds
        held = False

        def look() -> bool:
            nonlocal held
            held = bool(condition())
            return held or time.monotonic() >= end

        yield look
        return held

    def pause(self, seconds: float) -> Task[None]:
        end = time.monotonic() + seconds
        yield lambda: time.monotonic() >= end

    def work(self, work: Callable[[], T], seconds: float, *, whole: bool = False) -> Task[T]:
        """Have `work` done in a child. Raises the Refused that it raises, or one of our own when it takes too long or
        no child is to be had.
        `whole`: if the flow is dropped meanwhile, wait for the end of the work, which must not stay half done.
        """
        try:
            job = Job(work, self._leave_child_alone)
        except OSError as error:
            raise Refused(f"No process can be started for it: {error.strerror}.") from None
        self.selector.register(job, EVENT_READ, job.read)
        try:
            if not (yield from self.until(lambda: job.done, seconds)):
                raise Refused(f"It has taken more than {seconds:.0f} s, and was given up.")
            return job.result()
        except GeneratorExit:
            if whole:
                with suppress(Refused):
                    job.result()
            raise
        finally:
            self.selector.unregister(job)
            job.end()

    def _leave_child_alone(self) -> None:
        """In the child: no signal of ours shall reach our socket from there."""
        let_go_of_signals(self._old_handlers)
        os.setpgid(0, 0)  # Ctrl-C in a terminal shall not meet iptables halfway
        os.setpriority(os.PRIO_PROCESS, 0, max(JOB_NICE, os.getpriority(os.PRIO_PROCESS, 0)))
        self._in_child()


def _noted(_number: int, _frame: object) -> None:
    """The wake-up socket has the number already."""


def _never() -> bool:
    return False
