"""The process that bans sources for their offences and has the kernel relieve workers, as the supervisor has it.

Knows when it runs, what it shares with the workers, and what it has counted. What it does is in `banning` and
`kernel_shedding`. It ends by itself when the supervisor is gone; the next one starts another.
"""

import mmap
import os
import time
from selectors import BaseSelector

from nfqlb.gateway.bans.plan import BansPlan
from nfqlb.gateway.runtime import privileges
from nfqlb.gateway.runtime.helper import Helper
from nfqlb.gateway.shm.board import Board, Header
from nfqlb.gateway.shm.offence_ring import OffenceRings, Tally

NAME = "nfqlb-guard"
"""What ps and top call the process."""

TURNS = 5
"""Looks at the queues for each look at what workers have noted."""

STUCK_AFTER = 10.0
"""Seconds without a sign of life after which it is replaced."""


class BansManager:
    """The supervisor's side, over all its plans."""

    def __init__(self, selector: BaseSelector) -> None:
        self.rings = OffenceRings()
        """What workers write their offences into."""
        self._tally = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")
        self._helper = Helper(NAME, "the process that bans sources", "floods are still stopped", _ignore, selector)
        self._bans_plan: BansPlan | None = None
        self._before: tuple[int, int] | None = None
        """What was counted before us."""
        self._born = 0.0

    @property
    def pid(self) -> int:
        return self._helper.pid

    def apply_plan(self, bans_plan: BansPlan | None) -> None:
        """The plan in force is the one with that."""
        before, self._bans_plan = self._bans_plan, bans_plan
        if bans_plan != before:
            self._helper.end()
            if bans_plan is not None:
                self._start()

    def tick(self, now: float, board: Board) -> float:
        """Replace a process that has died or hangs, and tell on the board what it has counted; seconds until there is
        something to do again.
        """
        if self._before is None:
            self._before = board.get(Header.OFFENCES), board.get(Header.BANS)
        board.set(Header.OFFENCES, self._before[0] + self._tally[Tally.OFFENCES])
        board.set(Header.BANS, self._before[1] + self._tally[Tally.BANS])
        helper = self._helper
        helper.tick(now, max(self._born, self._tally[Tally.HEARTBEAT] / 1e9), STUCK_AFTER)
        if self._bans_plan is not None and not helper.pid and now >= helper.start_at:
            self._start()
        return 1.0

    def end(self) -> None:
        self._helper.end()

    def _start(self) -> None:
        assert self._bans_plan is not None
        bans_plan, supervisor = self._bans_plan, os.getpid()
        self._born = time.monotonic()
        self._helper.start(lambda _: self._work(bans_plan, supervisor))

    def _work(self, bans_plan: BansPlan, supervisor: int) -> None:
        """In the child."""
        from nfqlb.gateway.bans.banning import Banning
        from nfqlb.gateway.bans.kernel_shedding import TICK, KernelShedding
        from nfqlb.gateway.netfilter.kernel_sets import KernelSets

        # It keeps the priority of workers: it takes little, and relieves them of the most when they have none to spare.
        kernel = KernelSets()
        banning = Banning(bans_plan, self.rings, self._tally, kernel)
        kernel_shedding = KernelShedding(bans_plan, self.rings, kernel)
        privileges.drop()
        count = 0
        while os.getppid() == supervisor:
            kernel_shedding.turn(time.monotonic())
            if count % TURNS == 0:
                banning.turn(time.monotonic())
            count += 1
            time.sleep(TICK)


def _ignore(_: object) -> None:
    """The process says nothing by its pipe."""
