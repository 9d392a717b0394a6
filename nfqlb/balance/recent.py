"""Recent choices: where each transaction of the last seconds was sent, so that a change of a table splits none (P31).

One table of fixed size in memory that all workers of all generations share: a sixth of the size of dictionaries in
each worker, bounded, and it outlives them. Knows the layout and how to look, store and forget. Does not know where the
memory comes from (the gateway maps a file), what the time is (whoever drives sets `now`), nor what is remembered: a
transaction is some bytes, a backend is a token, both hashes.

Layout: cells of 64 bits in the byte order of the machine. Eight of header (magic, LAYOUT, ENTRIES, zeros), then the
entries, two cells each, in sets of four: a cache line. The digest of a transaction says in which set its entry stands
(32 bits of it, reduced) and how it is told from others there (64 bits, the check):

    first cell     check XOR second cell
    second cell    token of the backend, 40 bits; the second at which the entry ends, modulo 2**24, 24 bits

Many processes write, without locks. A store of one aligned cell is whole; the two of an entry are not, so a reader may
meet halves of two entries. Then the two do not yield the check that is looked for, and the entry reads as nothing: the
lockless hashing of chess programs (R. Hyatt and T. Mann, "A lockless transposition-table implementation for parallel
search", ICGA Journal 25, 2002). Another transaction is taken for the one looked for once in 2**62 looks.

Bounds. 16 bytes an entry, 8 MiB in all. With 4,000 transactions a second of 32 s each, or 700 INVITEs of 180 s, a
quarter is in use and 2 % of the entries are driven out before their end; with 16,000, or 2,900, more than half are,
after two thirds of their time in the mean. Beyond that the memory gets shorter, never larger. A retransmission that
finds nothing is sent by the table, as without a memory.
"""

from array import array
from hashlib import blake2b
from struct import Struct
from typing import Self, overload

WAYS = 4
"""Entries of a set."""
SETS = 2**17
ENTRIES = WAYS * SETS
HEADER_CELLS = 8
CELLS = HEADER_CELLS + 2 * ENTRIES
SIZE = 8 * CELLS
"""Bytes."""

MAGIC = int.from_bytes(b"nfqlbRCT", "big")
LAYOUT = 1
"""Counts the versions of the layout, and of what is hashed."""

LIFETIME = 32
"""Seconds that a transaction is remembered: 64 times T1, by when its client has given up [RFC 3261 17.1.2.2]."""
INVITE_LIFETIME = 180
"""The same for an INVITE: as long as a proxy lets it ring, Timer C [RFC 3261 16.6(11)]."""
HORIZON = 600
"""Seconds ahead within which an end lies in the future; beyond, in the past. More than the longest lifetime, for a
worker whose clock lags, since it is not read for each packet; and next to nothing of the 194 days after which the
seconds come round, so that a file from long ago is empty."""

PERSON = b"nfqlb-recent"
DIGEST_SIZE = 12
"""Of the BLAKE2b hash of a transaction."""

_SECONDS = 2**24 - 1
_HEADER = (MAGIC, LAYOUT, ENTRIES)
_SAMPLE = SETS // 16
_set_at = Struct("8Q").unpack_from
_key = Struct("=QI").unpack
_blank = blake2b(digest_size=DIGEST_SIZE, person=PERSON)

Key = tuple[int, int]
"""(check, place) of a transaction."""

NOTHING = 0
"""The token of no backend."""


def key(transaction: bytes) -> Key:
    """The key of a transaction. Not keyed with our secret: a change of keys must not make us forget."""
    state = _blank.copy()
    state.update(transaction)
    return _key(state.digest())


def token(address: bytes) -> int:
    """What names a backend, from what does not change when others come and go; 1 to 2**40 - 1, never NOTHING."""
    return int.from_bytes(blake2b(address, digest_size=5, person=b"nfqlb-backend").digest(), "big") or 1


