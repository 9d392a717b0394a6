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
from nfqlb.gateway.dns.plan import DnsPlan
from nfqlb.gateway.runtime import privileges
from nfqlb.gateway.runtime.event_loop import Loop
from nfqlb.gateway.runtime.helper import Helper
from nfqlb.gateway.runtime.log import about
from nfqlb.gateway.shm.name_lookups import NameLookups
from nfqlb.names import remembered
from nfqlb.names.target import Known, Target, from_plain, merged

NAME = "nfqlb-names"
"""What ps and top call the process."""

STUCK_AFTER = 30.0
"""Seconds without a word after which it is replaced."""

CHANGE_INTERVAL = 10.0
"""Seconds between two changes of plan for the sake of names, however fast answers change."""

logger = logging.getLogger("nfqlb")


class DnsManager:
    """For one supervisor, over all its plans."""

    def __init__(self, loop: Loop) -> None:
        self.lookups = NameLookups()
        self._selector = loop.selector
        title = "the process that looks up names"
        self._helper = Helper(NAME, title, "what is known stands", self._said, loop.selector)
        self._dns_plan: DnsPlan | None = None
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
        return self._helper.pid

    # -- with each plan

    def apply_plan(self, dns_plan: DnsPlan | None) -> None:
        """The plan in force is the one with that."""
        before, self._dns_plan = self._dns_plan, dns_plan
        if dns_plan is None:
            self._helper.end()
            self._listen(None)
            return
        if before is not dns_plan:
            # A plan that was made of what we knew may be behind what has come since; one that asked DNS itself is not.
            stale = [self._taken, {} if before is None else before.answers]
            self._known = {
                target: self._known[target] if any(each.get(target) == known for each in stale) else known
                for target, known in dns_plan.answers.items()
            }
            self._taken = {}
        if before is None or before.needs != dns_plan.needs:
            self._helper.end()
            if before is not None and not dns_plan.versions <= before.versions:
                self.lookups.memory.forget()  # that a name has no address there only says that nobody has asked
            self._listen(self._start_if_asked)
            if dns_plan.answers:
                self._start()
        if before is None or (before.answers, before.versions) != (dns_plan.answers, dns_plan.versions):
            self._remember()

    def due(self, now: float) -> bool:
        """Is it time for a plan with other addresses? `now` of time.monotonic()."""
        if self._dns_plan is None or now < self._next_change:
            return False
        return any(self._known[target].addresses != known.addresses for target, known in self._dns_plan.answers.items())

    def take(self, now: float) -> Mapping[Target, Known]:
        """What to make that plan with; the next one is due some time later."""
        self._next_change = now + CHANGE_INTERVAL
        self._taken = dict(self._known)
        return self._taken

    def end(self) -> None:
        if not self._closed:
            self._closed = True
            self._helper.end()
            self._listen(None)
            self.lookups.close()

    def tick(self, now: float) -> float:
        """Replace a process that has died or hangs; seconds until there is something to do again."""
        runs = bool(self.pid)
        self._helper.tick(now, self._heard_at, STUCK_AFTER)
        if not runs and self._helper.start_at and now >= self._helper.start_at:
            self._start()
        return 1.0

    # -- what there is to say

    def unresolved(self) -> dict[Place, tuple[str, str]]:
        """The backends whose names have no address: their names, and what is wrong."""
        if self._dns_plan is None:
            return {}
        dismissed, served = self._dns_plan.dismissed, self._dns_plan.served
        return {
            place: (str(target), dismissed.get(place) or self._known[target].error or "not looked up yet")
            for place, target in self._dns_plan.places.items()
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
        assert self._dns_plan is not None
        if any(known.addresses for known in self._known.values()):
            try:
                remembered.write(self._dns_plan.state_dir, self._known, self._dns_plan.versions)
            except OSError as error:
                text = "the addresses of names cannot be kept for a restart: %s cannot be written (%s)"
                logger.error(text, error.filename, error.strerror)

    # -- the life of the process

    def _listen(self, what: Any) -> None:
        """Have `what` called at a question of a worker, or nothing."""
        if self._listening:
            self._selector.unregister(self.lookups.questions)
        self._listening = what is not None
        if self._listening:
            self._selector.register(self.lookups.questions, EVENT_READ, what)

    def _start_if_asked(self) -> None:
        if not self.pid and time.monotonic() >= self._helper.start_at:
            self._start()
        else:
            self._listen(None)  # until the next is to be started

    def _start(self) -> None:
        assert self._dns_plan is not None
        dns_plan = self._dns_plan
        self._listen(None)
        self._heard_at = time.monotonic()
        self._helper.start(lambda writing: self._work(dns_plan, writing), (self.lookups.questions.fileno(),))

    def _work(self, dns_plan: DnsPlan, writing: int) -> None:
        """In the child."""
        from nfqlb.gateway.dns.resolver import Counts, Resolver  # what it imports, no other process needs
        from nfqlb.names import lookup

        os.setpriority(os.PRIO_PROCESS, 0, max(0, os.getpriority(os.PRIO_PROCESS, 0)))
        counts = Counts(**self._counts)
        wanted = tuple(dns_plan.answers), dns_plan.dns, dns_plan.versions
        resolver = Resolver(*wanted, self.lookups.memory, self.lookups.questions, writing, counts)
        lookup.load_all()
        privileges.drop(keep=None)
        resolver.run()
