"""Slow work in a child process, so that the supervisor is never away from its workers for longer than a fork takes.

Knows pipes and pickles. What the work is, and when to look for its end, is for others. What the work imports stays out
of the parent's memory, and so out of every worker's: the libraries that read configurations and look at the host weigh
more than a worker.
"""

import logging
import os
import pickle
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Generic, TypeVar

from nfqlb.errors import NfqlbError
from nfqlb.gateway.runtime.child import Mask, fork, held_back

T = TypeVar("T")

CHUNK = 1 << 16

INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What may make a handler raise an exception."""

logger = logging.getLogger("nfqlb")


class Refused(NfqlbError):
    """The work cannot be done, for reasons that its user can change: one or more lines that say what to do."""

    def __init__(self, *lines: str) -> None:
        super().__init__(*lines)
        self.lines = lines

    def __str__(self) -> str:
        return "\n".join(self.lines)


class Job(Generic[T]):
    """`work` in a child. Its result, or the Refused that it raised, comes back by a pipe and must be picklable."""

    def __init__(self, work: Callable[[], T], in_child: Callable[[], None] | None = None) -> None:
        """Fork. `in_child` runs there first: to let go of what is the parent's alone. Raises OSError."""
        self.pid = 0
        self._reading, writing = os.pipe()
        self._content = bytearray()
        self.done = False
        """The child has said all, or has died."""
        sys.stdout.flush()
        failed = partial(logger.exception, "internal error in a job of the gateway; please report it")
        try:
            with held_back(INTERRUPTS) as mask:
                try:
                    self.pid = fork(partial(self._work, work, in_child, writing, mask), failed)
                except OSError:
                    os.close(self._reading)
                    raise
                finally:
                    os.close(writing)
                os.set_blocking(self._reading, False)
        except BaseException:  # Ctrl-C came meanwhile: nobody will ever ask for the result
            self.end()
            raise

    def fileno(self) -> int:
        """Readable when `read` has something to do."""
        return self._reading

    def read(self) -> None:
        """Take what the child has said so far."""
        try:
            while piece := os.read(self._reading, CHUNK):
                self._content += piece
        except BlockingIOError:
            return
        self.done = True

    def result(self) -> T:
        """What `work` returned; blocks until it did. Raises the Refused that it raised, or one of our own when it
        died. The child is gone afterwards.
        """
        os.set_blocking(self._reading, True)
        if not self.done:
            self.read()
        if self.end() or not self._content:  # what a child that was killed has said so far is not all
            raise Refused("It failed inside; the log says more.")
        value = pickle.loads(self._content)
        if isinstance(value, Refused):
            raise value
        return value  # type: ignore[no-any-return]  # it is what `work` returned

    def end(self) -> int:
        """Kill the child if it still works, and take its remains away; its status as of `os.wait`. May be called
        again.
        """
        status = 0
        if self.pid:
            if not self.done:
                os.kill(self.pid, signal.SIGKILL)
            _, status = os.waitpid(self.pid, 0)
            self.pid = 0
            os.close(self._reading)
        return status

    # -- in the child

    def _work(self, work: Callable[[], object], in_child: Callable[[], None] | None, writing: int, mask: Mask) -> None:
        os.close(self._reading)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C: the parent, who gets it too, has the last word
        if in_child is not None:
            in_child()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        try:
            result: object = work()
        except Refused as error:
            result = error
        with suppress(BrokenPipeError), open(writing, "wb") as pipe:  # nobody waits for it any more
            pickle.dump(result, pipe, pickle.HIGHEST_PROTOCOL)
