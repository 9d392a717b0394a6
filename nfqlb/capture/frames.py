"""Opening a capture: which container it is, and its frames one after another.

Knows the magic numbers. The containers themselves are read by `pcap` and `pcapng`.
"""

from collections.abc import Iterator

from nfqlb.capture import pcap, pcapng
from nfqlb.capture.errors import NotACapture
from nfqlb.capture.frame import Frame
from nfqlb.capture.source import Source

_FOREIGN = (
    (b"\xfd7zXZ", "an xz archive; unpack it first"),
    (b"BZh", "a bzip2 archive; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive; unpack it first"),
    (b"\x04\x22\x4d\x18", "an lz4 archive; unpack it first"),
    (b"PK\x03\x04", "a zip archive; unpack it first"),
    (b"snoop\0\0\0", "a Solaris snoop capture; convert it with editcap"),
    (b"GMBU", "a Microsoft Network Monitor capture; convert it with editcap"),
    (b"RTSS", "a Microsoft Network Monitor capture; convert it with editcap"),
    (b"TRSNIFF ", "a NetXRay or Sniffer capture; convert it with editcap"),
    (b"\x7fELF", "a program"),
    (b"%PDF", "a PDF document"),
    (b"\x89PNG", "a picture"),
    (b"SQLite", "an SQLite database"),
    (b"ustar", "a tar archive; unpack it first"),
)
"""First bytes of what people give to a capture reader by mistake."""


def read_frames(source: Source) -> Iterator[Frame]:
    """The frames of a pcap or pcapng file in order, numbered from 1, in constant memory.

    Raises CaptureError after the last whole frame when the file is not readable to its end, at once when it
    is no capture; OSError as the file system gives it.
    """
    head = source.head
    if pcap.is_pcap(head):
        return pcap.read(source)
    if pcapng.is_pcapng(head):
        return pcapng.read(source)
    raise NotACapture(f"{source.name} is not a pcap or pcapng capture: it {_guess(source)}.")


def has_nanoseconds(source: Source) -> bool:
    """Whether times are finer than microseconds, or may be: in pcapng an interface may say so late."""
    head = source.head
    return pcapng.is_pcapng(head) or (pcap.is_pcap(head) and pcap.has_nanoseconds(head))


def _guess(source: Source) -> str:
    head = source.head
    if source.packing_fault:
        return "seems to be a gzip archive that is cut off or damaged"
    if not head:
        return "is empty"
    for magic, what in _FOREIGN:
        if head.startswith(magic):
            return f"seems to be {what}"
    if all(byte in b"\t\r\n\x1b" or 32 <= byte < 127 for byte in head):
        return f"seems to be text, beginning with {head.decode('ascii')!r}"
    return f"begins with the bytes {head.hex(' ')}"
