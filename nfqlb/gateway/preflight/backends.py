"""Each backend is asked once whether it is there: for `nfqlb check --live`, before the gateway runs or beside it.

Asks what the prober of a running gateway asks, from the same addresses and in the same way (`health.probe`,
`health.probe_socket`), and needs no privilege. Does not know states, rise or fall: one answer is enough, and one lost
question is forgiven.
"""

import heapq
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from selectors import EVENT_READ, DefaultSelector

from nfqlb.config.model import Config
from nfqlb.config.problems import Problem, shown
from nfqlb.gateway.backends.plan import targets
from nfqlb.gateway.ha import plan as ha_plan
from nfqlb.gateway.health.icmp_errors import Complaint
from nfqlb.gateway.health.probe import Questions, Target
from nfqlb.gateway.health.probe_socket import ProbeSocket
from nfqlb.net.endpoint import Endpoint

TRIES = 2
"""A question or its answer may be lost on the way."""

PACE = 0.0005
"""Seconds between two questions: the answers of a thousand backends shall find room in one socket."""


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
        self._probe_sockets: dict[Endpoint, ProbeSocket] = {}
        self.silent: dict[str, str] = {}
        """Addresses that we cannot ask from, and why."""
        for number, target in enumerate(asked):
            self._numbers.setdefault(target.address, []).append(number)
            if target.source not in self._probe_sockets and target.source.host not in self.silent:
                try:
                    self._probe_sockets[target.source] = ProbeSocket(target.source)
                except OSError as error:
                    self.silent[target.source.host] = str(error.strerror)

    def answers(self) -> list[str]:
        """What is wrong with each target, in their order; empty: nothing, or it could not be asked."""
        due = [(n * PACE, n, 0) for n, target in enumerate(self._asked) if target.source in self._probe_sockets]
        with ExitStack() as stack:
            selector = stack.enter_context(DefaultSelector())
            for probe_socket in self._probe_sockets.values():
                stack.enter_context(closing(probe_socket))
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
                        assert isinstance(key.fileobj, ProbeSocket)
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
        try:
            probe_socket.send(self._questions.ask(target, number, tries, probe_socket.here), target.address)
        except OSError as error:
            self._found[number] = f"it cannot be asked from {host} ({error.strerror})"
            return False
        return True

    def _listen(self, probe_socket: ProbeSocket) -> None:
        for heard in probe_socket.read(self._questions, len(self._asked)):
            if isinstance(heard, Complaint):
                for number in self._numbers.get(heard.about, ()):
                    if self._probe_sockets.get(self._asked[number].source) is probe_socket:
                        self._found.setdefault(number, f"nothing answers there ({heard.text})")
                continue
            check = self._asked[heard.target].check
            self._found[heard.target] = (
                ""
                if heard.status in check.accept
                else f"it answers {check.method} with {heard.status}, which [health] accept does not take for well"
            )
