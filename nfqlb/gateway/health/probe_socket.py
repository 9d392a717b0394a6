"""Sending probes and reading what comes of them: the one way, for the prober and for `nfqlb check --live`.

Knows a UDP socket at an internal address, and which errors of a send are about an earlier one. Does not know when to
ask, nor what an answer or a complaint means for a backend.
"""

from collections.abc import Iterator

from nfqlb.gateway.health import icmp_errors
from nfqlb.gateway.health.icmp_errors import FROM_ICMP, Complaint
from nfqlb.gateway.health.probe import Answer, Questions
from nfqlb.net.endpoint import Endpoint

ANSWER_MAX = 65535
"""Bytes."""

BATCH = 64
"""Answers that are read from one socket before the others have their turn."""

ATTEMPTS = 3
"""Sends of one probe: each may fail with the error of an earlier one."""


class ProbeSocket:
    """Asks from one internal address, on a port of its own. Never blocks."""

    def __init__(self, source: Endpoint) -> None:
        """`source`: an internal socket, of which the address counts. Raises OSError: it may not be this host's."""
        self._socket = icmp_errors.open_probe_socket(source)
        self.here = Endpoint(source.addr, self._socket.getsockname()[1])
        """Where answers come to."""

    def fileno(self) -> int:
        """Readable when `read` has something to do."""
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def send(self, question: bytes, address: Endpoint) -> None:
        """Raises OSError when there is no way to `address`, or when this host cannot send: see icmp_errors.NO_ROUTE.

        An error about an earlier probe is told once by making the next send fail. It stands in the error queue as well,
        where `read` finds it, so here it only means: once more.
        """
        for left in reversed(range(ATTEMPTS)):
            try:
                self._socket.sendto(question, (address.host, address.port))
            except OSError as error:
                if error.errno in FROM_ICMP and left:
                    continue
                raise
            return

    def read(self, questions: Questions, targets: int) -> Iterator[Complaint | Answer]:
        """ICMP errors about probes, then final answers to `questions` about the first so many targets, BATCH of each
        at most.
        """
        yield from icmp_errors.complaints(self._socket)
        for _ in range(BATCH):
            try:
                datagram = self._socket.recv(ANSWER_MAX)
            except BlockingIOError:
                return
            except OSError:
                continue  # stands in the error queue, too
            answer = questions.answer(datagram)
            if answer is not None and answer.status >= 200 and answer.target < targets:
                yield answer
