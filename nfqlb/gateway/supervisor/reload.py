"""Changes of what runs, one at a time: a reload, other addresses of names, the end of backends that were removed.

Knows where plans come from, and which parts of the gateway follow a plan. Does not know what starts a change, nor
packets, the configuration file or iptables. How the workers of a plan take the place of others is in `rollover`.
"""

import logging
import os
import time
import weakref
from dataclasses import dataclass
from typing import Any, Protocol

from nfqlb import __version__
from nfqlb.gateway.backends.manager import BackendsManager
from nfqlb.gateway.bans.manager import BansManager
from nfqlb.gateway.dns.manager import DnsManager
from nfqlb.gateway.ha.manager import HaManager
from nfqlb.gateway.plan.model import LINGER, Plan, Reading
from nfqlb.gateway.runtime import log as runtime_log
from nfqlb.gateway.runtime.control_socket import Conversation
from nfqlb.gateway.runtime.event_loop import Loop, Task
from nfqlb.gateway.runtime.job import Refused
from nfqlb.gateway.runtime.log import about
from nfqlb.gateway.runtime.sd_notify import Notifier
from nfqlb.gateway.supervisor.rollover import WORK_WITHIN, CannotRun, Rollover, span
from nfqlb.gateway.worker.nfqueue import QueueError
from nfqlb.names.target import Answers

logger = logging.getLogger("nfqlb")


class Operator(Protocol):
    """Where plans come from. All are called in a child, may take seconds, and raise Refused."""

    def read(self, current: Plan, queues: range, *, force: bool) -> Reading:
        """The configuration as it is now. `queues`: those in use. `force`: a plan, whether anything has changed or
        not.
        """

    def drop_removed(self, current: Plan) -> Plan:
        """`current` without the backends that an earlier reload removed."""

    def rename(self, current: Plan, answers: Answers) -> Plan:
        """`current` with what DNS has come to say of names."""


@dataclass(frozen=True)
class Parts:
    """What follows a plan."""

    rollover: Rollover
    backends: BackendsManager
    pair: HaManager
    names: DnsManager
    bans: BansManager

    @property
    def plan(self) -> Plan:
        """What runs now."""
        return self.rollover.worker_pool.plan

    @property
    def summary(self) -> str:
        return f"{self.plan.workers} workers on queues {span(self.rollover.queues)}"

    def status(self) -> dict[str, Any]:
        """What runs, for who asks."""
        worker_pool = self.rollover.worker_pool
        snapshot = worker_pool.board.snapshot()
        return {
            "version": __version__,
            "pid": os.getpid(),
            "state": snapshot.state.name.lower(),
            "generation": snapshot.generation,
            "started": snapshot.started / 1e9,
            "config": self.plan.path,
            "queues": list(snapshot.about.queues),
            "workers": [
                {"worker": seat.index, "pid": seat.pid, "ready": seat.ready} for seat in self.rollover.worker_pool.seats
            ],
            "backends": list(snapshot.about.backends),
            "leaving": self.plan.leaving,
            "prober": self.backends.prober,
            "guard": self.bans.pid,
            "alarms": self.backends.alarms(),
            "names": self.names.status(),
        }

    def apply_plan(self) -> None:
        """Everything but the workers does as the plan says that runs now."""
        self.backends.apply_plan(self.plan.backends_plan, self.rollover.worker_pool.board)
        self.pair.apply_plan(self.plan.pair)
        self.names.apply_plan(self.plan.dns_plan)
        self.bans.apply_plan(self.plan.bans_plan)

    def tick(self, now: float) -> float:
        """Replace who has died; seconds until there is something to do again."""
        board = self.rollover.worker_pool.board
        parts = self.rollover, self.backends, self.names
        return min(*(each.tick(now) for each in parts), self.bans.tick(now, board))


