"""The tables of a pair, [ha] and [[ha.group]]: keys, kinds of value, defaults. See `tables`, which has the others.

What they amount to is for `pair`.
"""

from typing import Annotated

from pydantic import Field

from nfqlb.config.pair import KEEPALIVED_CONF, PRIORITY, ROUTER_ID
from nfqlb.config.schema.base import Listed, Table
from nfqlb.config.schema.kinds import Address, FilePath, Interface, Name, NamesOfOthers, NetworkField

RouterId = Annotated[int, Field(ge=1, le=255)]
Priority = Annotated[int, Field(ge=205, le=254)]
"""What is taken off it where something is wrong must leave something: see nfqlb.ha."""


class HaTable(Table):
    """The pair that this node is one half of: two gateways that stand in for each other. Without this table the gateway
    stands alone.
    """

    address: Address = Field(examples=["192.168.1.2"])
    """Address that stays on this node, from which it talks to the other node."""
    peer: Address = Field(examples=["192.168.1.3"])
    """Address that stays on the other node."""
    interface: Interface = Field(examples=["eth1"])
    """Network interface by which the two nodes talk."""
    outside: Interface | None = Field(None, examples=["eth0"])
    """Network interface of the external addresses. Unless given, `interface`."""
    inside: Interface | None = Field(None, examples=["eth1"])
    """Network interface of the internal addresses. Unless given, `interface`."""
    networks: Annotated[tuple[NetworkField, ...], Listed] = Field((), examples=[["203.0.113.0/24"]])
    """Networks from which a floating address gets its prefix length; one that is in none of them gets /32, or /128 with
    IPv6. Unless given, none."""
    router_id: RouterId = ROUTER_ID
    """VRRP's number of the pair: the same on both nodes, and nobody else's in that network."""
    priority: Priority = PRIORITY
    """VRRP's priority of this node. Equal on both nodes: the addresses stay where they are; else they go back to
    the node with the higher one."""
    interval: Annotated[float, Field(ge=0.02, le=10, allow_inf_nan=False)] = 0.1
    """Seconds between two VRRP advertisements; after three missing ones the other node takes over."""
    check_port: Annotated[int, Field(ge=0, le=65535)] = 0
    """TCP port at `address` where `nfqlb ha check` of the other node may compare the two; 0 for none."""
    keepalived_conf: FilePath = KEEPALIVED_CONF
    """File that keepalived on this node reads, to see whether it is what `nfqlb ha render` prints; only
    `nfqlb ha render --write` writes it. A relative name starts from the directory of the configuration file."""


class HaGroupTable(Table):
    """A group of listeners that move together, apart from others: for two nodes that are both active. Without any, all
    move together.
    """

    name: Name = Field(examples=["left"])
    """Name of the group in commands and messages; no two groups have the same."""
    listeners: NamesOfOthers = Field(examples=[["main", "main6"]])
    """Names of the listeners whose addresses move with this group; each listener is in one group."""
    router_id: RouterId = Field(examples=[52])
    """VRRP's number of the group: the same on both nodes, and nobody else's in that network."""
    priority: Priority = PRIORITY
    """VRRP's priority of this node for this group: the node with the higher one is preferred."""
