"""Which worker pool is in force, and how another takes its place without losing a packet.

Knows worker pools, their queues, boards and rules, and in what order they come and go. Does not know what a change is
for.

A new worker pool is complete before anything else changes, and may still fail then:
- Same rules as before: the new worker pool waits behind gates, and takes over the queues seat by seat.
- Other rules: the new worker pool has queues of its own; one change of the rules leads to them; the old workers leave
  when nothing waits for them any more.
"""

import logging
import os
import signal
import time
from collections.abc import Callable, Sequence

from nfqlb.balance.recent import Recent
from nfqlb.errors import NfqlbError
from nfqlb.gateway.ha.liveness import Lifeline
from nfqlb.gateway.plan.model import Plan
from nfqlb.gateway.runtime.child import HAND_ON, RELIEVE
from nfqlb.gateway.runtime.event_loop import Loop, Task
from nfqlb.gateway.runtime.job import Refused
from nfqlb.gateway.shm import board as board_file
from nfqlb.gateway.shm import recent_file
from nfqlb.gateway.shm.board import About, Board, Header, State
from nfqlb.gateway.shm.name_lookups import NameLookups
from nfqlb.gateway.shm.offence_ring import OffenceRings
from nfqlb.gateway.supervisor.worker_pool import RELIEF_DRAIN, WorkerPool
from nfqlb.gateway.worker.ipv6_sender import Ipv6Sender
from nfqlb.gateway.worker.nfqueue import Queue, QueueError, QueueTaken

PATIENCE = 3.0
"""Seconds that a worker may take longer to leave than it was given."""

READY_WITHIN = 10.0
"""Seconds that a new worker pool, or the successor in an upgrade, has to come up."""

WORK_WITHIN = 60.0
"""Seconds that reading a configuration, or changing rules, may take."""

SETTLE = 0.1
"""Seconds between a change of the rules and the end of those who were led to before: packets are still on their way."""

logger = logging.getLogger("nfqlb")


class CannotRun(NfqlbError):
    """What a worker pool needs is not to be had, or workers die as soon as they start; the text says what to do."""


