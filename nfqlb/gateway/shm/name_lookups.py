"""Where workers ask for names that backends send to: a memory of answers, and a socket for questions.

Knows what is shared and by which end. Made once by a supervisor, for all its worker pools; who answers, and when, is
for others (`dns.manager`, `resolver`).
"""

import mmap
import socket
import time
from contextlib import suppress

from nfqlb.proxy.names import SIZE, Asking, Memory

WAITING = 1 << 16
"""Bytes of questions that may wait; what is beyond is dropped, and asked again by a retransmission."""


class NameLookups:
    """What workers have of it: inherited at the fork."""

    def __init__(self) -> None:
        self.memory = Memory(memoryview(mmap.mmap(-1, SIZE)))
        self.questions, self._worker_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.questions.setblocking(False)
        self._worker_end.setblocking(False)
        self._worker_end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, WAITING)

    @property
    def filenos(self) -> list[int]:
        """That a worker needs."""
        return [self._worker_end.fileno()]

    def names(self) -> Asking:
        """In a worker: for its engine."""
        return Asking(self.memory, self._ask, time.monotonic)

    def close(self) -> None:
        self.questions.close()
        self._worker_end.close()

    def _ask(self, question: bytes) -> None:
        with suppress(OSError):  # full, or nobody is there: it will be asked again
            self._worker_end.send(question)
