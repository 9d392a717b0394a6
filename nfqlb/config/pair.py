"""[ha]: the pair that this node is one half of, as values, and what cannot hold together in it.

Knows what the file says of the two nodes. Does not know keepalived, which moves the addresses, nor this host.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING

from nfqlb.config.problems import Problem, shown
from nfqlb.proxy.setup import Network
from nfqlb.spelling import nearest

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


def two_nodes(draft: "Draft") -> Iterator[Problem]:
    """Both nodes need addresses of their own, of one IP version."""
    table = draft.ha
    if table is None:
        return
    if table.address.version != table.peer.version:
        text = f"expected IPv{table.address.version}, as in address"
        yield Problem("ha.peer", text, value=shown(str(table.peer)))
    elif table.address == table.peer:
        text = "this is the node's own address: expected that of the other node"
        yield Problem("ha.peer", text, value=shown(str(table.peer)))
    for key, own in (("address", table.address), ("peer", table.peer)):
        for place, listener in draft.listeners.items():
            if listener and own.packed in (listener.external.addr, listener.internal.addr):
                text = f"{place} has this address, which moves: expected one that stays on its node"
                yield Problem(f"ha.{key}", text, value=shown(str(own)))
                break


def moving_version(draft: "Draft") -> Iterator[Problem]:
    """VRRP speaks by one IP version, and has to advertise an address of it; groups are looked at one by one."""
    listeners = draft.listeners.values()
    if draft.ha is None or draft.ha_groups or not listeners or None in listeners:
        return
    version = draft.ha.address.version
    if all(each.external.version != version for each in listeners if each):
        text = f"no listener has IPv{version}: expected own addresses of a version that moves"
        yield Problem("ha.address", text, value=shown(str(draft.ha.address)))


def groups_of_listeners(draft: "Draft") -> Iterator[Problem]:
    """Every listener moves with one group, and every address, too."""
    names = draft.listener_names.values()
    listeners = {each.name: each for each in draft.listeners.values() if each}
    group_of: dict[str, str] = {}
    holder: dict[bytes, str] = {}
    taken: dict[int, str] = {}
    called: dict[str, str] = {}
    for place, group in draft.ha_groups.items():
        if group is None:
            continue
        other = called.setdefault(group.name, place)
        if other != place:
            yield Problem(f"{place}.name", f"this name is taken by {other}", value=shown(group.name))
        other = taken.setdefault(group.router_id, place)
        if other != place:
            text = f"{other} has this number already; on one network each group needs its own"
            yield Problem(f"{place}.router_id", text, value=shown(group.router_id))
        advertised = False
        for index, name in enumerate(group.listeners):
            at = f"{place}.listeners[{index}]"
            if name not in names:
                yield Problem(at, "no listener has this name", value=shown(name), nearest=nearest(name, names))
            elif (other := group_of.setdefault(name, place)) != place:
                yield Problem(at, f"{other} has this listener already", value=shown(name))
            elif name in listeners:
                for socket in {listeners[name].external, listeners[name].internal}:
                    if (other := holder.setdefault(socket.addr, place)) != place:
                        text = f"its address {socket.host} moves with {other}: listeners of one address need one group"
                        yield Problem(at, text, value=shown(name))
            if (listener := listeners.get(name)) and draft.ha and listener.external.version == draft.ha.address.version:
                advertised = True
        if draft.ha and not advertised and set(group.listeners) <= set(listeners):
            text = f"expected a listener of IPv{draft.ha.address.version}, as [ha] address, which VRRP speaks by"
            yield Problem(f"{place}.listeners", text)
    if draft.ha_groups and None not in draft.ha_groups.values():
        for place, listener in draft.listeners.items():
            if listener and listener.name not in group_of:
                text = "no [[ha.group]] has this listener, so its addresses would not move"
                yield Problem(f"{place}.name", text, value=shown(listener.name))
