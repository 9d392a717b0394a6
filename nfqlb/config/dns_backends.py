"""Backends that have a name instead of an address, and what becomes of them when DNS has answered.

Each address of the name is a backend: `reg1@192.0.2.1`. Knows which addresses are of no use to this configuration.
Does not ask DNS.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from nfqlb.names.target import Address, Answers, Dns, Target
from nfqlb.net.endpoint import Endpoint
from nfqlb.proxy.setup import Backend, Listener, Pool

__all__ = ["Dns", "Named", "base", "dismissed", "expanded"]

AT = "@"
"""Between the name of a backend and one of its addresses. No name in a configuration has one."""


@dataclass(frozen=True, slots=True)
class Named:
    """One `[[pool.backend]]` with a name for an address."""

    pool: str
    name: str
    address: Target
    weight: int = 1
    """Of each of its addresses; times what an SRV record says."""
    priority: int = 1
    """Of its best addresses; SRV records of the next priority are one further away."""


def base(name: str) -> str:
    """The name that the configuration gives to a backend: that of `reg1@192.0.2.1` is `reg1`."""
    return name.partition(AT)[0]


def expanded(
    pools: tuple[Pool, ...], names: tuple[Named, ...], listeners: tuple[Listener, ...], answers: Answers
) -> tuple[Pool, ...]:
    """`pools`, with each of `names` as what DNS says of it. Those of an earlier answer go."""
    if not names:
        return pools
    found: dict[str, list[Backend]] = {
        pool.name: [each for each in pool.backends if AT not in each.name] for pool in pools
    }
    for named, each, why in _judged(pools, names, listeners, answers):
        if not why:
            name = f"{named.name}{AT}{each.endpoint.hostport.decode()}"
            weight, priority = named.weight * each.weight, named.priority + each.rank
            found[named.pool].append(Backend(name, each.endpoint, weight, priority))
    return tuple(replace(pool, backends=tuple(found[pool.name])) for pool in pools)


def dismissed(
    pools: tuple[Pool, ...], names: tuple[Named, ...], listeners: tuple[Listener, ...], answers: Answers
) -> Iterator[tuple[Named, str]]:
    """Which address of which backend is not used, and why: a text for people for each."""
    for named, each, why in _judged(pools, names, listeners, answers):
        if why:
            yield named, f"{named.address} is {each.endpoint}, which is not used: {why}"


def _judged(
    pools: tuple[Pool, ...], names: tuple[Named, ...], listeners: tuple[Listener, ...], answers: Answers
) -> Iterator[tuple[Named, Address, str]]:
    """Each address of each name, in the order of the configuration, and why it is not used; nothing: it is.

    Of two backends of a pool that share an address, the first has it: as with addresses, a pool has none twice.
    """
    if not names:
        return
    useless = _useless(listeners)
    for pool in pools:
        taken = {each.address: each.name for each in pool.backends if AT not in each.name}
        for named in names:
            if named.pool == pool.name and named.address in answers:
                for each in answers[named.address].addresses:
                    why = useless(each.endpoint)
                    if why is None and each.endpoint in taken:
                        why = f"this pool has that address as backend {taken[each.endpoint]} already"
                    elif why is None:
                        taken[each.endpoint] = named.name
                    yield named, each, why or ""


def _useless(listeners: tuple[Listener, ...]) -> Callable[[Endpoint], str | None]:
    """What says why nobody could serve such a backend, or None for one who can be served."""
    from nfqlb.config.schema.types import (
        unusable,  # pydantic comes with it: not for the supervisor, which has no use for it
    )

    ours = {socket.addr for each in listeners for socket in (each.external, each.internal, each.visible)}
    versions = {each.internal.version for each in listeners}

    def why(endpoint: Endpoint) -> str | None:
        if endpoint.addr in ours:
            return "an address of the gateway itself"
        if endpoint.version not in versions:
            return f"no listener has IPv{endpoint.version}"
        return unusable(endpoint)

    return why
