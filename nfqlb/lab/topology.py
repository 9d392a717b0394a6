"""The lab's network: which namespaces there are, how they are wired, and every address in them.

    home ── nat ──┐                            ┌── reg1, reg2    registrars
                  ├── net ── gw ── lan ────────┼── proxy1        proxy
    phones ───────┘                            └── …
    (one-armed: net and gw are both ports of lan)

A pair has gw2 beside gw. Then E and I belong to neither, each has addresses of its own, and both sides are switched:

    net ──┬── gw ───┬── lan
          └── gw2 ──┘

`home` holds phones with private addresses behind the NAT router `nat` (a real MASQUERADE), `phones` holds phones with
public ones, `net` is the internet (a router), `gw` the gateway, `lan` a switch. Knows links, addresses and routes; does
not know what runs where. All of it comes from a Plan, so two labs with the same Plan have the same addresses.
"""

import itertools
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Interface, IPv6Interface, ip_interface

from pyroute2 import IPRoute
from pyroute2.ethtool.ioctl import IoctlEthtool
from pyroute2.netlink.exceptions import NetlinkError

from nfqlb.lab import LabError, namespaces

Interface = IPv4Interface | IPv6Interface

SWITCH, OUTSIDE_SWITCH = "br0", "br1"
"""In `lan`: the inside's, and that of the outside of a pair."""

IFA_F_NODAD = 0x02
"""<linux/if_addr.h>: without it even an address that nobody looks for twice is not usable until the kernel finds the
time to say so, and whoever binds to it at once fails."""

OUTSIDE, INSIDE = "outside", "inside"
"""Names of the gateway's interfaces. A one-armed gateway has the first only."""


@dataclass(frozen=True)
class Node:
    """One address somewhere in the lab, as its owner writes it."""

    role: str
    interface: Interface

    @property
    def ip(self) -> str:
        return str(self.interface.ip)

    @property
    def host(self) -> str:
        """The address as a URI writes it: IPv6 in brackets."""
        return f"[{self.ip}]" if self.interface.version == 6 else self.ip


@dataclass(frozen=True)
class Plan:
    """Everything that decides what a lab looks like."""

    name: str = "lab"
    family: int = 4
    one_armed: bool = False
    registrars: int = 2
    proxies: int = 1
    pair: bool = False
    """Two gateways, which share `external` and `internal`."""

    def namespace(self, role: str) -> str:
        """The name under /run/netns; neither part may hold a dash, so labs cannot be mistaken for each other."""
        return f"nfqlb-{self.name}-{role}"

    def _node(self, role: str, v4: str, v6: str) -> Node:
        return Node(role, ip_interface(v4 if self.family == 4 else v6))

    @cached_property
    def external(self) -> Node:
        """The gateway's E."""
        return self._node("gw", "203.0.113.5/24", "2001:db8:5::5/64")

    @cached_property
    def internal(self) -> Node:
        """The gateway's I; E itself on one arm."""
        return self.external if self.one_armed else self._node("gw", "192.168.1.5/24", "2001:db8:1::5/64")

    @property
    def gateways(self) -> tuple[str, ...]:
        """Roles of the nodes."""
        return ("gw", "gw2") if self.pair else ("gw",)

    def own(self, role: str) -> tuple[Node, Node]:
        """The addresses of a node of the pair that do not move, outside and inside; on one arm one and the same."""
        last = 2 + self.gateways.index(role)

        def beside(node: Node) -> Node:
            network = node.interface.network
            return Node(role, ip_interface(f"{network[last]}/{network.prefixlen}"))

        return beside(self.external), beside(self.internal)

    def _backends(self, word: str, count: int, first: int) -> tuple[Node, ...]:
        v4, v6 = ("203.0.113", "2001:db8:5") if self.one_armed else ("192.168.1", "2001:db8:1")
        return tuple(
            self._node(f"{word}{n + 1}", f"{v4}.{first + n}/24", f"{v6}::{first + n}/64") for n in range(count)
        )

    @cached_property
    def registrar_nodes(self) -> tuple[Node, ...]:
        return self._backends("reg", self.registrars, 11)

    @cached_property
    def proxy_nodes(self) -> tuple[Node, ...]:
        return self._backends("proxy", self.proxies, 21)

    @property
    def backends(self) -> tuple[Node, ...]:
        return self.registrar_nodes + self.proxy_nodes

    @cached_property
    def nat(self) -> Node:
        """The NAT router's outside address: where the phones at home seem to be."""
        return self._node("nat", "172.31.23.177/24", "2001:db8:23::177/64")

    @cached_property
    def home(self) -> tuple[Node, ...]:
        """Phones behind the NAT."""
        return tuple(self._node("home", f"10.0.0.{n}/24", f"fd00:10::{n}/64") for n in (10, 11))

    @cached_property
    def phones(self) -> tuple[Node, ...]:
        """Phones with public addresses."""
        return tuple(self._node("phones", f"198.51.100.{n}/24", f"2001:db8:51::{n}/64") for n in (20, 21))

    @property
    def roles(self) -> tuple[str, ...]:
        return ("net", "nat", "home", "phones", "lan", *self.gateways, *(node.role for node in self.backends))

    @property
    def namespaces(self) -> tuple[str, ...]:
        return tuple(self.namespace(role) for role in self.roles)

    def router(self, node: Node) -> str:
        """The router that stands in this node's network: its first address."""
        return str(node.interface.network[1])


