"""What a change of configuration would do, before it does it: keys that move to other backends, and stored packets that
would go elsewhere.

Knows tables and the replay. Asks no gateway and no kernel; what is known of the backends is handed in. What is other in
the files is told by `config.diff`.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from nfqlb.balance.pool import VERSIONS, Backend, Pool, intake, members
from nfqlb.balance.states import HEARD_NOTHING, Standings
from nfqlb.balance.tables import Draft, build
from nfqlb.capture.packets import Packet
from nfqlb.net.endpoint import Endpoint
from nfqlb.offline.replay import Replay, Row
from nfqlb.proxy.setup import Setup


class Moved(NamedTuple):
    """What becomes of the keys of one pool and IP version."""

    pool: str
    version: int
    """4 or 6."""
    share: float
    """0..1: the part of the keys that would go to another address, or to none."""
    at_most: bool
    """The share is a bound: the pool hashes on something else from then on, which some requests may not notice."""


class Elsewhere(NamedTuple):
    """A stored message that the new configuration treats otherwise: the same frame, twice."""

    before: Row
    after: Row


def carried_over(old: Setup, standings: Standings, new: Setup) -> Standings:
    """The standings of the backends of `new`, from those of `old`: by place, else by address."""
    by_address = {
        backend.address: standings.get(place, HEARD_NOTHING)
        for place, backend in zip(old.places, old.known, strict=True)
    }
    return {
        place: standings[place] if place in standings else by_address.get(backend.address, HEARD_NOTHING)
        for place, backend in zip(new.places, new.known, strict=True)
    }


def moved(old: Setup, new: Setup, standings: Standings) -> list[Moved]:
    """For each pool that both have, by the tables that they would have. `standings`: of the backends of `old`."""
    after = carried_over(old, standings, new)
    new_pools = {pool.name: pool for pool in new.pools}
    found = []
    for pool in old.pools:
        if pool.name in new_pools:
            other = new_pools[pool.name]
            for version in VERSIONS:
                if members(pool, version):
                    share = _share_moved(_Table(pool, version, standings), _Table(other, version, after))
                    found.append(Moved(pool.name, version, share, pool.hash_on != other.hash_on))
    return found


class _Table:
    """The table of one pool and IP version."""

    def __init__(self, pool: Pool, version: int, standings: Standings) -> None:
        self.hash_on = pool.hash_on
        self.draft = Draft((pool.name, version), intake(pool, version, standings))
        self.among: tuple[Backend, ...] = members(pool, version)

    def destinations(self) -> list[Endpoint]:
        """One for each slot; empty when there is nothing to choose from."""
        indices = memoryview(build(self.draft).table).cast("H")
        return [self.among[index].address for index in indices]

    @property
    def key(self) -> tuple[object, ...]:
        """Tables of one key send each request to the same address."""
        return self.draft, self.hash_on, tuple(each.address for each in self.among)


def _share_moved(old: _Table, new: _Table) -> float:
    if old.key == new.key:
        return 0.0
    before, after = old.destinations(), new.destinations()
    if not before:
        return 0.0  # nobody was there; whatever comes is no loss
    if not after:
        return 1.0
    if len(before) == len(after) and old.hash_on == new.hash_on:
        return sum(one != other for one, other in zip(before, after, strict=True)) / len(before)
    # The slot in one table says nothing of the slot in the other: their sizes are different primes, or the keys differ.
    parts = Counter(after)
    return 1 - sum(count * parts[address] for address, count in Counter(before).items()) / len(before) / len(after)


class Comparison:
    """A capture through the old configuration and the new one."""

    def __init__(self, old: Setup, new: Setup, standings: Standings) -> None:
        self._old = Replay(old, standings=standings)
        self._new = Replay(new, standings=carried_over(old, standings, new))
        self.messages = 0
        """SIP messages to a socket of one of the two."""
        self.requests = 0
        """Those of them that are requests from outside."""
        self.moved = 0
        """Those of the requests that would go elsewhere."""

    @property
    def share(self) -> float:
        """0..1, of the requests from outside."""
        return self.moved / self.requests if self.requests else 0.0

    def run(self, packets: Iterable[Packet]) -> Iterator[Elsewhere]:
        """Each message that would go elsewhere, or be refused for another reason."""
        for packet in packets:
            before, after = self._old.process(packet).row, self._new.process(packet).row
            if not (before.side or after.side) or (before.method is None and before.status is None):
                continue
            asks = before.method is not None and "outside" in (before.side, after.side)
            other = _way(before) != _way(after)
            self.messages += 1
            self.requests += asks
            self.moved += asks and other
            if other:
                yield Elsewhere(before, after)


def _way(row: Row) -> tuple[object, ...]:
    return row.verdict, row.out_dst, row.reason if row.verdict != "forward" else ""
