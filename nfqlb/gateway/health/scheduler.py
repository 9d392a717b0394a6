"""When which backend is asked after its health, and what follows from its answer or silence.

Knows time and `balance.health`. Does not know sockets: whoever runs it sends what is to be sent, and passes on what
came back. All times are seconds of one clock.

A target is asked every `interval`, a part of `jitter` sooner, and never before the last question has ended, so that
questions never pile up. No two go out within GAP: a thousand backends are asked without a burst.
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from nfqlb.balance.health import Check, Health, Phase, Sign
from nfqlb.balance.states import State

GAP = 0.001
"""Seconds between two probes, whomever they go to."""

DOUBT_TIMEOUT = 0.4
"""Seconds that a backend in doubt has for an answer, if it does not have less anyway: with health.CONFIRM probes, one
that died is down within a second of the first ICMP error."""

DOUBT_PAUSE = 0.5
"""Seconds between two doubts about one backend: a storm of ICMP errors is no storm of probes."""

Send = Callable[[int, int], str]
"""Sends target number … the probe number …; what is wrong with the way to it, or nothing. Raises CannotAsk."""


class CannotAsk(Exception):
    """No probe leaves this host at the moment, and that says nothing of a backend."""


@dataclass(frozen=True, slots=True)
class Report:
    """What there is to say of a target."""

    target: int
    state: State
    changed: bool
    error: str
    """Why the last bad sign was one; empty when the last sign was good."""


class ProbeScheduler:
    """The targets, by number, each with its Check and what was known of it before."""

    def __init__(
        self,
        checks: Sequence[Check],
        known: Sequence[State],
        now: float,
        send: Send,
        traffic: Callable[[int], int],
        tell: Callable[[Report], None],
        random: Random,
    ) -> None:
        """`traffic`: how many responses of that target workers have seen so far, whatever the number starts at."""
        self._checks, self._send, self._traffic, self._tell, self._random = checks, send, traffic, tell, random
        self._targets = [
            _Target(Health(check.rise, check.fall, state)) for check, state in zip(checks, known, strict=True)
        ]
        self._free = now
        self._serial = 0
        self._due: list[tuple[float, int, int]] = []
        """(time, serial, target): the next question to each that has none open."""
        self._open: list[tuple[float, int, int]] = []
        """(time, serial, target): when an open question counts as not answered."""
        for number, (check, state) in enumerate(zip(checks, known, strict=True)):
            # Whom nothing is known of is asked first; the others as if their rounds just went on.
            self._ask_at(number, now if state is State.UNKNOWN else now + check.interval * random.random())

    def turn(self, now: float) -> float:
        """Do all that is due; when there is something to do again."""
        while self._open and self._open[0][0] <= now:
            _, serial, number = heapq.heappop(self._open)
            if serial == self._targets[number].serial:
                self._not_answered(number, now)
        while self._due and self._due[0][0] <= now:
            if now < self._free:
                return min(self._free, self._open[0][0] if self._open else self._free)
            _, serial, number = heapq.heappop(self._due)
            if serial == self._targets[number].serial:
                self._ask(number, now)
        return min((heap[0][0] for heap in (self._due, self._open) if heap), default=now + 3600.0)

    def answered(self, number: int, probe: int, status: int, now: float) -> float | None:
        """A final answer to a probe has come; its round trip in seconds, None when nobody waits for it any more."""
        target = self._targets[number]
        if target.probe != probe:
            return None
        if status in self._checks[number].accept:
            self._hear(number, Sign.ANSWER, "", now)
        else:
            self._hear(number, Sign.REFUSAL, f"answers {status}", now)
        return now - target.asked

    def unreachable(self, number: int, text: str, now: float) -> None:
        """An ICMP error came for something that was forwarded there."""
        self._hear(number, Sign.UNREACHABLE, text, now)

    def probe_unreachable(self, number: int, text: str, now: float) -> None:
        """An ICMP error came for a probe."""
        if self._targets[number].probe:
            self._hear(number, Sign.PROBE_UNREACHABLE, text, now)

    # -- one target

    def _ask(self, number: int, now: float) -> None:
        target, check = self._targets[number], self._checks[number]
        self._serial += 1
        target.asked, target.traffic = now, self._traffic(number)
        self._free = now + GAP
        try:
            trouble = self._send(number, self._serial)
        except CannotAsk:
            self._ask_at(number, now + check.interval)
            return
        target.probe = target.serial = self._serial
        if trouble:
            self._hear(number, Sign.PROBE_UNREACHABLE, trouble, now)
        else:
            timeout = min(check.timeout, DOUBT_TIMEOUT) if target.health.phase.urgent else check.timeout
            heapq.heappush(self._open, (now + timeout, target.serial, number))

    def _not_answered(self, number: int, now: float) -> None:
        target = self._targets[number]
        if self._traffic(number) != target.traffic:
            self._hear(number, Sign.TRAFFIC, "", now)
        else:
            self._hear(number, Sign.SILENCE, f"no answer to {self._checks[number].method}", now)

    def _hear(self, number: int, sign: Sign, error: str, now: float) -> None:
        """Take note of the sign, tell of it, and see when to ask next."""
        target, check = self._targets[number], self._checks[number]
        before = target.health.phase
        changed = target.health.hear(sign)
        if sign is Sign.UNREACHABLE:
            if before.urgent or before is Phase.DOWN:
                return  # nothing new, and the question of the moment stays open
            self._ask_at(number, max(now, target.doubted + DOUBT_PAUSE))
            target.doubted = max(now, target.doubted + DOUBT_PAUSE)
        elif target.health.phase.urgent:
            self._ask_at(number, now)
        else:
            # The first pause is of any length: those who were asked one after the other are spread over the interval.
            jitter = check.jitter if target.spread else 1.0
            target.spread = True
            self._ask_at(number, max(now, target.asked + check.interval * (1 - jitter * self._random.random())))
        if changed or error != target.error:
            target.error = error
            self._tell(Report(number, target.health.state, changed, error))

    def _ask_at(self, number: int, at: float) -> None:
        """End whatever question is open, and put the next one for that time."""
        target = self._targets[number]
        self._serial += 1
        target.probe, target.serial = 0, self._serial
        heapq.heappush(self._due, (at, self._serial, number))


class _Target:
    """What the rounds remember of a target."""

    __slots__ = ("asked", "doubted", "error", "health", "probe", "serial", "spread", "traffic")

    def __init__(self, health: Health) -> None:
        self.health = health
        self.probe = 0
        """Number of the probe whose answer is waited for; 0: of none."""
        self.serial = 0
        """Of the entry in one of the heaps that counts; others are out of date."""
        self.asked = self.doubted = float("-inf")
        self.traffic = 0
        """Responses when it was asked."""
        self.error = ""
        self.spread = False
        """It has had a pause of random length."""
