"""Whatever a consumer does, each packet gets exactly one verdict, and never goes on as it came.

The same for both loops: netfilterqueue's with a stand-in for its packet, the compiled one with the kernel's end of a
pair of sockets, over which netlink messages go as they do between it and nfnetlink_queue.
"""

import hashlib
import importlib.util
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nfqlb.gateway.queue import MAX_PACKET, Queue


class FakePacket:
    """netfilterqueue's Packet, with its manners: an empty payload is ignored, a second verdict is an error."""

    id = 7

    def __init__(self, payload: bytes | None = b"original") -> None:
        self._payload = payload
        self._given: bytes | None = None
        self.mark: int | None = 0x1234
        self.verdicts: list[tuple[str, bytes | None, int | None]] = []

    def get_payload(self) -> bytes:
        if self._payload is None:
            raise RuntimeError("Packet has no payload -- perhaps you're using COPY_META mode?")
        return self._payload

    def set_payload(self, payload: bytes) -> None:
        if not isinstance(payload, bytes):
            raise TypeError("expected bytes")
        self._given = payload

    def set_mark(self, mark: int) -> None:
        self.mark = mark

    def accept(self) -> None:
        self.verdicts.append(("accept", self._given or self._payload, self.mark))

    def drop(self) -> None:
        self.verdicts.append(("drop", None, None))


class Consumer:
    def __init__(self, answer: Any) -> None:
        self._answer = answer
        self.asked: list[bytes] = []
        self.errors: list[tuple[bytes, BaseException]] = []

    def decide(self, packet: bytes) -> Any:
        self.asked.append(packet)
        if isinstance(self._answer, BaseException):
            raise self._answer
        return self._answer

    def failed(self, packet: bytes, error: BaseException) -> None:
        self.errors.append((packet, error))


Verdicts = list[tuple[str, bytes | None, int | None]]
Handle = Callable[[bytes | None, Consumer], Verdicts]
"""The verdicts on a packet with that content."""

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
    """Messages that came back: kind and attributes."""
    found = []
    kernel.setblocking(False)
    while True:
        try:
            data = kernel.recv(0x20000)
        except BlockingIOError:
            return found
        length, kind, flags, _, _, _, _, queue = HEADER.unpack_from(data)
        assert (length, flags, socket.ntohs(queue)) == (len(data), 1, 9)
        attributes, at = {}, HEADER.size
        while at < len(data):
            size, name = ATTRIBUTE.unpack_from(data, at)
            attributes[name] = data[at + 4 : at + size]
            at += size + -size % 4
        found.append((kind, attributes))


def pumped(*messages: bytes, consumer: Consumer) -> tuple[Any, list[tuple[int, dict[int, bytes]]]]:
    """The compiled loop, after it has read these, and what it said."""
    from nfqlb.gateway.pump import Pump

    kernel, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with kernel, ours:
        for each in (kernel, ours):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        for each in messages:
            kernel.send(each)
        pump = Pump(ours.fileno(), 9, consumer)  # type: ignore[arg-type]
        pump.stop(time.monotonic() + 60)
        pump.run()
        return pump, answers(kernel)


def handle_compiled(content: bytes | None, consumer: Consumer) -> Verdicts:
    pump, (batch, *said) = pumped(queued(content), consumer=consumer)
    assert batch == (BATCH, {2: struct.pack(">II", 0, ID - 1)})  # what a predecessor left, once
    assert pump.stamp == STAMP
    found: Verdicts = []
    for kind, attributes in said:
        assert kind == VERDICT
        verdict, packet_id = struct.unpack(">II", attributes.pop(2))
        assert packet_id == ID
        mark = attributes.pop(3, None)
        given = attributes.pop(10, None)
        assert not attributes
        found.append(("accept" if verdict else "drop", given, None if mark is None else int.from_bytes(mark, "big")))
    return found


def handle_pure(content: bytes | None, consumer: Consumer) -> Verdicts:
    packet = FakePacket(content)
    queue = Queue.__new__(Queue)  # a bound one needs the kernel
    queue._consumer = consumer  # type: ignore[assignment]
    queue._fresh = False
    queue._handle(packet)  # type: ignore[arg-type]
    return packet.verdicts


