"""The supervisor: brings a gateway up, keeps its workers alive, and changes it under way.

Knows what starts a change, who is told of it, and the files in the run directory. Does not know packets, the
configuration file or iptables: a Plan has what there is to run, and an Operator where another one comes from. How one
worker pool takes the place of another is in `rollover`, how one supervisor that of another in `upgrade`.

If it dies, the workers go on: nothing ties their lives to it. The next one finds them (`orphans`) and takes over.
"""

import logging
import os
import signal
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self

from nfqlb.gateway.backends import manager as backends_manager
from nfqlb.gateway.backends.manager import BackendsManager
from nfqlb.gateway.bans.manager import BansManager
from nfqlb.gateway.dns.manager import DnsManager
from nfqlb.gateway.ha import manager as ha_manager
from nfqlb.gateway.ha.manager import HaManager
from nfqlb.gateway.plan.model import Plan
from nfqlb.gateway.runtime.child import RELIEVE
from nfqlb.gateway.runtime.control_socket import ControlSocket, Conversation
from nfqlb.gateway.runtime.event_loop import Loop, Task
from nfqlb.gateway.runtime.job import Refused
from nfqlb.gateway.runtime.pidfile import Pidfile
from nfqlb.gateway.runtime.sd_notify import Notifier
from nfqlb.gateway.shm import board as board_file
from nfqlb.gateway.shm import recent_file
from nfqlb.gateway.shm.board import Header, State
from nfqlb.gateway.supervisor.orphans import Orphans, end, retire
from nfqlb.gateway.supervisor.reload import Changes, Operator, Parts
from nfqlb.gateway.supervisor.rollover import PATIENCE, READY_WITHIN, CannotRun, Rollover
from nfqlb.gateway.supervisor.upgrade import Predecessor, hand_over
from nfqlb.gateway.supervisor.worker_pool import RELIEF_DRAIN, STOP_DRAIN, hurry

REQUESTS = ("status", *backends_manager.REQUESTS, *ha_manager.REQUESTS, "reload", "upgrade")
"""By the control socket: docs/control.md explains them to others."""

LOOK_INTERVAL = 5.0
"""Seconds between two looks at how full the memory of recent choices is; one takes some milliseconds."""

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

logger = logging.getLogger("nfqlb")