def build(plan: Plan) -> None:
    """Make the namespaces and wire them. On an error, a LabError, the caller removes what there is."""
    for name in plan.namespaces:
        with told(f"The network namespace {name} cannot be made"):
            namespaces.create(name)
    forwarding = {"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1"}
    quiet = {"net/ipv6/conf/all/accept_dad": "0", "net/ipv6/conf/default/accept_dad": "0"}
    for role in plan.roles:
        routes = forwarding if role in ("net", "nat") else {}
        namespaces.sysctl(plan.namespace(role), quiet | routes)

    _switch(plan)
    if plan.one_armed:
        _link(plan, "net", "core", "lan", "net")
        for gateway in plan.gateways:
            _link(plan, gateway, OUTSIDE, "lan", gateway)
    else:
        if plan.pair:
            _link(plan, "net", "core", "lan", "net", OUTSIDE_SWITCH)
            for gateway in plan.gateways:
                _link(plan, gateway, OUTSIDE, "lan", outside_port(gateway), OUTSIDE_SWITCH)
        else:
            _link(plan, "net", "core", "gw", OUTSIDE)
        for gateway in plan.gateways:
            _link(plan, gateway, INSIDE, "lan", gateway)
    _link(plan, "net", "nat", "nat", "wan")
    _link(plan, "net", "phones", "phones", "eth0")
    _link(plan, "nat", "home", "home", "eth0")
    for backend in plan.backends:
        _link(plan, backend.role, "eth0", "lan", backend.role)

    for gateway in plan.gateways:
        outside, inside = plan.own(gateway) if plan.pair else (plan.external, plan.internal)
        own = {OUTSIDE: [outside.interface], INSIDE: [] if plan.one_armed else [inside.interface]}
        _address(plan, gateway, own, plan.router(plan.external))
    _address(
        plan,
        "net",
        {
            "core": [_first(plan.external)],
            "nat": [_first(plan.nat)],
            "phones": [_first(plan.phones[0])],
        },
    )
    _address(plan, "nat", {"wan": [plan.nat.interface], "home": [_first(plan.home[0])]}, plan.router(plan.nat))
    _address(plan, "home", {"eth0": [node.interface for node in plan.home]}, plan.router(plan.home[0]))
    _address(plan, "phones", {"eth0": [node.interface for node in plan.phones]}, plan.router(plan.phones[0]))
    for backend in plan.backends:
        _address(
            plan,
            backend.role,
            {"eth0": [backend.interface]},
            plan.router(backend) if plan.one_armed else plan.internal.ip,
        )
    namespaces.run(
        plan.namespace("nat"),
        [iptables(plan.family), "-w", "-t", "nat", "-A", "POSTROUTING", "-o", "wan", "-j", "MASQUERADE"],
    )


