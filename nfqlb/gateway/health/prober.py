"""The prober's loop: asks backends after their health, and listens for ICMP errors about what went to them.

Knows sockets, and brings `scheduler` and `probe` together. A process of its own (`manager` makes it), so that no answer
waits for a worker or the supervisor, and neither for an answer. What it finds out goes line by line into a pipe.
"""

import errno
import json
import os
import socket
import time
from collections.abc import Callable, Sequence
from random import Random
from selectors import EVENT_READ, DefaultSelector
from typing import Any

from nfqlb.balance.states import State
from nfqlb.gateway.health import icmp_errors
from nfqlb.gateway.health.probe import Questions, Target
from nfqlb.gateway.health.scheduler import CannotAsk, Report, Rounds
from nfqlb.gateway.shm.probe_results import Vital, Vitals
from nfqlb.net.endpoint import Endpoint

HEARTBEAT = 1.0
"""Seconds between two signs of our own life, at most."""

LOOK_AGAIN = 1.0
"""Seconds between two looks whether an internal address is this host's: on a standby node it is not, until it is."""

EAR_PAUSE = 0.02
"""Seconds for which an ear is closed after it was heard: ICMP errors may come with every packet of a flood."""

ANSWER_MAX = 65535
"""Bytes."""

BATCH = 64
"""Answers that are read from one socket before the others have their turn."""

_NO_ROUTE = frozenset((errno.ENETUNREACH, errno.EHOSTUNREACH))
"""What a send fails with when there is no way to the backend; other errors say something of this host alone."""

_STALE = frozenset((errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EMSGSIZE))
"""Errors of earlier sends that a socket gives to the next one: they stand in its error queue, too."""


class Prober:
    """Asks for ever. Sockets are opened at once where they can be; some may have to wait."""

    def __init__(
        self,
        targets: Sequence[Target],
        known: Sequence[State],
        ears: Sequence[Endpoint],
        name: str,
        traffic: Callable[[int], int],
        vitals: Vitals,
        tell: int,
    ) -> None:
        """`known`: what is known of each target. `ears`: the internal sockets, whose packets may come to nothing.
        `name`: user part of our URI. `traffic`: responses that workers have seen of target number … `tell`: the end of
        a pipe to write to.
        """
        self._targets, self._vitals, self._pipe = targets, vitals, tell
        self._questions = Questions(name, os.urandom(8).hex())
        self._selector = DefaultSelector()
        self._selector.register(tell, EVENT_READ, self._orphaned)  # nobody writes there, so: the other end is closed
        self._by_address: dict[Endpoint, list[int]] = {}
        for number, target in enumerate(targets):
            self._by_address.setdefault(target.address, []).append(number)
        self._mouths: dict[Endpoint, socket.socket] = {}
        self._ears: dict[Endpoint, socket.socket] = {}
        self._wanted_ears = tuple(dict.fromkeys(ears))
        self._sources = tuple(dict.fromkeys(target.source for target in targets))
        self._deaf: list[tuple[float, socket.socket]] = []
        """Ears that are closed for a while, and until when."""
        self._told_closed: set[str] = set()
        self._running = True
        self._next_look = 0.0
        checks = [target.check for target in targets]
        self._rounds = Rounds(checks, known, time.monotonic(), self._send, traffic, self._report, Random())
        self.look_around(time.monotonic())

    def run(self) -> None:
        """Until whom we tell is gone."""
        while self._running:
            now = time.monotonic()
            self._vitals.heartbeat = time.monotonic_ns()
            if now >= self._next_look:
                self.look_around(now)
            while self._deaf and self._deaf[0][0] <= now:
                self._selector.register(ear := self._deaf.pop(0)[1], EVENT_READ, lambda ear=ear: self._hear(ear))
            wake = min(self._rounds.turn(now), self._next_look, now + HEARTBEAT)
            if self._deaf:
                wake = min(wake, self._deaf[0][0])
            for key, _ in self._selector.select(max(0.0, wake - time.monotonic())):
                key.data()

    # -- sockets

    def look_around(self, now: float) -> None:
        """See which internal addresses are ours, and open what can be opened."""
        self._next_look = now + LOOK_AGAIN
        for source in self._sources:
            try:
                fresh = icmp_errors.open_mouth(source)
            except OSError as error:
                self._trouble(f"{source.host} cannot be asked from: {error.strerror}")
                if source in self._mouths:
                    self._drop(self._mouths.pop(source))
                continue
            if source in self._mouths:
                fresh.close()
            else:
                self._mouths[source] = fresh
                self._selector.register(fresh, EVENT_READ, lambda mouth=fresh: self._listen(mouth))
        for place in self._wanted_ears:
            if place not in self._ears:
                try:
                    ear = icmp_errors.open_ear(place)
                except OSError as error:
                    self._trouble(f"{place} hears of no ICMP errors: {error.strerror}")
                    continue
                self._ears[place] = ear
                self._selector.register(ear, EVENT_READ, lambda ear=ear: self._hear(ear))

    def _drop(self, mouth: socket.socket) -> None:
        self._selector.unregister(mouth)
        mouth.close()

    def _send(self, number: int, probe: int) -> str:
        target = self._targets[number]
        mouth = self._mouths.get(target.source)
        if mouth is None:
            raise CannotAsk
        here = Endpoint(target.source.addr, mouth.getsockname()[1])
        question = self._questions.ask(target, number, probe, here)
        for last in (False, False, True):
            try:
                mouth.sendto(question, (target.address.host, target.address.port))
            except OSError as error:
                if error.errno in _STALE and not last:
                    continue  # most likely about an earlier one: it was told by raising it
                if error.errno in _NO_ROUTE:
                    return str(error.strerror)
                raise CannotAsk from None
            return ""
        raise AssertionError

    # -- what comes

    def _listen(self, mouth: socket.socket) -> None:
        """Answers, and errors about questions."""
        for complaint in icmp_errors.complaints(mouth):
            for number in self._by_address.get(complaint.about, ()):
                self._rounds.probe_unreachable(number, complaint.text, time.monotonic())
        for _ in range(BATCH):
            try:
                datagram = mouth.recv(ANSWER_MAX)
            except BlockingIOError:
                return
            except OSError:
                continue  # stands in the error queue, too
            answer = self._questions.answer(datagram)
            if answer is None or answer.status < 200 or answer.target >= len(self._targets):
                continue
            taken = self._rounds.answered(answer.target, answer.probe, answer.status, time.monotonic())
            if taken is not None:
                self._vitals.write(answer.target, Vital(time.time(), taken, answer.status))

    def _hear(self, ear: socket.socket) -> None:
        """Errors about forwarded packets."""
        now = time.monotonic()
        heard = {
            number: complaint.text
            for complaint in icmp_errors.complaints(ear)
            for number in self._by_address.get(complaint.about, ())
        }
        for number, text in heard.items():
            self._rounds.unreachable(number, text, now)
        self._selector.unregister(ear)
        self._deaf.append((now + EAR_PAUSE, ear))

    def _orphaned(self) -> None:
        self._running = False

    # -- what is told

    def _report(self, report: Report) -> None:
        self._tell({"target": report.target, "state": report.state, "changed": report.changed, "error": report.error})

    def _trouble(self, text: str) -> None:
        """Once for each."""
        if text not in self._told_closed:
            self._told_closed.add(text)
            self._tell({"trouble": text})

    def _tell(self, what: dict[str, Any]) -> None:
        try:
            os.write(self._pipe, json.dumps(what).encode() + b"\n")
        except BrokenPipeError:
            self._running = False
