"""Whatever a consumer does, each packet gets exactly one verdict, and never goes on as it came.

The same for all loops: netfilterqueue's with a stand-in for its packet, the compiled one, which asks a Consumer or its
WorkerPath directly, with the kernel's end of a pair of sockets, over which netlink messages go as they do between it
and nfnetlink_queue.
"""

import hashlib
import importlib.util
import mmap
import os
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kernelend import (
    BATCH,
    ERROR,
    ID,
    PACKET,
    STAMP,
    VERDICT,
    answers,
    message,
    pumped,
    queued,
    served,
)
from sipcase import setup

from nfqlb import fast
from nfqlb.engine import Engine
from nfqlb.gateway.worker.nfqueue import MAX_PACKET, Queue


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
    direct: object = None

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

    def idle(self) -> None:
        """What a loop says now and then."""


Verdicts = list[tuple[str, bytes | None, int | None]]
Handle = Callable[[bytes | None, Consumer], Verdicts]
"""The verdicts on a packet with that content."""


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


def handle_direct(content: bytes | None, consumer: Consumer) -> Verdicts:
    """By a WorkerPath that asks Python about each packet."""
    from nfqlb.fast.path import WorkerPath

    fast = Engine(setup()).fast
    assert fast is not None
    slot = memoryview(bytearray(8 * 64)).cast("Q")
    layout = 0, 0, 0, [-1] * 6, -1
    ask: Any = consumer.decide
    lane = WorkerPath(fast, slot, layout, (MAX_PACKET, 1280, 1), ask, ask, ask)
    consumer.direct = lane.direct
    return handle_compiled(content, consumer)


def handle_pure(content: bytes | None, consumer: Consumer) -> Verdicts:
    packet = FakePacket(content)
    queue = Queue.__new__(Queue)  # a bound one needs the kernel
    queue._consumer = consumer
    queue._fresh = False
    queue._handle(packet)  # type: ignore[arg-type]  # stands in for netfilterqueue's
    return packet.verdicts


DIRECT = Path(fast.__file__).with_name("direct.pxd")
COMPILED = importlib.util.find_spec("nfqlb.gateway.worker._nfqueue_loop") is not None
needs_compiled = pytest.mark.skipif(not COMPILED, reason="the loop is not compiled here")


@pytest.fixture(
    params=[handle_pure, *(pytest.param(each, marks=needs_compiled) for each in (handle_compiled, handle_direct))],
    ids=["pure", "compiled", "direct"],
)
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
    from nfqlb.gateway.worker._nfqueue_loop import ROOM, QueueLoop

    kernel, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with kernel, ours:
        kernel.send(queued(b"content"))
        consumer = Consumer(None)
        pump = QueueLoop(ours.fileno(), 9, consumer, mmap.mmap(-1, ROOM))
        pump.stop(time.monotonic() - 1)
        pump.run()
        assert consumer.asked == []


@needs_compiled
def test_a_socket_that_is_closed_is_an_error_not_a_loop() -> None:
    from nfqlb.gateway.worker._nfqueue_loop import ROOM, QueueLoop

    kernel, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    pump = QueueLoop(ours.fileno(), 9, Consumer(None), mmap.mmap(-1, ROOM))
    kernel.close()
    ours.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        pump.run()


# several packets at once, and what a process that is killed leaves of them


class Speaking(Consumer):
    """Answers with the packet's own bytes, and does what a packet says."""

    def decide(self, packet: bytes) -> Any:
        self.asked.append(packet)
        match packet:
            case b"drop":
                return None
            case b"die":
                os._exit(7)
            case b"raise":
                raise ValueError("a bug")
        return b"<" + packet + b">"


def verdicts(said: list[tuple[int, dict[int, bytes]]]) -> list[tuple[int, bytes | None]]:
    """Id and new content of each, without those of a whole batch."""
    return [(struct.unpack(">II", each[2])[1], each.get(10)) for kind, each in said if kind == VERDICT]


@needs_compiled
def test_what_waits_gets_its_verdicts_in_order_whatever_their_number_and_size() -> None:
    sizes = [1, 500, 501, 502, 503, 3000, 20_000, 60_000, 9, 61_000, *range(700, 725)]
    contents = [bytes([number]) * size for number, size in enumerate(sizes, 1)]
    contents[4:4] = [b"drop", b"raise"]
    consumer = Speaking(None)
    _, said = pumped(*(queued(each, ID + at) for at, each in enumerate(contents)), consumer=consumer)
    assert consumer.asked == contents
    assert [content for content, _ in consumer.errors] == [b"raise"]
    assert said[0] == (BATCH, {2: struct.pack(">II", 0, ID - 1)})
    wanted = [None if each in (b"drop", b"raise") else b"<" + each + b">" for each in contents]
    assert verdicts(said) == [(ID + at, each) for at, each in enumerate(wanted)]