COMPILED = importlib.util.find_spec("nfqlb.gateway.pump") is not None
needs_compiled = pytest.mark.skipif(not COMPILED, reason="the loop is not compiled here")


@pytest.fixture(params=[handle_pure, pytest.param(handle_compiled, marks=needs_compiled)], ids=["pure", "compiled"])
def handle(request: pytest.FixtureRequest) -> Handle:
    found: Handle = request.param
    return found


@pytest.mark.parametrize("answer", [b"x", b"x" * MAX_PACKET], ids=["short", "long"])
def test_an_answer_goes_on_without_the_mark(handle: Handle, answer: bytes) -> None:
    consumer = Consumer(answer)
    assert handle(b"original", consumer) == [("accept", answer, 0)]
    assert consumer.asked == [b"original"]
    assert consumer.errors == []


def test_none_drops(handle: Handle) -> None:
    consumer = Consumer(None)
    assert handle(b"original", consumer) == [("drop", None, None)]
    assert consumer.errors == []


@pytest.mark.parametrize(
    "answer",
    [
        b"",  # the library would ignore it, and the packet go on unrewritten
        b"x" * (MAX_PACKET + 1),  # its attribute's length would overflow
        "text",
        bytearray(b"x"),
        7,
        ValueError("a bug"),
        RecursionError(),
        MemoryError(),
        SystemExit(0),
        KeyboardInterrupt(),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_anything_else_drops_and_is_told(handle: Handle, answer: object) -> None:
    consumer = Consumer(answer)
    assert handle(b"original", consumer) == [("drop", None, None)]
    assert [content for content, _ in consumer.errors] == [b"original"]


def test_a_packet_without_content_is_decided_as_empty(handle: Handle) -> None:
    """Such come in the instant between creating the queue and asking for copies."""
    consumer = Consumer(None)
    assert handle(None, consumer) == [("drop", None, None)]
    assert consumer.asked == [b""]


# the compiled loop alone: it reads netlink by itself


@needs_compiled
def test_messages_that_are_no_packets_are_passed_over() -> None:
    consumer = Consumer(None)
    error = struct.pack("=IHHIIi", 20, ERROR, 0, 0, 0, -2)
    without_id = message(PACKET, (10, b"content"))
    _, said = pumped(error, without_id, error + queued(b"behind"), b"", queued(b"last", 8), consumer=consumer)
    assert consumer.asked == [b"behind", b"last"]
    assert [kind for kind, _ in said] == [BATCH, VERDICT, VERDICT]


@needs_compiled
def test_messages_that_are_cut_off_harm_nothing() -> None:
    consumer = Consumer(None)
    whole = queued(b"content")
    _, _ = pumped(*(whole[:size] for size in range(1, len(whole))), consumer=consumer)
    assert consumer.asked == []
    lengths = [struct.pack("=I", size) + whole[4:] for size in range(len(whole) + 40)]
    _, _ = pumped(*lengths, consumer=consumer)
    assert set(consumer.asked) <= {b"content", b""}


@needs_compiled
def test_it_ends_at_its_deadline_however_much_waits() -> None:
    from nfqlb.gateway.pump import Pump

    kernel, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with kernel, ours:
        kernel.send(queued(b"content"))
        consumer = Consumer(None)
        pump = Pump(ours.fileno(), 9, consumer)  # type: ignore[arg-type]
        pump.stop(time.monotonic() - 1)
        pump.run()
        assert consumer.asked == []


@needs_compiled
def test_a_socket_that_is_closed_is_an_error_not_a_loop() -> None:
    from nfqlb.gateway.pump import Pump

    kernel, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    pump = Pump(ours.fileno(), 9, Consumer(None))  # type: ignore[arg-type]
    kernel.close()
    ours.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        pump.run()


@needs_compiled
def test_what_was_compiled_is_what_is_written() -> None:
    """In a checkout, the source may have changed since."""
    from nfqlb.gateway import pump

    source = Path(pump.__file__).parent / "pump.pyx"
    assert hashlib.sha256(source.read_bytes()).hexdigest() == pump.SOURCES, "python setup.py build_ext --inplace"
