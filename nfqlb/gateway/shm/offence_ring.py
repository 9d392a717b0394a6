"""Offences: what a source has sent that no honest one sends, noted by workers and read by who bans for it
(`bans.manager`).

Knows the memory between workers and reader. Which Reasons are offences, and what each counts, is in `bans.offences`. A
worker only notes: no look, no system call, nothing kept for a source, and nothing at all for a packet that goes on. It
also notes when its queue is about to be full. Does not know what follows from a note.

Layout: a ring for each seat of a worker, in memory that all share. Cells of 64 bits: how many notes there have been,
how many of these were read (the next reader goes on from there), when the queue was full last (CLOCK_MONOTONIC,
nanoseconds), then NOTES pairs of cells, used in turn:

    first cell     source: an IPv4 address, or the upper half of an IPv6 address (its /64)
    second cell    number of the Reason; plus IPV6 for IPv6

One worker writes, one reader reads, without locks. Who is slow loses the oldest notes; a note that is overwritten
while it is read may have the source of one and the Reason of another, both offenders.
"""

import mmap
import re
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

from nfqlb.proxy.verdict import Reason

SEATS = 256
"""As many workers as [workers] count allows. A ring that nobody uses takes no memory."""

NOTES = 4096
"""Of a ring: more than a worker can make in a tenth of a second."""

CELL = 8
FULL = 2
"""Cell of the time at which the queue was full last."""
FIRST = 3
"""Cell of the first note."""
RING = FIRST + 2 * NOTES
"""Cells."""

IPV6 = 1 << 16

SHORT = 8
"""Bytes of a datagram that may be anything: phones hold their NAT's door open with more than CRLF."""

_REASONS = {int(reason): reason for reason in Reason}
_REFUSALS = {Reason.NOT_A_BACKEND, Reason.BAD_FLOW}
_IN_DIALOG = re.compile(rb"\n(?:to|t)[ \t]*:[^\r\n]*;[ \t]*tag[ \t]*=", re.IGNORECASE)


class Tally(IntEnum):
    """Cells that the reader writes, for the supervisor."""

    HEARTBEAT = 0
    """Time of CLOCK_MONOTONIC in nanoseconds."""
    OFFENCES = 1
    BANS = 2


class Note(NamedTuple):
    version: int
    source: int
    """An IPv4 address, or the upper half of an IPv6 address."""
    reason: Reason


class OffenceWriter:
    """A worker's end."""

    def __init__(self, ring: memoryview) -> None:
        self._ring = ring

    def note(self, packet: bytes, reason: Reason) -> None:
        """An offence: the IP packet as it came, and what became of it, a Reason in `bans.offences.WEIGHTS`.

        A request of a dialog that is refused is none: the backend in its Route may have been taken out meanwhile. Nor
        is a keepalive of a phone's own making.
        """
        four = packet[0] >> 4 == 4
        if reason == Reason.NOT_SIP and len(packet) <= SHORT + (28 if four else 48):
            return
        if reason in _REFUSALS and _IN_DIALOG.search(packet):
            return
        ring = self._ring
        count = ring[0]
        at = FIRST + 2 * (count % NOTES)
        if four:
            ring[at] = int.from_bytes(packet[12:16], "big")
            ring[at + 1] = reason
        else:
            ring[at] = int.from_bytes(packet[8:16], "big")
            ring[at + 1] = IPV6 + reason
        ring[0] = count + 1

    def full(self, now: int) -> None:
        """The worker's queue is about to be full, at `now`, in nanoseconds of CLOCK_MONOTONIC."""
        self._ring[FULL] = now


class OffenceRings:
    """The memory: made by a supervisor before any worker, for all its worker pools."""

    def __init__(self) -> None:
        self._cells = memoryview(mmap.mmap(-1, SEATS * RING * CELL)).cast("Q")
        self.lost = 0
        """Notes that were overwritten before they were read."""

    def notebook(self, seat: int) -> OffenceWriter:
        return OffenceWriter(self._cells[seat * RING : (seat + 1) * RING])

    def full(self, workers: int, since: int) -> int:
        """Of the workers in so many first seats, how many had a queue that was about to be full after that time."""
        return sum(self._cells[seat * RING + FULL] > since for seat in range(workers))

    def notes(self) -> Iterator[Note]:
        """What has come since the last time."""
        for seat in range(SEATS):
            first = seat * RING
            count, read = self._cells[first], self._cells[first + 1]
            if count == read:
                continue
            if count - read > NOTES:
                self.lost += count - read - NOTES
                read = count - NOTES
            for number in range(read, count):
                at = first + FIRST + 2 * (number % NOTES)
                source, what = self._cells[at], self._cells[at + 1]
                yield Note(6 if what & IPV6 else 4, source, _REASONS[what & (IPV6 - 1)])
            self._cells[first + 1] = count
