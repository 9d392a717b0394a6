"""The process that bans sources for their offences and has the kernel relieve workers, as the supervisor has it.

Knows when it runs, what it shares with the workers, and what it has counted. What it does is in `banning` and
`kernel_shedding`. It ends by itself when the supervisor is gone; the next one starts another.
"""

import mmap
import os
import time
from selectors import BaseSelector

from nfqlb.gateway.bans.plan import Guarding
from nfqlb.gateway.runtime import privileges
from nfqlb.gateway.runtime.helper import Aide
from nfqlb.gateway.shm.board import Board, Header
from nfqlb.gateway.shm.offence_ring import Rings, Tally

NAME = "nfqlb-guard"
"""What ps and top call the process."""

TURNS = 5
"""Looks at the queues for each look at what workers have noted."""

STUCK_AFTER = 10.0
"""Seconds without a sign of life after which it is replaced."""


class Guard:
    """The supervisor's side, over all its plans."""

    def __init__(self, selector: BaseSelector) -> None:
        self.rings = Rings()
        """What workers write their offences into."""
        self._tally = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")
        self._aide = Aide(NAME, "the process that bans sources", "floods are still stopped", _ignore, selector)
        self._guarding: Guarding | None = None
        self._before: tuple[int, int] | None = None
        """What was counted before us."""
        self._born = 0.0

    @property
    def pid(self) -> int:
        return self._aide.pid

    def follow(self, guarding: Guarding | None) -> None:
        """The plan in force is the one with that."""
        before, self._guarding = self._guarding, guarding
        if guarding != before:
            self._aide.end()
            if guarding is not None:
                self._start()

    def look_after(self, now: float, board: Board) -> float:
        """Replace a process that has died or hangs, and tell on the board what it has counted; seconds until there is
        something to do again.
        """
        if self._before is None:
            self._before = board.get(Header.OFFENCES), board.get(Header.BANS)
        board.set(Header.OFFENCES, self._before[0] + self._tally[Tally.OFFENCES])
        board.set(Header.BANS, self._before[1] + self._tally[Tally.BANS])
        aide = self._aide
        aide.look_after(now, max(self._born, self._tally[Tally.HEARTBEAT] / 1e9), STUCK_AFTER)
        if self._guarding is not None and not aide.pid and now >= aide.start_at:
            self._start()
        return 1.0

    def end(self) -> None:
        self._aide.end()

    def _start(self) -> None:
        assert self._guarding is not None
        guarding, supervisor = self._guarding, os.getpid()
        self._born = time.monotonic()
        self._aide.start(lambda _: self._work(guarding, supervisor))

    def _work(self, guarding: Guarding, supervisor: int) -> None:
        """In the child."""
        from nfqlb.gateway.bans.banning import Bans
        from nfqlb.gateway.bans.kernel_shedding import TICK, Relief
        from nfqlb.gateway.netfilter.kernel_sets import KernelSets

        # It keeps the priority of workers: it takes little, and relieves them of the most when they have none to spare.
        kernel = KernelSets()
        bans = Bans(guarding, self.rings, self._tally, kernel)
        relief = Relief(guarding, self.rings, kernel)
        privileges.drop()
        count = 0
        while os.getppid() == supervisor:
            relief.turn(time.monotonic())
            if count % TURNS == 0:
                bans.turn(time.monotonic())
            count += 1
            time.sleep(TICK)


def _ignore(_: object) -> None:
    """The process says nothing by its pipe."""
