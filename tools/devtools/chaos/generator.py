"""The generator: a process that sends the load from many addresses and ports, at a steady rate.

Run in the outside namespace as `python -m devtools.chaos.generator JOB`, JOB being a `Job` as JSON. Prints the time of
its beginning (nanoseconds since 1970), and at its end a `Sent` as JSON. Writes the time of each message, in the order
of their numbers, to `Job.record`: one unsigned 64-bit number of nanoseconds each. If `Job.answers` is given, three such
numbers go there for each final answer: the number of the message, the status, and when it came, by the kernel's clock.

The schedule is absolute: message n is due n/rate seconds after the beginning, and after a pause (of the machine, say)
what is overdue is sent at once. Between two batches it sleeps. On SIGTERM it ends as if its time were over.
"""

import json
import secrets
import select
import signal
import socket
import struct
import sys
import time
from array import array
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

from devtools.chaos.messages import KINDS, Template, number_of, template

TICK = 0.002
"""Seconds between two batches: 10 messages each at 5,000 a second."""

FLUSH = 8192
"""Messages after which their times go to the file."""

LISTEN = 0.5
"""Seconds after the last message in which replies may still come."""

HEAR = 10
"""Batches after which answers are read, where they are wanted."""

SO_SNDBUFFORCE, SO_RCVBUFFORCE, SO_TIMESTAMPNS = 32, 33, 35  # <asm-generic/socket.h>
BUFFER = 1 << 20


@dataclass(frozen=True)
class Job:
    target: tuple[str, int]
    flows: tuple[tuple[str, int], ...]
    """The sockets to send from: address and port."""
    rate: int
    """Messages per second."""
    seconds: float
    mixed: bool
    """All KINDS instead of REGISTERs only."""
    record: str
    """Path of a file."""
    answers: str = ""
    """Path of a file, if answers are to be written down."""
    domains: tuple[str, ...] = ("example.org",)
    """Of the Request-URIs: each flow has one, in turn."""


class Answer(NamedTuple):
    number: int
    """Of the message."""
    status: int
    """200..699."""
    at: int
    """Nanoseconds since 1970."""


@dataclass
class Sent:
    """What the generator has done."""

    sent: int = 0
    seconds: float = 0.0
    """From the beginning to the last message."""
    retried: int = 0
    """Messages that the kernel refused to take at first: after an ICMP error, or for want of memory."""
    longest_pause_ms: float = 0.0
    """Between two messages: what of a gap in the arrivals is the generator's."""
    replies: dict[str, int] = field(default_factory=dict)
    """Status → replies that came from the gateway; a message that was answered was not forwarded."""


class Generator:
    def __init__(self, job: Job) -> None:
        self._job = job
        self._stopped = False
        self._sockets = [_socket(address, job.target) for address in job.flows]
        kinds = KINDS if job.mixed else KINDS[:1]
        run = secrets.token_hex(4)
        self._templates: list[list[Template]] = [
            [
                template(kind, flow, _here(address), job.domains[flow % len(job.domains)], run)
                for flow, address in enumerate(job.flows)
            ]
            for kind in kinds
        ]
        self._statuses: Counter[str] = Counter()
        self._heard = select.epoll()
        self._by_descriptor = {sock.fileno(): sock for sock in self._sockets}
        for descriptor in self._by_descriptor:
            self._heard.register(descriptor, select.EPOLLIN)

    def stop(self) -> None:
        self._stopped = True

    def run(self) -> Sent:
        job, result = self._job, Sent()
        total = int(job.rate * job.seconds)
        begun = last = time.monotonic()
        with ExitStack() as files:
            record = files.enter_context(open(job.record, "wb"))
            answers = files.enter_context(open(job.answers, "wb")) if job.answers else None
            times: array[int] = array("Q")
            tick = 0
            while result.sent < total and not self._stopped:
                due = min(total, int((time.monotonic() - begun) * job.rate) + 1)
                if due > result.sent:
                    now = time.monotonic()
                    result.longest_pause_ms = max(result.longest_pause_ms, (now - last) * 1e3)
                    while result.sent < due:
                        times.append(self._send(result))
                        result.sent += 1
                    last = time.monotonic()
                if len(times) >= FLUSH:
                    times.tofile(record)
                    del times[:]
                tick = max(tick + 1, int((time.monotonic() - begun) / TICK))
                if answers and tick % HEAR == 0:
                    self._hear(answers)
                time.sleep(max(0.0, begun + tick * TICK - time.monotonic()))
            times.tofile(record)
            result.seconds = last - begun
            result.longest_pause_ms = round(result.longest_pause_ms, 1)
            time.sleep(LISTEN)
            self._hear(answers)
        result.replies = dict(self._statuses)
        return result

    def _send(self, result: Sent) -> int:
        """Send the next message; when, in nanoseconds."""
        number = result.sent
        turn, flow = divmod(number, len(self._sockets))
        message = self._templates[turn % len(self._templates)][flow].fill(number)
        while True:
            now = time.time_ns()
            try:
                self._sockets[flow].send(message)
            except OSError:  # an ICMP error of an earlier message, or no buffer: this one has not left
                result.retried += 1
                time.sleep(TICK)
            else:
                return now

    def _hear(self, record: BinaryIO | None) -> None:
        """Read what has come."""
        found: array[int] = array("Q")
        for descriptor, _ in self._heard.poll(0, len(self._sockets)):
            sock = self._by_descriptor[descriptor]
            while True:
                try:
                    message, extra, *_ = sock.recvmsg(4096, 64, socket.MSG_DONTWAIT)
                except OSError:
                    break
                word = message.split(b" ", 2)[1:2]
                status = word[0].decode("ascii", "replace") if word else "?"
                self._statuses[status] += 1
                number = number_of(message)
                if number is not None and status.isdigit() and int(status) >= 200:
                    seconds, nanoseconds = struct.unpack("@ll", extra[0][2])
                    found.extend((number, int(status), seconds * 1_000_000_000 + nanoseconds))
        if record is not None:
            found.tofile(record)


def _socket(address: tuple[str, int], target: tuple[str, int]) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, BUFFER)
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    sock.bind(address)
    sock.connect(target)
    return sock


def _here(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def main(text: str) -> None:
    values = json.loads(text)
    values["target"] = tuple(values["target"])
    values["flows"] = tuple(map(tuple, values["flows"]))
    values["domains"] = tuple(values["domains"])
    generator = Generator(Job(**values))
    signal.signal(signal.SIGTERM, lambda *_: generator.stop())
    print(time.time_ns(), flush=True)
    print(json.dumps(asdict(generator.run())), flush=True)


def read_times(record: Path) -> "array[int]":
    """The time of each message, by its number."""
    times: array[int] = array("Q")
    content = record.read_bytes()
    times.frombytes(content[: len(content) // times.itemsize * times.itemsize])
    return times


def read_answers(record: Path) -> list[Answer]:
    """What was answered, in the order in which it was read."""
    found: array[int] = array("Q")
    content = record.read_bytes()
    size = 3 * found.itemsize
    found.frombytes(content[: len(content) // size * size])
    return [Answer(*found[first : first + 3]) for first in range(0, len(found), 3)]


if __name__ == "__main__":
    main(sys.argv[1])