class _Tallied:
    """An attribute that is one number of `tally`."""

    def __init__(self, at: int) -> None:
        self._at = at

    @overload
    def __get__(self, recent: None, owner: type) -> Self: ...
    @overload
    def __get__(self, recent: "Recent", owner: type) -> int: ...
    def __get__(self, recent: "Recent | None", owner: type) -> Self | int:
        return self if recent is None else recent.tally[self._at]

    def __set__(self, recent: "Recent", value: int) -> None:
        recent.tally[self._at] = value


class Recent:
    """One process's view of the table. The counters are of this process alone."""

    now = _Tallied(0)
    """Seconds of CLOCK_MONOTONIC, the same for all who share the table; to be set at least every few seconds."""
    stored = _Tallied(1)
    """Choices written down: one for each transaction that was sent by a pool's table."""
    kept = _Tallied(2)
    """Messages sent where their transaction began although the table has come to say otherwise: what P31 is for."""
    misses = _Tallied(3)
    """CANCELs sent by the table because nothing was known of their INVITE: it is older than its lifetime, was
    driven out, or has never been here. Only a CANCEL tells: an ACK may be that of a 2xx, a transaction of its own,
    and any other request may be the first of its transaction. Rising, they mean that changes may split calls."""
    evicted = _Tallied(4)
    """Entries driven out before their end because their set was full: the memory is short of what is asked."""

    def __init__(self, cells: memoryview) -> None:
        """`cells`: CELLS cells of 64 bits (format "Q"), for which `fits` holds."""
        assert self.fits(cells)
        self.cells = cells
        self.tally = array("Q", bytes(8 * 5))
        """`now` and the counters, where the fast path has them at hand."""

    @staticmethod
    def fits(cells: memoryview) -> bool:
        """Is this a table of this layout and size?"""
        return len(cells) == CELLS and tuple(cells[: len(_HEADER)]) == _HEADER

    @staticmethod
    def format(cells: memoryview) -> None:
        """Make it an empty table, whatever it was; nobody else may use it meanwhile. The magic is written last."""
        assert len(cells) == CELLS
        cells.cast("B")[:] = bytes(SIZE)
        for cell in reversed(range(len(_HEADER))):
            cells[cell] = _HEADER[cell]

    def find(self, key: Key) -> int:
        """The token stored for that transaction, NOTHING when there is none or it has ended."""
        check, place = key
        a, b, c, d, e, f, g, h = _set_at(self.cells, 8 * (HEADER_CELLS + 2 * WAYS * (place % SETS)))
        if a ^ b == check:
            value = b
        elif c ^ d == check:
            value = d
        elif e ^ f == check:
            value = f
        elif g ^ h == check:
            value = h
        else:
            return NOTHING
        return value >> 24 if (value - self.now) & _SECONDS <= HORIZON else NOTHING

    def store(self, key: Key, token: int, lifetime: int) -> None:
        """Remember that the transaction went to that backend, for `lifetime` seconds (up to one more).

        In the place of an earlier entry of the same transaction; else of one that has ended; else of the one that ends
        soonest. Never to be called for what `find` found and was used, or retransmissions would renew it for ever.
        """
        check, place = key
        cells, now = self.cells, self.now
        first = HEADER_CELLS + 2 * WAYS * (place % SETS)
        found = _set_at(cells, 8 * first)
        best, shortest = 0, _SECONDS
        for at in range(0, 2 * WAYS, 2):
            value = found[at + 1]
            if found[at] ^ value == check:
                best, shortest = at, -1
                break
            left = (value - now) & _SECONDS
            if left > HORIZON or not value:
                left = -1
            if left < shortest:
                best, shortest = at, left
        self.evicted += shortest >= 0
        value = token << 24 | (now + lifetime) & _SECONDS
        cells[first + best] = check ^ value
        cells[first + best + 1] = value
        self.stored += 1

    def used(self) -> int:
        """Roughly how many of ENTRIES have not ended, from every sixteenth: keys are hashes, so any sets will do."""
        values = self.cells[HEADER_CELLS + 1 : HEADER_CELLS + 2 * WAYS * _SAMPLE : 2].tolist()
        now = self.now
        return SETS // _SAMPLE * sum(bool(value) and (value - now) & _SECONDS <= HORIZON for value in values)
