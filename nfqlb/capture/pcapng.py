"""The newer capture file [draft-ietf-opsawg-pcapng]: blocks, several interfaces, several sections.

Knows the blocks that hold packets (Enhanced, Simple, and the obsolete Packet Block) and the two that say
how to read them (Section Header, Interface Description); every other block is passed over without being
kept. Byte order belongs to a section; link type, snaplen, time resolution and time offset belong to an
interface.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from nfqlb.capture.errors import Damaged, NotACapture
from nfqlb.capture.frame import MAX_FRAME, Frame
from nfqlb.capture.source import Source

_SECTION, _INTERFACE, _OLD_PACKET, _SIMPLE_PACKET, _PACKET = 0x0A0D0D0A, 1, 2, 3, 6
_SECTION_MAGIC = b"\x0a\x0d\x0d\x0a"
_ORDERS = {b"\x4d\x3c\x2b\x1a": "<", b"\x1a\x2b\x3c\x4d": ">"}
_OPTION_TSRESOL, _OPTION_TSOFFSET = 9, 14
_MAX_BLOCK = MAX_FRAME + (1 << 17)
"""Bytes of a block that we keep: a frame and a generous share of options (each up to 64 KiB)."""
_MAX_INTERFACES = 4096
"""Interfaces of one section. A damaged file must not make us remember millions."""
_NANOSECOND = 1_000_000_000


class _Interface(NamedTuple):
    link_type: int
    snaplen: int
    """0 = unlimited."""
    ticks: int
    """Per second."""
    offset_ns: int


def is_pcapng(head: bytes) -> bool:
    return head[:4] == _SECTION_MAGIC


def read(source: Source) -> Iterator[Frame]:
    """The packets of a file whose head `is_pcapng`."""
    if len(source.head) < 8:
        raise NotACapture(f"{source.name} is cut off inside the first pcapng block.")
    return _Reader(source).frames()


class _Reader:
    def __init__(self, source: Source) -> None:
        self.source = source
        self.order = "<"
        self.interfaces: list[_Interface] = []
        self.number = 1
        """Of the next frame."""
        self.start = 0
        """Where the present block begins."""

    def frames(self) -> Iterator[Frame]:
        source = self.source
        while True:
            self.start = source.offset
            header = source.read(8)
            if not header and not source.packing_fault:
                return
            self._whole(header, 8)
            if header.startswith(_SECTION_MAGIC):
                self._section(header)
                continue
            kind, length = struct.unpack(self.order + "II", header)
            if length < 12 or length % 4:
                raise self._damaged(f"a block cannot be {length} bytes long")
            if kind in (_PACKET, _OLD_PACKET, _SIMPLE_PACKET):
                frame = self._packet(kind, self._body(length))
                yield frame
                self.number += 1
            elif kind == _INTERFACE:
                self._interface(self._body(length))
            else:
                self._pass_over(length)

    def _section(self, header: bytes) -> None:
        """A Section Header Block: its byte order holds until the next one, and interfaces count from 0 again."""
        rest = self.source.read(8)
        self._whole(header + rest, 16)
        order = _ORDERS.get(rest[:4])
        if order is None:
            raise self._damaged("the section header has no byte-order magic")
        self.order, self.interfaces = order, []
        (length,) = struct.unpack(order + "I", header[4:])
        (major,) = struct.unpack(order + "4xH2x", rest)
        if major != 1:
            raise self._damaged(f"pcapng version {major} is not known")
        if length < 28 or length % 4:
            raise self._damaged(f"a section header cannot be {length} bytes long")
        self._pass_over(length, done=16)

    def _body(self, length: int) -> bytes:
        """The rest of a block, without its trailing length."""
        if length > _MAX_BLOCK:
            raise self._damaged(f"a block of {length} bytes, more than any capture holds")
        body = self.source.read(length - 8)
        self._whole(body, length - 8, length)
        if struct.unpack(self.order + "I", body[-4:])[0] != length:
            raise self._damaged("the two lengths of a block differ")
        return body[:-4]

    def _pass_over(self, length: int, done: int = 8) -> None:
        skipped = self.source.skip(length - done - 4)
        tail = self.source.read(4)
        if skipped < length - done - 4 or len(tail) < 4:
            raise self.source.truncated(self.number, self.start, length)
        if struct.unpack(self.order + "I", tail)[0] != length:
            raise self._damaged("the two lengths of a block differ")

    def _interface(self, body: bytes) -> None:
        if len(body) < 8:
            raise self._damaged("an interface description that is too short")
        if len(self.interfaces) == _MAX_INTERFACES:
            raise self._damaged(f"more than {_MAX_INTERFACES} interfaces")
        link_type, snaplen = struct.unpack(self.order + "H2xI", body[:8])
        ticks, offset = 1_000_000, 0
        at = 8
        while at + 4 <= len(body):
            code, size = struct.unpack_from(self.order + "HH", body, at)
            value = body[at + 4 : at + 4 + size]
            if code == 0 or len(value) < size:
                break
            if code == _OPTION_TSRESOL and size == 1:
                ticks = 1 << (value[0] & 0x7F) if value[0] & 0x80 else 10 ** value[0]
            elif code == _OPTION_TSOFFSET and size == 8:
                (offset,) = struct.unpack(self.order + "q", value)
            at += 4 + (size + 3 & ~3)
        self.interfaces.append(_Interface(link_type, snaplen, ticks, offset * _NANOSECOND))

    def _packet(self, kind: int, body: bytes) -> Frame:
        head = {_PACKET: 20, _OLD_PACKET: 20, _SIMPLE_PACKET: 4}[kind]
        if len(body) < head:
            raise self._damaged("a packet block that is too short")
        time_ns: int | None = None
        if kind == _SIMPLE_PACKET:
            (wire,) = struct.unpack(self.order + "I", body[:4])
            interface = self._known(0)
            captured = min(wire, interface.snaplen or wire)
        else:
            layout = "IIIII" if kind == _PACKET else "H2xIIII"
            index, high, low, captured, wire = struct.unpack(self.order + layout, body[:20])
            interface = self._known(index)
            time_ns = (high << 32 | low) * _NANOSECOND // interface.ticks + interface.offset_ns
        data = body[head : head + captured]
        if len(data) < captured:
            raise self._damaged(f"it claims {captured} bytes, more than its block has")
        if captured > MAX_FRAME:
            raise self._damaged(f"it claims {captured} bytes, more than any capture holds")
        return Frame(self.number, time_ns, interface.link_type, data, max(wire, captured))

    def _known(self, index: int) -> _Interface:
        if index >= len(self.interfaces):
            raise self._damaged(f"interface {index} has not been described")
        return self.interfaces[index]

    def _whole(self, data: bytes, needed: int, block: int = 0) -> None:
        if len(data) < needed:
            raise self.source.truncated(self.number, self.start, block or needed)

    def _damaged(self, what: str) -> Damaged:
        return Damaged(self.source.name, self.number, self.start, what)