def killed(ours: socket.socket, hands: mmap.mmap) -> None:
    """A process serves, and dies of a packet."""
    pid = os.fork()
    if not pid:
        served(ours, Speaking(None), hands)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


@needs_compiled
def test_a_killed_process_costs_the_packet_that_it_was_deciding() -> None:
    from nfqlb.gateway.worker._nfqueue_loop import ROOM

    contents = [b"one", b"drop", b"two", b"die", b"three", b"die", b"four", b"five"]
    kernel, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    hands = mmap.mmap(-1, ROOM)
    with kernel, ours:
        for at, each in enumerate(contents):
            kernel.send(queued(each, ID + at))
        killed(ours, hands)
        assert answers(kernel) == []  # the first verdict would have gone out with the others
        killed(ours, hands)
        assert verdicts(answers(kernel)) == [(ID, b"<one>"), (ID + 2, b"<two>"), (ID + 3, None)]
        consumer = Speaking(None)
        pump = served(ours, consumer, hands)
        assert consumer.asked == [b"three", b"four", b"five"]
        died = [(ID + 5, None)]
        assert verdicts(answers(kernel)) == [(ID + 4, b"<three>"), *died, (ID + 6, b"<four>"), (ID + 7, b"<five>")]
        # The first packet that comes has those dropped that got no verdict.
        kernel.send(queued(b"new", 90))
        pump.run()
        said = answers(kernel)
        assert said[0] == (BATCH, {2: struct.pack(">II", 0, 89)})
        assert verdicts(said) == [(90, b"<new>")]


@needs_compiled
def test_a_large_packet_keeps_no_verdict_waiting() -> None:
    """Its decision takes as long as it is: who dies of it has sent the others' verdicts."""

    class Mortal(Speaking):
        def decide(self, packet: bytes) -> Any:
            return os._exit(7) if len(packet) > 3000 else super().decide(packet)

    kernel, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with kernel, ours:
        kernel.send(queued(b"small", ID))
        kernel.send(queued(bytes(3001), ID + 1))
        pid = os.fork()
        if not pid:
            served(ours, Mortal(None))
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        assert verdicts(answers(kernel)) == [(ID, b"<small>")]


@needs_compiled
def test_what_the_kernel_does_not_take_together_goes_one_by_one() -> None:
    """As when the verdicts are more than the socket's buffer holds; what does not fit alone is dropped, and told."""
    kernel, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with kernel, ours:
        for at, size in enumerate((1900, 1901, 1902, 5000, 1904)):
            kernel.send(queued(bytes(size), ID + at))
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the least there is: 4,608 bytes
        pid = os.fork()  # it waits for us when it sends
        if not pid:
            consumer = Speaking(None)
            served(ours, consumer)
            told = [(len(packet), type(error)) for packet, error in consumer.errors]
            os._exit(told != [(5000, OSError)])
        said: list[tuple[int, dict[int, bytes]]] = []
        deadline = time.monotonic() + 10
        while len(verdicts(said)) < 5 and time.monotonic() < deadline:
            said += answers(kernel)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        sizes = [(packet_id, None if content is None else len(content)) for packet_id, content in verdicts(said)]
        assert sizes == [(ID, 1902), (ID + 1, 1903), (ID + 2, 1904), (ID + 3, None), (ID + 4, 1906)]


@needs_compiled
def test_memory_that_somebody_has_spoilt_harms_nothing() -> None:
    from nfqlb.gateway.worker._nfqueue_loop import ROOM

    consumer = Speaking(None)
    _, said = pumped(queued(b"fine"), consumer=consumer, hands=mmap_of(b"\xff" * ROOM))
    assert (ID, b"<fine>") in verdicts(said)


def mmap_of(content: bytes) -> mmap.mmap:
    found = mmap.mmap(-1, len(content))
    found.write(content)
    return found


@needs_compiled
def test_memory_that_is_too_small_is_refused() -> None:
    from nfqlb.gateway.worker._nfqueue_loop import ROOM, QueueLoop

    with pytest.raises(ValueError, match="too small"):
        QueueLoop(0, 9, Consumer(None), mmap.mmap(-1, ROOM - 1))


@needs_compiled
def test_what_was_compiled_is_what_is_written() -> None:
    """In a checkout, the source may have changed since."""
    from nfqlb.gateway.worker import _nfqueue_loop

    source = Path(_nfqueue_loop.__file__).parent / "_nfqueue_loop.pyx"
    assert hashlib.sha256(DIRECT.read_bytes() + source.read_bytes()).hexdigest() == _nfqueue_loop.SOURCES, (
        "python setup.py build_ext --inplace"
    )
