"""One network for one system under test: outside, the gateway's host, inside, each a namespace.

    out ── eth0 ═══ outside ── gw ── inside ═══ eth0 ── in

`out` and `in` belong to the generator of load: no addresses, no stack in the way; frames go in and out raw. A veth
hands a frame over on the core that sends it. Towards the gateway that would be the generator's core, so Receive Packet
Steering moves it: the kernel does what comes in at the gateway on the gateway's core, as a network card's interrupt
would have it. What the gateway sends is not moved back: it ends in the ring of a packet socket, one copy of the bytes,
on the gateway's core (to move it would cost the gateway an interrupt to the other core, which on a virtual machine is
more than all the rest of sending). Knows links and addresses; does not know what runs.
"""

from contextlib import ExitStack
from dataclasses import dataclass

from pyroute2 import IPRoute

from nfqlb.lab import namespaces

EXTERNAL, INTERNAL = "203.0.113.5", "192.168.1.5"
PORT = 5060
OUTSIDE, INSIDE = "outside", "inside"

NOBODY = "02:00:00:00:00:99"
"""The link address to which the gateway sends all: of no interface, so the kernel gives a frame to the generator's
packet socket and to nobody else."""

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
        """`name`: of the namespaces, with `-out`, `-gw` and `-in` behind; of this process alone."""
        self.out, self.gateway, self.inside = (f"{name}-{role}" for role in ("out", "gw", "in"))
        self._cores, self._mtu = cores, mtu
        self._stack = ExitStack()
        self.addresses: dict[str, str] = {}
        """Link addresses of the gateway's interfaces."""

    def __enter__(self) -> "Network":
        names = (self.out, self.gateway, self.inside)
        with ExitStack() as stack:
            for name in names:
                stack.callback(namespaces.remove, name)
            stack.callback(namespaces.end_members, names)
            for name in names:
                namespaces.create(name)
                namespaces.sysctl(name, {"net/ipv6/conf/all/disable_ipv6": "1"})
            for interface, far in ((OUTSIDE, self.out), (INSIDE, self.inside)):
                self._link(interface, far)
            namespaces.inside(self.gateway, self._address)
            namespaces.sysctl(self.gateway, FORWARDING)
            self._steer(self.gateway, (OUTSIDE, INSIDE), self._cores.system)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _link(self, interface: str, far: str) -> None:
        def here() -> None:
            with IPRoute() as ip:
                ip.link("add", ifname=interface, kind="veth", peer={"ifname": "eth0", "net_ns_fd": far})
                index = ip.link_lookup(ifname=interface)[0]
                ip.link("set", index=index, mtu=self._mtu, state="up")
                self.addresses[interface] = ip.get_links(index)[0].get_attr("IFLA_ADDRESS")

        def there() -> None:
            with IPRoute() as ip:
                index = ip.link_lookup(ifname="eth0")[0]
                ip.link("set", index=index, mtu=self._mtu, state="up", arp=False)

        namespaces.inside(self.gateway, here)
        namespaces.inside(far, there)

    def _address(self) -> None:
        with IPRoute() as ip:
            ip.link("set", ifname="lo", state="up")
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

    def _steer(self, name: str, interfaces: tuple[str, ...], core: int) -> None:
        files = " ".join(f"/sys/class/net/{each}/queues/rx-0/rps_cpus" for each in interfaces)
        # `ip netns exec` brings the /sys of that namespace along.
        namespaces.run(name, ["sh", "-ec", f"for file in {files}; do echo {1 << core:x} >$file; done"])
