"""The workers of another supervisor, which was killed or hands over to us: found, watched, and told to leave.

Knows the board that they write to, and how to watch processes that are not our children. Does not know who serves
their packets afterwards.
"""

import errno
import os
import select
import signal
from pathlib import Path
from typing import Self

from nfqlb.gateway import board, procfs
from nfqlb.gateway.board import BoardError, Cell, FoundBoard, Snapshot
from nfqlb.gateway.crew import RELIEVE, WORKER_NAME


class Elders:
    """Those workers of an earlier generation that lived when they were looked for."""

    def __init__(self, found: FoundBoard, pidfds: dict[int, int]) -> None:
        self._board = found
        self._pidfds = pidfds

    @classmethod
    def find(cls, run_dir: Path) -> Self | None:
        """Those whose board lies in `run_dir`; None when there is none that we can read."""
        path = run_dir / board.FILE_NAME
        try:
            found = FoundBoard(path)
        except BoardError:
            return None
        pidfds = {}
        for index, slot in enumerate(found.snapshot().slots):
            pid = slot.cells[Cell.PID]
            try:
                pidfd = os.pidfd_open(pid)
            except (OSError, OverflowError, ValueError):
                continue
            # A pid may have gone to somebody else since; a worker of ours bears its own name.
            if procfs.process_name(pid) == WORKER_NAME.format(index) and procfs.alive(pid):
                pidfds[pid] = pidfd
            else:
                os.close(pidfd)
        return cls(found, pidfds)

    @property
    def pids(self) -> list[int]:
        return list(self._pidfds)

    def snapshot(self) -> Snapshot:
        """What they have counted."""
        return self._board.snapshot()

    def retire(self) -> None:
        """Tell them to leave when nothing waits for them any more."""
        self._board.retire()
        self._signal(RELIEVE)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def gone(self) -> bool:
        for pid, pidfd in list(self._pidfds.items()):
            if select.select([pidfd], [], [], 0)[0]:
                os.close(self._pidfds.pop(pid))
        return not self._pidfds

    def close(self) -> None:
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
