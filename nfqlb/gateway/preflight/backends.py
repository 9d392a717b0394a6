"""Each backend is asked once whether it is there: for `nfqlb check --live`, before the gateway runs or beside it.

Asks what the prober of a running gateway asks, from the same addresses (`probe`, `health.icmp_errors`), and needs no
privilege. Does not know states, rise or fall: one answer is enough, and one lost question is forgiven.
"""

import errno
import heapq
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from selectors import EVENT_READ, DefaultSelector

from nfqlb.config.model import Config
from nfqlb.config.problems import Problem, shown
from nfqlb.gateway.backends.plan import targets
from nfqlb.gateway.ha import plan as ha_plan
from nfqlb.gateway.health import icmp_errors
from nfqlb.gateway.health.probe import Questions, Target
from nfqlb.net.endpoint import Endpoint

TRIES = 2
"""A question or its answer may be lost on the way."""

PACE = 0.0005
"""Seconds between two questions: the answers of a thousand backends shall find room in one socket."""

ANSWER_MAX = 65535
"""Bytes."""

BATCH = 64
"""Answers that are read from one socket before others have their turn."""


def problems(config: Config) -> Iterator[Problem]:
    """A warning for each backend that does not answer as [health] demands, and each address nobody can be asked from.
    Takes as long as the slowest of them may take, TRIES times.
    """
    internals = tuple(listener.internal for listener in config.listeners)
    checks = {pool.name: config.check(pool.name) for pool in config.pools}
    asked = targets(config.pools, checks, internals, ha_plan.own_sources(config))
    call = PreflightProbe(asked, config.gateway.name)
    for source, reason in call.silent.items():
        text = f"backends cannot be asked from here whether they answer ({reason})"
        yield Problem(f"address {source}", text, "warning")
    for target, wrong in zip(asked, call.answers(), strict=True):
        for pool, name in target.places if wrong else ():
            yield Problem(f"backend {pool}/{name}", wrong, "warning", shown(str(target.address)))


class PreflightProbe:
    """One round of questions."""

    def __init__(self, asked: Sequence[Target], name: str) -> None:
        """Opens the sockets. `name`: user part of our URI."""
        self._asked = asked
        self._questions = Questions(name, os.urandom(8).hex())
        self._found: dict[int, str] = {}
        """By number of the target, what is wrong with it; empty: nothing."""
        self._numbers: dict[Endpoint, list[int]] = {}
        self._probe_sockets: dict[Endpoint, socket.socket] = {}
        self.silent: dict[str, str] = {}
        """Addresses that we cannot ask from, and why."""
        for number, target in enumerate(asked):
            self._numbers.setdefault(target.address, []).append(number)
            if target.source not in self._probe_sockets and target.source.host not in self.silent:
                try:
                    self._probe_sockets[target.source] = icmp_errors.open_probe_socket(target.source)
                except OSError as error:
                    self.silent[target.source.host] = str(error.strerror)

    def answers(self) -> list[str]:
        """What is wrong with each target, in their order; empty: nothing, or it could not be asked."""
        due = [(n * PACE, n, 0) for n, target in enumerate(self._asked) if target.source in self._probe_sockets]
        with ExitStack() as stack:
            selector = stack.enter_context(DefaultSelector())
            for probe_socket in self._probe_sockets.values():
                stack.enter_context(probe_socket)
                selector.register(probe_socket, EVENT_READ)
            begun = time.monotonic()
            while due:
                now = time.monotonic() - begun
                while due and due[0][0] <= now:
                    _, number, tries = heapq.heappop(due)
                    if number not in self._found and self._ask(number, tries):
                        heapq.heappush(due, (now + self._asked[number].check.timeout, number, tries + 1))
                # Who has been heard meanwhile need not be waited for.
                while due and due[0][1] in self._found:
                    heapq.heappop(due)
                if due:
                    for key, _ in selector.select(max(0.0, begun + due[0][0] - time.monotonic())):
                        assert isinstance(key.fileobj, socket.socket)
                        self._listen(key.fileobj)
        return [self._found.get(number, "") for number in range(len(self._asked))]

    def _ask(self, number: int, tries: int) -> bool:
        """Ask for the first time, or once more; whether there is something to wait for."""
        target = self._asked[number]
        method, host = target.check.method, target.source.host
        if tries == TRIES:
            self._found[number] = (
                f"no answer to {method} from {host} within {target.check.timeout:g} s: does it run, does it know its "
                f"way back to {host}, and does a firewall let SIP through?"
            )
            return False
        probe_socket = self._probe_sockets[target.source]
        here = Endpoint(target.source.addr, probe_socket.getsockname()[1])
        question = self._questions.ask(target, number, tries, here)
        for last in (False, False, True):
            try:
                probe_socket.sendto(question, (target.address.host, target.address.port))
            except OSError as error:
                if last or error.errno not in (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH):
                    self._found[number] = f"it cannot be asked from {host} ({error.strerror})"
                    return False
                self._complaints(probe_socket)  # of an earlier question, most likely: the next send tells
            else:
                return True
        return False

    def _listen(self, probe_socket: socket.socket) -> None:
        self._complaints(probe_socket)
        for _ in range(BATCH):
            try:
                datagram = probe_socket.recv(ANSWER_MAX)
            except BlockingIOError:
                return
            except OSError:
                continue  # stands in the queue of complaints, too
            answer = self._questions.answer(datagram)
            if answer is None or answer.status < 200 or answer.target >= len(self._asked):
                continue
            check = self._asked[answer.target].check
            self._found[answer.target] = (
                ""
                if answer.status in check.accept
                else f"it answers {check.method} with {answer.status}, which [health] accept does not take for well"
            )

    def _complaints(self, probe_socket: socket.socket) -> None:
        for complaint in icmp_errors.complaints(probe_socket):
            for number in self._numbers.get(complaint.about, ()):
                if self._probe_sockets.get(self._asked[number].source) is probe_socket:
                    self._found.setdefault(number, f"nothing answers there ({complaint.text})")
