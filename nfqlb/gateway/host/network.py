"""What this host's network looks like: interfaces, addresses, and the route that a packet would take.

Has the kernel asked and changes nothing. Does not know what a gateway needs of it.
"""

import errno
import fcntl
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

from nfqlb.errors import HostError
from nfqlb.gateway.host.netlink import Netlink

# linux/if_addr.h, linux/if.h, linux/if_arp.h, linux/rtnetlink.h, linux/sockios.h
IFA_F_DADFAILED = 0x08
IFA_F_TENTATIVE = 0x40
IFF_UP = 0x1
IFF_RUNNING = 0x40
ARPHRD_LOOPBACK = 772
RTN_UNICAST = 1
RTN_LOCAL = 2
SIOCGIFFLAGS = 0x8913

IFREQ = struct.Struct("16sH22x")


@dataclass(frozen=True, slots=True)
class Link:
    """One interface."""

    name: str
    index: int
    up: bool
    """Switched on (`ip link set … up`), cable or not."""
    kind: str
    """`vlan`, `bridge`, `dummy` …; empty for hardware, `lo` for the loopback interface."""
    master: int
    """Index of the bridge or bond that it belongs to; 0 for none."""


@dataclass(frozen=True, slots=True)
class Address:
    """One address of an interface."""

    packed: bytes
    link: str
    flags: int

    @property
    def tentative(self) -> bool:
        """IPv6: duplicate address detection has not ended, so that nothing can be sent from it yet."""
        return bool(self.flags & IFA_F_TENTATIVE)

    @property
    def duplicate(self) -> bool:
        """IPv6: another host has it, so the kernel does not use it."""
        return bool(self.flags & IFA_F_DADFAILED)


@dataclass(frozen=True, slots=True)
class Route:
    """Where the kernel would send a packet."""

    link: str
    kind: int
    """RTN_…"""


class NoRoute(HostError):
    """The kernel would not send it; the text is its reason."""


class Network:
    """A look at the network of the calling thread's namespace. Addresses and links are read once."""

    def __init__(self, netlink: Netlink) -> None:
        self._netlink = netlink

    @cached_property
    def links(self) -> dict[str, Link]:
        """By name."""
        return {
            row.name: Link(
                row.name,
                row.number,
                bool(row.flags & IFF_UP),
                "lo" if row.hardware == ARPHRD_LOOPBACK else row.kind,
                row.master,
            )
            for row in self._netlink.links()
        }

    @cached_property
    def addresses(self) -> list[Address]:
        names = self._names
        return [
            Address(row.packed, names[row.link], row.flags)
            for row in self._netlink.addresses()
            if row.link in names  # one may have come meanwhile
        ]

    def carriers(self, packed: bytes) -> list[Address]:
        """The address on each interface that has it."""
        return [address for address in self.addresses if address.packed == packed]

    def has_addresses(self, link: str, version: int) -> bool:
        return any(each.link == link and len(each.packed) == {4: 4, 6: 16}[version] for each in self.addresses)

    def route(self, dst: bytes, *, src: bytes | None = None, came_in_by: str | None = None) -> Route:
        """The kernel's answer to `ip route get`. With `came_in_by`: as if the packet had come from the wire, with all
        the checks of a source address that this brings. Raises NoRoute.
        """
        try:
            link, kind = self._netlink.route(dst, src, None if came_in_by is None else self.links[came_in_by].index)
        except OSError as error:
            raise NoRoute(str(error.strerror)) from None
        return Route(self._names.get(link, ""), kind)

    @cached_property
    def _names(self) -> dict[int, str]:
        return {link.index: link.name for link in self.links.values()}


@contextmanager
def look() -> Iterator[Network]:
    """A Network to ask, for as long as the netlink socket is open."""
    with Netlink() as netlink:
        yield Network(netlink)


def is_here(address: str) -> bool:
    """Whether this host has the address: then the kernel would take it as the source of what goes there."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect((address, 9))
        except OSError as error:
            if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EADDRNOTAVAIL, errno.EINVAL):
                return False
            raise
        return bool(asking.getsockname()[0] == address)


def is_running(link: str) -> bool:
    """Whether the interface is there, switched on, and has a carrier."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            answer = fcntl.ioctl(any_socket, SIOCGIFFLAGS, IFREQ.pack(link.encode(), 0))
        except OSError:
            return False
    flags: int = IFREQ.unpack(answer)[1]
    return flags & (IFF_UP | IFF_RUNNING) == IFF_UP | IFF_RUNNING
