"""The supervisor: brings a gateway up, keeps its workers alive, and changes it under way without losing a packet.

Knows in what order crews of workers, queues, boards and rules come and go. Does not know packets, the configuration
file or iptables: a Plan has what there is to run, and `Operator` where another one comes from.

Each change brings a new crew, which is complete before anything else changes, and may still fail then:
- Same rules as before (`reload`): the new crew waits behind gates, and takes over the queues seat by seat.
- Other rules or other code (`reload`, `upgrade`, a start beside the workers of a supervisor that was killed): the new
  crew has queues of its own; one change of the rules leads to them; the old workers leave when nothing waits for them.

If the supervisor dies, the workers go on: nothing ties their lives to it.
"""

import logging
import os
import signal
import time
from collections.abc import Callable
from typing import Any, Protocol, Self

from nfqlb import __version__
from nfqlb.gateway import board as board_file
from nfqlb.gateway import memory
from nfqlb.gateway.board import About, Board, Header, State
from nfqlb.gateway.control import Control, Conversation
from nfqlb.gateway.crew import HAND_ON, RELIEF_DRAIN, RELIEVE, STOP_DRAIN, Crew, Plan, hurry
from nfqlb.gateway.elders import Elders
from nfqlb.gateway.handover import Predecessor, Successor
from nfqlb.gateway.instance import Instance
from nfqlb.gateway.job import Refused
from nfqlb.gateway.loop import Flow, Loop
from nfqlb.gateway.notify import Notifier
from nfqlb.gateway.queue import Queue, QueueError, QueueTaken
from nfqlb.gateway.sender import Sender

PATIENCE = 3.0
"""Seconds that a worker may take longer to leave than it was given."""

READY_WITHIN = 10.0
"""Seconds that a new crew, or the successor in an upgrade, has to come up."""

WORK_WITHIN = 60.0
"""Seconds that reading a configuration, or changing rules, may take."""

SETTLE = 0.1
"""Seconds between a change of the rules and the end of those who were led to before: packets are still on their way."""

LINGER = 180.0
"""Seconds that a backend which a reload removed goes on with what it has begun: as long as an INVITE may ring (P31)."""

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

logger = logging.getLogger("nfqlb")


class CannotRun(Exception):
    """What the supervisor needs is not to be had, or workers die as soon as they start; the text says what to do."""


class Operator(Protocol):
    """Where plans come from. Both are called in a child, may take seconds, and raise Refused."""

    def read(self, current: Plan) -> tuple[Plan, list[str]]:
        """The configuration as it is now, as a plan, and what is other than in `current`, a line each."""

    def let_go(self, current: Plan) -> Plan:
        """`current` without the backends that an earlier reload removed."""


