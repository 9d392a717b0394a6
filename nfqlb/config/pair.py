"""[ha]: the pair that this node is one half of, as values.

Knows what the file says of the two nodes. Does not know keepalived, which moves the addresses, nor this host.
"""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING

from nfqlb.proxy.setup import Network

if TYPE_CHECKING:
    from nfqlb.config.parse import Draft

Ip = IPv4Address | IPv6Address

DEFAULT_GROUP = "all"
"""Name of the group that there is when the file has none."""

PRIORITY = 250
ROUTER_ID = 51
KEEPALIVED_CONF = "/etc/keepalived/keepalived.conf"


@dataclass(frozen=True, slots=True)
class Group:
    """Listeners whose addresses move together."""

    name: str
    listeners: tuple[str, ...]
    router_id: int
    """VRRP's: the same on both nodes, and nobody else's in that network."""
    priority: int
    """The node with the higher one takes the addresses whenever it can; with equal ones they stay where they are."""


@dataclass(frozen=True, slots=True)
class Pair:
    """The two nodes as this one sees them."""

    address: Ip
    """This node's own, from which it talks to the other."""
    peer: Ip
    """The other node's."""
    interface: str
    """Where the two talk."""
    outside: str
    """Where the external addresses are to be."""
    inside: str
    networks: tuple[Network, ...]
    """A floating address gets the prefix length of the first of these that it is in; else it stands alone."""
    interval: float
    """Seconds between two VRRP advertisements."""
    check_port: int
    """TCP; 0 for none."""
    keepalived_conf: Path
    """What keepalived on this node reads."""
    groups: tuple[Group, ...]

    @property
    def interfaces(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.interface, self.outside, self.inside)))


def pair_of(draft: "Draft", directory: Path) -> Pair | None:
    """The pair of a draft without mistakes; None when it has no [ha]. Relative file names start from `directory`."""
    table = draft.ha
    if table is None:
        return None
    groups = tuple(
        Group(each.name, each.listeners, each.router_id, each.priority) for each in draft.ha_groups.values() if each
    )
    everything = tuple(listener.name for listener in draft.listeners.values() if listener)
    return Pair(
        address=table.address,
        peer=table.peer,
        interface=table.interface,
        outside=table.outside or table.interface,
        inside=table.inside or table.interface,
        networks=table.networks,
        interval=table.interval,
        check_port=table.check_port,
        keepalived_conf=directory / table.keepalived_conf,
        groups=groups or (Group(DEFAULT_GROUP, everything, table.router_id, table.priority),),
    )
