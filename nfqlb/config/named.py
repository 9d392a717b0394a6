"""Backends that have a name instead of an address, and what becomes of them when DNS has answered.

Each address of the name is a backend: `reg1@192.0.2.1`. Knows which addresses are of no use to this configuration.
Does not ask DNS.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from nfqlb.names.target import Answers, Dns, Target
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
    useless = _useless(listeners)
    found = []
    for pool in pools:
        backends = [each for each in pool.backends if AT not in each.name]
        taken = {each.address for each in backends}
        for named in names:
            if named.pool == pool.name and named.address in answers:
                for each in answers[named.address].addresses:
                    # Of two that share an address, the first has it: as with addresses, a pool has none twice.
                    if each.endpoint not in taken and useless(each.endpoint) is None:
                        taken.add(each.endpoint)
                        backends.append(
                            Backend(
                                f"{named.name}{AT}{each.endpoint.hostport.decode()}",
                                each.endpoint,
                                named.weight * each.weight,
                                named.priority + each.rank,
                            )
                        )
        found.append(replace(pool, backends=tuple(backends)))
    return tuple(found)


def dismissed(names: tuple[Named, ...], listeners: tuple[Listener, ...], answers: Answers) -> Iterator[tuple[str, str]]:
    """(name of a backend, why an address of it is not used)."""
    useless = _useless(listeners)
    for named in names:
        if named.address in answers:
            for each in answers[named.address].addresses:
                if (why := useless(each.endpoint)) is not None:
                    yield named.name, f"{named.address} is {each.endpoint.host}, too: {why}"


def _useless(listeners: tuple[Listener, ...]) -> Callable[[Endpoint], str | None]:
    """What says why nobody could serve such a backend, or None for one who can be served."""
    from nfqlb.config.fields import unusable  # pydantic comes with it: not for the supervisor, which has no use for it

    ours = {socket.addr for each in listeners for socket in (each.external, each.internal, each.visible)}
    versions = {each.internal.version for each in listeners}

    def why(endpoint: Endpoint) -> str | None:
        if endpoint.addr in ours:
            return "an address of the gateway itself"
        if endpoint.version not in versions:
            return f"no listener has IPv{endpoint.version}"
        return unusable(endpoint)

    return why
