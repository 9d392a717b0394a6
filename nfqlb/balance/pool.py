"""Pools of backends, and the choice of one member for a key (P29, P30, P32)."""

from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

from nfqlb.balance import maglev
from nfqlb.balance.states import State, States
from nfqlb.net.endpoint import Endpoint

HashOn = Literal["call-id", "from-uri", "to-uri", "request-user", "auth-user", "source-ip"]


@dataclass(frozen=True, slots=True)
class Backend:
    """One registrar or proxy."""

    name: str
    address: Endpoint
    weight: int = 1
    priority: int = 1
    """Higher numbers are used only when no lower one is up."""


@dataclass(frozen=True, slots=True)
class Pool:
    name: str
    backends: tuple[Backend, ...]
    hash_on: tuple[HashOn, ...] = ("call-id",)
    """The first of them that a request has is its key."""


class Chooser:
    """The tables of one pool for one set of backend states, one table for each IP version: a packet cannot change
    its version on its way through the kernel, so a dual-stack registrar is two members.
    """

    def __init__(self, pool: Pool, states: States | None = None) -> None:
        self._tables = {}
        known = states or {}
        for version in (4, 6):
            members = [b for b in pool.backends if b.address.version == version and b.weight > 0]
            ready = [b for b in members if known.get((pool.name, b.name), State.UNKNOWN).takes_new]
            if not ready:
                continue
            best = min(b.priority for b in ready)
            group = [b for b in ready if b.priority == best]
            size = maglev.table_size([b.weight for b in members if b.priority == best])
            self._tables[version] = (group, maglev.build([(b.name, b.weight) for b in group], size))

    def choose(self, key: bytes, version: int) -> Backend | None:
        """The backend for that key and IP version (4 or 6), None when there is nothing to choose from."""
        entry = self._tables.get(version)
        if entry is None:
            return None
        group, table = entry
        return group[table[slot(key, len(table))]]

    def shares(self, version: int) -> dict[str, float]:
        """The part of all keys that each backend gets, by name, 0..1."""
        entry = self._tables.get(version)
        if entry is None:
            return {}
        group, table = entry
        return {backend.name: table.count(index) / len(table) for index, backend in enumerate(group)}


def slot(key: bytes, size: int) -> int:
    """The table slot of a key. Not keyed with our secret: rotating keys must not move calls."""
    return int.from_bytes(blake2b(key, digest_size=8, person=b"nfqlb-select").digest(), "big") % size
