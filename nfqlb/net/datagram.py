"""One IP packet with one UDP datagram: read it, and write one anew.

Knows IPv4 [RFC 791], IPv6 with its extension headers [RFC 8200] and UDP [RFC 768]. Does not know SIP, links or
fragments: the kernel (live) or the capture reader (replay) has put fragments together before.

What is written is a fresh packet, not an edited one: no IP options, no extension headers, DF clear, a fresh TTL, the
TOS byte (DSCP and ECN) kept, checksums right and the UDP checksum never 0 (P37).
"""

import struct
from enum import Enum
from typing import NamedTuple

from nfqlb.errors import PacketError
from nfqlb.net.checksum import word_sum
from nfqlb.net.endpoint import Endpoint

UDP = 17
TTL = 64
MAX_PACKET = 65535
"""Longest IPv4 packet, and longest UDP datagram over IPv6 (without a jumbogram)."""

_FRAGMENT_HEADER = 44
_ROUTING_HEADER = 43
_SKIPPED_HEADERS = frozenset((0, 60))  # hop-by-hop and destination options


class Fault(Enum):
    """What is wrong with a packet."""

    NOT_UDP = "not UDP"
    BROKEN = "broken IP or UDP header"
    FRAGMENT = "a fragment"
    CHECKSUM = "UDP checksum wrong"
    TOO_LARGE = "more than 65,535 bytes"


class DatagramError(PacketError):
    """The bytes are no UDP datagram that we can use; `.fault` says why."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.value)
        self.fault = fault


class Datagram(NamedTuple):
    src: Endpoint
    dst: Endpoint
    payload: bytes
    tos: int
    """The IPv4 TOS byte or the IPv6 traffic class, 0..255."""


_PORTS = struct.Struct("!HHHH")


def parse(packet: bytes, *, verify: bool = True) -> Datagram:
    """Read a whole IP packet. Bytes after the IP length (link padding) are ignored.

    With `verify` a wrong UDP checksum is a fault, or our fresh one would make a damaged message look sound. Captures
    taken on a sending host carry unfinished checksums (offload), so replay reads without.

    Raises DatagramError.
    """
    if len(packet) < 28:
        raise DatagramError(Fault.BROKEN)
    version = packet[0] >> 4
    if version == 4:
        start = (packet[0] & 15) * 4
        end = packet[2] << 8 | packet[3]
        if start < 20 or end > len(packet):
            raise DatagramError(Fault.BROKEN)
        if packet[9] != UDP:
            raise DatagramError(Fault.NOT_UDP)
        if (packet[6] << 8 | packet[7]) & 0x3FFF:
            raise DatagramError(Fault.FRAGMENT)
        tos = packet[1]
        src_addr, dst_addr = packet[12:16], packet[16:20]
    elif version == 6:
        start, end = _ipv6_payload(packet)
        tos = (packet[0] & 15) << 4 | packet[1] >> 4
        src_addr, dst_addr = packet[8:24], packet[24:40]
    else:
        raise DatagramError(Fault.BROKEN)
    if end - start < 8:
        raise DatagramError(Fault.BROKEN)
    src_port, dst_port, length, checksum = _PORTS.unpack_from(packet, start)
    if length < 8 or start + length > end:
        raise DatagramError(Fault.BROKEN)
    if verify and (checksum or version == 6):
        # An IPv4 sender may leave the checksum out; an IPv6 one may not [RFC 8200 8.1].
        pseudo = word_sum(src_addr + dst_addr) + UDP + length
        if not checksum or (pseudo + word_sum(packet[start : start + length])) % 0xFFFF:
            raise DatagramError(Fault.CHECKSUM)
    payload = packet[start + 8 : start + length]
    return Datagram(Endpoint(src_addr, src_port), Endpoint(dst_addr, dst_port), payload, tos)


def _ipv6_payload(packet: bytes) -> tuple[int, int]:
    """Where the UDP header starts and the packet ends, past any extension headers."""
    if len(packet) < 48:
        raise DatagramError(Fault.BROKEN)
    end = 40 + (packet[4] << 8 | packet[5])
    if end > len(packet):
        raise DatagramError(Fault.BROKEN)
    header, start = packet[6], 40
    while header != UDP:
        if start + 8 > end:
            raise DatagramError(Fault.BROKEN)
        if header == _FRAGMENT_HEADER:
            if (packet[start + 2] << 8 | packet[start + 3]) & 0xFFF9:
                raise DatagramError(Fault.FRAGMENT)
            length = 8  # an "atomic" fragment is whole [RFC 6946]
        elif header in _SKIPPED_HEADERS or header == _ROUTING_HEADER:
            if header == _ROUTING_HEADER and packet[start + 3]:
                raise DatagramError(Fault.BROKEN)  # segments left: we are not its last destination
            length = (packet[start + 1] + 1) * 8
        else:
            raise DatagramError(Fault.NOT_UDP)
        header = packet[start]
        start += length
    return start, end


_IPV4 = struct.Struct("!BBHHHBBH4s4sHHHH")
_IPV6 = struct.Struct("!IHBB16s16sHHHH")


def build(src: Endpoint, dst: Endpoint, payload: bytes, *, tos: int = 0, ident: int = 0) -> bytes:
    """A fresh packet from `src` to `dst`, both of one IP version. `ident` is the IPv4 identification (mod 65,536).

    Raises DatagramError (TOO_LARGE) when the packet would exceed what its length fields can say.
    """
    length = 8 + len(payload)
    addresses = src.addr + dst.addr
    if length > MAX_PACKET:
        raise DatagramError(Fault.TOO_LARGE)
    checksum = 0xFFFF - (word_sum(addresses) + UDP + 2 * length + src.port + dst.port + word_sum(payload)) % 0xFFFF
    # The remainder is 0..0xfffe, so the checksum is 1..0xffff: never the 0 that would mean "none".
    if len(src.addr) == 4:
        total = 20 + length
        if total > MAX_PACKET:
            raise DatagramError(Fault.TOO_LARGE)
        ident &= 0xFFFF
        words = (0x4500 | tos) + total + ident + (TTL << 8 | UDP) + word_sum(addresses)
        # A sum that is a multiple of 0xffff complements to 0; only the UDP checksum may not be 0 [RFC 1071, RFC 768].
        header_sum = 0xFFFF - (words % 0xFFFF or 0xFFFF)
        header = _IPV4.pack(
            0x45, tos, total, ident, 0, TTL, UDP, header_sum, src.addr, dst.addr, src.port, dst.port, length, checksum
        )  # fmt: skip
    else:
        header = _IPV6.pack(
            6 << 28 | tos << 20, length, UDP, TTL, src.addr, dst.addr, src.port, dst.port, length, checksum
        )
    return header + payload
