"""Which interfaces the packets to our sockets come in by, and how packets would turn round there.

Knows the listeners and backends of a configuration and looks at the host's addresses and routes. `[rules] interfaces`
overrides what it finds: where outside traffic comes in by an interface that has neither address nor backend, nothing
else could tell.
"""

from dataclasses import dataclass

from nfqlb.config.model import Config
from nfqlb.errors import HostError
from nfqlb.gateway.host.network import RTN_LOCAL, Network, NoRoute
from nfqlb.net.endpoint import Endpoint
from nfqlb.proxy.setup import Listener

UNCABLED = ("lo", "dummy")
"""Kinds of interface that no packet comes in by; an address on one is reached by way of any other."""


@dataclass(frozen=True, slots=True)
class Ingress:
    """The interfaces, by name."""

    ipv4: frozenset[str] = frozenset()
    unnumbered: frozenset[str] = frozenset()
    """Those of `ipv4` that have no IPv4 address themselves."""
    turning: frozenset[str] = frozenset()
    """Those of `ipv4` that serve both sides, so that packets leave by the interface that they came in by."""
    ipv6: frozenset[str] = frozenset()


def find_ingress(config: Config, network: Network) -> Ingress:
    """Look at the host. Raises HostError when `[rules] interfaces` names one that is not there."""
    outside: dict[int, set[str]] = {4: set(), 6: set()}
    inside: dict[int, set[str]] = {4: set(), 6: set()}
    for listener in config.listeners:
        outside[listener.external.version] |= sides(config, network, listener, outside=True)
        inside[listener.internal.version] |= sides(config, network, listener, outside=False)
    for pool in config.pools:
        for backend in pool.backends:
            if inside[backend.address.version]:  # else no listener serves it
                inside[backend.address.version] |= routed(network, backend.address) - {"lo"}
    found = {version: frozenset(outside[version] | inside[version]) for version in (4, 6)}
    if config.rules.interfaces is not None:
        named = existing(config.rules.interfaces, network, "[rules] interfaces")
        versions = {listener.external.version for listener in config.listeners}
        found = {version: named if version in versions else frozenset() for version in (4, 6)}
    return Ingress(
        ipv4=found[4],
        unnumbered=frozenset(link for link in found[4] if not network.has_addresses(link, 4)),
        turning=found[4] & outside[4] & inside[4],
        ipv6=found[6],
    )


def sides(config: Config, network: Network, listener: Listener, *, outside: bool) -> set[str]:
    """Where packets to a socket of a listener come in: by the interface that it is bound to, or else where its address
    is; of a pair, the configuration says where that is or will be.
    """
    bound = listener.external_interface if outside or listener.one_armed else listener.internal_interface
    if bound:
        return set(existing((bound,), network, f"listener {listener.name}"))
    if config.ha is None:
        return towards(network, listener.external if outside else listener.internal)
    return {config.ha.outside if outside else config.ha.inside} & set(network.links)


def existing(names: tuple[str, ...], network: Network, where: str) -> frozenset[str]:
    for name in names:
        if name not in network.links:
            there = ", ".join(sorted(network.links))
            raise HostError(f"{where}: this host has no interface {name}, but {there}.")
    return frozenset(names)


def towards(network: Network, socket: Endpoint) -> set[str]:
    """Where packets to a socket of ours come in: where its address is, or (on the other node of a pair) would be."""
    links = {address.link for address in network.carriers(socket.addr)} or routed(network, socket)
    cabled = {name for name in links if network.links[name].kind not in UNCABLED}
    if links and not cabled:
        return {
            link.name for link in network.links.values() if link.up and not link.master and link.kind not in UNCABLED
        }
    return cabled


def routed(network: Network, socket: Endpoint) -> set[str]:
    try:
        route = network.route(socket.addr)
    except NoRoute:
        return set()
    return {"lo"} if route.kind == RTN_LOCAL else {route.link} & set(network.links)
