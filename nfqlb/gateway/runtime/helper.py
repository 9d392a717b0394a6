"""A process beside the workers, as the supervisor has it: forked, heard, watched, ended.

Knows the process and the pipe that it speaks by, in lines of JSON. Does not know what it does, nor what follows from
what it says: `health.manager` and `dns.manager` do.
"""

import json
import logging
import os
import signal
import time
from collections.abc import Callable, Iterable
from functools import partial
from selectors import EVENT_READ, BaseSelector
from typing import Any

from nfqlb.gateway.runtime import log as runtime_log
from nfqlb.gateway.runtime.child import WORKER_SIGNALS, become, fork, held_back
from nfqlb.gateway.runtime.log import about

RESPAWN_AFTER = 1.0
"""Seconds until one that died may be replaced."""

PIECE = 1 << 16

logger = logging.getLogger("nfqlb")


class Helper:
    """One process at a time."""

    def __init__(
        self, name: str, title: str, stands: str, heard: Callable[[Any], None], selector: BaseSelector
    ) -> None:
        """`name`: what ps and top call it. `title`, and `stands`, what its death leaves as it is: for the log. `heard`
        is called with each line that it says.
        """
        self.pid = 0
        self.start_at = 0.0
        """When a dead one may be replaced, a time of time.monotonic(); 0: nothing to wait for."""
        self._name, self._title, self._stands, self._heard, self._selector = name, title, stands, heard, selector
        self._pipe = -1
        self._rest = b""
        self._killed_at = float("-inf")
        self._log = runtime_log.settings()
        """As the process has it."""

    def start(self, work: Callable[[int], None], kept: Iterable[int] = ()) -> None:
        """Fork one, which does `work`, given the pipe to speak by. Of our files it keeps `kept`."""
        begun = time.monotonic()
        reading = writing = -1
        failed = partial(logger.exception, "%s has failed and ends", self._title)
        try:
            reading, writing = os.pipe()
            with held_back(WORKER_SIGNALS):
                pid = fork(partial(self._work, work, writing, kept), failed)
        except OSError as error:
            logger.error("%s cannot be forked: %s", self._title, error.strerror, extra=about(child=self._name))
            if reading >= 0:
                os.close(reading)
            self.start_at = begun + RESPAWN_AFTER
            return
        finally:
            if writing >= 0:
                os.close(writing)
        os.set_blocking(reading, False)
        self.pid, self._pipe, self.start_at = pid, reading, 0.0
        self._log = runtime_log.settings()
        logger.debug("%s has started (pid %d)", self._title, pid, extra=about(child=self._name, child_pid=pid))
        self._selector.register(reading, EVENT_READ, self._hear)

    def tick(self, now: float, alive_at: float, stuck_after: float) -> None:
        """Reap one that has died; kill one whose last sign of life, at `alive_at`, is more than `stuck_after` ago. One
        that logs in another way than we do by now is to be replaced, too.
        """
        if not self.pid:
            return
        if self._log != runtime_log.settings():
            self.end()
            self.start_at = now
            return
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            self._died(os.waitstatus_to_exitcode(status), now)
        elif now - max(alive_at, self._killed_at) > stuck_after:
            told = about(child=self._name, child_pid=self.pid)
            logger.error("%s (pid %d) hangs and is killed", self._title, self.pid, extra=told)
            os.kill(self.pid, signal.SIGKILL)
            self._killed_at = now  # once is enough; it is reaped when it has died

    def end(self) -> None:
        """Kill it: it has nothing to bring to an end."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        self._forget()

    def _died(self, code: int, now: float) -> None:
        why = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        told = about(child=self._name, child_pid=self.pid, reason=why)
        logger.error("%s (pid %d) died (%s); %s", self._title, self.pid, why, self._stands, extra=told)
        self._hear()
        self._forget()
        self.start_at = now + RESPAWN_AFTER

    def _forget(self) -> None:
        self.pid, self.start_at = 0, 0.0
        if self._pipe >= 0:
            self._selector.unregister(self._pipe)
            os.close(self._pipe)
            self._pipe, self._rest = -1, b""

    def _hear(self) -> None:
        try:
            self._rest += os.read(self._pipe, PIECE)
        except BlockingIOError:
            return
        *lines, self._rest = self._rest.split(b"\n")
        for line in lines:
            self._heard(json.loads(line))

    # -- in the child

    def _work(self, work: Callable[[int], None], writing: int, kept: Iterable[int]) -> None:
        become(self._name, (writing, *kept))
        work(writing)
