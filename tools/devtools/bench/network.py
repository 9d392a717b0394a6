"""One network for one system under test: the gateway's host, a namespace with two interfaces whose wires end in the
generator of load.

    load ═══ outside ── gw ── inside ═══ load

Both are TAP devices: what the gateway sends goes on a ring, as with a network card, and costs it no more; what the
generator writes comes in as a frame. That would happen on the generator's core, so Receive Packet Steering moves it:
the kernel does what comes in at the gateway on the gateway's core, as a network card's interrupt would have it. Knows
links and addresses; does not know what runs.
"""

from contextlib import ExitStack
from dataclasses import dataclass

from pyroute2 import IPRoute

from nfqlb.lab import namespaces

EXTERNAL, INTERNAL = "203.0.113.5", "192.168.1.5"
PORT = 5060
OUTSIDE, INSIDE = "outside", "inside"

NOBODY = "02:00:00:00:00:99"
"""The link address to which the gateway sends all: nobody has it, and nobody has to."""

RING = 16384
"""Frames that may wait for the generator."""

FORWARDING = {
    "net/ipv4/ip_forward": "1",
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/all/accept_local": "1",
    "net/ipv6/conf/all/disable_ipv6": "1",
    **{f"net/ipv4/conf/{name}/rp_filter": "0" for name in (OUTSIDE, INSIDE)},
}


@dataclass(frozen=True)
class Cores:
    system: int
    load: int


class Network:
    """Use as a context manager: made on entry; on exit all that lives in it is ended, and it is removed."""

    def __init__(self, name: str, cores: Cores, mtu: int = 1500) -> None:
        """`name`: of the namespace, of this process alone."""
        self.gateway = name
        self._cores, self._mtu = cores, mtu
        self._stack = ExitStack()
        self.addresses: dict[str, str] = {}
        """Link addresses of the gateway's interfaces."""

    def __enter__(self) -> "Network":
        with ExitStack() as stack:
            stack.callback(namespaces.remove, self.gateway)
            stack.callback(namespaces.end_members, [self.gateway])
            namespaces.create(self.gateway)
            namespaces.sysctl(self.gateway, {"net/ipv6/conf/all/disable_ipv6": "1"})
            namespaces.inside(self.gateway, self._link)
            namespaces.sysctl(self.gateway, FORWARDING)
            self._steer((OUTSIDE, INSIDE))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _link(self) -> None:
        with IPRoute() as ip:
            ip.link("set", ifname="lo", state="up")
            for interface in (OUTSIDE, INSIDE):
                ip.link("add", ifname=interface, kind="tuntap", mode="tap")
                index = ip.link_lookup(ifname=interface)[0]
                ip.link("set", index=index, mtu=self._mtu, txqlen=RING, state="up")
                self.addresses[interface] = ip.get_links(index)[0].get_attr("IFLA_ADDRESS")
            # The inside has room for thousands of backends; the phones are behind a router.
            for interface, address, mask in ((OUTSIDE, EXTERNAL, 24), (INSIDE, INTERNAL, 16)):
                index = ip.link_lookup(ifname=interface)[0]
                ip.addr("add", index=index, address=address, prefixlen=mask)
            router = "203.0.113.1"
            outside = ip.link_lookup(ifname=OUTSIDE)[0]
            ip.neigh("add", dst=router, lladdr=NOBODY, ifindex=outside, state="permanent")
            ip.route("add", dst="default", gateway=router)

    def know(self, backends: list[str]) -> None:
        """The gateway knows the link address of each backend."""

        def work() -> None:
            with IPRoute() as ip:
                index = ip.link_lookup(ifname=INSIDE)[0]
                for address in backends:
                    ip.neigh("replace", dst=address, lladdr=NOBODY, ifindex=index, state="permanent")

        namespaces.inside(self.gateway, work)

    def _steer(self, interfaces: tuple[str, ...]) -> None:
        files = " ".join(f"/sys/class/net/{each}/queues/rx-0/rps_cpus" for each in interfaces)
        # `ip netns exec` brings the /sys of that namespace along.
        steer = f"for file in {files}; do echo {1 << self._cores.system:x} >$file; done"
        namespaces.run(self.gateway, ["sh", "-ec", steer])
