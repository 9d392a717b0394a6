"""A worker pool: the workers of one configuration, a seat for each; forked, looked after, replaced, told to leave.

Knows processes and their signals. Holds the queues' sockets for them and never reads from one, so that packets wait in
the kernel while a worker is replaced. Does not know why a worker pool comes or goes: the supervisor does.

A worker pool that takes the place of another on the same queues is forked behind gates: each worker is ready but waits,
and is let in when the one before it has left its seat, so that no two ever serve one queue.
"""

import errno
import gc
import logging
import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from selectors import EVENT_READ, BaseSelector
from typing import Any

from nfqlb.balance.recent import Recent
from nfqlb.gateway.ha.liveness import Lifeline
from nfqlb.gateway.plan.model import Plan
from nfqlb.gateway.runtime import privileges
from nfqlb.gateway.runtime.child import HAND_ON, RELIEVE, WORKER_SIGNALS, Handler, become, fork, held_back
from nfqlb.gateway.runtime.log import about
from nfqlb.gateway.shm.board import STUCK_AFTER, Board, Cell, Header, State
from nfqlb.gateway.shm.name_lookups import NameLookups
from nfqlb.gateway.shm.offence_ring import OffenceRings
from nfqlb.gateway.worker.ipv6_sender import Ipv6Sender
from nfqlb.gateway.worker.nfqueue import Queue
from nfqlb.gateway.worker.worker import Worker

STOP_DRAIN = 0.5
"""Seconds that a worker may go on with what waits in its queue when the service stops: new packets keep coming."""

RELIEF_DRAIN = 10.0
"""The same when others get what is new: a full queue of a slow host is served to its end."""

NICE = -10
"""Priority of supervisor and workers, where we may choose it: on a gateway packets come before everything else."""

BOOT_FAILURES = 3
"""Workers in a row that die before they take packets, after which the worker pool counts as failed."""

BOOT_DELAY = 0.5
"""Seconds before another try after a worker that died before it took packets."""

SHORT_LIFE = 1.0
"""A worker that took packets is replaced at once, unless it lived for less than so many seconds …"""

SHORT_LIFE_DELAY = 0.05
"""… then after so many: no faster circle of death than that, and still no packet waits for 100 ms."""

WORKER_NAME = "nfqlb-{}"
"""What ps and top call worker number {}."""

IDENTS = 0x10000
"""Values of the IP identification, shared out among the workers (P37)."""


logger = logging.getLogger("nfqlb")


@dataclass
class Seat:
    """A worker's place, whoever sits on it."""

    index: int
    queue: Queue
    slot: memoryview
    pid: int = 0
    """0: empty."""
    ready: bool = False
    """It takes packets, or would if its gate were open."""
    condemned: bool = False
    """It was stuck, and is being killed."""
    gated: bool = False
    """Somebody before it still serves the queue."""
    gate: int = -1
    """The end of a pipe to write to, to let the worker in; -1 when there is none at the gate."""
    born: float = 0.0
    entered: float = 0.0
    """When it was let in."""
    boot_failures: int = 0
    forks: int = 0
    """Processes that have had it."""
    fill_at: float = 0.0
    """When an empty seat shall be filled; a time of time.monotonic()."""

    def about(self) -> dict[str, Any]:
        """Of its worker, for the log."""
        return about(worker=self.index, worker_pid=self.pid)


