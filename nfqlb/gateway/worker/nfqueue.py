"""One netfilter queue: whole packets in, exactly one verdict each out.

Knows netfilterqueue, and the few netlink messages that it does not send by itself. Does not know SIP, counters or
processes: a `Consumer` decides. Everything else in the gateway sees only the interface below. Behind it are two loops
that do the same, and pass the same tests: netfilterqueue's, and where it could be compiled the shorter one beside this
file.

The queue belongs to the netlink socket, not to a process: it lives, and packets wait in it, as long as any process
has that socket open. So one process binds, its children serve, and packets survive the death of a child: those that
wait, and those that the compiled loop has read and not decided yet.
"""

import errno
import importlib.util
import mmap
import os
import socket
import struct
import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, cast

from netfilterqueue import NetfilterQueue, Packet

from nfqlb import fast
from nfqlb.errors import HostError
from nfqlb.gateway.host import procfs

if TYPE_CHECKING:
    from nfqlb.gateway.worker._nfqueue_loop import QueueLoop
from nfqlb.gateway.worker.overload import Load

MAX_PACKET = 0xFFFF - 4
"""Bytes of the largest packet that fits a netlink attribute, either way: its 16-bit length counts its own header.
The kernel cuts a larger one off, which the reader then sees as an IP length beyond the data."""

RECEIVE_SIZE = 0x10000 + 0x1000
"""Bytes for one netlink message: a packet of MAX_PACKET and the attributes beside it."""

TICK = 0.1
"""Seconds after which a queue without packets calls `Consumer.idle`, and looks whether it shall stop."""

LEAST_MEMORY = 1280
"""Bytes that the kernel needs for a waiting packet: that of 200 to 500 bytes; a shorter one takes a third less, a
longer one more. So a queue is taken to be full a little early."""

# linux/netfilter/nfnetlink.h, nfnetlink_queue.h, linux/netfilter.h, netlink.h
_SUBSYSTEM = 3
_MSG_CONFIG = 2
_MSG_VERDICT_BATCH = 3
_CFG_PARAMS = 2
_VERDICT_HEADER = 2
_COPY_PACKET = 2
_NF_DROP = 0
_NLM_F_REQUEST = 1
_SO_TIMESTAMP = 29
_SO_MEMINFO = 55
_meminfo = struct.Struct("@9I")
_SOL_NETLINK = 270
_NETLINK_NO_ENOBUFS = 5


class QueueError(HostError):
    """The queue cannot be had; the text says why and what to do."""


class NoPrivilege(QueueError):
    """CAP_NET_ADMIN is missing."""


class QueueTaken(QueueError):
    """Another socket holds the queue; a queue cannot have two."""


class Consumer(Protocol):
    """Who decides about the packets of a queue."""

    def decide(self, packet: bytes, /) -> bytes | None:
        """The packet to go on with instead (1 to MAX_PACKET bytes), or None to drop it.

        `packet` is a whole IP packet. Whatever this raises drops the packet, and only this one.
        """

    def failed(self, packet: bytes, error: BaseException, /) -> None:
        """`decide` raised `error`, or gave what cannot be sent; the packet is dropped already."""

    def idle(self) -> None:
        """Nothing came for TICK seconds, or a second has passed."""

    # May have an attribute `direct` besides: fast.path.WorkerPath.direct, which the compiled loop asks instead of
    # `decide`.


def loop() -> str:
    """Which loop serves a queue: `compiled` (_nfqueue_loop.pyx), or `pure` (netfilterqueue's)."""
    if fast.which() != "compiled":
        return "pure"
    return "pure" if importlib.util.find_spec("nfqlb.gateway.worker._nfqueue_loop") is None else "compiled"


