"""The workers of another supervisor, which was killed or hands over to us: found, watched, and told to leave.

Knows the boards that they write to, and how to watch processes that are not our children. Does not know who serves
their packets afterwards.

Each worker pool has a board. One lies where readers look. If a supervisor was killed in the middle of a change, the
board of the worker pool that was to come, or that was to leave, lies beside it under the name that it had for the
change.
"""

import errno
import logging
import os
import select
import signal
import time
from pathlib import Path
from typing import Self

from nfqlb.errors import BoardError
from nfqlb.gateway.host import procfs
from nfqlb.gateway.runtime.child import RELIEVE
from nfqlb.gateway.runtime.event_loop import Loop, Task
from nfqlb.gateway.shm import board
from nfqlb.gateway.shm.board import Board, Cell, FoundBoard, Snapshot
from nfqlb.gateway.supervisor.rollover import PATIENCE, SETTLE
from nfqlb.gateway.supervisor.worker_pool import RELIEF_DRAIN, STOP_DRAIN, WORKER_NAME

logger = logging.getLogger("nfqlb")


class Orphans:
    """Those workers of earlier generations that lived when they were looked for, and their boards."""

    def __init__(self, boards: list[FoundBoard]) -> None:
        self._boards = boards
        self._pidfds: dict[int, int] = {}
        self._look()

    @classmethod
    def find(cls, run_dir: Path, but: Board | None = None) -> Self | None:
        """Those whose boards lie in `run_dir`; None when there is none that we can read, `but` for one of our own."""
        place = run_dir / board.FILE_NAME
        found = []
        for path in (place, *sorted(run_dir.glob(f"{board.FILE_NAME}.*"))):
            try:
                board_there = FoundBoard(path)
            except BoardError:
                continue
            if but is None or board_there.inode != but.inode:
                found.append(board_there)
        return cls(found) if found else None

    def _look(self) -> None:
        for found in self._boards:
            for index, slot in enumerate(found.snapshot().slots):
                pid = slot.cells[Cell.PID]
                if pid in self._pidfds:
                    continue
                try:
                    pidfd = os.pidfd_open(pid)
                except (OSError, OverflowError, ValueError):
                    continue
                # A pid may have gone to somebody else since; a worker of ours bears its own name.
                if procfs.process_name(pid) == WORKER_NAME.format(index) and procfs.alive(pid):
                    self._pidfds[pid] = pidfd
                else:
                    os.close(pidfd)

    @property
    def pids(self) -> list[int]:
        return list(self._pidfds)

    def snapshot(self) -> Snapshot:
        """What those have counted whose board lies in its place; or any, where there is none in the place."""
        return self._boards[0].snapshot()

    def retire(self) -> None:
        """Tell them to leave when nothing waits for them any more."""
        self._look()  # some may have been replaced
        for found in self._boards:
            found.retire()
        self._signal(RELIEVE)

    def stop(self) -> None:
        """Tell them to leave soon, whatever waits."""
        self._look()
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def gone(self) -> bool:
        for pid, pidfd in list(self._pidfds.items()):
            if select.select([pidfd], [], [], 0)[0]:
                os.close(self._pidfds.pop(pid))
        return not self._pidfds

    def close(self) -> None:
        """Look no more after them. When they are gone, so are their boards, but for the one in its place."""
        if self.gone():
            for found in self._boards:
                if found.path.name != board.FILE_NAME:
                    found.remove()
        for pidfd in self._pidfds.values():
            os.close(pidfd)
        self._pidfds.clear()

    def _signal(self, number: signal.Signals) -> None:
        for pidfd in self._pidfds.values():
            try:
                signal.pidfd_send_signal(pidfd, number)
            except OSError as error:
                if error.errno != errno.ESRCH:
                    raise


def retire(loop: Loop, orphans: Orphans) -> Task[None]:
    """Have those leave that no packet is led to any more, after what waits for them."""
    yield from loop.pause(SETTLE)
    orphans.retire()
    if not (yield from loop.until(orphans.gone, RELIEF_DRAIN + PATIENCE)):
        pids = ", ".join(map(str, orphans.pids))
        logger.error("workers of an earlier supervisor did not stop and are killed (pids %s)", pids)
        orphans.kill()
        yield from loop.until(orphans.gone, PATIENCE)


def end(loop: Loop, orphans: Orphans) -> None:
    """Have them leave soon, and kill who does not. Blocks until they are gone, for some seconds at most."""
    deadline = time.monotonic() + STOP_DRAIN + PATIENCE
    orphans.stop()
    while not orphans.gone() and time.monotonic() < deadline:
        loop.turn(0.05)
    orphans.kill()
    while not orphans.gone() and time.monotonic() < deadline + PATIENCE:
        loop.turn(0.05)