class Supervisor:
    """`with Supervisor(plan, …) as supervisor: supervisor.run(…)`: workers run inside, and nothing is left behind
    after, unless it has handed over.

    Entering raises InstanceError, QueueError or CannotRun before any worker runs.
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
        self._instance: Instance | None = None
        self._control: Control | None = None
        self._elders: Elders | None = None
        self._crew: Crew | None = None
        self._coming: Crew | None = None
        """The crew that is to be the next."""
        self._leaving: list[Crew] = []
        self._changing = ""
        """What change is under way: one at a time."""
        self._in_force = predecessor is None
        """Packets are led to us, and the files in the run directory are ours."""
        self._next_feeding = 0.0
        self._stopping = False
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
        """Of the crew in force."""
        numbers = self._now.board.about.queues
        return range(numbers[0], numbers[-1] + 1)

    @property
    def plan(self) -> Plan:
        """What runs now."""
        return self._now.plan

    @property
    def in_force(self) -> bool:
        """Packets are led to our workers: no longer once a successor has taken over."""
        return self._in_force and not self.handed_over

    @property
    def _now(self) -> Crew:
        assert self._crew is not None
        return self._crew

    def run(self, on_ready: Callable[[], None]) -> None:
        """Keep the workers alive until a signal says stop, or a successor has taken over. `on_ready` is called once,
        when packets are led to workers that take them.

        Raises CannotRun, and whatever `on_ready` raises.
        """
        self._loop.begin(self._come_up(on_ready))
        while not (self._stopping or self.handed_over):
            self._turn()
            if self._now.failed:
                raise CannotRun(self._now.failed)

    # -- up and down

    def _start(self, plan: Plan) -> None:
        """Take the run directory, bind queues, and fork the workers."""
        hurry()
        self._instance = Instance(plan.run_dir, None if self._predecessor is None else self._predecessor.lock)
        self._elders = Elders.find(plan.run_dir)
        if self._elders is not None and self._elders.gone():
            self._elders = None
        self._crew = self._new_crew(plan)
        try:
            self._control = Control(plan.run_dir, self._loop.selector, self._asked)
        except OSError as error:
            raise CannotRun(f"{plan.run_dir} can have no control socket: {error.strerror or error}.") from error
        board = self._now.board
        board.set(Header.STARTED, time.time_ns())
        if self._elders is None:
            board.publish()
        else:
            past = self._elders.snapshot()
            board.carry_over(past)
            board.set(Header.GENERATION, past.generation + 1)
            if self._predecessor is not None:
                board.set(Header.STARTED, past.started)
            else:
                count = len(self._elders.pids)
                logger.warning("%d workers of a gateway that was killed still run; taking over from them", count)
        self._now.fill()

    def _come_up(self, on_ready: Callable[[], None]) -> Flow[None]:
        """From the workers' start until packets are led to them, and those before them have left."""
        self._changing = "start"
        crew = self._now
        assert self._control is not None
        assert self._instance is not None
        yield lambda: crew.ready
        if self._predecessor is not None:
            lines = self._predecessor.lines
            lines.say("ready")
            # If it dies instead of answering, we take over all the same.
            if not (yield from self._loop.until(lambda: lines.hear() == "go" or lines.ended, READY_WITHIN)):
                raise CannotRun("The gateway that was to hand over does not say go.")
        if self._elders is not None:
            crew.board.publish()
        if self._place or self._elders is not None or crew.plan.placed not in (None, self.queues):
            yield from self._place_rules(crew.plan, self.queues)
        crew.board.settle()
        crew.board.set(Header.STATE, State.RUNNING)
        self._instance.tell()
        self._control.publish()
        self._in_force = True
        if self._predecessor is not None:
            self._notifier.main_pid(os.getpid())
            self._predecessor.lines.say(f"done {os.getpid()}")
        on_ready()
        self._notifier.ready(self._summary())
        if self._elders is not None:
            yield from self._see_off(self._elders)
        self._changing = ""
        if crew.plan.leaving:
            self._loop.begin(self._let_go(crew.plan))

    def _see_off(self, elders: Elders) -> Flow[None]:
        """Have the workers of another supervisor leave, and go on with what they counted."""
        yield from self._loop.pause(SETTLE)
        elders.retire()
        if not (yield from self._loop.until(elders.gone, RELIEF_DRAIN + PATIENCE)):
            logger.error("workers of the gateway before this one do not stop; killed: %s", elders.pids)
            elders.kill()
            yield from self._loop.until(elders.gone, PATIENCE)
        self._now.board.carry_over(elders.snapshot())
        elders.close()
        self._elders = None

    def _stop(self) -> None:
        """Stop the workers after what waits in their queues, then give up queues, sockets and files."""
        if not self.handed_over:
            self._notifier.stopping()
            if self._crew is not None:
                self._now.board.set(Header.STATE, State.STOPPING)
        self._loop.drop_flows()  # a change that is under way takes back what it has begun
        crews = [*self._leaving, *([self._crew] if self._crew is not None else [])]
        for crew in crews:
            crew.leave(RELIEVE if self.handed_over else signal.SIGTERM)
        deadline = time.monotonic() + PATIENCE + (RELIEF_DRAIN if self.handed_over else STOP_DRAIN)
        while not all(crew.gone for crew in crews) and time.monotonic() < deadline:
            self._loop.turn(0.1)
            self._bury()
        for crew in crews:
            crew.kill()
        stays = self.handed_over or (not self._in_force and self._predecessor is not None)
        if self._control is not None:
            self._control.close(remove=self._in_force and not stays)
        if self._crew is not None and not self.handed_over:
            self._crew.board.withdraw()
        if self._elders is not None:
            self._elders.close()
        elif not stays:
            (self._run_dir / memory.FILE_NAME).unlink(missing_ok=True)
        for crew in crews:
            self._give_up(crew)
        if self._instance is not None:
            if stays:
                self._instance.forget()
            else:
                self._instance.release()
        self._loop.close()

    # -- what crews are made of

    def _new_crew(self, plan: Plan) -> Crew:
        """A crew of that plan on queues of its own, before any worker runs. Raises QueueError, CannotRun."""
        queues = self._bind(plan)
        sender = None
        try:
            sender = Sender(plan.sources, plan.socket_buffer)
            board = Board(
                plan.run_dir / board_file.FILE_NAME, About(plan.gateway, numbers(queues), plan.backends, plan.addresses)
            )
            cells = memory.shared_memory(plan.run_dir) if self._crew is None else self._crew.memory
        except OSError as error:
            for queue in queues:
                queue.close()
            if sender is not None:
                sender.close()
                raise CannotRun(f"{plan.run_dir} cannot be written ({error.strerror}).") from error
            raise CannotRun(
                f"Large IPv6 packets need a socket at {error.filename}, which cannot be bound ({error.strerror}). "
                "See with 'ss -ulnp' who has it, and end that program."
            ) from error
        board.set(Header.PID, os.getpid())
        if (granted := queues[0].buffer) < plan.socket_buffer:
            logger.warning(
                "the kernel grants %d bytes of socket buffer instead of %d: raise net.core.rmem_max",
                granted,
                plan.socket_buffer,
            )
        return Crew(plan, queues, sender, board, cells, self._loop.selector)

    def _bind(self, plan: Plan) -> list[Queue]:
        """The queues of the first range that nobody has any of. Raises QueueError."""
        for number, candidate in enumerate(plan.ranges):
            bound: list[Queue] = []
            try:
                for each in candidate:
                    bound.append(Queue(each, length=plan.queue_length, socket_buffer=plan.socket_buffer))
                return bound
            except QueueError as error:
                for queue in bound:
                    queue.close()
                # Only those who are to be relieved give us a reason to look further.
                expected = self._crew is not None or self._elders is not None
                if not isinstance(error, QueueTaken) or not expected or number == len(plan.ranges) - 1:
                    raise
        raise QueueError("there is no range of queues to try")

    def _place_rules(self, plan: Plan, queues: range) -> Flow[None]:
        """Raises Refused."""
        changes = yield from self._loop.work(lambda: plan.place(queues), WORK_WITHIN)
        logger.info("rules: %d changes; packets go to queues %s", changes, span(queues))

    def _give_up(self, crew: Crew) -> None:
        """What belongs to this crew and to no other one in force."""
        crew.close()
        if self._crew is crew or self._crew is None or self._crew.queues is not crew.queues:
            for queue in crew.queues:
                queue.close()
            crew.sender.close()

    # -- reload

    def _reload(self, tell: Conversation | None) -> Flow[None]:
        """Read the configuration and put it in force, or leave everything as it is."""
        yield lambda: not self._changing
        self._changing = "reload"
        self._notifier.reloading()
        assert self._operator is not None
        operator, current = self._operator, self._now.plan
        try:
            plan, changes = yield from self._loop.work(lambda: operator.read(current), WORK_WITHIN)
            yield from self._put_in_force(plan)
        except (Refused, QueueError, CannotRun, OSError) as error:
            lines = error.lines if isinstance(error, Refused) else (str(error),)
            logger.error("reload refused, everything goes on as it was: %s", " ".join(line.strip() for line in lines))
            if tell is not None:
                tell.refuse(*lines)
        else:
            logger.info("reload: %s", "; ".join(changes) or "nothing has changed")
            if tell is not None:
                tell.end(True, changes=changes, **self._status())
            if plan.leaving:
                self._loop.begin(self._let_go(plan))
        finally:
            self._changing = ""
            self._notifier.ready(self._summary())

    def _let_go(self, plan: Plan) -> Flow[None]:
        """After LINGER, forget the backends that the reload of `plan` removed, unless another reload came since."""
        yield from self._loop.pause(LINGER)
        yield lambda: not self._changing
        if self._now.plan is not plan:
            return
        assert self._operator is not None
        operator = self._operator
        self._changing = "letting go of removed backends"
        try:
            lighter = yield from self._loop.work(lambda: operator.let_go(plan), WORK_WITHIN)
            yield from self._put_in_force(lighter)
            logger.info("backends let go, which a reload removed: %d", plan.leaving)
        except (Refused, CannotRun, OSError) as error:
            logger.error("removed backends stay known: %s", error)
        finally:
            self._changing = ""

    def _put_in_force(self, plan: Plan) -> Flow[None]:
        """Have workers of `plan` take the place of those that there are. Raises Refused, QueueError, CannotRun."""
        current = self._now.plan
        if plan.run_dir != self._run_dir:
            raise Refused("[gateway] run_dir cannot change while the gateway runs; stop it, and start it anew.")
        if plan.queue_key == current.queue_key and self.queues in plan.ranges:
            if plan.reach != current.reach:  # other interfaces may need sysctls; they can be there before
                yield from self._place_rules(plan, self.queues)
            yield from self._take_seats(plan)
        else:
            yield from self._take_over_by_rules(plan)

    def _take_seats(self, plan: Plan) -> Flow[None]:
        """The new workers on the queues of the old ones, seat by seat."""
        old = self._now
        board = Board(old.board.path, About(plan.gateway, old.board.about.queues, plan.backends, plan.addresses))
        new = Crew(plan, old.queues, old.sender, board, old.memory, self._loop.selector)
        try:
            new.fill(gated=True)
            yield from self._until_ready(new)
            self._inherit(board, old)
            board.publish()
        except BaseException:
            new.destroy()
            new.close()
            board.withdraw()
            raise
        self._crew = new
        self._leaving.append(old)
        old.board.set(Header.STATE, State.RETIRED)
        old.leave(HAND_ON)

        def handed_on() -> bool:
            for seat in old.seats:
                if not seat.pid and new.seats[seat.index].gated:
                    new.let_in(seat.index)
            return old.gone

        yield from self._see_out(old, handed_on)

    def _take_over_by_rules(self, plan: Plan) -> Flow[None]:
        """The new workers on queues of their own, to which one change of the rules leads."""
        old = self._now
        new = self._new_crew(plan)
        try:
            new.fill()
            yield from self._until_ready(new)
            self._inherit(new.board, old)
            new.board.publish()
            queues = range(new.queues[0].number, new.queues[-1].number + 1)
            yield from self._place_rules(plan, queues)
        except BaseException:
            new.destroy()
            new.board.withdraw()
            self._give_up(new)
            raise
        self._crew = new
        self._leaving.append(old)
        yield from self._loop.pause(SETTLE)
        old.board.set(Header.STATE, State.RETIRED)
        old.leave(RELIEVE)
        yield from self._see_out(old, lambda: old.gone)

    def _until_ready(self, crew: Crew) -> Flow[None]:
        self._coming = crew
        try:
            if not (yield from self._loop.until(lambda: crew.ready or crew.failed, READY_WITHIN)) or crew.failed:
                raise Refused(crew.failed or f"The new workers were not ready within {READY_WITHIN:.0f} s.")
        finally:
            self._coming = None

    def _inherit(self, board: Board, old: Crew) -> None:
        past = old.board.snapshot()
        board.carry_over(past)
        board.set(Header.STARTED, past.started)
        board.set(Header.PID, os.getpid())
        board.set(Header.GENERATION, past.generation + 1)
        board.set(Header.STATE, State.RUNNING)

    def _see_out(self, old: Crew, gone: Callable[[], bool]) -> Flow[None]:
        """Wait until the old workers have left, and go on with what they counted."""
        self._now.board.settle()
        if not (yield from self._loop.until(gone, RELIEF_DRAIN + PATIENCE)):
            old.kill()
            gone()
        self._now.board.carry_over(old.board.snapshot())
        self._leaving.remove(old)
        self._give_up(old)

    # -- upgrade

    def _upgrade(self, tell: Conversation) -> Flow[None]:
        """Start the code that is installed now beside this one, and hand over to it when it is ready."""
        yield lambda: not self._changing
        self._changing = "upgrade"
        assert self._instance is not None
        try:
            successor = Successor(self._instance.fileno())
        except OSError as error:
            tell.refuse(f"The new code cannot be started: {error.strerror}.")
            self._changing = ""
            return
        try:
            tell.event("the new code starts")
            yield from self._listen(successor, "ready", READY_WITHIN)
            tell.event("it is ready; the rules change")
            successor.lines.say("go")
            said = yield from self._listen(successor, "done", WORK_WITHIN)
        except Refused as error:
            logger.error("upgrade refused, everything goes on as it was: %s", error)
            tell.refuse(*error.lines)
            successor.kill()
        else:
            self.handed_over = int(said.split()[1])
            logger.info("handed over to pid %d", self.handed_over)
            tell.end(True, pid=self.handed_over)
            successor.pid = 0
            yield from self._loop.pause(SETTLE)
        finally:
            successor.kill()
            successor.close()
            self._changing = ""

    def _listen(self, successor: Successor, word: str, seconds: float) -> Flow[str]:
        """The line that begins with `word`, once the successor says it. Raises Refused."""
        said: list[str] = []

        def heard() -> bool:
            successor.relay()
            while (line := successor.lines.hear()) is not None:
                said.append(line)
            return bool(said) or successor.lines.ended

        if not (yield from self._loop.until(heard, seconds)):
            raise Refused(f"The new code is not ready after {seconds:.0f} s.", *successor.complaint)
        if not said:
            raise Refused("The new code does not start:", *successor.complaint)
        if not said[0].startswith(word):
            raise Refused(said[0].removeprefix("failed "))
        return said[0]

    # -- every turn

    def _turn(self) -> None:
        now = time.monotonic()
        pause = min(crew.look_after(now) for crew in (self._now, self._coming or self._now))
        if self._notifier.interval is not None:
            if now >= self._next_feeding and self._now.alive():
                self._notifier.alive()
                self._next_feeding = now + self._notifier.interval / 2
            pause = min(pause, self._notifier.interval / 4)
        caught = self._loop.turn(pause)
        if any(number in caught for number in _STOP_SIGNALS):
            logger.info("stopping")
            self._stopping = True
        elif signal.SIGHUP in caught and self._operator is not None:
            self._loop.begin(self._reload(None))
        self._bury()

    def _bury(self) -> None:
        for crew in (self._crew, self._coming, *self._leaving):
            if crew is not None:
                crew.bury()

    def _asked(self, request: dict[str, Any], conversation: Conversation) -> None:
        """A request by the control socket."""
        what = request["do"]
        path = request.get("config")
        if path is not None and path != self._now.plan.path:
            conversation.refuse(f"This gateway runs with {self._now.plan.path}, not with {path}.")
        elif what == "status":
            conversation.end(True, **self._status())
        elif what == "reload" and self._operator is not None:
            self._loop.begin(self._reload(conversation))
        elif what == "upgrade":
            self._loop.begin(self._upgrade(conversation))
        else:
            conversation.refuse(f"{what!r} is no request; expected status, reload or upgrade")

    def _status(self) -> dict[str, Any]:
        snapshot = self._now.board.snapshot()
        return {
            "version": __version__,
            "pid": os.getpid(),
            "state": snapshot.state.name.lower(),
            "generation": snapshot.generation,
            "started": snapshot.started / 1e9,
            "config": self._now.plan.path,
            "changing": self._changing,
            "queues": list(snapshot.about.queues),
            "workers": [{"worker": seat.index, "pid": seat.pid, "ready": seat.ready} for seat in self._now.seats],
            "backends": list(snapshot.about.backends),
            "leaving": self._now.plan.leaving,
        }

    def _summary(self) -> str:
        return f"{self._now.plan.workers} workers on queues {span(self.queues)}"

    def _forget_in_child(self) -> None:
        """In the child of a job: the lock is ours alone."""
        if self._instance is not None:
            self._instance.forget()


def numbers(queues: list[Queue]) -> tuple[int, ...]:
    return tuple(queue.number for queue in queues)


def span(queues: range) -> str:
    return str(queues[0]) if len(queues) == 1 else f"{queues[0]} to {queues[-1]}"
