"""A lab with its phones for the live tests, its links recorded throughout."""

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from nfqlb.lab import ping, sipp
from nfqlb.lab.kamailio import DOMAIN
from nfqlb.lab.lab import Lab
from nfqlb.lab.ladder import Passage, messages, passages
from nfqlb.lab.sipp import Phone
from nfqlb.lab.topology import Plan
from nfqlb.lab.wire import Seen, Tap
from nfqlb.net.endpoint import Endpoint

NUMBER = itertools.count()


def fresh_name() -> str:
    """No two labs at once have the same, in this run or another."""
    return f"t{os.getpid()}x{next(NUMBER)}"


@dataclass
class Cell:
    """A lab that is up, and its phones: `alice` the one under test in both places, `bob` the other party."""

    lab: Lab
    tap: Tap
    bob: Phone
    alice: dict[bool, Phone] = field(default_factory=dict)
    """By whether she is behind the NAT."""
    frames: list[Seen] = field(default_factory=list)
    """Of all plays."""

    def play(
        self,
        ladder: str,
        caller: Phone,
        callee: Phone,
        *,
        domain: str = DOMAIN,
        more_lines: int = 0,
    ) -> list[Passage]:
        """Play a ladder and return what passed the gateway meanwhile."""
        self.tap.clear()
        sipp.dialogue(ladder, caller, callee, domain=domain, more_lines=more_lines)
        return self._seen()

    def register(self, phone: Phone) -> list[Passage]:
        self.tap.clear()
        phone.register()
        return self._seen()

    def _seen(self) -> list[Passage]:
        """What has passed, but for late answers to the questions whether the gateway is there."""
        frames = [frame for frame in self.tap.settled() if ping.MARK not in frame.packet]
        self.frames += frames
        return passages(messages(frames))

    @property
    def backends(self) -> set[Endpoint]:
        return {Endpoint.parse(f"{node.host}:5060") for node in self.lab.plan.backends}


@contextmanager
def running(plan: Plan, **options: Any) -> Iterator[Cell]:
    lab = Lab(plan, probes=False, **options)
    with lab, lab.tap() as tap:
        public, other = plan.phones
        cell = Cell(lab, tap, lab.phone("bob", public))
        cell.alice = {True: lab.phone("alice", plan.home[0]), False: lab.phone("carol", other)}
        for phone in (cell.bob, *cell.alice.values()):
            cell.register(phone)
        yield cell