class WorkerPool:
    """The workers of `plan`, on `queues`, writing to `board`. No worker runs before `fill`."""

    _serial = 0
    """Forks so far, of all worker pools: no two workers begin with one IP identification."""

    def __init__(
        self,
        plan: Plan,
        queues: Sequence[Queue],
        sender: Ipv6Sender,
        board: Board,
        memory: memoryview,
        selector: BaseSelector,
        lifeline: Lifeline,
        lookups: NameLookups,
        offences: OffenceRings,
    ) -> None:
        """`memory`, of recent choices, is shared by all worker pools; so are `lifeline`, as far as it is held,
        `lookups`, and the memory of `offences`.
        """
        self.plan, self.queues, self.sender, self.board = plan, queues, sender, board
        self.memory, self._selector, self._lifeline, self._lookups = memory, selector, lifeline, lookups
        self._offences = offences
        self._supervisor = os.getpid()
        self.seats = [Seat(index, queue, board.slot(index)) for index, queue in enumerate(queues)]
        self.failed = ""
        """Why no worker of this worker pool will start, once that is plain."""
        self._leaving = False
        self._ready_read, self._ready_write = os.pipe()
        os.set_blocking(self._ready_read, False)
        selector.register(self._ready_read, EVENT_READ, self._take_ready)

    def fill(self, *, gated: bool = False) -> None:
        """Fork all workers; `gated`: those who wait until `let_in`."""
        for seat in self.seats:
            seat.gated = gated
        # What lives now lives on in all workers: no collection shall touch it, and so copy its pages.
        gc.collect()
        gc.freeze()
        for seat in self.seats:
            self._fill(seat)

    @property
    def ready(self) -> bool:
        return all(seat.ready for seat in self.seats)

    @property
    def gone(self) -> bool:
        return not any(seat.pid for seat in self.seats)

    @property
    def pids(self) -> list[int]:
        return [seat.pid for seat in self.seats if seat.pid]

    def let_in(self, index: int) -> None:
        """Open the gate of one seat: whoever had its queue before has left."""
        seat = self.seats[index]
        seat.gated = False
        seat.entered = time.monotonic()
        if seat.gate >= 0:
            with suppress(BrokenPipeError):  # it has died at the gate
                os.write(seat.gate, b"\0")
            os.close(seat.gate)
            seat.gate = -1

    def leave(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send all workers a signal, after which none is replaced."""
        self._leaving = True
        for seat in self.seats:
            if seat.pid:
                try:
                    os.kill(seat.pid, number)
                except OSError as error:
                    if error.errno != errno.ESRCH:
                        raise

    def kill(self) -> None:
        """End those that have not left."""
        for seat in self.seats:
            if seat.pid:
                text = "worker %d (pid %d) does not stop and is killed"
                logger.error(text, seat.index, seat.pid, extra=seat.about())
        self.destroy()

    def destroy(self) -> None:
        """End all workers at once: a worker pool that never came to work, or would not leave."""
        self.leave(signal.SIGKILL)
        for seat in self.seats:
            if seat.pid:
                os.waitpid(seat.pid, 0)
                seat.pid = 0

    def close(self) -> None:
        """Give up what belongs to the worker pool itself; not queues and sender, which its successor may use."""
        for seat in self.seats:
            if seat.gate >= 0:
                os.close(seat.gate)
            seat.slot.release()
        self._selector.unregister(self._ready_read)
        os.close(self._ready_read)
        os.close(self._ready_write)

    def tick(self, now: float) -> float:
        """Fill what is empty, kill what is stuck; seconds until there is something to do again."""
        pause = 1.0
        if self._relieved or self.failed:
            return pause
        for seat in self.seats:
            if not seat.pid:
                if seat.fill_at <= now:
                    self._fill(seat)
                else:
                    pause = min(pause, seat.fill_at - now)
            elif seat.ready and not seat.gated and not seat.condemned:
                self._kill_if_stuck(seat)
        return pause

    def reap(self) -> list[int]:
        """Take note of workers that have died; the indices of their seats."""
        emptied = []
        for seat in self.seats:
            if seat.pid:
                pid, status = os.waitpid(seat.pid, os.WNOHANG)
                if pid:
                    self._take_ready()  # all that it has said: later it would be taken for its successor's word
                    emptied.append(seat.index)
                    self._died(seat, os.waitstatus_to_exitcode(status))
        return emptied

    def alive(self) -> bool:
        """All loops over packets go round: what a watchdog wants to know."""
        limit = time.monotonic_ns() - int(STUCK_AFTER * 1e9)
        return all(seat.pid and seat.slot[Cell.HEARTBEAT] > limit for seat in self.seats)

    # -- the life of a seat

    def _take_ready(self) -> None:
        with suppress(BlockingIOError):
            for index in os.read(self._ready_read, 4096):
                self.seats[index].ready = True

    @property
    def _relieved(self) -> bool:
        """Nobody is replaced any more: told to leave, or another supervisor has put a board in the place of ours."""
        return self._leaving or self.board.get(Header.STATE) == State.RETIRED

    def _died(self, seat: Seat, code: int) -> None:
        pid, began = seat.pid, seat.ready
        seat.pid, seat.ready, seat.condemned = 0, False, False
        if seat.gate >= 0:
            os.close(seat.gate)
            seat.gate = -1
        if self._relieved:
            return
        why = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        told = about(worker=seat.index, worker_pid=pid, reason=why)
        logger.error("worker %d (pid %d) died (%s)", seat.index, pid, why, extra=told)
        if not began:
            self._start_failed(seat, why)
        else:
            seat.boot_failures = 0
            now = time.monotonic()
            seat.fill_at = now + (SHORT_LIFE_DELAY if now - seat.born < SHORT_LIFE else 0.0)

    def _kill_if_stuck(self, seat: Seat) -> None:
        """Kill a worker whose loop over packets stands still; it is then replaced like any that died."""
        silent = time.monotonic() - max(seat.slot[Cell.HEARTBEAT] / 1e9, seat.entered)
        if silent > STUCK_AFTER:
            text = "worker %d (pid %d) is stuck: it gave no sign of life for %.0f s and is killed"
            logger.error(text, seat.index, seat.pid, silent, extra=seat.about())
            os.kill(seat.pid, signal.SIGKILL)
            seat.condemned = True  # once is enough; it is reaped when it has died

    def _start_failed(self, seat: Seat, why: str) -> None:
        seat.boot_failures += 1
        if seat.boot_failures == BOOT_FAILURES:
            self.failed = (
                f"Worker {seat.index} failed {BOOT_FAILURES} times at its start ({why}): giving up. "
                "The lines above say more."
            )
        seat.fill_at = time.monotonic() + BOOT_DELAY

    def _fill(self, seat: Seat) -> None:
        """Fork a worker for this seat."""
        seat.born = time.monotonic()
        WorkerPool._serial += 1
        first_ident = (IDENTS * seat.index // len(self.seats) + WorkerPool._serial * 4099) % IDENTS
        seat.slot[Cell.RESTARTS] = seat.forks
        gate = -1
        failed = partial(logger.exception, "worker %d has failed and ends", seat.index, extra=about(worker=seat.index))
        try:
            if seat.gated:
                gate, seat.gate = os.pipe()
            with held_back(WORKER_SIGNALS):
                pid = fork(partial(self._work, seat, first_ident, gate), failed)
        except OSError as error:
            if seat.gate >= 0:
                os.close(seat.gate)
                seat.gate = -1
            told = about(worker=seat.index, reason=error.strerror)
            logger.error("worker %d cannot be forked: %s", seat.index, error.strerror, extra=told)
            if not seat.forks:
                self._start_failed(seat, "fork failed")
            else:  # memory or process numbers are short for a while: no reason to end those that work
                seat.fill_at = time.monotonic() + BOOT_DELAY
            return
        finally:
            if gate >= 0:
                os.close(gate)
        seat.pid = seat.slot[Cell.PID] = pid
        seat.forks += 1
        logger.debug("worker %d has started (pid %d)", seat.index, pid, extra=seat.about())

    # -- in the child

    def _work(self, seat: Seat, first_ident: int, gate: int) -> None:
        """The whole life of a worker."""
        seat.slot[Cell.PID] = os.getpid()  # who looks for us finds us, also if the supervisor dies at this moment
        self._become_worker(seat, gate)
        recent = Recent(self.memory)
        dns_plan = self.plan.dns_plan
        names = self._lookups.names() if dns_plan is not None and dns_plan.egress else None
        process = self.plan.process(first_ident, recent, names)
        worker = Worker(
            process,
            self.sender,
            seat.slot,
            self.board.header,
            recent,
            lambda: seat.queue.stop(RELIEF_DRAIN),
            self._offences.notebook(seat.index),
            shedder=None if self.plan.shedder is None else self.plan.shedder(first_ident, recent, len(self.seats)),
            load=seat.queue.load,
        )
        if self.plan.pin:
            privileges.pin(seat.index, len(self.seats))
        privileges.drop()
        self._lifeline.release_when_orphaned(self._supervisor)
        with suppress(BrokenPipeError):  # the supervisor has died; packets want to be served all the same
            os.write(self._ready_write, bytes([seat.index]))
        if gate >= 0:
            # Without a word it ends when the supervisor dies. Whom to serve for is then on the board: as long as
            # that has not come to its place, others do.
            if not os.read(gate, 1) and self.board.get(Header.STATE) != State.RUNNING:
                os._exit(os.EX_OK)
            os.close(gate)
            worker.idle()
        seat.queue.serve(worker)

    def _become_worker(self, seat: Seat, gate: int) -> None:
        """Let go of everything that is the supervisor's or another worker's."""
        kept = [*seat.queue.filenos, *self.sender.filenos, *self._lifeline.filenos]
        kept += [*self._lookups.filenos, self._ready_write]
        leave: dict[signal.Signals, Handler] = {
            signal.SIGTERM: lambda *_: seat.queue.stop(STOP_DRAIN),
            RELIEVE: lambda *_: seat.queue.stop(RELIEF_DRAIN),
            HAND_ON: lambda *_: seat.queue.stop(0.0),
        }
        become(WORKER_NAME.format(seat.index), [*kept, gate] if gate >= 0 else kept, leave)


def hurry() -> None:
    """Take the priority of a gateway, for this process and its children. Without the right to it (CAP_SYS_NICE), the
    service manager's choice stands.
    """
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, min(NICE, os.getpriority(os.PRIO_PROCESS, 0)))
