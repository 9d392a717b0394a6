"""Everything the decision depends on besides the message itself: frozen, and the same on every worker and node (P39).

Configuration produces one of these; reload will produce another. Nothing here is read from a file or a clock.
"""

from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import Literal

from nfqlb.net.endpoint import Endpoint

Network = IPv4Network | IPv6Network
HashOn = Literal["call-id", "from-uri", "to-uri", "request-user", "auth-user", "source-ip"]
PathPolicy = Literal["always", "if-supported", "require"]
ForceRport = Literal["auto", "always", "never"]


@dataclass(frozen=True, slots=True)
class Listener:
    """A pair of sockets: `external` (E) faces user agents and carriers, `internal` (I) faces backends."""

    name: str
    external: Endpoint
    internal: Endpoint
    """Equal to `external` for a one-armed listener; then the source of a packet tells its side."""
    advertise: Endpoint | None = None
    """The external address as the world sees it, when a 1:1 NAT stands in front."""
    aliases: tuple[str, ...] = ()
    """Lower-case host names (or addresses) by which phones address us."""
    force_rport: ForceRport = "auto"

    @property
    def one_armed(self) -> bool:
        return self.external == self.internal

    @property
    def visible(self) -> Endpoint:
        """The external socket as we write it towards the outside."""
        return self.advertise or self.external


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
    hash_on: HashOn = "call-id"


@dataclass(frozen=True, slots=True)
class RouteRule:
    """Which pool a new request goes to. An empty condition matches everything; all conditions must match."""

    pool: str
    methods: frozenset[str] = frozenset()
    """ACK and CANCEL count as the INVITE they belong to (P29)."""
    listeners: frozenset[str] = frozenset()
    domains: frozenset[str] = frozenset()
    """Lower-case hosts of the Request-URI."""
    sources: tuple[Network, ...] = ()
    """Networks of the outside peer."""


@dataclass(frozen=True, slots=True)
class Setup:
    """One gateway's whole rule input."""

    name: str
    """User part of our Path and Record-Route URIs."""
    keys: tuple[bytes, ...] = field(repr=False)
    """Secrets, 16–64 bytes each: the first signs, all verify."""
    listeners: tuple[Listener, ...]
    pools: tuple[Pool, ...]
    routes: tuple[RouteRule, ...]
    path_policy: PathPolicy = "always"
    accept_unsigned: bool = False
    """Honour unsigned Paths from backends (P18, migration)."""
    egress: tuple[Network, ...] = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))
    """Networks that backends may reach without a signed flow (P20). Never multicast, loopback, unspecified or our own."""

    @property
    def backends(self) -> tuple[Backend, ...]:
        """All backends in the order of the configuration; the index of each is its number on the board."""
        return tuple(backend for pool in self.pools for backend in pool.backends)
