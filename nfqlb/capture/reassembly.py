"""Fragments of IPv4 and IPv6 packets put together again, as the kernel does before the gateway sees them.

Knows pieces and capture time. Keeps bounded memory whatever a capture holds: the oldest unfinished packets
go first. Pieces that overlap condemn their packet, with every piece still to come [RFC 5722 4; for IPv4
likewise: RFC 1858 describes what attackers do with overlaps]; an exact repetition of a piece is let pass
[RFC 8200 4.5].
"""

from bisect import bisect_left
from collections import OrderedDict
from typing import NamedTuple

from nfqlb.capture.ip import Fragment
from nfqlb.net.checksum import word_sum

_TIMEOUT_NS = {4: 30_000_000_000, 6: 60_000_000_000}
"""Of capture time after the first piece, by IP version: Linux' ipfrag_time, RFC 8200's 60 s."""
_OVERHEAD = 450
"""Bytes of memory, about, that a packet and each of its pieces take besides the data."""
_MAX_LENGTH = 65_535
"""Largest IPv4 packet; largest IPv6 payload."""


class Whole(NamedTuple):
    packet: bytes
    """The IP packet, with length, fragment fields and header checksum as if it had never been fragmented."""
    frames: tuple[int, ...]
    """Numbers of the frames whose pieces it was made of, ascending."""


class Reassembler:
    """Feed it pieces; it gives back a packet with the piece that completes one."""

    def __init__(self, max_memory: int = 16 << 20) -> None:
        self.max_memory = max_memory
        """Bytes, about, over all unfinished packets."""
        self._given_up = 0
        self._unfinished: OrderedDict[bytes, _Unfinished] = OrderedDict()
        self._memory = 0

    @property
    def never_whole(self) -> int:
        """Packets so far that are not whole: condemned, timed out, pushed out, or still waiting for pieces."""
        return self._given_up + sum(not entry.condemned for entry in self._unfinished.values())

    def feed(self, piece: Fragment, frame: int, now_ns: int) -> Whole | None:
        """Take one piece, from frame number `frame`; the packet if this piece completes it."""
        if piece.offset == 0 and not piece.more:  # an atomic fragment stands for itself [RFC 6946]
            return Whole(_join(piece, piece.data), (frame,))
        entry = self._entry(piece, now_ns)
        if entry.condemned:
            return None
        self._memory -= entry.memory
        if not entry.add(piece, frame):
            entry.condemn()
            self._given_up += 1
        self._memory += entry.memory
        if entry.first is not None and entry.received == entry.end:
            self._forget(piece.key)
            return Whole(_join(entry.first, b"".join(entry.pieces)), tuple(sorted(entry.frames)))
        while self._memory > self.max_memory:
            self._forget(next(iter(self._unfinished)), given_up=True)
        return None

    def _entry(self, piece: Fragment, now_ns: int) -> "_Unfinished":
        entry = self._unfinished.get(piece.key)
        # Merged captures may step back in time; either way the pieces are too far apart to belong together.
        if entry is not None and abs(now_ns - entry.begun_ns) > _TIMEOUT_NS[piece.header[0] >> 4]:
            self._forget(piece.key, given_up=True)
            entry = None
        if entry is None:
            entry = self._unfinished[piece.key] = _Unfinished(now_ns)
            self._memory += entry.memory
        return entry

    def _forget(self, key: bytes, *, given_up: bool = False) -> None:
        entry = self._unfinished.pop(key)
        self._memory -= entry.memory
        self._given_up += given_up and not entry.condemned


class _Unfinished:
    """The pieces of one packet so far, in order of their offsets."""

    __slots__ = ("begun_ns", "condemned", "end", "first", "frames", "pieces", "received", "starts")

    def __init__(self, begun_ns: int) -> None:
        self.begun_ns = begun_ns
        self.starts: list[int] = []
        self.pieces: list[bytes] = []
        self.frames: list[int] = []
        self.received = 0
        self.first: Fragment | None = None
        self.end = -1
        """Length of all pieces together; -1 until the last one has come."""
        self.condemned = False

    @property
    def memory(self) -> int:
        return self.received + _OVERHEAD * (1 + len(self.pieces))

    def add(self, piece: Fragment, frame: int) -> bool:
        """Put a piece in its place; False when it contradicts the others or could not be sent like this."""
        start, data = piece.offset, piece.data
        stop = start + len(data)
        if stop > _MAX_LENGTH - _counted(piece.header):
            return False
        if piece.more:
            if self.end >= 0 and stop > self.end:
                return False
        else:
            if self.end not in (-1, stop) or (self.starts and self.starts[-1] >= stop):
                return False
            self.end = stop
        place = bisect_left(self.starts, start)
        if place < len(self.starts):
            if self.starts[place] == start:
                return self.pieces[place] == data
            if stop > self.starts[place]:
                return False
        if place and self.starts[place - 1] + len(self.pieces[place - 1]) > start:
            return False
        self.starts.insert(place, start)
        self.pieces.insert(place, data)
        self.frames.append(frame)
        self.received += len(data)
        if start == 0:
            self.first = piece
            return self.end <= _MAX_LENGTH - _counted(piece.header)
        return self.first is None or stop <= _MAX_LENGTH - _counted(self.first.header)

    def condemn(self) -> None:
        self.condemned = True
        self.starts, self.pieces, self.frames, self.received, self.first = [], [], [], 0, None


def _counted(header: bytes | bytearray) -> int:
    """How much of the header the length field counts: all of it for IPv4, the extensions for IPv6."""
    return len(header) if header[0] >> 4 == 4 else len(header) - 40


def _join(first: Fragment, data: bytes) -> bytes:
    """The whole packet: the header of the first piece, set right, and all data."""
    header = bytearray(first.header)
    size = (_counted(header) + len(data)).to_bytes(2, "big")
    if header[0] >> 4 == 6:
        header[4:6] = size
        header[first.next_at] = first.next_header
    else:
        header[2:4] = size
        header[6:8] = header[10:12] = b"\0\0"
        header[10:12] = (0xFFFF - (word_sum(bytes(header)) or 0xFFFF)).to_bytes(2, "big")
    return bytes(header) + data