class Changes:
    """The changes of one supervisor. Methods that give a flow are begun by the loop."""

    def __init__(
        self,
        loop: Loop,
        operator: Operator | None,
        parts: Parts,
        notifier: Notifier,
    ) -> None:
        self._loop, self._operator, self._parts, self._notifier = loop, operator, parts, notifier
        self.under_way = ""
        """What change: the next one waits until this is empty."""
        self.reload_waits = False
        """A signal asked for a reload, which has not begun yet: no need for a second one."""
        self._renaming = False
        """Names have other addresses, and a plan with these is to come."""

    def status(self) -> dict[str, Any]:
        """What runs and what changes, for who asks."""
        return {**self._parts.status(), "changing": self.under_way}

    def reload(self, tell: Conversation | None, *, force: bool = False) -> Task[None]:
        """Read the configuration and put it in force, or leave everything as it is; also when nothing has changed,
        unless `force` says that the workers shall be replaced all the same.
        """
        yield lambda: not self.under_way
        if tell is None:
            self.reload_waits = False
        self.under_way = "reload"
        self._notifier.reloading()
        assert self._operator is not None
        operator, current, queues = self._operator, self._parts.plan, self._parts.rollover.queues
        try:
            read = yield from self._loop.work(lambda: operator.read(current, queues, force=force), WORK_WITHIN)
            if read.plan is not None:
                yield from self._put_in_force(read.plan)
        except (Refused, QueueError, CannotRun, OSError) as error:
            lines = error.lines if isinstance(error, Refused) else (str(error),)
            text = " ".join(line.strip() for line in lines)
            logger.error("the reload is refused; nothing has changed: %s", text, extra=about(reason=text))
            if tell is not None:
                tell.refuse(*lines)
        else:
            changes = list(read.lines)
            if read.plan is not None and read.plan.log != current.log:
                changes += runtime_log.overruled()
            logger.info("reload: %s", "; ".join([*_unchanged(read), *changes]), extra=about(changes=changes))
            if tell is not None:
                tell.end(True, changed=read.changed, changes=changes, **self.status())
            if read.plan is not None and read.plan.leaving:
                self._loop.begin(self.drop_removed(weakref.ref(read.plan)))
        finally:
            self.under_way = ""
            self._notifier.ready(self._parts.summary)

    def _put_in_force(self, plan: Plan) -> Task[None]:
        """Raises Refused, QueueError, CannotRun: then everything is as it was."""
        runtime_log.apply(plan.log)  # its workers are about to be forked
        try:
            self._parts.pair.prepare(plan.pair)
            yield from self._parts.backends.prepare(plan.backends_plan)
            yield from self._parts.rollover.put_in_force(plan)
        finally:
            runtime_log.apply(self._parts.plan.log)
            self._parts.apply_plan()

    def rename(self) -> Task[None]:
        """Put in force what DNS has come to say of the backends' names."""
        yield lambda: not self.under_way
        self._renaming = False
        now = time.monotonic()
        if self._operator is None or not self._parts.names.due(now):  # a reload has asked DNS meanwhile
            return
        operator, current, answers = self._operator, self._parts.plan, self._parts.names.take(now)
        self.under_way = "addresses of names"
        try:
            plan = yield from self._loop.work(lambda: operator.rename(current, answers), WORK_WITHIN)
            yield from self._put_in_force(plan)
        except (Refused, QueueError, CannotRun, OSError) as error:
            logger.error("names have new addresses, but the old ones stay in use: %s", error)
        else:
            old, new = current.named, plan.named
            come, gone = sorted(new - old), sorted(old - new)
            logger.info("%s", _renamed(come, gone), extra=about(new=come, gone=gone))
            for (pool, name), why in () if plan.dns_plan is None else plan.dns_plan.dismissed.items():
                if current.dns_plan is None or current.dns_plan.dismissed.get((pool, name)) != why:
                    logger.warning("backend %s/%s: %s", pool, name, why, extra=about(pool=pool, backend=name))
            if plan.leaving:
                self._loop.begin(self.drop_removed(weakref.ref(plan)))
        finally:
            self.under_way = ""

    def drop_removed(self, of: "weakref.ref[Plan]") -> Task[None]:
        """After LINGER, forget the backends that the reload of that plan removed, unless another reload came since:
        then the plan is gone, with its tables, and nothing here shall keep it.
        """
        yield from self._loop.pause(LINGER)
        yield lambda: not self.under_way
        plan = of()
        if plan is None or self._parts.plan is not plan:
            return
        assert self._operator is not None
        operator = self._operator
        self.under_way = "letting go of removed backends"
        try:
            lighter = yield from self._loop.work(lambda: operator.drop_removed(plan), WORK_WITHIN)
            yield from self._put_in_force(lighter)
            logger.info("%d backends that a reload removed are no longer known", plan.leaving)
        except (Refused, QueueError, CannotRun, OSError) as error:
            logger.error("backends that a reload removed cannot be removed from the state yet: %s", error)
        finally:
            self.under_way = ""

    def tick_names(self, now: float) -> None:
        """Begin to `rename` when DNS has something new."""
        if not self._renaming and self._parts.names.due(now):
            self._renaming = True
            self._loop.begin(self.rename())


def _renamed(come: list[str], gone: list[str]) -> str:
    if not come and not gone:
        return "names have the same addresses in another order, with other weights, or beside others that are not used"
    return f"names have other addresses: new are {', '.join(come) or 'none'}; gone are {', '.join(gone) or 'none'}"


def _unchanged(read: Reading) -> list[str]:
    if read.changed:
        return []
    return ["nothing has changed; " + ("everything goes on as it was" if read.plan is None else "workers are replaced")]
