"""Where the IP packet begins in a frame, for each link type that we read.

Knows link layer headers by their offsets [https://www.tcpdump.org/linktypes.html]; looks at nothing behind
them but the version nibble of IP.
"""

from typing import Final

NULL, ETHERNET, LOOP, SLL, SLL2 = 0, 1, 108, 113, 276
_RAW = frozenset({12, 14, 101, 228, 229})
"""LINKTYPE_RAW, IPV4 and IPV6, and the DLT_RAW numbers that older files carry instead."""
SUPPORTED: Final = _RAW | {NULL, ETHERNET, LOOP, SLL, SLL2}

NOT_IP: Final = -1
TOO_SHORT: Final = -2
"""The frame ends before its IP packet begins."""

_IPV4, _IPV6 = 0x0800, 0x86DD
_VLAN = frozenset({0x8100, 0x88A8, 0x9100, 0x9200})
"""802.1Q, 802.1ad, and what carriers used before 802.1ad."""
_AF_INET = 2
_AF_INET6 = frozenset({10, 24, 28, 30})
"""Linux; NetBSD and OpenBSD; FreeBSD; Darwin."""


def network_offset(link_type: int, data: bytes) -> int:
    """The offset of the IP packet in a frame of a SUPPORTED link type, or NOT_IP, or TOO_SHORT."""
    if link_type == ETHERNET:
        offset = _ether_type(data, 12)
    elif link_type in _RAW:
        offset = 0
    elif link_type == SLL:
        offset = _ether_type(data, 14)
    elif link_type == SLL2:
        # The type comes first and the IP packet after 20 bytes; VLAN tags stand before the IP packet.
        offset = _ether_type(data, 0, 20)
    else:
        offset = _loopback(data, either_order=link_type == NULL)
    if offset < 0:
        return offset
    if offset >= len(data):
        return TOO_SHORT
    return offset if data[offset] >> 4 in (4, 6) else NOT_IP


def _ether_type(data: bytes, at: int, header: int = 0) -> int:
    """The offset behind the EtherType at `at` (or behind `header` bytes), past any stack of VLAN tags."""
    offset = header or at + 2
    if len(data) < at + 2:
        return TOO_SHORT
    kind = data[at] << 8 | data[at + 1]
    while kind in _VLAN:
        if len(data) < offset + 4:
            return TOO_SHORT
        kind = data[offset + 2] << 8 | data[offset + 3]
        offset += 4
    return offset if kind in (_IPV4, _IPV6) else NOT_IP


def _loopback(data: bytes, *, either_order: bool) -> int:
    """BSD loopback: four bytes of address family, in the capturing host's byte order (NULL) or big-endian (LOOP)."""
    if len(data) < 4:
        return TOO_SHORT
    families = {int.from_bytes(data[:4], "big")}
    if either_order:
        families.add(int.from_bytes(data[:4], "little"))
    return 4 if _AF_INET in families or families & _AF_INET6 else NOT_IP
