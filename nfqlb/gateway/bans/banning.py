"""Who is banned for offences: what the process does that bans.

Knows what workers note (shm.offence_ring), when that is too much (scoring), how a source gets into the kernel's set,
and how the log is told of a ban, by whomever. Of a source it sees the address and the number of a Reason, never a
packet. Does not know how the process is started or watched: `manager` does. Floods and junk need nobody here: for them
the rules ban by themselves, and `kernel_bans` notices.
"""

import logging
import time
from ipaddress import IPv4Address, IPv6Address

from nfqlb.errors import HostError
from nfqlb.gateway.bans.kernel_bans import KernelBans
from nfqlb.gateway.bans.offences import WEIGHTS
from nfqlb.gateway.bans.plan import BansPlan
from nfqlb.gateway.bans.scoring import SOURCES, OffenceScores, Source
from nfqlb.gateway.netfilter import ipset
from nfqlb.gateway.netfilter.kernel_sets import Address, KernelSets
from nfqlb.gateway.runtime.log import about
from nfqlb.gateway.runtime.log_limit import LogLimit, more
from nfqlb.gateway.shm.offence_ring import Note, OffenceRings, Tally

LOG_LINES = 5
"""Bans in log_limit.INTERVAL seconds that are logged one by one; the others only as a number."""

BACKLOG = 3.0
"""Seconds after a ban in which offences of the same source count no more: its packets that were in a queue by then. A
full queue is served in less."""

BY_KERNEL = {"junk": "junk: non-SIP bytes", "flood": "a flood: too many requests a second"}
"""Name of a set (`ipset.NOTICES`) → what the log says."""

logger = logging.getLogger("nfqlb")


class Banning:
    """Counts offences, and bans."""

    def __init__(self, bans_plan: BansPlan, rings: OffenceRings, tally: memoryview, kernel: KernelSets) -> None:
        self._bans_plan, self._rings, self._tally, self._kernel = bans_plan, rings, tally, kernel
        self._scores = OffenceScores(bans_plan.offences)
        self._banned_at: dict[Source, float] = {}
        """Those of the last BACKLOG seconds, and some before them."""
        self._by_kernel = KernelBans(bans_plan.outside, kernel, self._banned_by_kernel)
        self._lines, self._failures = LogLimit(LOG_LINES), LogLimit()

    def turn(self, now: float) -> None:
        """Count what workers have noted, and ban who has earned it. `now`: seconds of CLOCK_MONOTONIC."""
        noted = 0
        for note in self._rings.notes():
            noted += 1
            source = note.version, note.source
            if now - self._banned_at.get(source, float("-inf")) < BACKLOG:
                continue
            if self._scores.add(source, WEIGHTS[note.reason], now):
                if len(self._banned_at) >= SOURCES:
                    self._banned_at.clear()
                self._banned_at[source] = now
                self._ban(note, now)
        self._by_kernel.turn(now)
        self._tell_of_others(now)
        self._tally[Tally.OFFENCES] += noted
        self._tally[Tally.HEARTBEAT] = int(now * 1e9)

    def _ban(self, note: Note, now: float) -> None:
        address = IPv4Address(note.source) if note.version == 4 else IPv6Address(note.source << 64)
        if any(address in network for network in self._bans_plan.allowed):
            return
        self._tally[Tally.HEARTBEAT] = time.monotonic_ns()  # many of them take their time, on a busy machine
        slug = note.reason.slug
        try:
            self._kernel.put(ipset.name_of("ban", address.version), address, self._bans_plan.seconds, slug)
        except HostError as error:
            before = self._failures.before(now)
            if before is not None:
                text = "%s cannot be banned (%s)%s. Are the rules in place? Try: nfqlb rules apply"
                told = about(source=str(address), reason=str(error), before=before)
                logger.error(text, address, error, more(before), extra=told)
            return
        self._tally[Tally.BANS] += 1
        self._tell(address, f"too many offences, the last one: {slug}", slug, "gateway", now)

    def _banned_by_kernel(self, address: Address, kind: ipset.Kind, now: float) -> None:
        self._tell(address, BY_KERNEL[kind], kind, "kernel", now)

    def _tell(self, address: Address, text: str, reason: str, by: str, now: float) -> None:
        self._tell_of_others(now)
        if self._lines.passes(now):
            source = str(address) if address.version == 4 else f"{address}/{ipset.SOURCE_BITS[6]}"
            seconds = self._bans_plan.seconds
            told = about(source=source, reason=reason, seconds=seconds, by=by)
            logger.warning("%s banned for %d s for %s", source, seconds, text, extra=told)

    def _tell_of_others(self, now: float) -> None:
        if others := self._lines.held(now):
            logger.warning("%d more sources were banned; 'nfqlb bans' lists them", others, extra=about(bans=others))