class Rollover:
    """The worker pool in force, the one that comes, and those that leave."""

    def __init__(
        self,
        loop: Loop,
        plan: Plan,
        lifeline: Lifeline,
        lookups: NameLookups,
        offences: OffenceRings,
        *,
        beside_others: bool,
    ) -> None:
        """The first worker pool, before any worker runs. `beside_others`: the queues may be another gateway's, which is
        to be relieved. Raises QueueError, CannotRun.
        """
        self._loop, self._lifeline, self._lookups, self._offences = loop, lifeline, lookups, offences
        self._coming: WorkerPool | None = None
        self._leaving: list[WorkerPool] = []
        try:
            self._memory = recent_file.shared_memory(plan.run_dir)
        except OSError as error:
            raise CannotRun(f"{plan.run_dir} cannot be used ({error.strerror}).") from error
        self.worker_pool = self._new_worker_pool(plan, look_further=beside_others)

    @property
    def queues(self) -> range:
        """Of the worker pool in force."""
        return span_of(self.worker_pool.queues)

    def tick(self, now: float) -> float:
        """Replace who has died; seconds until there is something to do again."""
        return min(worker_pool.tick(now) for worker_pool in self._worker_pools)

    def reap(self) -> None:
        """Take note of who has died."""
        for worker_pool in self._worker_pools:
            worker_pool.reap()

    def tell_remembered(self, now: int) -> None:
        """Write on the board how many recent choices are remembered; `now` in seconds of CLOCK_MONOTONIC."""
        recent = Recent(self._memory)
        recent.now = now
        self.worker_pool.board.set(Header.RECENT_USED, recent.used())

    def end(self, number: signal.Signals, seconds: float) -> None:
        """Stop all workers with that signal, in so many seconds, and give up queues and sockets; the board stays."""
        worker_pools = self._worker_pools
        for worker_pool in worker_pools:
            worker_pool.leave(number)
        deadline = time.monotonic() + seconds
        while not all(worker_pool.gone for worker_pool in worker_pools) and time.monotonic() < deadline:
            self._loop.turn(0.1)
            self.reap()
            self._hand_on()
        for worker_pool in worker_pools:
            worker_pool.kill()
        for worker_pool in worker_pools:
            self._give_up(worker_pool)

    @property
    def _worker_pools(self) -> list[WorkerPool]:
        return [*self._leaving, *([self._coming] if self._coming else []), self.worker_pool]

    def put_in_force(self, plan: Plan) -> Task[None]:
        """Have workers of `plan` take the place of those that there are. Raises Refused, QueueError, CannotRun."""
        current = self.worker_pool.plan
        if plan.run_dir != current.run_dir:
            raise Refused("[gateway] run_dir cannot change while the gateway runs: stop it, then start it again.")
        if plan.keeps(self.queues, current):
            if plan.reach != current.reach and not plan.fits:  # other interfaces may need sysctls; they come first
                yield from self.place_rules(plan, self.queues)
            yield from self._take_seats(plan)
        else:
            yield from self._take_over_by_rules(plan)

    def _take_seats(self, plan: Plan) -> Task[None]:
        """The new workers on the queues of the old ones, seat by seat."""
        old = self.worker_pool
        board = self._board(plan, self.queues)
        self._coming = new = self._worker_pool(plan, old.queues, old.sender, board)
        try:
            new.fill(gated=True)
            yield from self._until_ready(new)
            inherit(board, old)
            board.publish()
        except BaseException:
            self._dismiss(new)
            raise
        self._install(new)
        old.board.set(Header.STATE, State.RETIRED)
        old.leave(HAND_ON)

        def handed_on() -> bool:
            self._hand_on()
            return old.gone

        yield from self._see_out(old, handed_on, PATIENCE)

    def _take_over_by_rules(self, plan: Plan) -> Task[None]:
        """The new workers on queues of their own, to which one change of the rules leads."""
        old = self.worker_pool
        self._coming = new = self._new_worker_pool(plan, look_further=True)
        try:
            new.fill()
            yield from self._until_ready(new)
            inherit(new.board, old)
            new.board.publish()
            yield from self.place_rules(plan, span_of(new.queues))
        except BaseException:
            self._dismiss(new)
            raise
        self._install(new)
        yield from self._loop.pause(SETTLE)
        old.board.set(Header.STATE, State.RETIRED)
        old.leave(RELIEVE)
        yield from self._see_out(old, lambda: old.gone, RELIEF_DRAIN + PATIENCE)

    def place_rules(self, plan: Plan, queues: range) -> Task[None]:
        """Raises Refused."""
        changes = yield from self._loop.work(lambda: plan.place(queues), WORK_WITHIN, whole=True)
        logger.info("the rules are in place (%d changes); packets go to queues %s", changes, span(queues))

    # -- what changes are made of

    def _new_worker_pool(self, plan: Plan, *, look_further: bool) -> WorkerPool:
        """A worker pool of that plan on queues of its own, before any worker runs. Raises QueueError, CannotRun."""
        queues = _bind(plan, look_further)
        try:
            return self._worker_pool(plan, queues, _sender(plan), self._board(plan, span_of(queues)))
        except BaseException:
            for queue in queues:
                queue.close()
            raise

    def _worker_pool(self, plan: Plan, queues: Sequence[Queue], sender: Ipv6Sender, board: Board) -> WorkerPool:
        shared = self._memory, self._loop.selector, self._lifeline, self._lookups, self._offences
        return WorkerPool(plan, queues, sender, board, *shared)

    def _board(self, plan: Plan, queues: range) -> Board:
        about = About(plan.gateway, tuple(queues), plan.backends, plan.addresses)
        try:
            board = Board(plan.run_dir / board_file.FILE_NAME, about)
        except OSError as error:
            raise CannotRun(f"{plan.run_dir} cannot be written ({error.strerror}).") from error
        board.set(Header.PID, os.getpid())
        return board

    def _until_ready(self, worker_pool: WorkerPool) -> Task[None]:
        if (
            not (yield from self._loop.until(lambda: worker_pool.ready or worker_pool.failed, READY_WITHIN))
            or worker_pool.failed
        ):
            raise Refused(worker_pool.failed or f"The new workers were not ready within {READY_WITHIN:.0f} s.")

    def _install(self, new: WorkerPool) -> None:
        self._leaving.append(self.worker_pool)
        self.worker_pool, self._coming = new, None

    def _dismiss(self, new: WorkerPool) -> None:
        """A worker pool that was to come does not."""
        self._coming = None
        new.destroy()
        new.board.withdraw()
        self._give_up(new)

    def _hand_on(self) -> None:
        """Let those in at whose seats nobody is left."""
        before = [old for old in self._leaving if old.queues is self.worker_pool.queues]
        for seat in self.worker_pool.seats:
            if seat.gated and not any(old.seats[seat.index].pid for old in before):
                self.worker_pool.let_in(seat.index)

    def _see_out(self, old: WorkerPool, gone: Callable[[], bool], seconds: float) -> Task[None]:
        """Wait until the old workers have left, so many seconds at most, and go on with what they counted."""
        self.worker_pool.board.settle()
        if not (yield from self._loop.until(gone, seconds)):
            old.kill()
            gone()
        self.worker_pool.board.carry_over(old.board.snapshot())
        self._leaving.remove(old)
        self._give_up(old)

    def _give_up(self, worker_pool: WorkerPool) -> None:
        """What belongs to this worker pool and to no other one in force."""
        worker_pool.close()
        if self.worker_pool is worker_pool or self.worker_pool.queues is not worker_pool.queues:
            for queue in worker_pool.queues:
                queue.close()
            worker_pool.sender.close()


