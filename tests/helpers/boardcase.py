"""A board as if this process were all of a gateway, for what reads it, and a /proc to go with it."""

import os
import time
from pathlib import Path

from nfqlb.gateway import stats
from nfqlb.gateway.shm.board import REASONS, About, Board, Cell, Header, State
from nfqlb.proxy.verdict import Reason

KERNEL = " 5060  1   7 2 65531    12     3     4711  1\n"


class Gateway:
    """With two workers, unless more queues are named."""

    def __init__(
        self, folder: Path, queues: tuple[int, ...] = (5060, 5061), backends: tuple[str, ...] = ("reg1", "reg2")
    ) -> None:
        self.run_dir = folder / "run"
        self.run_dir.mkdir()
        self.proc = folder / "proc"
        for name in (str(os.getpid()), "thread-self/net/netfilter"):
            (self.proc / name).mkdir(parents=True)
        (self.proc / str(os.getpid()) / "stat").write_text(Path("/proc/self/stat").read_text())
        (self.proc / "thread-self/net/netfilter/nfnetlink_queue").write_text(KERNEL)
        self.board = Board(self.run_dir / "board", About("lb", queues, backends))
        self.board.publish()
        self.board.set(Header.STATE, State.RUNNING)
        self.board.set(Header.PID, os.getpid())
        self.board.set(Header.STARTED, 1_700_000_000_123_000_000)
        self.slots = [self.board.slot(index) for index in range(len(queues))]
        for slot in self.slots:
            slot[Cell.PID] = os.getpid()
            slot[Cell.HEARTBEAT] = time.monotonic_ns()

    def count(self, worker: int, reason: Reason, times: int = 1) -> None:
        self.slots[worker][REASONS + reason] += times

    def report(self) -> stats.Report:
        return stats.gather(self.run_dir, self.proc)
