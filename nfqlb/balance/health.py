"""How a backend comes to count as up or down: one table of what may be heard of it, and what follows.

Pure: knows signs and counts. Does not know clocks, sockets or SIP; when a probe is due, and what is a good answer to
it, is the prober's business.
"""

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from nfqlb.balance.states import State

CONFIRM = 2
"""Unanswered probes after which a backend in doubt is down: one may be lost on its way, and an ICMP error be forged."""

ACCEPTED = frozenset(range(200, 700)) - frozenset((408, *range(500, 600)))
"""Final answers of a backend that can be used, unless told otherwise: it may well not know the method, or us."""


@dataclass(frozen=True, slots=True)
class Check:
    """How a backend is asked after its health, and what is made of it. Times are seconds."""

    enabled: bool = True
    """False: nobody asks, and it is always taken to be up."""
    interval: float = 5.0
    """From one question to the next, the last answered or not; at least `timeout`."""
    timeout: float = 1.0
    jitter: float = 0.2
    """0..1: each interval is shorter by up to this part of it, so that nodes and backends do not fall into step."""
    rise: int = 2
    """Good answers in a row that bring a backend back which was down."""
    fall: int = 3
    """Bad or missing ones in a row that make it down."""
    method: str = "OPTIONS"
    uri: str = "sip:{address}"
    """Request-URI, To; {address} stands for the backend's address and port."""
    accept: frozenset[int] = ACCEPTED
    """Status codes of good answers, 200..699."""


class Sign(Enum):
    """What may be heard of a backend."""

    ANSWER = "the probe was answered as it should be"
    TRAFFIC = "the probe was not answered in time, but meanwhile requests of others were: it may be lost"
    SILENCE = "the probe was not answered in time, and nothing else was"
    REFUSAL = "the probe was answered, and with that answer the backend is not to be used"
    UNREACHABLE = "an ICMP error came for something that was forwarded to it"
    PROBE_UNREACHABLE = "an ICMP error came for the probe, or there is no route for it"


class Phase(Enum):
    """Where a backend stands between the signs."""

    UNKNOWN = State.UNKNOWN, False
    UNHEARD = State.UNKNOWN, True
    """Nothing is known of it but an ICMP error: as SUSPECT, but it has never shown that it is up."""
    UP = State.UP, False
    SUSPECT = State.UP, True
    """An ICMP error says that it is dead; probes go out at once to confirm it."""
    DOWN = State.DOWN, False

    def __init__(self, state: State, urgent: bool) -> None:
        self.state = state
        """As which it counts."""
        self.urgent = urgent
        """The next probe does not wait for its turn."""


class Count(Enum):
    """How many signs in a row make a transition."""

    ONE = "the first one"
    RISE = "as many as `rise` says"
    FALL = "as many as `fall` says"
    CONFIRM = "CONFIRM of them"


class Transition(NamedTuple):
    to: Phase
    after: Count = Count.ONE


_UNHEARD, _UP, _SUSPECT, _DOWN = map(Transition, (Phase.UNHEARD, Phase.UP, Phase.SUSPECT, Phase.DOWN))
_FALLING = Transition(Phase.DOWN, Count.FALL)

TRANSITIONS: dict[Phase, dict[Sign, Transition]] = {
    Phase.UNKNOWN: {
        Sign.ANSWER: _UP,
        Sign.TRAFFIC: _UP,
        Sign.SILENCE: _FALLING,
        Sign.REFUSAL: _FALLING,
        Sign.UNREACHABLE: _UNHEARD,
        Sign.PROBE_UNREACHABLE: _UNHEARD,
    },
    Phase.UNHEARD: {
        Sign.ANSWER: _UP,
        Sign.TRAFFIC: _UP,
        Sign.SILENCE: Transition(Phase.DOWN, Count.CONFIRM),
        Sign.REFUSAL: Transition(Phase.DOWN, Count.CONFIRM),
        Sign.UNREACHABLE: _UNHEARD,
        Sign.PROBE_UNREACHABLE: _DOWN,
    },
    Phase.UP: {
        Sign.ANSWER: _UP,
        Sign.TRAFFIC: _UP,
        Sign.SILENCE: _FALLING,
        Sign.REFUSAL: _FALLING,
        Sign.UNREACHABLE: _SUSPECT,
        Sign.PROBE_UNREACHABLE: _SUSPECT,
    },
    Phase.SUSPECT: {
        Sign.ANSWER: _UP,
        Sign.TRAFFIC: _UP,
        Sign.SILENCE: Transition(Phase.DOWN, Count.CONFIRM),
        Sign.REFUSAL: Transition(Phase.DOWN, Count.CONFIRM),
        Sign.UNREACHABLE: _SUSPECT,
        Sign.PROBE_UNREACHABLE: _DOWN,
    },
    Phase.DOWN: {
        Sign.ANSWER: Transition(Phase.UP, Count.RISE),
        Sign.TRAFFIC: _DOWN,
        Sign.SILENCE: _DOWN,
        Sign.REFUSAL: _DOWN,
        Sign.UNREACHABLE: _DOWN,
        Sign.PROBE_UNREACHABLE: _DOWN,
    },
}
"""What is heard in each phase, and where it leads. What leads nowhere else forgets what was counted before."""


class Health:
    """The health of one backend."""

    __slots__ = ("_counted", "_needed", "phase")

    def __init__(self, rise: int, fall: int, state: State = State.UNKNOWN) -> None:
        """Begin with UNKNOWN, UP or DOWN: what was known of it before. `rise`, `fall`: at least 1."""
        self._needed = {Count.ONE: 1, Count.RISE: rise, Count.FALL: fall, Count.CONFIRM: CONFIRM}
        self.phase = next(phase for phase in Phase if phase.state is state and not phase.urgent)
        self._counted = 0

    @property
    def state(self) -> State:
        """UNKNOWN, UP or DOWN."""
        return self.phase.state

    def hear(self, sign: Sign) -> bool:
        """Take note of a sign; whether the state has changed by it."""
        before = self.phase
        transition = TRANSITIONS[before][sign]
        if transition.to is before:
            if sign is not Sign.UNREACHABLE:  # no probe has ended by it
                self._counted = 0
            return False
        self._counted += 1
        if self._counted < self._needed[transition.after]:
            return False
        self.phase, self._counted = transition.to, 0
        return before.state is not self.phase.state
