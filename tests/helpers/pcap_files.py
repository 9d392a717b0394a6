"""Captures for the tests, written by scapy and dpkt (never by us), and what they contain."""

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from dpkt import pcapng
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw
from scapy.utils import RawPcapWriter

from nfqlb.capture.frame import Frame
from nfqlb.capture.frames import read_frames
from nfqlb.capture.packets import Packet, PacketReader
from nfqlb.capture.source import Source

RAW_IP = 101
EPOCH = 1_700_000_000


class Stored(NamedTuple):
    data: bytes
    time_ns: int
    wire_length: int = 0
    """0 = as long as `data`."""


def udp(payload: bytes = b"hello", *, version: int = 4, **fields: Any) -> bytes:
    """A UDP packet from 172.31.23.177:5060 to 203.0.113.5:5060, or the same in IPv6."""
    network = (
        IP(src="172.31.23.177", dst="203.0.113.5", **fields)
        if version == 4
        else IPv6(src="2001:db8:1::177", dst="2001:db8::5", **fields)
    )
    return bytes(network / UDP(sport=5060, dport=5060) / Raw(payload))


def write_pcap(
    path: Path, frames: Iterable[Stored], *, link_type: int = RAW_IP, order: str = "<", nano: bool = False
) -> Path:
    """A classic pcap file, by scapy."""
    with RawPcapWriter(str(path), endianness=order, nano=nano) as writer:
        writer.linktype = link_type  # given as an argument, 0 would mean "guess"
        writer.write_header(None)
        for frame in frames:
            seconds, rest = divmod(frame.time_ns, 10**9)
            writer.write_packet(
                frame.data,
                sec=seconds,
                usec=rest if nano else rest // 1000,
                caplen=len(frame.data),
                wirelen=frame.wire_length or len(frame.data),
            )
    return path


class Blocks:
    """A pcapng file made of dpkt's block classes; `order` is the byte order of the section."""

    def __init__(self, order: str = "<") -> None:
        self.order = order
        self.out = bytearray()
        self._suffix = "LE" if order == "<" else ""
        self.section()

    def _make(self, kind: str, **fields: Any) -> Any:
        return getattr(pcapng, kind + self._suffix)(**fields)

    def _option(self, code: int, data: bytes) -> object:
        return self._make("PcapngOption", code=code, data=data)

    def _options(self, options: dict[int, bytes]) -> list[object]:
        made = [self._option(code, data) for code, data in options.items()]
        return [*made, self._option(0, b"")] if made else []

    def section(self, order: str | None = None) -> "Blocks":
        if order:
            self.order = order
            self._suffix = "LE" if order == "<" else ""
        self.out += bytes(self._make("SectionHeaderBlock", opts=self._options({4: b"a test"})))
        return self

    def interface(
        self, link_type: int, snaplen: int = 0, resolution: int | None = None, offset: int | None = None
    ) -> "Blocks":
        options = {2: b"eth7"}
        if resolution is not None:
            options[9] = bytes([resolution])
        if offset is not None:
            options[14] = struct.pack(self.order + "q", offset)
        self.out += bytes(
            self._make("InterfaceDescriptionBlock", linktype=link_type, snaplen=snaplen, opts=self._options(options))
        )
        return self

    def packet(self, data: bytes, ticks: int, interface: int = 0, wire_length: int = 0) -> "Blocks":
        return self._packet("EnhancedPacketBlock", 24, data, ticks, interface, wire_length)

    def old_packet(self, data: bytes, ticks: int, interface: int = 0) -> "Blocks":
        return self._packet("PacketBlock", 24, data, ticks, interface, 0)

    def _packet(self, kind: str, length_at: int, data: bytes, ticks: int, interface: int, wire_length: int) -> "Blocks":
        block = bytearray(
            bytes(
                self._make(
                    kind,
                    iface_id=interface,
                    ts_high=ticks >> 32,
                    ts_low=ticks & 0xFFFFFFFF,
                    pkt_data=data,
                    opts=self._options({1: b"a comment"}),
                )
            )
        )
        if wire_length:  # dpkt always writes the captured length
            block[length_at : length_at + 4] = struct.pack(self.order + "I", wire_length)
        self.out += block
        return self

    def simple_packet(self, data: bytes, wire_length: int = 0) -> "Blocks":
        return self.other(3, struct.pack(self.order + "I", wire_length or len(data)) + data)

    def other(self, kind: int, body: bytes) -> "Blocks":
        """A block that dpkt has no class for."""
        body += bytes(-len(body) % 4)
        size = len(body) + 12
        self.out += struct.pack(self.order + "II", kind, size) + body + struct.pack(self.order + "I", size)
        return self

    def write(self, path: Path) -> Path:
        path.write_bytes(self.out)
        return path


def frames_of(path: Path | str) -> list[Frame]:
    with Source(path) as source:
        return list(read_frames(source))


def packets_of(path: Path | str) -> list[Packet]:
    with Source(path) as source:
        return list(PacketReader(source))
