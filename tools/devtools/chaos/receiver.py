"""A receiver: a process in a backend's namespace that notes the number and the time of each message that arrives.

Run as `python -m devtools.chaos.receiver JOB`, JOB being a `Job` as JSON. Prints a line when it listens and, after
SIGTERM, a `Received` as JSON. Writes two unsigned 64-bit numbers for each message to `Job.record`: its number, and when
it arrived (nanoseconds since 1970). The time is the kernel's, so the process may sleep and read in batches, and takes
little from the machine that it shares with the gateway.

A request that is not of the load is answered with 200, as a backend answers those who ask whether it lives.
"""

import json
import signal
import socket
import struct
import sys
import time
from array import array
from dataclasses import asdict, dataclass
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from typing import BinaryIO

from devtools.chaos.accounts import Arrivals
from devtools.chaos.messages import number_of

NAP = 0.01
"""Seconds between two batches."""

SO_RCVBUFFORCE, SO_TIMESTAMPNS, SO_MEMINFO = 33, 35, 55  # <asm-generic/socket.h>
MEMINFO_DROPS = 8  # <linux/sock_diag.h>
BUFFER = 64 << 20
"""Bytes that may wait: several seconds of any rate that is asked for here."""


@dataclass(frozen=True)
class Job:
    address: str
    port: int
    gateway: tuple[str, int]
    """Where the gateway's internal socket is."""
    record: str
    """Path of a file."""
    ports: int = 1
    """That it listens at, from `port` on: as many backends on one address."""


@dataclass
class Received:
    received: int = 0
    others: int = 0
    """Datagrams that are not of the load."""
    dropped: int = 0
    """Datagrams for which the socket had no room: the receiver's fault."""


class Receiver:
    def __init__(self, job: Job) -> None:
        self._job = job
        self._stopped = False
        self._sockets = [self._open(job.port + number) for number in range(job.ports)]
        # A keepalive to the gateway: from now on both know each other's link address, and no message waits for it.
        self._sockets[0].sendto(b"\r\n\r\n", job.gateway)
        self.result = Received()

    def _open(self, port: int) -> socket.socket:
        sock = socket.socket(socket.AF_INET6 if ":" in self._job.address else socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        sock.setblocking(False)
        sock.bind((self._job.address, port))
        return sock

    def stop(self) -> None:
        self._stopped = True

    def run(self) -> None:
        with open(self._job.record, "wb") as record, DefaultSelector() as selector:
            for sock in self._sockets:
                selector.register(sock, EVENT_READ, sock)
            while not self._stopped:
                if selector.select(0.2):
                    time.sleep(NAP)
                    self._drain(record, [key.data for key, _ in selector.select(0)])
            self._drain(record, self._sockets)
        for sock in self._sockets:
            info = sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 64)
            self.result.dropped += struct.unpack_from("=I", info, 4 * MEMINFO_DROPS)[0]

    def _drain(self, record: BinaryIO, sockets: list[socket.socket]) -> None:
        found: array[int] = array("Q")
        for sock in sockets:
            self._read(sock, found)
        found.tofile(record)
        record.flush()  # so that a receiver that is killed leaves what it has seen
        self.result.received += len(found) // 2

    def _read(self, sock: socket.socket, found: "array[int]") -> None:
        while True:
            try:
                message, extra, _, source = sock.recvmsg(65_600, 64)
            except BlockingIOError:
                return
            number = number_of(message)
            if number is None:
                self.result.others += 1
                if answer := answer_to(message):
                    sock.sendto(answer, source)
                continue
            seconds, nanoseconds = struct.unpack("@ll", extra[0][2])
            found.append(number)
            found.append(seconds * 1_000_000_000 + nanoseconds)


def answer_to(message: bytes) -> bytes:
    """The 200 to a request, nothing to anything else."""
    head = message.partition(b"\r\n\r\n")[0].split(b"\r\n")
    if not head[0].endswith(b" SIP/2.0") or head[0].startswith(b"ACK "):
        return b""
    wanted = (b"via:", b"from:", b"to:", b"call-id:", b"cseq:")
    kept = [line for line in head[1:] if line.lower().startswith(wanted)]
    return b"\r\n".join([b"SIP/2.0 200 OK", *kept, b"Content-Length: 0", b"", b""])


def main(text: str) -> None:
    values = json.loads(text)
    values["gateway"] = tuple(values["gateway"])
    receiver = Receiver(Job(**values))
    signal.signal(signal.SIGTERM, lambda *_: receiver.stop())
    print("listening", flush=True)
    receiver.run()
    print(json.dumps(asdict(receiver.result)), flush=True)


def read_arrivals(record: Path) -> Arrivals:
    """What a receiver has written down, up to its last whole batch if it was killed."""
    pairs: array[int] = array("Q")
    content = record.read_bytes() if record.exists() else b""
    size = 2 * pairs.itemsize
    pairs.frombytes(content[: len(content) // size * size])
    # Each socket's come in their order, and several sockets' batch by batch.
    times, numbers = pairs[1::2], pairs[::2]
    order = sorted(range(len(times)), key=times.__getitem__)
    return Arrivals(array("Q", map(numbers.__getitem__, order)), array("Q", map(times.__getitem__, order)))


if __name__ == "__main__":
    main(sys.argv[1])
