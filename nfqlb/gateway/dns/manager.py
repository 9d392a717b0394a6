"""Names as the supervisor has them: when the process that asks DNS runs; what it has found out; and the memory and the
socket by which workers have a part in it.

Does not know DNS, nor how a changed answer comes into force: `due` says that it is time, and the supervisor makes a
plan of it.

The process runs from when there is something to ask: from the start where backends have names, else from the first
question of a worker.
"""

import logging
import os
import time
from collections.abc import Mapping
from selectors import EVENT_READ
from typing import Any

from nfqlb.balance.states import Place
from nfqlb.gateway.dns.plan import Naming
from nfqlb.gateway.runtime import privileges
from nfqlb.gateway.runtime.event_loop import Loop
from nfqlb.gateway.runtime.helper import Aide
from nfqlb.gateway.runtime.log import about
from nfqlb.gateway.shm.name_lookups import Desk
from nfqlb.names import remembered
from nfqlb.names.target import Known, Target, from_plain, merged

NAME = "nfqlb-names"
"""What ps and top call the process."""

STUCK_AFTER = 30.0
"""Seconds without a word after which it is replaced."""

CHANGE_INTERVAL = 10.0
"""Seconds between two changes of plan for the sake of names, however fast answers change."""

logger = logging.getLogger("nfqlb")


class Directory:
    """For one supervisor, over all its plans."""

    def __init__(self, loop: Loop) -> None:
        self.desk = Desk()
        self._selector = loop.selector
        title = "the process that looks up names"
        self._aide = Aide(NAME, title, "what is known stands", self._said, loop.selector)
        self._naming: Naming | None = None
        self._known: dict[Target, Known] = {}
        self._taken: dict[Target, Known] = {}
        """What the plan is made of that is to come."""
        self._counts = dict.fromkeys(("looked_up", "failed", "asked", "refused"), 0)
        self._heard_at = 0.0
        self._next_change = 0.0
        self._listening = False
        self._closed = False

    @property
    def pid(self) -> int:
        return self._aide.pid

    # -- with each plan

    def follow(self, naming: Naming | None) -> None:
        """The plan in force is the one with that."""
        before, self._naming = self._naming, naming
        if naming is None:
            return
        if before is not naming:
            # A plan that was made of what we knew may be behind what has come since; one that asked DNS itself is not.
            stale = [self._taken, {} if before is None else before.answers]
            self._known = {
                target: self._known[target] if any(each.get(target) == known for each in stale) else known
                for target, known in naming.answers.items()
            }
            self._taken = {}
        if before is None or before.orders != naming.orders:
            self._aide.end()
            if before is not None and not naming.versions <= before.versions:
                self.desk.memory.forget()  # that a name has no address there only says that nobody has asked
            self._listen(self._start_if_asked)
            if naming.answers:
                self._start()
        if before is None or (before.answers, before.versions) != (naming.answers, naming.versions):
            self._remember()

    def due(self, now: float) -> bool:
        """Is it time for a plan with other addresses? `now` of time.monotonic()."""
        if self._naming is None or now < self._next_change:
            return False
        return any(self._known[target].addresses != known.addresses for target, known in self._naming.answers.items())

    def take(self, now: float) -> Mapping[Target, Known]:
        """What to make that plan with; the next one is due some time later."""
        self._next_change = now + CHANGE_INTERVAL
        self._taken = dict(self._known)
        return self._taken

    def end(self) -> None:
        if not self._closed:
            self._closed = True
            self._aide.end()
            self._listen(None)
            self.desk.close()

    def look_after(self, now: float) -> float:
        """Replace a process that has died or hangs; seconds until there is something to do again."""
        runs = bool(self.pid)
        self._aide.look_after(now, self._heard_at, STUCK_AFTER)
        if not runs and self._aide.start_at and now >= self._aide.start_at:
            self._start()
        return 1.0

    # -- what there is to say

    def unresolved(self) -> dict[Place, tuple[str, str]]:
        """The backends whose names have no address: their names, and what is wrong."""
        if self._naming is None:
            return {}
        dismissed, served = self._naming.dismissed, self._naming.served
        return {
            place: (str(target), dismissed.get(place) or self._known[target].error or "not looked up yet")
            for place, target in self._naming.places.items()
            if place not in served
        }

    def status(self) -> dict[str, Any]:
        """For `nfqlb status`."""
        return {
            "resolver": self.pid,
            **self._counts,
            "known": [
                {
                    "name": str(target),
                    "addresses": [str(each.endpoint) for each in known.addresses],
                    "error": known.error or None,
                }
                for target, known in self._known.items()
            ],
        }

    # -- what the process says

    def _said(self, said: dict[str, Any]) -> None:
        self._heard_at = time.monotonic()
        if "counts" in said:
            self._counts = said["counts"]
        else:
            self._answered(*from_plain(said))

    def _answered(self, target: Target, now: Known) -> None:
        before = self._known.get(target)
        if before is None:
            return
        known = merged(before, now)
        self._known[target] = known
        if known.error and known.error != before.error:
            stands = "; the last good answer stands" if known.addresses else ""
            told = about(name=str(target), reason=known.error)
            logger.error("looking up the name %s failed: %s%s", target, known.error, stands, extra=told)
        elif before.error and not known.error:
            logger.info("the name %s is answered again", target, extra=about(name=str(target)))

    def _remember(self) -> None:
        assert self._naming is not None
        if any(known.addresses for known in self._known.values()):
            try:
                remembered.write(self._naming.state_dir, self._known, self._naming.versions)
            except OSError as error:
                text = "the addresses of names cannot be kept for a restart: %s cannot be written (%s)"
                logger.error(text, error.filename, error.strerror)

    # -- the life of the process

    def _listen(self, what: Any) -> None:
        """Have `what` called at a question of a worker, or nothing."""
        if self._listening:
            self._selector.unregister(self.desk.questions)
        self._listening = what is not None
        if self._listening:
            self._selector.register(self.desk.questions, EVENT_READ, what)

    def _start_if_asked(self) -> None:
        if not self.pid and time.monotonic() >= self._aide.start_at:
            self._start()
        else:
            self._listen(None)  # until the next is to be started

    def _start(self) -> None:
        assert self._naming is not None
        naming = self._naming
        self._listen(None)
        self._heard_at = time.monotonic()
        self._aide.start(lambda writing: self._work(naming, writing), (self.desk.questions.fileno(),))

    def _work(self, naming: Naming, writing: int) -> None:
        """In the child."""
        from nfqlb.gateway.dns.resolver import Counts, Resolver  # what it imports, no other process needs
        from nfqlb.names import lookup

        os.setpriority(os.PRIO_PROCESS, 0, max(0, os.getpriority(os.PRIO_PROCESS, 0)))
        counts = Counts(**self._counts)
        wanted = tuple(naming.answers), naming.dns, naming.versions
        resolver = Resolver(*wanted, self.desk.memory, self.desk.questions, writing, counts)
        lookup.load_all()
        privileges.drop(keep=None)
        resolver.run()
