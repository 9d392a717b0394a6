"""The classic capture file of libpcap [draft-ietf-opsawg-pcap]: a file header, then records.

Knows micro- and nanosecond files, both byte orders, and the longer records of Kuznetsov's patched libpcap.
Does not know what is in a frame.
"""

import struct
from collections.abc import Iterator

from nfqlb.capture.errors import Damaged, NotACapture
from nfqlb.capture.frame import MAX_FRAME, Frame
from nfqlb.capture.source import Source

_MICRO, _NANO, _PATCHED = 0xA1B2C3D4, 0xA1B23C4D, 0xA1B2CD34
_MAGICS = {struct.pack(order + "I", magic): (order, magic) for order in "<>" for magic in (_MICRO, _NANO, _PATCHED)}
_FILE_HEADER = 24
_LINK_TYPE = 0x03FF_FFFF
"""The part of the header's last field that is the link type; above it stands the length of the frame check sequence."""


def is_pcap(head: bytes) -> bool:
    return head[:4] in _MAGICS


def has_nanoseconds(head: bytes) -> bool:
    return _MAGICS[head[:4]][1] == _NANO


def read(source: Source) -> Iterator[Frame]:
    """The records of a file whose head `is_pcap`."""
    header = source.read(_FILE_HEADER)
    if len(header) < _FILE_HEADER:
        raise NotACapture(f"{source.name} is cut off in the pcap file header: {len(header)} of {_FILE_HEADER} bytes.")
    order, magic = _MAGICS[header[:4]]
    major, minor, network = struct.unpack(order + "4xHH12xI", header)
    if major != 2:
        raise NotACapture(f"{source.name} is pcap version {major}.{minor}; only version 2 is known.")
    return _records(source, order, magic, network & _LINK_TYPE)


def _records(source: Source, order: str, magic: int, link_type: int) -> Iterator[Frame]:
    record = struct.Struct(order + ("IIII8x" if magic == _PATCHED else "IIII"))
    unit = 1 if magic == _NANO else 1000
    read, unpack, size = source.read, record.unpack, record.size
    number = 0
    while True:
        start = source.offset
        number += 1
        header = read(size)
        if len(header) < size:
            if header or source.packing_fault:
                raise source.truncated(number, start, size)
            return
        seconds, fraction, captured, wire = unpack(header)
        if captured > MAX_FRAME:
            raise Damaged(source.name, number, start, f"it claims {captured} bytes, more than any capture holds")
        data = read(captured)
        if len(data) < captured:
            raise source.truncated(number, start, size + captured)
        yield Frame(number, seconds * 1_000_000_000 + fraction * unit, link_type, data, max(wire, captured))
