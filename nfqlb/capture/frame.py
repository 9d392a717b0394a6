"""One captured frame, as every container gives it."""

from typing import NamedTuple

MAX_FRAME = 262_144
"""Bytes: the largest frame libpcap writes (its MAXIMUM_SNAPLEN). A larger length is damage, not a frame."""


class Frame(NamedTuple):
    number: int
    """From 1, as tshark and Wireshark count."""
    time_ns: int | None
    """Nanoseconds since 1970; None when the capture did not note it (pcapng Simple Packet Block)."""
    link_type: int
    """LINKTYPE_ number, see https://www.tcpdump.org/linktypes.html."""
    data: bytes
    """What was captured, from the link layer header on."""
    wire_length: int
    """Bytes that the frame had on the wire; more than `data` when snaplen cut it off."""

    @property
    def cut_off(self) -> bool:
        return self.wire_length > len(self.data)
