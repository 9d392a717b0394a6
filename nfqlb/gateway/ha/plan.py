"""What a plan says of the pair: which addresses move, whom this node compares itself with, and what makes it unwell.

Plain values. Made from the configuration by `plan.build`, lived by `manager`; knows neither.
"""

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from nfqlb.config.model import Config
from nfqlb.net.endpoint import Endpoint
from nfqlb.proxy.setup import Setup


@dataclass(frozen=True)
class HaPlan:
    """Made in a child, so it must be picklable."""

    groups: Mapping[str, tuple[str, ...]]
    """Name → its floating addresses."""
    priorities: Mapping[str, int]
    address: str
    peer: str
    check_port: int
    """0 for none."""
    digests: Mapping[str, str]
    """What must be the same on both nodes, by a name for people."""
    misplaced: Callable[[range], str]
    """What is wrong with the rules for these queues, empty when nothing is. Called in a child."""
    interfaces: tuple[str, ...] = ()
    """Without any of them keepalived keeps the addresses away from this node."""


def make(config: Config, setup: Setup) -> HaPlan | None:
    from nfqlb.gateway.ha.digest import digests

    pair = config.ha
    if pair is None:
        return None
    sockets = {
        group.name: [
            socket
            for listener in config.listeners
            if listener.name in group.listeners
            for socket in (listener.external, listener.internal)
        ]
        for group in pair.groups
    }
    return HaPlan(
        groups={name: tuple(dict.fromkeys(each.host for each in found)) for name, found in sockets.items()},
        priorities={group.name: group.priority for group in pair.groups},
        address=str(pair.address),
        peer=str(pair.peer),
        check_port=pair.check_port,
        digests=digests(config, setup),
        misplaced=partial(misplaced, config),
        interfaces=pair.interfaces,
    )


def misplaced(config: Config, queues: range) -> str:
    from nfqlb.errors import HostError
    from nfqlb.gateway.netfilter import ruleset

    try:
        placed = ruleset.queues_in_place(config)
    except HostError as error:
        return str(error)
    if placed == queues:
        return ""
    return f"the iptables rules do not lead to the workers: nfqlb rules apply -c {config.path}"


def own_sources(config: Config) -> Callable[[Endpoint], Endpoint | None]:
    """For a backend, this node's own address that the kernel would send from; None: the internal socket of a listener.

    Probes of a pair must not come from an address that may be on the other node.
    """
    if config.ha is None:
        return lambda _: None
    floating = {each.addr for listener in config.listeners for each in (listener.external, listener.internal)}
    fallback = Endpoint(config.ha.address.packed, 0)

    def source(backend: Endpoint) -> Endpoint | None:
        family = socket.AF_INET if backend.version == 4 else socket.AF_INET6
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as asking:
                asking.connect((backend.host, backend.port))
                own = Endpoint(socket.inet_pton(family, asking.getsockname()[0]), 0)
        except OSError:  # no route, or a kernel without that IP version
            own = fallback
        if own.addr in floating:
            own = fallback
        return own if own.version == backend.version else None

    return source
