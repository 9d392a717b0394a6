"""What the kernel says of routes, interfaces and addresses, asked over netlink; and how netlink is spoken.

Knows the few bytes of three questions and their answers (linux/netlink.h, rtnetlink.h, if_link.h, if_addr.h), and no
meaning of them. What is said of sets of addresses is in `netfilter.kernel_sets`. They are not left to pyroute2: it
takes longer to be loaded than all of them together to be answered, and a millisecond for each route, of which a reload
asks for three a backend.
"""

import os
import socket
import struct
from collections.abc import Iterator
from types import TracebackType
from typing import NamedTuple

FAMILY = {4: socket.AF_INET, 16: socket.AF_INET6}
"""By length of an address."""

NETLINK_ROUTE = 0
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP_INTR, NLM_F_DUMP = 0x1, 0x4, 0x10, 0x300
RTM_GETLINK, RTM_GETADDR, RTM_GETROUTE = 18, 22, 26
RTA_DST, RTA_SRC, RTA_IIF, RTA_OIF = 1, 2, 3, 4
IFLA_IFNAME, IFLA_MASTER, IFLA_LINKINFO, IFLA_INFO_KIND = 3, 10, 18, 1
IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS = 1, 2, 8

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_ROUTE = struct.Struct("=BBBBBBBBI")  # struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags
_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, change
_ADDRESS = struct.Struct("=BBBBI")  # struct ifaddrmsg: family, prefixlen, flags, scope, index
_ATTRIBUTE = struct.Struct("=HH")
_WORD = struct.Struct("=I")
_ERROR = struct.Struct("=i")

KIND_OF_ATTRIBUTE = 0x3FFF
"""Without the flags "nested" and "byte order of the network"."""

ANSWER_MAX = 1 << 16
"""Bytes; the kernel never says more at once."""


class Answer(NamedTuple):
    """To a question for a route."""

    link: int
    """Index of the interface that the packet would leave by; 0: by none."""
    kind: int
    """RTN_…"""


class LinkRow(NamedTuple):
    number: int
    """Of the interface."""
    name: str
    hardware: int
    """ARPHRD_…"""
    flags: int
    """IFF_…"""
    kind: str
    """`vlan`, `bridge` …; empty for hardware."""
    master: int
    """Index; 0 for none."""


class AddressRow(NamedTuple):
    link: int
    """Index."""
    packed: bytes
    flags: int
    """IFA_F_…"""


class Netlink:
    """A socket in the namespace of the thread that makes it."""

    def __init__(self, protocol: int = NETLINK_ROUTE) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
        self._serial = 0

    def __enter__(self) -> "Netlink":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def route(self, dst: bytes, src: bytes | None = None, came_in_by: int | None = None) -> Answer:
        """Addresses are packed. `came_in_by`: index of an interface, as if the packet had come from there. Raises
        OSError when the kernel would not send it.
        """
        wanted = attribute(RTA_DST, dst)
        if src is not None:
            wanted += attribute(RTA_SRC, src)
        if came_in_by is not None:
            wanted += attribute(RTA_IIF, _WORD.pack(came_in_by))
        asked = _ROUTE.pack(FAMILY[len(dst)], 8 * len(dst), 8 * len(src or b""), 0, 0, 0, 0, 0, 0)
        body = next(self.ask(RTM_GETROUTE, asked + wanted, 0))
        link = attributes(body, _ROUTE.size).get(RTA_OIF)
        return Answer(0 if link is None else _word(link), _ROUTE.unpack_from(body)[7])

    def links(self) -> list[LinkRow]:
        return [link(body) for body in self._all(RTM_GETLINK, _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0))]

    def addresses(self) -> list[AddressRow]:
        """IPv4 and IPv6, of all interfaces."""
        bodies = self._all(RTM_GETADDR, _ADDRESS.pack(socket.AF_UNSPEC, 0, 0, 0, 0))
        return [row for row in map(address, bodies) if row.packed]

    def _all(self, what: int, body: bytes) -> list[bytes]:
        """The bodies of a whole list, as it was at one moment."""
        while True:
            try:
                return list(self.ask(what, body, NLM_F_DUMP))
            except InterruptedError:
                continue

    def ask(self, what: int, body: bytes, flags: int) -> Iterator[bytes]:
        """The bodies of the answer: one, those of a list, or none, where it is only that it is done (NLM_F_ACK). Raises
        OSError; InterruptedError when the list changed while it was told.
        """
        self._serial += 1
        header = _HEADER.pack(_HEADER.size + len(body), what, NLM_F_REQUEST | flags, self._serial, 0)
        self._socket.send(header + body)
        interrupted = False
        while True:
            data, at = self._socket.recv(ANSWER_MAX), 0
            while at < len(data):
                length, kind, told, serial, _ = _HEADER.unpack_from(data, at)
                body, at = data[at + _HEADER.size : at + length], at + _aligned(length)
                if serial != self._serial:
                    continue
                if kind == NLMSG_ERROR:
                    (code,) = _ERROR.unpack_from(body)
                    if code:
                        raise OSError(-code, os.strerror(-code))
                    return
                interrupted |= bool(told & NLM_F_DUMP_INTR)
                if kind != NLMSG_DONE:
                    yield body
                elif interrupted:  # only now: the kernel tells one list at a time
                    raise InterruptedError
                else:
                    return


def link(body: bytes) -> LinkRow:
    """One row of a list of interfaces, without its header."""
    _, hardware, index, flags, _ = _LINK.unpack_from(body)
    told = attributes(body, _LINK.size)
    kind = attributes(told.get(IFLA_LINKINFO, b""), 0).get(IFLA_INFO_KIND, b"")
    master = told.get(IFLA_MASTER)
    return LinkRow(
        index, _text(told[IFLA_IFNAME]), hardware, flags, _text(kind), 0 if master is None else _word(master)
    )


def address(body: bytes) -> AddressRow:
    """One row of a list of addresses, without its header."""
    _, _, flags, _, index = _ADDRESS.unpack_from(body)
    told = attributes(body, _ADDRESS.size)
    # A point-to-point interface's IFA_ADDRESS is its peer's; IFA_LOCAL, where there is one, is its own.
    packed = told.get(IFA_LOCAL) or told.get(IFA_ADDRESS, b"")
    more = told.get(IFA_FLAGS)
    return AddressRow(index, packed, flags if more is None else _word(more))


def attributes(body: bytes, at: int) -> dict[int, bytes]:
    found = {}
    while at + _ATTRIBUTE.size <= len(body):
        length, what = _ATTRIBUTE.unpack_from(body, at)
        if length < _ATTRIBUTE.size:
            break
        found[what & KIND_OF_ATTRIBUTE] = body[at + _ATTRIBUTE.size : at + length]
        at += _aligned(length)
    return found


def attribute(what: int, value: bytes) -> bytes:
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, what) + value + bytes(_aligned(length) - length)


def _word(value: bytes) -> int:
    number: int = _WORD.unpack_from(value)[0]
    return number


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode("utf-8", "surrogateescape")


def _aligned(length: int) -> int:
    return -(-length // 4) * 4
