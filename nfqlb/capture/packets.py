"""A capture as a stream of whole IP packets, one entry for each frame.

Knows why a frame gives no packet: another protocol, cut off by snaplen, or a fragment whose packet another
frame completes. Holds nothing but the unfinished fragments.
"""

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from nfqlb.capture import ip, link
from nfqlb.capture.errors import UnsupportedLinkType
from nfqlb.capture.frame import Frame
from nfqlb.capture.frames import read_frames
from nfqlb.capture.pcapng import is_pcapng
from nfqlb.capture.reassembly import Reassembler
from nfqlb.capture.source import Source

NOT_IP = "not-ip"
CUT_OFF = "cut-off"
FRAGMENT = "fragment"
LINK_TYPE = "link-type"
SKIPPED = {
    NOT_IP: "no IP packet in the frame",
    CUT_OFF: "snaplen cut the packet off when it was captured",
    FRAGMENT: "a fragment; the frame that completes the packet carries the verdict",
    LINK_TYPE: "the link type of its interface cannot be read",
}
"""Why a frame gave no packet."""


class Packet(NamedTuple):
    frame: Frame
    data: bytes
    """The whole IP packet, without link layer and padding; what there is of it when `skipped` is set."""
    frames: tuple[int, ...]
    """The frames that it was put together from; only its own when it was no fragment."""
    skipped: str = ""
    """Key of SKIPPED, or "" for a packet that the gateway would see."""


class PacketReader:
    """Iterate over it, once, for the packets of `source`; afterwards ask it what could not be used."""

    def __init__(self, source: Source) -> None:
        """Raises NotACapture."""
        self.source = source
        self.unreadable: Counter[int] = Counter()
        """Frames by unsupported link type."""
        self.reassembler = Reassembler()
        self._frames = read_frames(source)
        self._now_ns = 0

    def __iter__(self) -> Iterator[Packet]:
        """Raises CaptureError; UnsupportedLinkType at the end when other frames could be read."""
        for frame in self._frames:
            if frame.link_type in link.SUPPORTED:
                yield self._packet(frame)
                continue
            # A pcap file has one link type; in a pcapng file another interface may still be readable.
            if not is_pcapng(self.source.head):
                raise UnsupportedLinkType(self.source.name, link_type=frame.link_type)
            self.unreadable[frame.link_type] += 1
            yield Packet(frame, b"", (frame.number,), LINK_TYPE)
        if self.unreadable:
            raise UnsupportedLinkType(self.source.name, self.unreadable)

    def _packet(self, frame: Frame) -> Packet:
        alone = (frame.number,)
        offset = link.network_offset(frame.link_type, frame.data)
        if offset < 0:
            skipped = CUT_OFF if offset == link.TOO_SHORT and frame.cut_off else NOT_IP
            return Packet(frame, b"", alone, skipped)
        data = frame.data[offset:] if offset else frame.data
        length = ip.length(data)
        if length > len(data):
            # Without snaplen to blame, the packet itself is broken: for the engine to judge.
            return Packet(frame, data, alone, CUT_OFF if frame.cut_off else "")
        if length < len(data):
            data = data[:length]
        piece = ip.fragment(data)
        if piece is None:
            return Packet(frame, data, alone)
        if frame.time_ns is not None:
            self._now_ns = frame.time_ns
        whole = self.reassembler.feed(piece, frame.number, self._now_ns)
        if whole is None:
            return Packet(frame, data, alone, FRAGMENT)
        return Packet(frame, whole.packet, whole.frames)
