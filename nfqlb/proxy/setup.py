"""Everything the decision depends on besides the message itself: frozen, and the same on every worker and node (P39).

Configuration produces one of these; reload will produce another. Nothing here is read from a file or a clock.
"""

from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import Literal

from nfqlb.balance.pool import Backend, HashOn, Panic, Pool
from nfqlb.balance.routes import RouteRule
from nfqlb.balance.states import Place, Standing, Standings, State
from nfqlb.net.endpoint import Endpoint
from nfqlb.net.networks import Network

__all__ = [
    "LEAVING",
    "Backend",
    "ForceRport",
    "HashOn",
    "Listener",
    "Network",
    "Panic",
    "PathPolicy",
    "Place",
    "Pool",
    "RouteRule",
    "Setup",
    "Standing",
    "Standings",
    "State",
]

EVERYWHERE: tuple[Network, ...] = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))

PathPolicy = Literal["always", "if-supported", "require"]
ForceRport = Literal["auto", "always", "never"]

LEAVING = ""
"""Stands for the pool of a backend that is in none any more. No pool has an empty name."""


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
    external_interface: str | None = None
    """The interface that packets to `external` must come in by; the rules see to it, the engine cannot. None: any."""
    internal_interface: str | None = None

    @property
    def one_armed(self) -> bool:
        return self.external == self.internal

    @property
    def visible(self) -> Endpoint:
        """The external socket as we write it towards the outside."""
        return self.advertise or self.external

    @property
    def one_face(self) -> bool:
        """Are both sockets written the same? Then one Record-Route value says it all (P26)."""
        return self.visible == self.internal


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
    egress: tuple[Network, ...] = EVERYWHERE
    """Networks that backends may reach without a signed flow (P20); multicast, loopback and our own never count."""

    scanners: tuple[str, ...] = ()
    """Parts of User-Agents whose requests from outside are dropped."""
    leaving: tuple[Backend, ...] = ()
    """Backends that the configuration has ceased to name: what was begun there may end there (P19, P21, P31), and
    nothing new is sent to them. Standings name them by the pool LEAVING."""

    @property
    def backends(self) -> tuple[Backend, ...]:
        """All backends in the order of the configuration."""
        return tuple(backend for pool in self.pools for backend in pool.backends)

    @property
    def places(self) -> tuple[Place, ...]:
        """(pool, name) of each of `known`, as Standings name it: two pools may each have a backend of one name."""
        configured = [(pool.name, backend.name) for pool in self.pools for backend in pool.backends]
        return (*configured, *((LEAVING, backend.name) for backend in self.known[len(configured) :]))

    @property
    def known(self) -> tuple[Backend, ...]:
        """`backends`, then those of `leaving` whose address is not in the configuration (again). The index of each
        is its number, in verdicts and on the board.
        """
        configured = self.backends
        present = {backend.address for backend in configured}
        # By address: one that two pools had leaves once.
        gone = {backend.address: backend for backend in self.leaving if backend.address not in present}
        return (*configured, *gone.values())