class Queue:
    """A bound queue, to be served by one process at a time: a child of the process that made this object."""

    def __init__(self, number: int, *, length: int, socket_buffer: int) -> None:
        """Bind queue `number`.

        `length` is the number of packets that may wait for a verdict, `socket_buffer` the bytes of the socket they
        wait in. When either is full the kernel drops and counts: fail-open stays off, because it would let
        packets through that nobody rewrote.

        Raises NoPrivilege, QueueTaken or QueueError.
        """
        self.number = number
        self._consumer: Consumer | None = None
        self._flags = 0
        self._deadline: float | None = None
        self._idle_at = 0.0
        self._fresh = True
        self._current: Packet | None = None
        self._pump: QueueLoop | None = None
        self._hands = _hands()
        self._queue = _bind(number, self._handle, length, socket_buffer)
        os.set_inheritable(self._queue.get_fd(), False)  # whoever had it open would keep the queue alive
        self._socket = socket.socket(fileno=os.dup(self._queue.get_fd()))
        # A timeout in the kernel, not in Python: no second system call for each packet.
        whole, part = divmod(int(TICK * 1e6), 1_000_000)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", whole, part))
        # A socket that wants to be told of a full buffer (ENOBUFS) gets nothing more until it has read the very last
        # packet: a short burst would cost all that comes in the second after. The kernel counts what it drops anyhow.
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_NO_ENOBUFS, 1)
        # The kernel then stamps packets when they come in, so that their age can be told: `load`.
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMP, 1)
        self._room = min(length * LEAST_MEMORY, self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF))
        self._copy_whole_packets()

    @property
    def buffer(self) -> int:
        """Bytes of socket buffer that the kernel granted; less than asked for without privilege over the host."""
        return self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2

    @property
    def filenos(self) -> tuple[int, int]:
        """The files that a process which serves this queue must keep open. It must leave by os._exit: the library's
        clean-up would unbind the queue under its owner."""
        return self._queue.get_fd(), self._socket.fileno()

    def load(self) -> Load:
        """How full the queue is, and how long the packet in hand has waited in it; for who serves it."""
        waiting = _meminfo.unpack(self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _meminfo.size))[0]
        stamp = 0.0
        if waiting and self._pump is not None:
            stamp = self._pump.stamp
        elif waiting and self._current is not None:
            stamp = self._current.get_timestamp()
        return Load(waiting / self._room, max(0.0, time.time() - stamp) if stamp else 0.0)

    def serve(self, consumer: Consumer) -> None:
        """Ask `consumer` about each packet, until `stop`."""
        self._consumer = consumer
        if self._hands is not None:
            from nfqlb.gateway.worker._nfqueue_loop import QueueLoop

            self._pump = QueueLoop(self._socket.fileno(), self.number, consumer, self._hands)
            if self._deadline is not None:
                self._pump.stop(self._deadline)
            while self._deadline is None:
                self._pump.run()
                consumer.idle()
            self._pump.run()
            return
        source = cast(socket.socket, self)  # run_socket needs no more of it than `recv`
        while self._deadline is None:
            self._queue.run_socket(source)  # returns when recv has nothing
            consumer.idle()
        self._queue.run_socket(source)

    def stop(self, drain: float) -> None:
        """End `serve` when nothing waits any more, or after `drain` seconds. May be called by a signal handler."""
        self._flags = socket.MSG_DONTWAIT
        deadline = time.monotonic() + drain
        self._deadline = deadline if self._deadline is None else min(self._deadline, deadline)
        if self._pump is not None:
            self._pump.stop(self._deadline)

    def recv(self, _size: int) -> bytes:
        """The next netlink message: `run_socket` takes us for its socket, and would read 4 KiB only."""
        now = time.monotonic()
        if self._deadline is not None:
            if now >= self._deadline:
                raise BlockingIOError(errno.EAGAIN, "stopping")
        elif now >= self._idle_at:
            self._idle_at = now + 1
            raise BlockingIOError(errno.EAGAIN, "a second has passed")
        return self._socket.recv(RECEIVE_SIZE, self._flags)  # run_socket returns after EAGAIN

    def close(self) -> None:
        """Unbind. What still waits is dropped by the kernel."""
        self._socket.close()
        self._queue.unbind()

    def _handle(self, packet: Packet) -> None:
        consumer = self._consumer
        assert consumer is not None
        if self._fresh:
            # Older ids than the first that we see were read by a predecessor who died with them in its hands.
            self._fresh = False
            self._drop_older_than(packet.id)
        self._current = packet
        try:
            content = packet.get_payload()
        except RuntimeError:  # it came in the instant before the queue was told to copy packets
            content = b""
        try:
            answer = consumer.decide(content)
            if answer is None:
                packet.drop()
                return
            if not 0 < len(answer) <= MAX_PACKET:
                # An empty payload is ignored: the packet would go on as it came.
                raise ValueError(f"a packet of {len(answer)} bytes cannot be sent")
            packet.set_payload(answer)
            packet.set_mark(0)  # it chose the queue; routing shall not see it
            packet.accept()
        except BaseException as error:
            packet.drop()  # without a verdict it would count against the queue's length for ever
            consumer.failed(content, error)

    def _copy_whole_packets(self) -> None:
        """Lift the 4,016 bytes that the library asks for. Raises QueueError when the kernel did not take it."""
        params = struct.pack(">IB", MAX_PACKET, _COPY_PACKET)
        self._socket.send(_message(self.number, _MSG_CONFIG, _CFG_PARAMS, params))
        try:
            row = procfs.kernel_queues().get(self.number)
        except PermissionError:  # only root may look
            return
        if row is not None and row.copy_range < MAX_PACKET:
            self.close()
            raise QueueError(f"The kernel copies only {row.copy_range} bytes of a packet to queue {self.number}.")

    def _drop_older_than(self, packet_id: int) -> None:
        verdict = struct.pack(">II", _NF_DROP, (packet_id - 1) & 0xFFFFFFFF)
        self._socket.send(_message(self.number, _MSG_VERDICT_BATCH, _VERDICT_HEADER, verdict))


