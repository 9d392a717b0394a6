"""What passes on the gateway's links: packet sockets in its namespace, frame by frame with time and direction.

A tap sees arriving packets before any rule of the gateway and leaving ones after everything, so it shows what is on
the wire. Knows AF_PACKET; does not know SIP. One-armed, both directions of both sides are on one link.
"""

import select
import socket
import struct
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from nfqlb.capture.writer import PcapWriter
from nfqlb.lab import LabError, namespaces

ETH_P_ALL, ETH_P_IP, ETH_P_IPV6 = 0x0003, 0x0800, 0x86DD  # <linux/if_ether.h>
PACKET_OUTGOING = 4  # <linux/if_packet.h>
SO_RCVBUFFORCE, SO_TIMESTAMPNS = 33, 35  # <asm-generic/socket.h>
BUFFER = 32 << 20
"""Bytes that may wait for the reading thread: seconds of traffic at the rates of the lab."""


class Seen(NamedTuple):
    """One frame on a link."""

    time_ns: int
    link: str
    """Interface of the gateway: `outside`, `inside`."""
    outgoing: bool
    packet: bytes
    """The IP packet (or a fragment of one), without link layer."""


class Tap:
    """Records the links of one namespace while the context is open; `frames` are in the order of time."""

    def __init__(self, namespace: str, links: Iterable[str]) -> None:
        self._namespace, self._links = namespace, tuple(links)
        self._frames: list[Seen] = []
        self._stop = threading.Event()
        self._sockets: list[socket.socket] = []
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Tap":
        try:
            namespaces.inside(self._namespace, self._open)
        except OSError as error:
            self.close()
            links = " and ".join(self._links)
            raise LabError(f"{links} of {self._namespace} cannot be listened to: {error.strerror}.") from None
        self._thread = threading.Thread(target=self._read, name="tap", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Read what is there and stop."""
        self._stop.set()
        if self._thread:
            self._thread.join()
        for sock in self._sockets:
            sock.close()
        self._sockets.clear()

    @property
    def frames(self) -> list[Seen]:
        return sorted(self._frames, key=lambda frame: frame.time_ns)

    def settled(self, quiet: float = 0.05, limit: float = 2.0) -> list[Seen]:
        """The frames, once none has come for `quiet` seconds, or after `limit` seconds at the latest."""
        deadline = time.monotonic() + limit
        count = -1
        while count != len(self._frames) and time.monotonic() < deadline:
            count = len(self._frames)
            time.sleep(quiet)
        return self.frames

    def clear(self) -> None:
        """Forget what was seen so far."""
        self._frames.clear()

    def _open(self) -> None:
        for link in self._links:
            # Cooked (SOCK_DGRAM): the kernel takes the link header away. All protocols, else nothing leaving is seen.
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
            self._sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
            sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            sock.setblocking(False)
            sock.bind((link, ETH_P_ALL))

    def _read(self) -> None:
        while True:
            last = self._stop.is_set()
            for sock in select.select(self._sockets, [], [], 0 if last else 0.1)[0]:
                self._drain(sock)
            if last:
                return

    def _drain(self, sock: socket.socket) -> None:
        while True:
            try:
                packet, extra, _, address = sock.recvmsg(65_600, 64)
            except BlockingIOError:
                return
            link, protocol, kind = address[:3]
            if protocol not in (ETH_P_IP, ETH_P_IPV6):
                continue
            time_ns = 0
            for level, number, data in extra:
                if level == socket.SOL_SOCKET and number == SO_TIMESTAMPNS:
                    seconds, nanoseconds = struct.unpack("@ll", data)
                    time_ns = seconds * 1_000_000_000 + nanoseconds
            self._frames.append(Seen(time_ns, link, kind == PACKET_OUTGOING, packet))


def save(path: Path, frames: Iterable[Seen]) -> int:
    """Write frames to a pcap file of raw IP; how many there were."""
    with path.open("wb") as file:
        writer = PcapWriter(file)
        for frame in frames:
            writer.write(frame.packet, frame.time_ns)
    return writer.frames