@contextmanager
def told(what: str) -> Iterator[None]:
    """What the kernel refuses becomes a LabError: a container may lack the privilege, a kernel the kind of link."""
    try:
        yield
    except (NetlinkError, OSError) as error:
        number = error.code if isinstance(error, NetlinkError) else error.errno
        raise LabError(f"{what}: {os.strerror(number) if number else error}.") from error


def plug(switch: str, port: str) -> None:
    """In `lan`: make the port one of the switch; with "" as the switch, pull it out, without the other end noticing."""
    with IPRoute() as ip:
        ip.link("set", ifname=port, master=ip.link_lookup(ifname=switch)[0] if switch else 0)


def ports(plan: Plan, gateway: str) -> dict[str, str]:
    """The gateway's ports in `lan`, and which switch each belongs to."""
    if plan.one_armed:
        return {gateway: SWITCH}
    return {gateway: SWITCH, outside_port(gateway): OUTSIDE_SWITCH}


def outside_port(gateway: str) -> str:
    return f"{gateway}-out"


def iptables(family: int) -> str:
    return "iptables" if family == 4 else "ip6tables"


def _first(node: Node) -> Interface:
    """The first address of a node's network, with its prefix length: the router's."""
    network = node.interface.network
    return ip_interface(f"{network[1]}/{network.prefixlen}")


def _switch(plan: Plan) -> None:
    def work() -> None:
        with IPRoute() as ip:
            for name in (SWITCH, OUTSIDE_SWITCH):
                ip.link("add", ifname=name, kind="bridge")
                ip.link("set", ifname=name, state="up")

    with told(f"The switches in {plan.namespace('lan')} cannot be made"):
        namespaces.inside(plan.namespace("lan"), work)


def _link(plan: Plan, role: str, ifname: str, peer_role: str, peer: str, switch: str = SWITCH) -> None:
    """A cable: a veth pair between two namespaces, up on both ends; an end in `lan` becomes a port of
    `switch`.
    """

    def here() -> None:
        with IPRoute() as ip:
            ip.link(
                "add",
                ifname=ifname,
                kind="veth",
                peer={"ifname": peer, "net_ns_fd": plan.namespace(peer_role)},
            )
        ready(ifname)

    def there() -> None:
        ready(peer)
        if peer_role == "lan":
            plug(switch, peer)

    def ready(name: str) -> None:
        # A veth leaves the checksum to hardware that it does not have. Switched off, what a capture sees is what
        # would stand on a wire, and a wrong checksum can be told from an unfinished one.
        with closing(IoctlEthtool(name)) as device:
            device.set_offload_flag("tx-checksumming", 0)
        with IPRoute() as ip:
            ip.link("set", ifname=name, state="up")

    with told(f"{plan.namespace(role)} and {plan.namespace(peer_role)} cannot be linked"):
        namespaces.inside(plan.namespace(role), here)
        namespaces.inside(plan.namespace(peer_role), there)


def _address(plan: Plan, role: str, addresses: dict[str, list[Interface]], default: str | None = None) -> None:
    def work() -> None:
        with IPRoute() as ip:
            ip.link("set", ifname="lo", state="up")
            for ifname, interface in itertools.chain.from_iterable(
                ((ifname, interface) for interface in interfaces) for ifname, interfaces in addresses.items()
            ):
                index = ip.link_lookup(ifname=ifname)[0]
                ip.addr(
                    "add",
                    index=index,
                    address=str(interface.ip),
                    prefixlen=interface.network.prefixlen,
                    flags=IFA_F_NODAD if interface.version == 6 else 0,
                )
            if default:
                ip.route("add", dst="default", gateway=default, family=10 if plan.family == 6 else 2)

    with told(f"{plan.namespace(role)} cannot have its addresses and routes"):
        namespaces.inside(plan.namespace(role), work)
