"""What a worker has against more than it can do: a bound on replies of our own, and a way to shed what can wait.

Brings ReplyLimit, Overload and Triage together for one worker. Knows no queue and no board: it is told how full the
queue is, and says what becomes of a packet.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from nfqlb.gateway.runtime.log import about
from nfqlb.gateway.worker.overload import QUIET, Load, Overload
from nfqlb.gateway.worker.reply_limit import ReplyLimit
from nfqlb.net.networks import NetworkSet
from nfqlb.proxy.setup import Network
from nfqlb.proxy.triage import Triage
from nfqlb.proxy.verdict import Reason, Verdict

Decide = Callable[[bytes], Verdict]

REFUSALS = 200
"""A second and worker. A 503 saves retransmissions, but takes as long as twenty decisions: two hundredths of a worker's
time, and what is beyond is dropped."""
FULL = 0.6
"""Of a queue. Fuller, and not getting emptier although new requests are shed, packets of calls are about to be lost."""

LEAST = 10
"""Replies a second that a network may have of each worker, however many workers share the budget: a peer that sends
from one port has all its packets with one of them."""

_SHED = Verdict(Reason.SHED, b"")

logger = logging.getLogger("nfqlb")


@dataclass(frozen=True, slots=True)
class Bounds:
    """As the configuration has them, for all workers together."""

    replies: int
    """A second."""
    replies_per_network: int
    peers: tuple[Network, ...]
    shed_at: float
    """Fullness of a queue, 0 to 1; above 1 it never comes to that."""
    shed_age: float
    """Seconds that packets wait."""


class LoadShedder:
    """Of one worker."""

    def __init__(
        self,
        bounds: Bounds,
        workers: int,
        triage: Triage,
        refuse: Callable[[bytes], Verdict | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`refuse`: `Engine.refuse`."""
        peers = NetworkSet(bounds.peers)
        per_network = max(bounds.replies_per_network / workers, LEAST)
        self.reply_limit = ReplyLimit(max(bounds.replies / workers, per_network), per_network, peers, clock)
        self.overload = Overload(bounds.shed_at, bounds.shed_age)
        self.failing = False
        """It sheds, and that is not enough."""
        self._full, self._fill, self._shedding = max(FULL, bounds.shed_at), 0.0, False
        self._triage, self._refuse, self._clock = triage, refuse, clock
        self._next_refusal = 0.0
        self._until = 0.0

    def look(self, load: Load, now: float) -> bool:
        """Whether to shed from now on, a time in seconds; tells the log of an episode's beginning and end."""
        before = self.overload.episodes
        shedding = self.overload.look(load, now)
        # Not at its beginning: what has only waited, while a worker was replaced, gets less from look to look.
        self.failing = shedding and self._shedding and load.fill >= max(self._full, self._fill)
        self._fill, self._shedding = load.fill, shedding
        if self.overload.episodes != before:
            logger.warning(
                "overload: the queue of a worker is %.0f %% full, and its packets wait %.0f ms; new requests are shed, "
                "calls go on",
                100 * load.fill,
                1000 * load.age,
                extra=about(fill=round(load.fill, 3), age=round(load.age, 3)),
            )
        if shedding:
            self._until = now + QUIET
        elif self._until and now >= self._until:
            logger.warning("overload of a worker is over; 'nfqlb stats' says how many requests were shed")
            self._until = 0.0
        return shedding

    def decide(self, packet: bytes, process: Decide) -> Verdict:
        """The verdict while there is overload: what belongs to a call or is an answer goes its way by `process`."""
        if not self._triage.is_new(packet):
            return process(packet)
        verdict = _SHED
        now = self._clock()
        if now >= self._next_refusal:
            self._next_refusal = now + 1 / REFUSALS
            if self.reply_limit.room(packet[12:16] if packet[0] >> 4 == 4 else packet[8:24]):
                refused = self._refuse(packet)
                if refused is None:
                    return process(packet)
                verdict = refused
        return verdict
