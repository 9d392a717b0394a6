"""The floor: the least that a Python program in the packet path can do, to measure others against.

Run as `python -m devtools.bench.floor EXTERNAL INTERNAL BACKEND PHONE`, four of IP:PORT, it serves queue 0. A request
gets a constant row below its start line, a response loses as many bytes there; addresses are constant; the checksums
are right, and computed from the old ones: what is added is a constant too. Nothing of SIP is read.
"""

import struct
import sys
from ipaddress import IPv4Address

from netfilterqueue import NetfilterQueue, Packet

ROW = b"Via: SIP/2.0/UDP 192.168.1.5;branch=z9hG4bKnfqfad1047f31609b96.41fc8f74;floor=".ljust(218, b"x") + b"\r\n"
"""As many bytes as a gateway adds to an INVITE; an even number, so that what stands behind keeps its place in words."""

LENGTH = 8192
BUFFER = 8 << 20


def words(data: bytes) -> int:
    """The one's-complement sum of 16-bit words, not folded further than modulo 0xffff."""
    return int.from_bytes(data + bytes(len(data) % 2), "big") % 0xFFFF


class Floor:
    def __init__(self, external: bytes, internal: bytes, backend: bytes, phone: bytes) -> None:
        """Each of six bytes: address and port."""
        self._external = external[:4]
        self._in = internal[:4] + backend[:4], internal[4:] + backend[4:]
        self._out = external[:4] + phone[:4], external[4:] + phone[4:]
        self._even, self._odd = words(ROW), words(ROW[-1:] + ROW[:-1])

    def rewrite(self, packet: bytes) -> bytes:
        """The packet (IPv4 without options, whole, with a UDP checksum) as it goes on."""
        enters = packet[16:20] == self._external
        addresses, ports = self._in if enters else self._out
        response = packet[28:32] == b"SIP/"
        at = packet.index(b"\r\n", 28) + 2
        change = self._odd if at % 2 else self._even
        if response:
            grown, kept, change = -len(ROW), packet[28:at] + packet[at + len(ROW) :], -change
        else:
            grown, kept = len(ROW), packet[28:at] + ROW + packet[at:]
        total, length = (packet[2] << 8 | packet[3]) + grown, (packet[24] << 8 | packet[25]) + grown
        ends = words(addresses)
        before = words(packet[12:20])
        old = packet[26] << 8 | packet[27]
        check = (~old & 0xFFFF) + change + 2 * grown + ends - before + words(ports) - words(packet[20:24])
        head = (0x4500 + total + (packet[4] << 8 | packet[5]) + 0x4011 + ends) % 0xFFFF
        return (
            struct.pack(
                "!BBHHHBBH", 0x45, 0, total, packet[4] << 8 | packet[5], 0, 64, 17, 0xFFFF - (head or 0xFFFF)
            )
            + addresses
            + ports
            + struct.pack("!HH", length, 0xFFFF - check % 0xFFFF)
            + kept
        )  # fmt: skip

    def handle(self, packet: Packet) -> None:
        try:
            packet.set_payload(self.rewrite(packet.get_payload()))
        except (ValueError, IndexError):
            packet.drop()
        else:
            packet.accept()


def six(text: str) -> bytes:
    host, _, port = text.partition(":")
    return IPv4Address(host).packed + int(port).to_bytes(2, "big")


def main(external: str, internal: str, backend: str, phone: str) -> None:
    queue = NetfilterQueue()
    floor = Floor(six(external), six(internal), six(backend), six(phone))
    queue.bind(0, floor.handle, max_len=LENGTH, sock_len=BUFFER)
    print("ready", flush=True)
    queue.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
