"""Entries of the kernel's sets, read and written over netlink: for a process that may start no other one (`ipset`), and
has no millisecond to spare for each.

Knows the bytes of four messages (linux/netfilter/ipset/ip_set.h), for sets of addresses. What the sets are for, and the
command that makes them, is in `ipset`.
"""

import errno
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address

from nfqlb.errors import HostError
from nfqlb.gateway.host.netlink import NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, Netlink, attribute, attributes

Address = IPv4Address | IPv6Address

NETLINK_NETFILTER = 12
SUBSYSTEM, PROTOCOL = 6, 6
"""NFNL_SUBSYS_IPSET, and the oldest version of the protocol that is still spoken."""
LIST, ADD, DELETE, TEST = 7, 9, 10, 11
"""IPSET_CMD_…"""
A_PROTOCOL, A_NAME, A_DATA, A_ENTRIES, A_LINE = 1, 2, 7, 8, 9
"""IPSET_ATTR_… of a message"""
A_IP, A_TIMEOUT, A_COMMENT = 1, 6, 26
"""… and of an entry."""
A_ADDRESS = {4: 1, 6: 2}
"""IPSET_ATTR_IPADDR_…"""
NESTED, IN_NETWORK_ORDER = 0x8000, 0x4000

NOT_THERE = 4103
"""IPSET_ERR_EXIST: what TEST says of an entry that is not in the set."""
ERRORS = {errno.ENOENT: "there is no such set", 4352: "the set is full"}
"""The second is IPSET_ERR_HASH_FULL: such numbers have no text elsewhere."""

_HEAD = struct.Struct("=BBH")  # struct nfgenmsg: family, version, resource
_ATTRIBUTE = struct.Struct("=HH")
_SECONDS = struct.Struct("!I")


class KernelSets:
    """A socket in the namespace of the thread that makes it. Needs CAP_NET_ADMIN with each message."""

    def __init__(self) -> None:
        self._netlink = Netlink(NETLINK_NETFILTER)

    def close(self) -> None:
        self._netlink.close()

    def put(self, name: str, address: Address, seconds: int, comment: str = "") -> None:
        """Have an address in a set for so many seconds. One that is there gets the new time and comment; its counters
        go on. Raises HostError.
        """
        more = attribute(A_TIMEOUT | IN_NETWORK_ORDER, _SECONDS.pack(seconds))
        if comment:
            more += attribute(A_COMMENT, comment.encode() + b"\0")
        self._say(ADD, name, address, more)

    def remove(self, name: str, address: Address) -> None:
        """One that is not there is no error. Raises HostError."""
        self._say(DELETE, name, address)

    def has(self, name: str, address: Address) -> bool:
        """Raises HostError."""
        try:
            self._ask(TEST, name, _entry(address), NLM_F_REQUEST | NLM_F_ACK)
        except OSError as error:
            if error.errno == NOT_THERE:
                return False
            raise HostError(_why(error)) from error
        return True

    def entries(self, name: str) -> list[tuple[Address, int]]:
        """The addresses in a set whose entries end, and the seconds that each has left. Raises HostError."""
        try:
            bodies = self._ask(LIST, name, b"", NLM_F_DUMP)
        except OSError as error:
            raise HostError(_why(error)) from error
        return [entry for body in bodies for entry in _entries(attributes(body, _HEAD.size).get(A_ENTRIES, b""))]

    def _say(self, what: int, name: str, address: Address, more: bytes = b"") -> None:
        try:
            self._ask(what, name, _entry(address, more), NLM_F_ACK)
        except OSError as error:
            raise HostError(_why(error)) from error

    def _ask(self, what: int, name: str, more: bytes, flags: int) -> list[bytes]:
        body = _HEAD.pack(socket.AF_INET, 0, 0) + attribute(A_PROTOCOL, bytes((PROTOCOL,)))
        body += attribute(A_NAME, name.encode() + b"\0") + more
        return list(self._netlink.ask(SUBSYSTEM << 8 | what, body, flags))


def _entry(address: Address, more: bytes = b"") -> bytes:
    told = attribute(A_ADDRESS[address.version] | IN_NETWORK_ORDER, address.packed)
    line = attribute(A_LINE, bytes(4))  # asked for, to tell of a mistake by its line
    return attribute(A_DATA | NESTED, attribute(A_IP | NESTED, told) + more) + line


def _entries(body: bytes) -> Iterator[tuple[Address, int]]:
    """From what stands in an IPSET_ATTR_ADT: attributes of one number, an entry each."""
    at = 0
    while at < len(body):
        length, _ = _ATTRIBUTE.unpack_from(body, at)
        told = attributes(body[at + _ATTRIBUTE.size : at + length], 0)
        (packed,) = attributes(told[A_IP], 0).values()
        yield ip_address(packed), _SECONDS.unpack(told[A_TIMEOUT])[0]
        at += -(-length // 4) * 4


def _why(error: OSError) -> str:
    return ERRORS.get(error.errno or 0) or error.strerror or str(error)