class Supervisor:
    """`with Supervisor(plan, …) as supervisor: supervisor.run(…)`: workers run inside, and nothing is left behind
    after, unless it has handed over.

    Entering raises PidfileError, QueueError or CannotRun before any worker runs.
    """

    def __init__(
        self,
        plan: Plan,
        operator: Operator | None = None,
        *,
        place: bool = False,
        predecessor: Predecessor | None = None,
        notifier: Notifier | None = None,
    ) -> None:
        """`place`: put rules in place at the start in any case, not only where they lead to other queues."""
        self._operator, self._place, self._predecessor = operator, place, predecessor
        self._notifier = notifier or Notifier.from_environment()
        self._run_dir = plan.run_dir
        self._first_plan = plan
        self._pidfile: Pidfile | None = None
        self._control: ControlSocket | None = None
        self._orphans: Orphans | None = None
        self._first_rollover: Rollover | None = None
        self._backends: BackendsManager | None = None
        self._ha: HaManager | None = None
        self._dns: DnsManager | None = None
        self._bans: BansManager | None = None
        self._made: Parts | None = None
        self._changing: Changes | None = None
        self._in_force = predecessor is None
        """Packets are led to us, and the files in the run directory are ours."""
        self._next_feeding = self._next_look = 0.0
        self._stopping = False
        self._committed = False
        """A successor changes rules at this moment: stopping has to wait for the outcome."""
        self.handed_over = 0
        """Pid of the supervisor that has taken over from this one."""

    def __enter__(self) -> Self:
        self._loop = Loop((*_STOP_SIGNALS, signal.SIGHUP, signal.SIGCHLD), self._forget_in_child)
        try:
            self._start(self._first_plan)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    @property
    def queues(self) -> range:
        """Of the workers in force."""
        return self._rollover.queues

    @property
    def plan(self) -> Plan:
        """What runs now."""
        return self._rollover.worker_pool.plan

    @property
    def in_force(self) -> bool:
        """Packets are led to our workers: no longer once a successor has taken over."""
        return self._in_force and not self.handed_over

    @property
    def _parts(self) -> Parts:
        assert self._made is not None
        return self._made

    @property
    def _rollover(self) -> Rollover:
        return self._parts.rollover

    @property
    def _changes(self) -> Changes:
        assert self._changing is not None
        return self._changing

    def run(self, on_ready: Callable[[], None]) -> None:
        """Keep the workers alive until a signal says stop, or a successor has taken over. `on_ready` is called once,
        when packets are led to workers that take them. Afterwards no change is under way any more, of rules neither.

        Raises CannotRun, and whatever `on_ready` raises.
        """
        self._loop.begin(self._come_up(on_ready))
        try:
            while not (self.handed_over or (self._stopping and not self._committed)):
                self._turn()
                if failed := self._rollover.worker_pool.failed:
                    raise CannotRun(failed)
        finally:
            # Whoever takes our rules out after us must find them, not be overtaken by a child that still puts them in.
            self._loop.drop_tasks()
        if self._stopping and self.handed_over:
            with suppress(ProcessLookupError):
                os.kill(self.handed_over, signal.SIGTERM)

    # -- up and down

    def _start(self, plan: Plan) -> None:
        """Take the run directory, bind queues, and fork the workers."""
        hurry()
        self._pidfile = Pidfile(plan.run_dir, None if self._predecessor is None else self._predecessor.lock)
        self._orphans = Orphans.find(plan.run_dir)
        if self._orphans is not None and self._orphans.gone():
            self._orphans.close()
            self._orphans = None
        self._ha = HaManager(self._loop, plan.run_dir, lambda: self._parts.backends.digest)
        self._ha.prepare(plan.pair, fresh=self._orphans is None)
        self._dns, self._bans = DnsManager(self._loop), BansManager(self._loop.selector)
        shared = self._ha.lifeline, self._dns.lookups, self._bans.rings
        self._first_rollover = Rollover(self._loop, plan, *shared, beside_others=self._orphans is not None)
        self._backends = BackendsManager(
            self._loop, plan.backends_plan, plan.run_dir, past=self._orphans is not None, nameless=self._dns.unresolved
        )
        try:
            self._control = ControlSocket(plan.run_dir, self._loop.selector, self._asked)
        except OSError as error:
            raise CannotRun(f"{plan.run_dir} can have no control socket: {error.strerror or error}.") from error
        self._made = Parts(self._first_rollover, self._backends, self._ha, self._dns, self._bans)
        self._changing = Changes(self._loop, self._operator, self._made, self._notifier)
        board = self._rollover.worker_pool.board
        board.set(Header.STARTED, time.time_ns())
        if self._orphans is None:
            board.publish()
        else:
            past = self._orphans.snapshot()
            board.carry_over(past)
            board.set(Header.GENERATION, past.generation + 1)
            if self._predecessor is not None:
                board.set(Header.STARTED, past.started)
            else:
                text = "%d workers of a gateway that was killed still run; this one takes over from them"
                logger.warning(text, len(self._orphans.pids))
        self._rollover.worker_pool.fill()

    def _come_up(self, on_ready: Callable[[], None]) -> Task[None]:
        """From the workers' start until packets are led to them, and those before them have left."""
        self._changes.under_way = "start"
        worker_pool = self._rollover.worker_pool
        assert self._control is not None
        assert self._pidfile is not None
        yield lambda: worker_pool.ready
        if self._predecessor is not None:
            lines = self._predecessor.lines
            lines.say("ready")
            # If it dies instead of answering, we take over all the same.
            if not (yield from self._loop.until(lambda: lines.hear() == "go" or lines.ended, READY_WITHIN)):
                raise CannotRun("The gateway that was to hand over does not say go.")
        if self._orphans is not None:
            worker_pool.board.publish()
        if self._place or self._orphans is not None or worker_pool.plan.placed not in (None, self.queues):
            yield from self._rollover.place_rules(worker_pool.plan, self.queues)
        worker_pool.board.set(Header.STATE, State.RUNNING)
        self._pidfile.tell()
        self._control.publish()
        self._in_force = True
        self._parts.apply_plan()
        if self._predecessor is not None:
            self._notifier.main_pid(os.getpid())
            self._predecessor.lines.say(f"done {os.getpid()}")
            self._predecessor.lines.close()
        worker_pool.board.settle()
        on_ready()
        self._notifier.ready(self._parts.summary)
        if self._orphans is not None:
            yield from self._see_off(self._orphans)
        self._changes.under_way = ""
        if worker_pool.plan.leaving:
            self._loop.begin(self._changes.drop_removed(weakref.ref(worker_pool.plan)))

    def _see_off(self, orphans: Orphans) -> Task[None]:
        """Have the workers of another supervisor leave, and go on with what they counted."""
        yield from retire(self._loop, orphans)
        self._rollover.worker_pool.board.carry_over(orphans.snapshot())
        orphans.close()
        self._orphans = None

    def _stop(self) -> None:
        """Stop the workers after what waits in their queues, then give up queues, sockets and files."""
        rollover = self._first_rollover
        if not self.handed_over:
            self._notifier.stopping()
            if rollover is not None:
                rollover.worker_pool.board.set(Header.STATE, State.STOPPING)
        self._loop.drop_tasks()  # a change that is under way takes back what it has begun
        others_go_on = self.handed_over or (not self._in_force and self._predecessor is not None)
        if self._ha is not None:
            self._ha.end(others_go_on=bool(others_go_on))
        if self._backends is not None:
            self._backends.end(others_go_on=bool(others_go_on))
        if self._dns is not None:
            self._dns.end()
        if self._bans is not None:
            self._bans.end()
        if rollover is not None:
            if self.handed_over:
                rollover.end(RELIEVE, RELIEF_DRAIN + PATIENCE)
            else:
                rollover.end(signal.SIGTERM, STOP_DRAIN + PATIENCE)
                rollover.worker_pool.board.withdraw()
        if self._control is not None:
            self._control.close(remove=not others_go_on)
        if not others_go_on and self._pidfile is not None:
            if self._orphans is not None and self._stopping:
                end(self._loop, self._orphans)  # whom it is about to relieve: their board is gone already
            self._end_others()
        if self._orphans is not None:
            self._orphans.close()
        if self._pidfile is not None:
            if others_go_on:
                self._pidfile.forget()
            else:
                self._pidfile.release()
        self._loop.close()

    def _end_others(self) -> None:
        """At the end: who is asked to stop stops also what a killed supervisor, or successor, has left behind."""
        others = Orphans.find(self._run_dir)
        if others is not None:
            if self._stopping:
                end(self._loop, others)
            if not others.gone():
                others.close()
                return
            others.close()
            (self._run_dir / board_file.FILE_NAME).unlink(missing_ok=True)
        recent_file.remove(self._run_dir)

    # -- upgrade

    def _upgrade(self, tell: Conversation) -> Task[None]:
        """Start the code that is installed now beside this one, and hand over to it when it is ready."""
        yield lambda: not self._changes.under_way
        self._changes.under_way = "upgrade"
        assert self._pidfile is not None
        try:
            self.handed_over = yield from hand_over(self._loop, self._pidfile.fileno(), tell.event, self._commit)
        except Refused as error:
            yield from self._go_on()
            logger.error("the upgrade is refused; nothing has changed: %s", error)
            tell.refuse(*error.lines)
        else:
            logger.info("the upgrade is done: handed over to pid %d", self.handed_over)
            tell.end(True, pid=self.handed_over)
        finally:
            self._changes.under_way = ""
            self._committed = False

    def _commit(self) -> None:
        self._committed = True

    def _go_on(self) -> Task[None]:
        """After a successor that failed or died: what it has taken of ours is ours again, its workers leave."""
        board = self._rollover.worker_pool.board
        others = Orphans.find(self._run_dir, but=board)
        assert self._control is not None
        assert self._pidfile is not None
        try:
            if self._committed:
                yield from self._rollover.place_rules(self.plan, self.queues)
                board.reclaim()
                self._pidfile.tell()
                self._notifier.main_pid(os.getpid())
            self._control.reclaim()
        except (Refused, OSError) as error:
            logger.error(
                "the rules cannot be changed back and still lead to the workers of the new code, which go on: %s",
                error,
            )
            return
        if others is not None:
            yield from retire(self._loop, others)
            others.close()

    # -- every turn

    def _turn(self) -> None:
        now = time.monotonic()
        pause = min(self._parts.tick(now), self._tick_pair(now))
        self._changes.tick_names(now)
        if self._notifier.interval is not None:
            if now >= self._next_feeding and self._rollover.worker_pool.alive():
                self._notifier.alive()
                self._next_feeding = now + self._notifier.interval
            pause = min(pause, self._notifier.interval / 4)
        if now >= self._next_look:
            self._next_look = now + LOOK_INTERVAL
            self._rollover.tell_remembered(int(now))
        caught = self._loop.turn(pause)
        if any(number in caught for number in _STOP_SIGNALS):
            logger.info("the gateway stops")
            self._stopping = True
        elif signal.SIGHUP in caught and self._operator is not None and not self._changes.reload_waits:
            self._changes.reload_waits = True
            self._loop.begin(self._changes.reload(None))
        self._rollover.reap()

    def _tick_pair(self, now: float) -> float:
        return self._parts.pair.tick(
            now,
            alive=self._rollover.worker_pool.alive(),
            ask_alarms=self._parts.backends.alarms,
            queues=self.queues,
            changing=bool(self._changes.under_way),
        )

    def _asked(self, request: dict[str, Any], conversation: Conversation) -> None:
        """A request by the control socket. A bug of ours in it ends nothing but the answer."""
        logger.debug("request of the control socket: %s", request)
        try:
            self._answer(request, conversation)
        except Exception:
            logger.exception("internal error at a request of the control socket; please report it: %s", request)
            conversation.refuse("internal error; the gateway's log has more, please report it")

    def _answer(self, request: dict[str, Any], conversation: Conversation) -> None:
        what = request["do"]
        path = request.get("config")
        if what not in REQUESTS or (what == "reload" and self._operator is None):
            expected = f"{', '.join(REQUESTS[:-1])} or {REQUESTS[-1]}"
            conversation.refuse(f"{what!r} is no request; expected {expected}")
        elif path is not None and path != self.plan.path:
            conversation.refuse(f"This gateway runs with {self.plan.path}, not with {path}.")
        elif what == "status":
            conversation.end(True, **self._changes.status())
        elif what == "reload":
            self._loop.begin(self._changes.reload(conversation, force=request.get("force") is True))
        elif what == "upgrade":
            self._loop.begin(self._upgrade(conversation))
        else:
            known = self._parts.backends.asked(request, conversation) or self._parts.pair.asked(request, conversation)
            assert known, what

    def _forget_in_child(self) -> None:
        """In the child of a job: the lock is ours alone, and the child is no reason to think that we live."""
        if self._ha is not None:
            self._ha.lifeline.release()
        if self._pidfile is not None:
            self._pidfile.forget()
