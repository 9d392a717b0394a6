"""Maglev's lookup table: even, stable, and the same on every node (P30).

Each member walks its own permutation of the slots and takes the next free one when its turn comes; members take turns
in proportion to their weights. When one leaves, the slots of the others mostly stay with them. After Eisenbud et al.,
"Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section 3.4.

A member is known by its name and nothing else: neither its position in the file, nor its address, nor the order in
which members came up and went down shows in the table. Its turns come when they come, whoever else is there: the k-th
of a member of weight w at the time k/w. So among those that stay, nothing changes its order when one leaves or starts
slowly.
"""

from __future__ import annotations  # array[int] is no expression before Python 3.12

from array import array
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from math import gcd

SIZES = (4093, 8191, 16381, 32749, 65521, 131071, 262139)
"""Primes below powers of two. A table of n slots costs 2n bytes and about 0.5n µs to build."""
SLOTS_PER_SHARE = 1000
"""Wanted slots of the lightest member: the larger the table, the fewer slots change hands when a member leaves."""

_FINE = 40
"""Bits behind the point of a time: two times k/w that differ, of weights below 2**20, differ by more than 2**-40."""


def table_size(weights: Sequence[int]) -> int:
    """The smallest size that gives the lightest member SLOTS_PER_SHARE slots, or else the largest.

    Take the weights of all configured members, not of those that are up: a table that changes its size with the
    health of its members would move every key.
    """
    positive = [weight for weight in weights if weight > 0]
    if not positive:
        return SIZES[0]
    wanted = SLOTS_PER_SHARE * sum(positive) // min(positive)
    return next((size for size in SIZES if size >= wanted), SIZES[-1])


def build(members: Sequence[tuple[str, int]], size: int) -> array[int]:
    """The table: for each of `size` (prime) slots the index into `members`, which are (name, weight) pairs.

    Members of weight 0 get nothing. Empty when no member has a weight. At most 65,535 members; weights below 2**20.
    """
    order = sorted((index for index, (_, weight) in enumerate(members) if weight > 0), key=lambda i: members[i][0])
    if not order:
        return array("H")
    cursors, skips = [], []
    for index in order:
        digest = blake2b(members[index][0].encode(), digest_size=16, person=b"nfqlb-maglev").digest()
        cursors.append(int.from_bytes(digest[:8], "big") % size)
        skips.append(int.from_bytes(digest[8:], "big") % (size - 1) + 1)
    turns = _turns([members[index][1] for index in order], size)
    free = bytearray(b"\1") * size
    table = array("H", bytes(2 * size))
    # A walk meets more and more taken slots: half of all steps would be for the last slots. They go another way.
    last = size // (2 * len(order))
    for turn in turns[: size - last]:
        slot, skip = cursors[turn], skips[turn]
        while not free[slot]:
            slot += skip
            if slot >= size:
                slot -= size
        free[slot] = 0
        table[slot] = order[turn]
        cursors[turn] = slot
    rest = _left(free)
    ahead = [_on_its_way(rest, cursor, skip, size) for cursor, skip in zip(cursors, skips, strict=True)]
    for turn in turns[size - last :]:
        slot = next(slot for slot in ahead[turn] if free[slot])
        free[slot] = 0
        table[slot] = order[turn]
    return table


def _turns(weights: Sequence[int], count: int) -> list[int]:
    """Whose turn it is, `count` times: indices into `weights`. What is simultaneous comes in the order of these."""
    common = gcd(*weights)
    parts = [weight // common for weight in weights]
    total = sum(parts)
    times = [
        ((turn << _FINE) // part, index)
        for index, part in enumerate(parts)
        for turn in range(1, min(part, part * (count + len(parts)) // total + 1) + 1)
    ]
    period = [index for _, index in sorted(times)]
    return (period * (count // len(period) + 1))[:count]


def _left(free: bytearray) -> list[int]:
    found, slot = [], free.find(1)
    while slot >= 0:
        found.append(slot)
        slot = free.find(1, slot + 1)
    return found


def _on_its_way(slots: list[int], cursor: int, skip: int, size: int) -> Iterator[int]:
    """`slots` in the order in which a walk from `cursor` meets them."""
    inverse = pow(skip, -1, size)
    return iter(sorted(slots, key=lambda slot: (slot - cursor) * inverse % size))
