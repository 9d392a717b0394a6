"""Pools of backends: what an operator says of them, and who of them takes new requests (P30, P32)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from nfqlb.balance import maglev
from nfqlb.balance.states import HEARD_NOTHING, WHOLE, Standings
from nfqlb.net.endpoint import Endpoint

HashOn = Literal["call-id", "from-uri", "to-uri", "request-user", "auth-user", "source-ip"]
Panic = Literal["all", "none"]

VERSIONS = (4, 6)
"""Each has a table of its own in a pool: a packet cannot change its IP version on its way through the kernel, so a
dual-stack registrar is two members."""


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
    min_up: int = 1
    """With fewer backends that take new requests, there is an alarm."""
    panic: Panic = "all"
    """When all are down: "all" goes on as if nobody were, "none" answers 503."""
    warmup: float = 0.0
    """Seconds in which the share of a backend grows that comes back."""


class Intake(NamedTuple):
    """Who of a pool takes new requests of one IP version, in which proportion, and in how large a table."""

    weights: tuple[tuple[int, str, int], ...]
    """(index among the pool's members of that version, name, weight times share)."""
    slots: int
    """0 when there is nobody to choose from."""
    panic: bool
    """They are down, all of them, and used nevertheless."""


def members(pool: Pool, version: int) -> tuple[Backend, ...]:
    """The backends that a table for that IP version chooses among, in the order of the configuration."""
    return tuple(each for each in pool.backends if each.address.version == version and each.weight > 0)


def intake(pool: Pool, version: int, standings: Standings) -> Intake:
    """The rule. A function of its arguments, so that two nodes that see the same do the same.

    The best group with a member that takes new requests, each by its weight and share. Where health says that all
    are down, and the pool says to panic: as if nothing were known of their health. So an error of the probes moves not
    one key. Whom the operator has taken out stays out.
    """
    everyone = list(enumerate(members(pool, version)))
    standing = {index: standings.get((pool.name, each.name), HEARD_NOTHING) for index, each in everyone}
    weights = {
        index: each.weight * standing[index].share for index, each in everyone if standing[index].state.takes_new
    }
    panic = False
    if not any(weights.values()) and pool.panic == "all":
        weights = {index: each.weight * WHOLE for index, each in everyone if not standing[index].state.by_operator}
        panic = bool(weights)
    ready = [(index, each) for index, each in everyone if weights.get(index)]
    if not ready:
        return Intake((), 0, False)
    best = min(each.priority for _, each in ready)
    return Intake(
        tuple((index, each.name, weights[index]) for index, each in ready if each.priority == best),
        group_slots([each for _, each in everyone], best),
        panic,
    )


def group_slots(among: Sequence[Backend], priority: int) -> int:
    """The size of the table of one priority group, the same whoever of it is up."""
    return maglev.table_size([each.weight for each in among if each.priority == priority])


def most_slots(pool: Pool, version: int) -> int:
    """The size of the largest table that a pool may need for that IP version; 0 when it has no member there."""
    among = members(pool, version)
    return max((group_slots(among, priority) for priority in {each.priority for each in among}), default=0)
