"""As much of the IP header as a stored packet needs before the engine may see it.

Knows length, fragment fields and ports. Does not judge: whether a packet is well-formed is the engine's
business.
"""

from typing import NamedTuple

from nfqlb.net.endpoint import Endpoint

_PORTED = frozenset({6, 17, 33, 132, 136})
"""TCP, UDP, DCCP, SCTP, UDP-Lite: the first four bytes are the ports."""
_FRAGMENT = 44
_EXTENSIONS = frozenset({0, 43, 60})
"""Hop-by-hop options, routing, destination options: what may stand before a Fragment header [RFC 8200 4.1]."""


class Fragment(NamedTuple):
    """A piece of a packet, IPv4 and IPv6 alike."""

    key: bytes
    """Equal for all pieces of a packet: addresses, identification, protocol (IPv4 only) [RFC 791; RFC 8200 4.5]."""
    offset: int
    """Bytes into the fragmentable part."""
    more: bool
    """Further pieces follow this one."""
    header: bytes
    """What stands before the pieces in the whole packet: IPv4 header, or IPv6 header and unfragmentable
    extensions, with the length and the fragment fields still to be written."""
    data: bytes
    next_at: int
    """IPv6: where in `header` the number of the next header stands; 0 for IPv4."""
    next_header: int
    """IPv6: what follows the Fragment header, as this piece says."""


def length(packet: bytes) -> int:
    """Bytes that the IP header claims for the packet; more than there are when something is missing.

    The bytes there are, when the header says nothing usable (0: a jumbogram or segmentation offload).
    """
    if packet[0] >> 4 == 4:
        return (int.from_bytes(packet[2:4], "big") or len(packet)) if len(packet) >= 20 else 20
    if len(packet) < 40:
        return 40
    payload = int.from_bytes(packet[4:6], "big")
    return 40 + payload if payload else len(packet)


def fragment(packet: bytes) -> Fragment | None:
    """The piece that `packet` is, or None for a whole packet (or one too broken to tell)."""
    if len(packet) < 20:
        return None
    if packet[0] >> 4 == 4:
        field = int.from_bytes(packet[6:8], "big") & 0x3FFF
        start = (packet[0] & 15) * 4
        if not field or not 20 <= start <= len(packet):
            return None
        key = packet[12:20] + packet[4:6] + packet[9:10]
        return Fragment(key, (field & 0x1FFF) * 8, field >= 0x2000, packet[:start], packet[start:], 0, 0)
    kind, at, next_at = _upper(packet)
    if kind != _FRAGMENT or len(packet) < at + 8:
        return None
    field = int.from_bytes(packet[at + 2 : at + 4], "big")
    key = packet[8:40] + packet[at + 4 : at + 8]
    return Fragment(key, field & 0xFFF8, bool(field & 1), packet[:at], packet[at + 8 :], next_at, packet[at])


def endpoints(packet: bytes) -> tuple[Endpoint, Endpoint] | None:
    """Source and destination of a packet (or first fragment) that has ports."""
    if len(packet) < 20:
        return None
    if packet[0] >> 4 == 4:
        if int.from_bytes(packet[6:8], "big") & 0x1FFF:
            return None
        kind, at = packet[9], (packet[0] & 15) * 4
        source, destination = packet[12:16], packet[16:20]
    else:
        kind, at, _ = _upper(packet)
        if kind == _FRAGMENT and len(packet) >= at + 8:
            if packet[at + 2] or packet[at + 3] & 0xF8:
                return None
            kind, at = packet[at], at + 8
        source, destination = packet[8:24], packet[24:40]
    if kind not in _PORTED or len(packet) < at + 4:
        return None
    ports = int.from_bytes(packet[at : at + 4], "big")
    return Endpoint(source, ports >> 16), Endpoint(destination, ports & 0xFFFF)


def _upper(packet: bytes) -> tuple[int, int, int]:
    """IPv6: number and offset of the first header that is no extension, and where its number stands."""
    if len(packet) < 40:
        return -1, 0, 0
    kind, at, next_at = packet[6], 40, 6
    while kind in _EXTENSIONS and at + 8 <= len(packet):
        kind, next_at, at = packet[at], at, at + 8 + packet[at + 1] * 8
    return kind, at, next_at
