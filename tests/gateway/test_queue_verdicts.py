"""Whatever a consumer does, each packet gets exactly one verdict, and never goes on as it came."""

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


def handle(packet: FakePacket, consumer: Consumer) -> None:
    queue = Queue.__new__(Queue)  # a bound one needs the kernel
    queue._consumer = consumer  # type: ignore[assignment]
    queue._fresh = False
    queue._handle(packet)  # type: ignore[arg-type]


@pytest.mark.parametrize("answer", [b"x", b"x" * MAX_PACKET], ids=["short", "long"])
def test_an_answer_goes_on_without_the_mark(answer: bytes) -> None:
    packet, consumer = FakePacket(), Consumer(answer)
    handle(packet, consumer)
    assert packet.verdicts == [("accept", answer, 0)]
    assert consumer.errors == []


def test_none_drops() -> None:
    packet, consumer = FakePacket(), Consumer(None)
    handle(packet, consumer)
    assert packet.verdicts == [("drop", None, None)]
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
def test_anything_else_drops_and_is_told(answer: object) -> None:
    packet, consumer = FakePacket(), Consumer(answer)
    handle(packet, consumer)
    assert packet.verdicts == [("drop", None, None)]
    assert [content for content, _ in consumer.errors] == [b"original"]


def test_a_packet_without_content_is_decided_as_empty() -> None:
    """Such come in the instant between creating the queue and asking for copies."""
    packet, consumer = FakePacket(None), Consumer(None)
    handle(packet, consumer)
    assert consumer.asked == [b""]
    assert packet.verdicts == [("drop", None, None)]
