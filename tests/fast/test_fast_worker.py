"""A worker with the fast path and one without it: the same answers, the same counters."""

import math
import time
from pathlib import Path

import pytest
from sipcase import EXT, INT, KEY, PHONE, Gateway, endpoint, request, response_to, setup
from twins import SETUPS, both_versions, passed, six
from workbench import Bench

from nfqlb import fast
from nfqlb.engine import Engine
from nfqlb.gateway.shm.board import Cell, Traffic
from nfqlb.gateway.worker.overload import Load
from nfqlb.gateway.worker.shedding import Bounds, LoadShedder
from nfqlb.gateway.worker.worker import SAMPLE
from nfqlb.net import datagram
from nfqlb.proxy.triage import Triage
from nfqlb.proxy.verdict import Reason, Verdict

pytestmark = pytest.mark.skipif(fast.which() != "compiled", reason=f"no fast path here: {fast.which()}")


@pytest.mark.parametrize("name", SETUPS)
def test_answers_and_counters_are_the_same(tmp_path: Path, name: str) -> None:
    benches = [Bench(tmp_path, SETUPS[name], slow=each) for each in (False, True)]
    messages = [packet for _, packet in passed(name)]
    messages += [(PHONE, EXT, b"\r\n"), (PHONE, EXT, b"junk"), ("192.168.1.99:5060", INT, b"x")]
    for src, dst, payload in messages * 3:
        packet = datagram.build(endpoint(src), endpoint(dst), payload)
        assert benches[0].worker.decide(packet) == benches[1].worker.decide(packet)
    for each in benches:
        each.worker.idle()
    assert benches[0].counted == benches[1].counted
    assert benches[0].slot.cells[Cell.TIMED] == -(-3 * len(messages) // SAMPLE)


@pytest.mark.parametrize("status", ["183 x", "200 x", "302 x", "404 x", "503 x", "603 x"])
def test_responses_are_counted_by_their_class(tmp_path: Path, status: str) -> None:
    gateway = Gateway()
    invite = gateway.from_phone(request())
    bench = Bench(tmp_path, gateway.setup, slow=False)
    for _ in range(2):  # the first one is timed, and goes another way
        text = response_to(invite, status)
        bench.worker.decide(datagram.build(endpoint(invite.dst), endpoint(INT), text.replace("\n", "\r\n").encode()))
    (counted,) = [each for each in bench.slot.backends if any(each)]
    assert counted == tuple(
        2 * (number == Traffic.RESPONSES_1XX - 1 + int(status[0])) for number in range(len(Traffic))
    )


@pytest.mark.parametrize("slow", [False, True])
def test_a_packet_too_long_for_the_queue_is_dropped(tmp_path: Path, slow: bool) -> None:
    bench = Bench(tmp_path, setup(), slow=slow)
    message = request("MESSAGE", Content_Length=None).replace("\n", "\r\n").encode()
    for grown in range(60, 130):
        bench.worker.decide(datagram.build(endpoint(PHONE), endpoint(EXT), message.ljust(65_507 - grown, b"x")))
    assert bench.slot.reasons[Reason.TOO_LARGE] in range(1, 6)


@pytest.mark.parametrize("name", ["two-armed, IPv6", "both versions"])
def test_P38_ipv6_packets_over_1280_bytes_leave_by_a_socket(tmp_path: Path, name: str) -> None:
    """With the endpoints of the verdict, and counted alike; those of 1280 bytes, and all of IPv4, by the queue."""
    benches = [Bench(tmp_path, SETUPS[name], slow=each) for each in (False, True)]
    engine = Engine(SETUPS[name], slow=True)
    for kind, (src, dst, payload) in passed(name):
        payload = payload.replace(b"Content-Length", b"X")
        written = len(engine.process(datagram.build(endpoint(src), endpoint(dst), payload)).packet)
        for size in (1279, 1280, 1281, 1500, 60_000):
            packet = datagram.build(endpoint(src), endpoint(dst), payload.ljust(len(payload) + size - written, b"x"))
            before = len(benches[0].sender.sent)
            answer = benches[0].worker.decide(packet)
            assert answer == benches[1].worker.decide(packet), kind
            by_socket = endpoint(src).version == 6 and size > 1280
            assert (answer is None, len(benches[0].sender.sent) - before) == (by_socket, by_socket)
            assert len(answer or benches[0].sender.sent[-1][0]) == size
    assert benches[0].sender.sent == benches[1].sender.sent
    for each in benches:
        each.worker.idle()
    assert benches[0].counted == benches[1].counted
    assert benches[0].slot.cells[Cell.SOCKET_SENT] == len(benches[0].sender.sent)


@pytest.mark.parametrize("ext", [EXT, six(EXT)])
def test_overload_closes_the_lane(tmp_path: Path, ext: str) -> None:
    """Then new requests are shed, and some of them are for the shield to answer."""
    asked = []

    class Closed(LoadShedder):
        failing = False

        def __init__(self) -> None:
            self.overload = type("", (), {"episodes": 0})()

        def look(self, load: Load, now: float) -> bool:  # noqa: ARG002
            return load.fill > 0.5

        def decide(self, packet: bytes, process: object) -> Verdict:  # noqa: ARG002
            asked.append(packet)
            return Verdict(Reason.SHED, b"")

    bench = Bench(tmp_path, both_versions(setup(keys=(KEY,))), slow=False, shedder=Closed())
    phone = PHONE if ext == EXT else six(PHONE)
    packet = datagram.build(endpoint(phone), endpoint(ext), request().replace("\n", "\r\n").encode())
    answers = []
    for fill in (0.0, 1.0, 0.0):
        bench.load = Load(fill, 0.0)
        bench.worker._look_at = 0
        bench.worker.idle()
        answers.append({bench.worker.decide(packet) is None for _ in range(48)})
    assert answers == [{False}, {True}, {False}]
    assert bench.slot.reasons[Reason.SHED] == 48
    assert 0 < len(asked) < 10
    assert set(asked) == {packet}


@pytest.mark.parametrize(
    ("fills", "shed_at", "noted"),
    [
        ((1.0, 1.0), 0.5, 1),
        ((0.6, 0.6), 0.5, 1),
        ((0.6, 0.61), 0.5, 1),
        ((0.55, 0.55), 0.5, 0),  # shedding is enough
        ((1.0,), 0.5, 0),  # it has only begun
        ((1.0, 0.9, 0.8, 0.7), 0.5, 0),  # it helps
        ((0.7, 0.7), 0.8, 0),
        ((0.9, 0.9), 0.8, 1),
        ((1.0, 1.0), math.inf, 0),  # it is never to shed
    ],
)
def test_a_queue_that_gets_no_emptier_although_new_requests_are_shed_is_noted(
    tmp_path: Path, fills: tuple[float, ...], shed_at: float, noted: int
) -> None:
    bounds = Bounds(replies=10, replies_per_network=10, peers=(), shed_at=shed_at, shed_age=60.0)
    bench = Bench(tmp_path, setup(), slow=True, shedder=LoadShedder(bounds, 1, Triage(setup()), lambda _: None))
    for fill in fills:
        bench.load = Load(fill, 0.0)
        bench.worker._look_at = 0
        bench.worker.idle()
    assert bench.rings.full(1, 0) == noted
    assert bench.rings.full(1, time.monotonic_ns()) == 0
