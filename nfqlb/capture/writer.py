"""Packets out: a pcap file of raw IP (LINKTYPE_RAW), written by dpkt.

Knows the limits of the record header; does not know what a packet is.
"""

from decimal import Decimal
from typing import IO, Any

_SNAPLEN = 262_144
_LAST_TIME = (1 << 32) * 1_000_000_000 - 1
"""The record header has 32 bits for the seconds: 2106."""
_LINKTYPE_RAW = 101


class PcapWriter:
    """Writes to a file opened for binary writing, which stays the caller's."""

    def __init__(self, file: IO[bytes], *, nanoseconds: bool = False) -> None:
        from dpkt import pcap  # slow to import, needed only where a file is written

        self._pcap: Any = pcap.Writer(file, snaplen=_SNAPLEN, linktype=_LINKTYPE_RAW, nano=nanoseconds)
        self._step = 1 if nanoseconds else 1000
        self.frames = 0
        """Packets written so far: the number of the last one, as tshark counts."""

    def write(self, packet: bytes, time_ns: int) -> int:
        """Add one IP packet; its frame number. A time that pcap cannot write becomes the nearest that it can."""
        time_ns = min(max(time_ns, 0), _LAST_TIME)
        # Decimal, because a float has no room for nanoseconds since 1970; whole steps, so that dpkt rounds
        # nothing up.
        self._pcap.writepkt_time(packet, Decimal(time_ns - time_ns % self._step).scaleb(-9))
        self.frames += 1
        return self.frames
