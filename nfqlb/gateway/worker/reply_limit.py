"""How many replies of our own leave: in all, and to one network. What a stranger makes us send has a bound.

Knows addresses and a clock; not what a reply is. Fixed memory, whoever asks: networks share CELLS cells by a keyed
hash. That one network is refused for another's sake is rare: only what is granted counts, so no more cells can be full
at a time than the whole budget holds shares of a network, ten by default.
"""

import time
from array import array
from collections.abc import Callable

from nfqlb.net.networks import NetworkSet

CELLS = 4096
"""32 KiB."""
BURST = 1.0
"""Seconds' worth that may leave at once."""
_IPV4_PREFIX, _IPV6_PREFIX = 3, 7
"""Bytes of an address that name its network: /24, and /56, which is what one customer has [RFC 6177]."""


class ReplyLimit:
    """One worker's share. A cell holds the time until which its network has used what it may (a GCRA: the leaky bucket
    as one number, ITU-T I.371).
    """

    def __init__(
        self, total: float, per_network: float, peers: NetworkSet, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Replies a second. `peers` do not use up what all share, and are not refused for it: a carrier's OPTIONS get
        their answers also while strangers ask for thousands.
        """
        self._step, self._network_step = 1 / total, 1 / per_network
        self._peers = peers
        self._clock = clock
        self._used = 0.0
        self._cells = array("d", bytes(8 * CELLS))

    def room(self, addr: bytes) -> bool:
        """Would a reply to that packed address be granted now?"""
        now = self._clock()
        if self._cells[_cell(addr)] > now + BURST:
            return False
        return self._used <= now + BURST or addr in self._peers

    def grants(self, addr: bytes) -> bool:
        """One reply to that packed address; whether it may leave."""
        now = self._clock()
        cell = _cell(addr)
        cells = self._cells
        mine = cells[cell]
        if mine > now + BURST:
            return False
        if self._used <= now + BURST:
            self._used = max(self._used, now) + self._step
        elif addr not in self._peers:
            return False
        cells[cell] = max(mine, now) + self._network_step
        return True


def _cell(addr: bytes) -> int:
    return hash(addr[: _IPV4_PREFIX if len(addr) == 4 else _IPV6_PREFIX]) % CELLS
