"""Route rules: the pool for a new request; the first rule whose conditions all hold."""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class RouteRule:
    """An empty condition holds for everything."""

    pool: str
    methods: frozenset[str] = frozenset()
    """ACK and CANCEL count as the INVITE they belong to (P29)."""
    listeners: frozenset[str] = frozenset()
    domains: frozenset[str] = frozenset()
    """Lower-case hosts of the Request-URI, IPv6 in brackets."""
    sources: tuple[Network, ...] = ()
    """Networks of the outside peer."""


class Facts(NamedTuple):
    """What rules may ask of a request."""

    method: str
    listener: str
    domain: str
    """Lower-case host of the Request-URI; empty for a tel URI."""
    source: bytes
    """Packed address of the outside peer."""


class Rules:
    def __init__(self, rules: Sequence[RouteRule]) -> None:
        self._rules = [
            (rule.pool, rule.methods, rule.listeners, rule.domains, [_packed(network) for network in rule.sources])
            for rule in rules
        ]

    def pool(self, facts: Facts) -> str | None:
        """The name of the pool, None when no rule holds."""
        method = "INVITE" if facts.method in ("ACK", "CANCEL") else facts.method
        for pool, methods, listeners, domains, sources in self._rules:
            if (
                (not methods or method in methods)
                and (not listeners or facts.listener in listeners)
                and (not domains or facts.domain in domains)
                and (not sources or any(_inside(facts.source, network) for network in sources))
            ):
                return pool
        return None


Packed = tuple[int, int, int]
"""A network as (address length in bytes, mask, masked address)."""


def _packed(network: Network) -> Packed:
    return network.max_prefixlen // 8, int(network.netmask), int(network.network_address)


def _inside(addr: bytes, network: Packed) -> bool:
    length, mask, base = network
    return len(addr) == length and int.from_bytes(addr, "big") & mask == base


class NetworkSet:
    """Is a packed address in one of these networks?"""

    def __init__(self, networks: Sequence[Network]) -> None:
        self._networks = [_packed(network) for network in networks]

    def __contains__(self, addr: bytes) -> bool:
        return any(_inside(addr, network) for network in self._networks)
