"""The supervisor: binds the queues, forks the workers, replaces those that die, and stops them all.

Knows processes and signals. Holds every queue's socket and never reads from one, so that packets wait in the kernel
while a worker is replaced. Does not know packets, rules of iptables, or the configuration file.

If it dies itself, the workers go on: nothing ties their lives to it. Each then ends on SIGTERM.
"""

import errno
import gc
import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, Self

from nfqlb.gateway import board as board_file
from nfqlb.gateway import procfs
from nfqlb.gateway.board import STUCK_AFTER, About, Board, BoardError, Cell, Header, State
from nfqlb.gateway.instance import Instance
from nfqlb.gateway.queue import Queue
from nfqlb.gateway.sender import Sender
from nfqlb.gateway.worker import Process, Worker
from nfqlb.net.endpoint import Endpoint

DRAIN = 0.5
"""Seconds that a worker may go on with what waits in its queue after it was told to stop."""

PATIENCE = 3.0
"""Seconds after which a worker that was told to stop is killed."""

BOOT_FAILURES = 3
"""Workers in a row that die before they take packets, after which the whole service gives up."""

BOOT_DELAY = 0.5
"""Seconds before another try after a worker that died before it took packets."""

SHORT_LIFE = 1.0
"""A worker that took packets is replaced at once, unless it lived for less than so many seconds …"""

SHORT_LIFE_DELAY = 0.05
"""… then after so many: no faster circle of death than that, and still no packet waits for 100 ms."""

LOOK_INTERVAL = 1.0
"""Seconds between two looks at the workers' heartbeats."""

WORKER_NAME = "nfqlb-{}"
"""What ps and top call worker number {}."""

IDENTS = 0x10000
"""Values of the IP identification, shared out among the workers (P37)."""

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

logger = logging.getLogger("nfqlb")


class CannotRun(Exception):
    """What the supervisor needs is not to be had, or workers die as soon as they start; the text says what to do."""


@dataclass(frozen=True)
class Plan:
    """What a supervisor runs."""

    about: About
    sources: Sequence[Endpoint]
    """Our own endpoints, which large IPv6 packets leave from."""
    queue_length: int
    """Packets."""
    socket_buffer: int
    """Bytes."""
    run_dir: Path
    process: Callable[[int], Process]
    """Given its first IP identification, the function that a worker asks about each packet. Called in the worker, and
    again in each replacement: what takes long or much memory belongs before."""


@dataclass
class _Seat:
    """A worker's place, whoever sits on it."""

    index: int
    queue: Queue
    slot: memoryview
    pid: int = 0
    """0: empty."""
    ready: bool = False
    """Its loop over packets runs."""
    born: float = 0.0
    boot_failures: int = 0
    forks: int = 0
    fill_at: float = field(default=0.0)
    """When an empty seat shall be filled; a time of time.monotonic()."""


