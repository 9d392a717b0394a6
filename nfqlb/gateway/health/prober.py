"""The prober's loop: asks backends after their health, and listens for ICMP errors about what went to them.

Knows which sockets there are, and brings `scheduler`, `probe` and `probe_socket` together. A process of its own
(`manager` makes it), so that no answer waits for a worker or the supervisor, and neither for an answer. What it finds
out goes line by line into a pipe.
"""

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
from nfqlb.gateway.health.icmp_errors import NO_ROUTE, Complaint
from nfqlb.gateway.health.probe import Questions, Target
from nfqlb.gateway.health.probe_socket import ProbeSocket
from nfqlb.gateway.health.scheduler import CannotAsk, ProbeScheduler, Report
from nfqlb.gateway.shm.probe_results import ProbeResult, ProbeResults
from nfqlb.net.endpoint import Endpoint

HEARTBEAT = 1.0
"""Seconds between two signs of our own life, at most."""

LOOK_AGAIN = 1.0
"""Seconds between two looks whether an internal address is this host's: on a standby node it is not, until it is."""

ERROR_SOCKET_PAUSE = 0.02
"""Seconds for which an error socket is closed after it was heard: ICMP errors may come with every packet of a flood."""


class Prober:
    """Asks for ever. Sockets are opened at once where they can be; some may have to wait."""

    def __init__(
        self,
        targets: Sequence[Target],
        known: Sequence[State],
        internals: Sequence[Endpoint],
        name: str,
        traffic: Callable[[int], int],
        results: ProbeResults,
        tell: int,
    ) -> None:
        """`known`: what is known of each target. `internals`: the internal sockets, whose packets may come to nothing.
        `name`: user part of our URI. `traffic`: responses that workers have seen of target number … `tell`: the end of
        a pipe to write to.
        """
        self._targets, self._results, self._pipe = targets, results, tell
        self._questions = Questions(name, os.urandom(8).hex())
        self._selector = DefaultSelector()
        self._selector.register(tell, EVENT_READ, self._orphaned)  # nobody writes there, so: the other end is closed
        self._by_address: dict[Endpoint, list[int]] = {}
        for number, target in enumerate(targets):
            self._by_address.setdefault(target.address, []).append(number)
        self._probe_sockets: dict[Endpoint, ProbeSocket] = {}
        self._error_sockets: dict[Endpoint, socket.socket] = {}
        self._wanted_error_sockets = tuple(dict.fromkeys(internals))
        self._sources = tuple(dict.fromkeys(target.source for target in targets))
        self._paused: list[tuple[float, socket.socket]] = []
        """Error sockets that are closed for a while, and until when."""
        self._told_closed: set[str] = set()
        self._running = True
        self._next_look = 0.0
        checks = [target.check for target in targets]
        self._scheduler = ProbeScheduler(checks, known, time.monotonic(), self._send, traffic, self._report, Random())
        self.look_around(time.monotonic())

    def run(self) -> None:
        """Until whom we tell is gone."""
        while self._running:
            now = time.monotonic()
            self._results.heartbeat = time.monotonic_ns()
            if now >= self._next_look:
                self.look_around(now)
            while self._paused and self._paused[0][0] <= now:
                self._selector.register(
                    error_socket := self._paused.pop(0)[1],
                    EVENT_READ,
                    lambda error_socket=error_socket: self._hear(error_socket),
                )
            wake = min(self._scheduler.turn(now), self._next_look, now + HEARTBEAT)
            if self._paused:
                wake = min(wake, self._paused[0][0])
            for key, _ in self._selector.select(max(0.0, wake - time.monotonic())):
                key.data()

    # -- sockets

    def look_around(self, now: float) -> None:
        """See which internal addresses are ours, and open what can be opened."""
        self._next_look = now + LOOK_AGAIN
        for source in self._sources:
            try:
                fresh = ProbeSocket(source)
            except OSError as error:
                self._trouble(f"{source.host} cannot be asked from: {error.strerror}")
                if source in self._probe_sockets:
                    self._drop(self._probe_sockets.pop(source))
                continue
            if source in self._probe_sockets:
                fresh.close()
            else:
                self._probe_sockets[source] = fresh
                self._selector.register(fresh, EVENT_READ, lambda probe_socket=fresh: self._listen(probe_socket))
        for place in self._wanted_error_sockets:
            if place not in self._error_sockets:
                try:
                    error_socket = icmp_errors.open_error_socket(place)
                except OSError as error:
                    self._trouble(f"{place} receives no ICMP errors: {error.strerror}")
                    continue
                self._error_sockets[place] = error_socket
                self._selector.register(
                    error_socket, EVENT_READ, lambda error_socket=error_socket: self._hear(error_socket)
                )

    def _drop(self, probe_socket: ProbeSocket) -> None:
        self._selector.unregister(probe_socket)
        probe_socket.close()

    def _send(self, number: int, probe: int) -> str:
        target = self._targets[number]
        probe_socket = self._probe_sockets.get(target.source)
        if probe_socket is None:
            raise CannotAsk
        try:
            probe_socket.send(self._questions.ask(target, number, probe, probe_socket.here), target.address)
        except OSError as error:
            if error.errno in NO_ROUTE:
                return str(error.strerror)
            raise CannotAsk from None
        return ""

    # -- what comes

    def _listen(self, probe_socket: ProbeSocket) -> None:
        """Answers, and errors about questions."""
        for heard in probe_socket.read(self._questions, len(self._targets)):
            if isinstance(heard, Complaint):
                for number in self._by_address.get(heard.about, ()):
                    self._scheduler.probe_unreachable(number, heard.text, time.monotonic())
                continue
            taken = self._scheduler.answered(heard.target, heard.probe, heard.status, time.monotonic())
            if taken is not None:
                self._results.write(heard.target, ProbeResult(time.time(), taken, heard.status))

    def _hear(self, error_socket: socket.socket) -> None:
        """Errors about forwarded packets."""
        now = time.monotonic()
        heard = {
            number: complaint.text
            for complaint in icmp_errors.complaints(error_socket)
            for number in self._by_address.get(complaint.about, ())
        }
        for number, text in heard.items():
            self._scheduler.unreachable(number, text, now)
        self._selector.unregister(error_socket)
        self._paused.append((now + ERROR_SOCKET_PAUSE, error_socket))

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
