"""What can be wrong with a capture file, as sentences for the person who gave it to us.

Any bytes lead to frames or to one of these; no other exception leaves the readers, save the OSError of a
file that cannot be opened or read.
"""

from nfqlb.errors import NfqlbError


class CaptureError(NfqlbError):
    """A capture that cannot be read, or not to its end. The text says what to do or where to look."""


class NotACapture(CaptureError):
    """The bytes are not a pcap or pcapng file; the text says what they look like."""


class Truncated(CaptureError):
    """The file ends inside a frame; every frame before it has been handed on."""

    def __init__(self, name: str, frame: int, offset: int, needed: int, end: int, cause: str = "") -> None:
        """`cause`: what the unpacker said, when that is where it broke off."""
        super().__init__(
            f"{name} is truncated: what begins at byte {offset} (frame {frame}) needs {needed} bytes, "
            f"but the file ends at byte {end}{f' ({cause})' if cause else ''}. {_read_before(frame)}"
        )
        self.frame, self.offset = frame, offset


class Damaged(CaptureError):
    """A length or a reference in the file that cannot be true; every frame before it has been handed on."""

    def __init__(self, name: str, frame: int, offset: int, what: str) -> None:
        super().__init__(f"{name} is damaged at byte {offset} (frame {frame}): {what}. {_read_before(frame)}")
        self.frame, self.offset = frame, offset


class UnsupportedLinkType(CaptureError):
    """The frames of the file, or of some of its interfaces, begin with a header that we cannot read."""

    def __init__(self, name: str, link_types: dict[int, int] | None = None, link_type: int = -1) -> None:
        readable = "Ethernet, Linux cooked, raw IP and BSD loopback can be read"
        if link_types:
            listed = ", ".join(f"{count} of {link_type_name(number)}" for number, count in sorted(link_types.items()))
            text = f"{name}: frames of a link type that cannot be read were ignored ({listed}); {readable}."
        else:
            text = f"{name} has link type {link_type_name(link_type)}, which cannot be read; {readable}."
        super().__init__(text)


def link_type_name(number: int) -> str:
    """`IEEE802_11 (105)`, or `unknown (4711)`."""
    from dpkt import pcap  # slow to import, and needed for the message only

    for name, value in vars(pcap).items():
        if name.startswith("DLT_") and value == number:
            return f"{name.removeprefix('DLT_')} ({number})"
    return f"unknown ({number})"


def _read_before(frame: int) -> str:
    if frame == 1:
        return "No frame could be read."
    return "The frame before it was read." if frame == 2 else f"The {frame - 1} frames before it were read."
