"""The kernel's end of a queue's socket: packets as nfnetlink_queue sends them, and verdicts as it gets them."""

import mmap
import socket
import struct
import time
from typing import Any

HEADER = struct.Struct("=IHHIIBBH")
ATTRIBUTE = struct.Struct("=HH")
PACKET, VERDICT, BATCH, ERROR = 0x300, 0x301, 0x303, 2
ID = 7
STAMP = 1_700_000_000.25


def message(kind: int, *attributes: tuple[int, bytes]) -> bytes:
    """As the kernel sends it."""
    body = b"".join(ATTRIBUTE.pack(4 + len(value), kind) + value + bytes(-len(value) % 4) for kind, value in attributes)
    return HEADER.pack(HEADER.size + len(body), kind, 0, 0, 0, 2, 0, socket.htons(9)) + body


def queued(content: bytes | None, packet_id: int = ID) -> bytes:
    stamp = struct.pack(">QQ", int(STAMP), int(STAMP % 1 * 1_000_000))
    found = [(1, struct.pack(">IHBx", packet_id, 0x800, 0)), (4, stamp)]
    return message(PACKET, *found, *([] if content is None else [(10, content)]))


def answers(kernel: socket.socket) -> list[tuple[int, dict[int, bytes]]]:
    """Messages that came back: kind and attributes. Several may come at once, each aligned [netlink(7)]."""
    found: list[tuple[int, dict[int, bytes]]] = []
    kernel.setblocking(False)
    while True:
        try:
            rest = kernel.recv(0x40000)
        except BlockingIOError:
            return found
        while rest:
            length, kind, flags, _, _, _, _, queue = HEADER.unpack_from(rest)
            assert (flags, socket.ntohs(queue)) == (1, 9)
            data, rest = rest[:length], rest[length + -length % 4 :]
            assert len(data) == length
            attributes, at = {}, HEADER.size
            while at < length:
                size, name = ATTRIBUTE.unpack_from(data, at)
                attributes[name] = data[at + 4 : at + size]
                at += size + -size % 4
            found.append((kind, attributes))


def pumped(
    *messages: bytes, consumer: Any, hands: mmap.mmap | None = None
) -> tuple[Any, list[tuple[int, dict[int, bytes]]]]:
    """The compiled loop, after it has read these, and what it said."""
    kernel, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with kernel, ours:
        for end in (kernel, ours):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        for each in messages:
            kernel.send(each)
        return served(ours, consumer, hands), answers(kernel)


def served(ours: socket.socket, consumer: Any, hands: mmap.mmap | None = None) -> Any:
    """The compiled loop, after it has decided about all that waited."""
    from nfqlb.gateway.worker._nfqueue_loop import ROOM, QueueLoop

    pump = QueueLoop(ours.fileno(), 9, consumer, hands or mmap.mmap(-1, ROOM))
    pump.stop(time.monotonic() + 60)
    pump.run()
    return pump