def inherit(board: Board, old: WorkerPool) -> None:
    """What goes on from one worker pool's board to the next."""
    past = old.board.snapshot()
    board.carry_over(past)
    board.set(Header.STARTED, past.started)
    board.set(Header.GENERATION, past.generation + 1)
    board.set(Header.STATE, State.RUNNING)


def _bind(plan: Plan, look_further: bool) -> list[Queue]:
    """The queues of the plan's first range or, to `look_further`, of the first that nobody has any of.

    Raises QueueError.
    """
    ranges = plan.ranges if look_further else plan.ranges[:1]
    taken: QueueError = QueueError("There are no queue numbers left: choose lower ones with [workers] queue.")
    for candidate in ranges:
        bound: list[Queue] = []
        try:
            for each in candidate:
                bound.append(Queue(each, length=plan.queue_length, socket_buffer=plan.socket_buffer))
        except QueueError as error:
            for queue in bound:
                queue.close()
            if not isinstance(error, QueueTaken):
                raise
            taken = error
        else:
            if (granted := bound[0].buffer) < plan.socket_buffer:
                logger.warning(
                    "the kernel grants a queue %d bytes of socket buffer instead of %d: raise net.core.rmem_max",
                    granted,
                    plan.socket_buffer,
                )
            return bound
    raise taken


def _sender(plan: Plan) -> Ipv6Sender:
    try:
        return Ipv6Sender(plan.sources, plan.socket_buffer)
    except OSError as error:
        raise CannotRun(
            f"Large IPv6 packets need a socket at {error.filename}, which cannot be bound ({error.strerror}). "
            "See with 'ss -ulnp' who has it, and end that program."
        ) from error


def span_of(queues: Sequence[Queue]) -> range:
    """Their numbers."""
    return range(queues[0].number, queues[-1].number + 1)


def span(queues: range) -> str:
    """The same for people."""
    return str(queues[0]) if len(queues) == 1 else f"{queues[0]} to {queues[-1]}"
