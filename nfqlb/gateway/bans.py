"""Who is banned for offences: what the process does that bans.

Knows what workers note (offences), when that is too much (penalties), and how a source gets into the kernel's set. Of
a source it sees the address and the number of a Reason, never a packet. Does not know how the process is started or
watched: `guard` does. Floods need nobody here: for them the rules ban by themselves.
"""

import logging
import time
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from nfqlb.gateway import sets
from nfqlb.gateway.errors import HostError
from nfqlb.gateway.guarding import Guarding
from nfqlb.gateway.offences import WEIGHTS, Note, Rings, Tally
from nfqlb.gateway.penalties import SOURCES, Penalties, Source
from nfqlb.proxy.verdict import Reason

LOG_INTERVAL = 10.0
LOG_LINES = 5
"""Bans in LOG_INTERVAL seconds that are logged one by one; the others only as a number."""

BACKLOG = 3.0
"""Seconds after a ban in which offences of the same source count no more: its packets that were in a queue by then. A
full queue is served in less."""

logger = logging.getLogger("nfqlb")


class Bans:
    """Counts offences, and bans."""

    def __init__(self, guarding: Guarding, rings: Rings, tally: memoryview, kernel: Any) -> None:
        """`kernel`: a pyroute2 IPSet."""
        self._guarding, self._rings, self._tally, self._kernel = guarding, rings, tally, kernel
        self._penalties = Penalties(guarding.offences)
        self._banned_at: dict[Source, float] = {}
        """Those of the last BACKLOG seconds, and some before them."""
        self._log_from = float("-inf")
        self._logged = self._unlogged = 0
        self._failed_at = float("-inf")

    def turn(self, now: float) -> None:
        """Count what workers have noted, and ban who has earned it. `now`: seconds of CLOCK_MONOTONIC."""
        noted = 0
        for note in self._rings.notes():
            noted += 1
            source = note.version, note.source
            if now - self._banned_at.get(source, float("-inf")) < BACKLOG:
                continue
            if self._penalties.add(source, WEIGHTS[note.reason], now):
                if len(self._banned_at) >= SOURCES:
                    self._banned_at.clear()
                self._banned_at[source] = now
                self._ban(note, now)
        self._tally[Tally.OFFENCES] += noted
        self._tally[Tally.HEARTBEAT] = int(now * 1e9)

    def _ban(self, note: Note, now: float) -> None:
        address = IPv4Address(note.source) if note.version == 4 else IPv6Address(note.source << 64)
        if any(address in network for network in self._guarding.allowed):
            return
        self._tally[Tally.HEARTBEAT] = time.monotonic_ns()  # many of them take their time, on a busy machine
        try:
            sets.put(self._kernel, "ban", address, self._guarding.seconds, comment=note.reason.slug)
        except HostError as error:
            if now - self._failed_at > LOG_INTERVAL:
                self._failed_at = now
                logger.error("%s cannot be banned (%s); are the rules in place? nfqlb rules apply", address, error)
            return
        self._tally[Tally.BANS] += 1
        self._tell(address, note.reason, now)

    def _tell(self, address: IPv4Address | IPv6Address, reason: Reason, now: float) -> None:
        if now - self._log_from > LOG_INTERVAL:
            if self._unlogged:
                logger.warning("and %d more sources banned; 'nfqlb bans' lists them", self._unlogged)
            self._log_from, self._logged, self._unlogged = now, 0, 0
        if self._logged < LOG_LINES:
            self._logged += 1
            source = str(address) if address.version == 4 else f"{address}/{sets.SOURCE_BITS[6]}"
            seconds = self._guarding.seconds
            logger.warning("%s banned for %d s, for too many offences, of late: %s", source, seconds, reason.slug)
        else:
            self._unlogged += 1
