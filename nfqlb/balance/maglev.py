"""Maglev's lookup table: even, stable, and the same on every node (P30).

Each member walks its own permutation of the slots and takes the next free one when its turn comes; members take turns
in proportion to their weights. When one leaves, the slots of the others mostly stay with them. After Eisenbud et al.,
"Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section 3.4.

A member is known by its name and nothing else: neither its position in the file, nor its address, nor the order in
which members came up and went down shows in the table.
"""

from __future__ import annotations  # array[int] is no expression before Python 3.12

from array import array
from collections.abc import Sequence
from hashlib import blake2b

SIZES = (4093, 8191, 16381, 32749, 65521, 131071, 262139)
"""Primes below powers of two. A table of n slots costs 2n bytes and about 0.7n µs to build."""
SLOTS_PER_SHARE = 1000
"""Wanted slots of the lightest member: the larger the table, the fewer slots change hands when a member leaves."""


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

    Members of weight 0 get nothing. Empty when no member has a weight. At most 65,535 members.
    """
    order = sorted((index for index, (_, weight) in enumerate(members) if weight > 0), key=lambda i: members[i][0])
    if not order:
        return array("H")
    heaviest = max(members[index][1] for index in order)
    offsets, skips = [], []
    for index in order:
        digest = blake2b(members[index][0].encode(), digest_size=16, person=b"nfqlb-maglev").digest()
        offsets.append(int.from_bytes(digest[:8], "big") % size)
        skips.append(int.from_bytes(digest[8:], "big") % (size - 1) + 1)
    weights = [members[index][1] for index in order]
    credit = [0] * len(order)
    free = bytearray(b"\1") * size
    table = array("H", bytes(2 * size))
    filled = 0
    while True:
        for turn, index in enumerate(order):
            credit[turn] += weights[turn]
            if credit[turn] < heaviest:
                continue
            credit[turn] -= heaviest
            slot, skip = offsets[turn], skips[turn]
            while not free[slot]:
                slot = (slot + skip) % size
            free[slot] = 0
            table[slot] = index
            offsets[turn] = (slot + skip) % size
            filled += 1
            if filled == size:
                return table