def _hands() -> mmap.mmap | None:
    """Memory for what the compiled loop has in its hands, which survives the process; None for the other loop."""
    if loop() != "compiled":
        return None
    from nfqlb.gateway.worker._nfqueue_loop import ROOM

    return mmap.mmap(-1, ROOM)


def _bind(number: int, handle: Callable[[Packet], None], length: int, socket_buffer: int) -> NetfilterQueue:
    try:
        queue = NetfilterQueue()
    except OSError as error:
        if not procfs.has_capability(procfs.CAP_NET_ADMIN):
            raise NoPrivilege("Queues need the capability CAP_NET_ADMIN: start it as root.") from error
        raise QueueError("The kernel offers no NFQUEUE: try 'modprobe nfnetlink_queue'.") from error
    try:
        with warnings.catch_warnings():
            # The library warns about a smaller buffer; `buffer` tells, and the caller decides.
            warnings.simplefilter("ignore", RuntimeWarning)
            queue.bind(number, handle, max_len=length, sock_len=socket_buffer)
    except OSError as error:
        try:
            row = procfs.kernel_queues().get(number)
        except PermissionError:  # the kernel is there and we may ask, so it can only be that
            who = "another program, which root sees in /proc/net/netfilter/nfnetlink_queue"
        else:
            if row is None:
                raise QueueError(f"Queue {number} cannot be bound: {error}.") from error
            who = ", ".join(map(str, procfs.holders(row))) or f"netlink port {row.port}"
        raise QueueTaken(
            f"Queue {number} is held by {who}. End that program, or give us other numbers with [workers] queue."
        ) from error
    return queue


def _message(queue: int, kind: int, attribute: int, value: bytes) -> bytes:
    """A netlink message for `queue` with one attribute."""
    body = struct.pack("=BBH", socket.AF_UNSPEC, 0, socket.htons(queue))
    body += struct.pack("=HH", 4 + len(value), attribute) + value + bytes(-len(value) % 4)
    return struct.pack("=IHHII", 16 + len(body), _SUBSYSTEM << 8 | kind, _NLM_F_REQUEST, 0, 0) + body