class Supervisor:
    """`with Supervisor(plan) as supervisor: supervisor.run(…)`: workers run inside, and nothing is left behind after.

    Entering raises InstanceError, QueueError or CannotRun before any worker runs.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._instance: Instance | None = None
        self._sender: Sender | None = None
        self._board: Board | None = None
        self._queues: list[Queue] = []
        self._seats: list[_Seat] = []
        self._wakeup_read, self._wakeup_write = socket.socketpair()
        self._ready_read, self._ready_write = os.pipe()
        self._old_handlers: dict[int, object] = {}
        self._stopping = False

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _start(self) -> None:
        """Take the run directory, bind all queues, and fork the workers."""
        plan = self._plan
        self._catch_signals()
        self._instance = Instance(plan.run_dir)
        if orphans := _orphans(plan.run_dir):
            pids = " ".join(map(str, orphans))
            raise CannotRun(
                "Workers of a gateway that was killed still run and serve its queues. "
                f"End them, which stops the service until the new start: kill {pids}"
            )
        for number in plan.about.queues:
            self._queues.append(Queue(number, length=plan.queue_length, socket_buffer=plan.socket_buffer))
        if self._queues and (granted := self._queues[0].buffer) < plan.socket_buffer:
            logger.warning(
                "the kernel grants %d bytes of socket buffer instead of %d: raise net.core.rmem_max",
                granted,
                plan.socket_buffer,
            )
        try:
            self._sender = Sender(plan.sources, plan.socket_buffer)
        except OSError as error:
            raise CannotRun(
                f"Large IPv6 packets need a socket at {error.filename}, which cannot be bound ({error.strerror}). "
                "See with 'ss -ulnp' who has it, and end that program."
            ) from error
        path = plan.run_dir / board_file.FILE_NAME
        try:
            self._board = board = Board(path, plan.about)
        except OSError as error:
            raise CannotRun(f"{path} cannot be written ({error.strerror}).") from error
        board.set(Header.PID, os.getpid())
        board.set(Header.STARTED, time.time_ns())
        # What lives now lives on in all workers: no collection shall touch it, and so copy its pages.
        gc.collect()
        gc.freeze()
        self._seats = [_Seat(index, queue, board.slot(index)) for index, queue in enumerate(self._queues)]
        for seat in self._seats:
            self._fill(seat)

    def run(self, on_ready: Callable[[], None]) -> None:
        """Keep the workers alive until a signal says stop. `on_ready` is called once, when all take packets.

        Raises CannotRun, and whatever `on_ready` raises.
        """
        assert self._board is not None
        announced = False
        while not self._stopping:
            if not announced and all(seat.ready for seat in self._seats):
                self._board.set(Header.STATE, State.RUNNING)
                announced = True
                on_ready()
                continue  # a signal may have come meanwhile
            now = time.monotonic()
            for seat in self._seats:
                if not seat.pid and seat.fill_at <= now:
                    self._fill(seat)
                elif seat.pid and seat.ready:
                    self._look_after(seat)
            pauses = [max(0.0, seat.fill_at - now) for seat in self._seats if not seat.pid]
            self._wait(min([LOOK_INTERVAL, *pauses]))

    def _stop(self) -> None:
        """Stop the workers after what waits in their queues, then give up queues, sockets and files."""
        if self._board is not None:
            self._board.set(Header.STATE, State.STOPPING)
        self._stopping = True
        self._signal_workers(signal.SIGTERM)
        deadline = time.monotonic() + PATIENCE
        while any(seat.pid for seat in self._seats) and (left := deadline - time.monotonic()) > 0:
            self._wait(left)
        for seat in self._seats:
            if seat.pid:
                logger.error("worker %d (pid %d) does not stop; killed", seat.index, seat.pid)
        self._signal_workers(signal.SIGKILL)
        for seat in self._seats:
            if seat.pid:
                os.waitpid(seat.pid, 0)
                seat.pid = 0
        for queue in self._queues:
            queue.close()
        if self._sender is not None:
            self._sender.close()
        if self._board is not None:
            self._board.remove()
        if self._instance is not None:
            self._instance.release()
        self._release_signals()

    # -- signals: handlers do nothing; Python writes the number into a socket that `_wait` reads

    def _catch_signals(self) -> None:
        self._wakeup_read.setblocking(False)
        self._wakeup_write.setblocking(False)
        os.set_blocking(self._ready_read, False)
        signal.set_wakeup_fd(self._wakeup_write.fileno(), warn_on_full_buffer=False)
        for number in (*_STOP_SIGNALS, signal.SIGCHLD):
            self._old_handlers[number] = signal.signal(number, _noted)

    def _release_signals(self) -> None:
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.signal returned
        if self._old_handlers:
            signal.set_wakeup_fd(-1)
        self._wakeup_read.close()
        self._wakeup_write.close()
        os.close(self._ready_read)
        os.close(self._ready_write)

    def _wait(self, timeout: float | None) -> None:
        """Sleep until a signal, a worker's readiness or the timeout, and take note of what happened."""
        wakeup = self._wakeup_read.fileno()
        readable, _, _ = select.select([wakeup, self._ready_read], [], [], timeout)
        if self._ready_read in readable:
            for index in os.read(self._ready_read, 4096):
                self._seats[index].ready = True
        if wakeup in readable:
            numbers = self._wakeup_read.recv(4096)
            if not self._stopping and any(number in numbers for number in _STOP_SIGNALS):
                logger.info("stopping")
                self._stopping = True
        self._bury()

    # -- workers

    def _bury(self) -> None:
        for seat in self._seats:
            if not seat.pid:
                continue
            pid, status = os.waitpid(seat.pid, os.WNOHANG)
            if pid:
                self._died(seat, os.waitstatus_to_exitcode(status))

    def _died(self, seat: _Seat, code: int) -> None:
        pid, seat.pid = seat.pid, 0
        if self._stopping:
            return
        seat.ready = False
        why = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        logger.error("worker %d (pid %d) died (%s)", seat.index, pid, why)
        if seat.slot[Cell.HEARTBEAT] < int(seat.born * 1e9):  # its loop over packets never ran
            self._start_failed(seat, why)
        else:
            seat.boot_failures = 0
            now = time.monotonic()
            seat.fill_at = now + (SHORT_LIFE_DELAY if now - seat.born < SHORT_LIFE else 0.0)

    def _look_after(self, seat: _Seat) -> None:
        """Kill a worker whose loop over packets stands still; it is then replaced like any that died."""
        silent = time.monotonic() - seat.slot[Cell.HEARTBEAT] / 1e9
        if silent > STUCK_AFTER:
            logger.error("worker %d (pid %d) is stuck for %.0f s; killed", seat.index, seat.pid, silent)
            os.kill(seat.pid, signal.SIGKILL)
            seat.ready = False  # once is enough; it is buried when it has died

    def _start_failed(self, seat: _Seat, why: str) -> None:
        seat.boot_failures += 1
        if seat.boot_failures == BOOT_FAILURES:
            raise CannotRun(
                f"Worker {seat.index} failed {BOOT_FAILURES} times at its start ({why}): giving up. "
                "The lines above say more."
            )
        seat.fill_at = time.monotonic() + BOOT_DELAY

    def _fill(self, seat: _Seat) -> None:
        """Fork a worker for this seat."""
        seat.born = time.monotonic()
        first_ident = (IDENTS * seat.index // len(self._seats) + seat.forks * 4099) % IDENTS
        seat.slot[Cell.RESTARTS] = seat.forks
        seat.forks += 1
        # No signal may reach the child while it still has our handlers: it would write into our socket.
        signal.pthread_sigmask(signal.SIG_BLOCK, [*_STOP_SIGNALS, signal.SIGCHLD])
        try:
            pid = os.fork()
            if not pid:
                self._work(seat, first_ident)
        except OSError as error:
            logger.error("worker %d cannot be forked: %s", seat.index, error.strerror)
            self._start_failed(seat, "fork failed")
            return
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [*_STOP_SIGNALS, signal.SIGCHLD])
        seat.pid = seat.slot[Cell.PID] = pid

    def _work(self, seat: _Seat, first_ident: int) -> NoReturn:
        """The whole life of a worker, in the child."""
        code = os.EX_SOFTWARE
        try:
            self._become_worker(seat)
            assert self._sender is not None
            worker = Worker(self._plan.process(first_ident), self._sender, seat.slot)
            # Here a worker would give up what it does not need: user, capabilities, system calls.
            os.write(self._ready_write, bytes([seat.index]))
            seat.queue.serve(worker)
            code = os.EX_OK
        except BaseException:
            logger.exception("worker %d ends", seat.index)
        finally:
            # Never by a normal exit: the clean-up of the library would unbind the queue under its owner.
            sys.stderr.flush()
            os._exit(code)

    def _become_worker(self, seat: _Seat) -> None:
        """Let go of everything that is the supervisor's or another worker's."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # Ctrl-C in a terminal reaches the whole group; the supervisor decides for all.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: seat.queue.stop(DRAIN))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [*_STOP_SIGNALS, signal.SIGCHLD])
        self._wakeup_read.close()
        self._wakeup_write.close()
        os.close(self._ready_read)
        assert self._instance is not None
        self._instance.forget()
        for queue in self._queues:
            if queue is not seat.queue:
                queue.forget()
        with open("/proc/self/comm", "w") as comm:
            comm.write(WORKER_NAME.format(seat.index))

    def _signal_workers(self, number: signal.Signals) -> None:
        for seat in self._seats:
            if seat.pid:
                try:
                    os.kill(seat.pid, number)
                except OSError as error:
                    if error.errno != errno.ESRCH:
                        raise


def _orphans(run_dir: Path) -> list[int]:
    """The pids of workers whose supervisor died, as the board that it left behind tells."""
    try:
        slots = board_file.read(run_dir / board_file.FILE_NAME).slots
    except BoardError:
        return []
    pids = [slot.cells[Cell.PID] for slot in slots]
    # A pid may have gone to somebody else since; a worker of ours bears its own name.
    return [
        pid
        for index, pid in enumerate(pids)
        if procfs.alive(pid) and procfs.process_name(pid) == WORKER_NAME.format(index)
    ]


def _noted(_number: int, _frame: object) -> None:
    """The wake-up socket has the number already."""
