"""What a worker makes of each verdict, and what it writes on the board; no queue, no kernel."""

import hashlib
import logging
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nfqlb.balance.recent import SIZE, Recent
from nfqlb.gateway.runtime.log_limit import INTERVAL
from nfqlb.gateway.shm.board import About, Board, Cell, Slot, Traffic, read
from nfqlb.gateway.shm.offence_ring import OffenceRings
from nfqlb.gateway.worker.nfqueue import MAX_PACKET
from nfqlb.gateway.worker.overload import Load
from nfqlb.gateway.worker.shedding import LEAST, REFUSALS, Bounds, LoadShedder
from nfqlb.gateway.worker.worker import DIGEST, LOG_BYTES, SAMPLE, Worker
from nfqlb.net import datagram
from nfqlb.net.endpoint import Endpoint
from nfqlb.proxy.verdict import Action, Reason, Verdict

FOUR = Endpoint.parse("192.0.2.1:5060"), Endpoint.parse("192.0.2.2:5060")
SIX = Endpoint.parse("[2001:db8::1]:5060"), Endpoint.parse("[2001:db8::2]:5070")


def recent() -> Recent:
    cells = memoryview(bytearray(SIZE)).cast("Q")
    Recent.format(cells)
    return Recent(cells)


REASON = {reason.value: reason for reason in Reason}
NOTHING: dict[object, bytes] = {}


class FakeSender:
    def __init__(self, error: OSError | None = None) -> None:
        self.sent: list[tuple[bytes, Endpoint, Endpoint]] = []
        self._error = error

    def send(self, packet: bytes, source: Endpoint, destination: Endpoint) -> None:
        if self._error:
            raise self._error
        self.sent.append((packet, source, destination))


class Bench:
    """A worker whose engine gives the verdict it is handed, and whose queue is as full as it is told."""

    def __init__(self, folder: Path, sender: FakeSender | None = None, shedder: LoadShedder | None = None) -> None:
        self.path = folder / "board"
        self.sender = sender or FakeSender()
        self.verdict = Verdict(Reason.NOT_SIP, b"")
        self.load = Load(0.0, 0.0)
        self.board = Board(self.path, About("lb", (1,), ("b0", "b1")))
        self.board.publish()
        self.recent = recent()
        self.told_to_leave = 0
        self.rings = OffenceRings()
        self.worker = Worker(
            lambda _: self.verdict,
            self.sender,  # type: ignore[arg-type]  # a stand-in that opens no socket
            self.board.slot(0),
            self.board.header,
            self.recent,
            self.leave,
            self.rings.notebook(0),
            shedder=shedder,
            load=lambda: self.load,
        )

    def leave(self) -> None:
        self.told_to_leave += 1

    def decide(self, verdict: Verdict) -> bytes | None:
        self.verdict = verdict
        return self.worker.decide(b"packet")

    @property
    def slot(self) -> Slot:
        return read(self.path).slots[0]

    def counted(self) -> dict[Reason, int]:
        return {REASON[number]: count for number, count in enumerate(self.slot.reasons) if count}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.mark.parametrize("reason", Reason, ids=lambda reason: reason.slug)
def test_every_reason_is_counted_and_has_its_verdict(bench: Bench, reason: Reason) -> None:
    goes_on = reason.action in (Action.FORWARD, Action.REPLY)
    answer = bench.decide(Verdict(reason, b"out" if goes_on else b"", src=FOUR[0], dst=FOUR[1]))
    assert answer == (b"out" if goes_on else None)
    assert bench.counted() == {reason: 1}


@pytest.mark.parametrize(
    ("reason", "column"),
    [
        (Reason.REQUEST_ENTERING, Traffic.REQUESTS_TO),
        (Reason.REQUEST_LEAVING, Traffic.REQUESTS_FROM),
        (Reason.RESPONSE_ENTERING, Traffic.RESPONSES_TO),
        (Reason.RESPONSE_LEAVING, Traffic.RESPONSES_2XX),
        (Reason.REQUEST_HAIRPIN, None),
    ],
)
def test_traffic_is_counted_for_its_backend(bench: Bench, reason: Reason, column: int | None) -> None:
    packet = datagram.build(*FOUR, b"SIP/2.0 200 OK\r\n", tos=0, ident=0)
    bench.decide(Verdict(reason, packet, backend=1))
    bench.decide(Verdict(reason, packet))  # concerns no backend
    assert bench.slot.backends[0] == (0,) * len(Traffic)
    assert bench.slot.backends[1] == tuple(int(number == column) for number in range(len(Traffic)))


@pytest.mark.parametrize("flow", [FOUR, SIX])
@pytest.mark.parametrize("start", [b"SIP/2.0 %d ", b"sip/2.0 %d Yes\r\n", b"\r\n\r\nSIP/2.0 %d OK"])
@pytest.mark.parametrize("status", [100, 299, 302, 487, 503, 699])
def test_responses_are_counted_by_class(
    bench: Bench, flow: tuple[Endpoint, Endpoint], start: bytes, status: int
) -> None:
    packet = datagram.build(*flow, start % status + b"\r\n" + bytes(2000), tos=0, ident=0)
    bench.decide(Verdict(Reason.RESPONSE_LEAVING, packet, 0, *flow))
    counted = {traffic.name: bench.slot.backends[0][traffic] for traffic in Traffic}
    assert {name: count for name, count in counted.items() if count} == {f"RESPONSES_{status // 100}XX": 1}


@pytest.mark.parametrize("reason", [Reason.REQUEST_ENTERING, Reason.PING])
def test_p38_large_ipv6_leaves_by_socket_and_its_packet_is_dropped(bench: Bench, reason: Reason) -> None:
    small = datagram.build(*SIX, bytes(1280 - 48), tos=0, ident=0)
    large = datagram.build(*SIX, bytes(1281 - 48), tos=0, ident=0)
    assert bench.decide(Verdict(reason, small, -1, *SIX)) == small
    assert bench.sender.sent == []
    assert bench.decide(Verdict(reason, large, -1, *SIX)) is None
    assert bench.sender.sent == [(large, *SIX)]
    assert bench.counted() == {reason: 2}
    assert bench.slot.cells[Cell.SOCKET_SENT] == 1


def test_p38_a_refused_packet_counts_as_such(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(tmp_path, FakeSender(OSError(1, "Operation not permitted")))
    large = datagram.build(*SIX, bytes(3000), tos=0, ident=0)
    for _ in range(3):
        assert bench.decide(Verdict(Reason.REQUEST_ENTERING, large, 0, *SIX)) is None
    assert bench.counted() == {Reason.SEND_FAILED: 3}
    assert bench.slot.cells[Cell.SOCKET_SENT] == 0
    assert bench.slot.backends[0] == (0,) * len(Traffic)
    assert len(caplog.messages) == 1
    assert "to [2001:db8::2]:5070 is not sent: Operation not permitted" in caplog.text


def test_large_ipv4_goes_on_up_to_what_a_netlink_attribute_holds(bench: Bench) -> None:
    fits = datagram.build(*FOUR, bytes(MAX_PACKET - 28), tos=0, ident=0)
    too_large = datagram.build(*FOUR, bytes(MAX_PACKET - 27), tos=0, ident=0)
    assert bench.decide(Verdict(Reason.REQUEST_ENTERING, fits, 0, *FOUR)) == fits
    assert bench.decide(Verdict(Reason.REQUEST_ENTERING, too_large, 0, *FOUR)) is None
    assert bench.counted() == {Reason.REQUEST_ENTERING: 1, Reason.TOO_LARGE: 1}
    assert bench.slot.backends[0][Traffic.REQUESTS_TO] == 1


@pytest.mark.parametrize(
    "verdict",
    [Verdict(Reason.REQUEST_ENTERING, b""), Verdict(Reason.REQUEST_ENTERING, b"\x60" + bytes(1300), 0)],
    ids=["no packet", "no endpoints"],
)
def test_a_verdict_that_contradicts_itself_is_an_error(bench: Bench, verdict: Verdict) -> None:
    with pytest.raises(ValueError, match="request-entering without"):
        bench.decide(verdict)
    assert bench.counted() == {}  # `failed` will count it


def test_an_error_is_counted_and_logged_without_what_is_in_its_packet(
    bench: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "nfqlb")
    clock = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    private = datagram.build(*FOUR, b"INVITE sip:alice@example.org SIP/2.0\r\n", tos=0, ident=0)
    failing(bench.worker, lambda: NOTHING[private], private)
    for _ in range(4):
        failing(bench.worker, lambda: 1 / 0, b"others")
    assert bench.counted() == {Reason.INTERNAL_ERROR: 5}
    assert len(caplog.messages) == 1
    (line,) = caplog.messages
    assert f"KeyError at {__file__}:" in line
    digest = hashlib.sha256(private).hexdigest()[:DIGEST]
    assert f"bytes {len(private)}, source {FOUR[0]}, destination {FOUR[1]}, sha256 {digest}" in line
    told = caplog.records[0].__dict__["about"]
    assert told["packet"] == {
        "bytes": len(private), "source": str(FOUR[0]), "destination": str(FOUR[1]), "sha256": digest
    }  # fmt: skip
    for secret in (private, private[28:40]):
        assert secret.hex() not in line
        assert repr(secret)[2:-1] not in line
    clock += INTERVAL
    failing(bench.worker, lambda: 1 / 0, bytes(LOG_BYTES + 1))
    assert len(caplog.messages) == 2
    assert f"bytes {LOG_BYTES + 1}, fault broken IP or UDP header, " in caplog.messages[1]
    assert caplog.messages[1].endswith(" (and 4 more before)")
    assert {record.levelno for record in caplog.records} == {logging.ERROR}


def test_who_wants_to_see_the_packet_of_an_error_logs_more(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "nfqlb")
    failing(bench.worker, lambda: NOTHING["key"], bytes(LOG_BYTES + 1))
    error, packet = caplog.records
    assert (error.levelno, packet.levelno) == (logging.ERROR, logging.DEBUG)
    assert packet.getMessage().endswith(f": {'00' * LOG_BYTES}…")
    assert packet.exc_info is not None
    assert "KeyError: 'key'" in caplog.text


def failing(worker: Worker, broken: Callable[[], object], packet: bytes) -> None:
    try:
        broken()
    except Exception as error:
        worker.failed(packet, error)


def test_a_sample_of_the_packets_is_timed(bench: Bench) -> None:
    for _ in range(1 + 2 * SAMPLE):
        bench.decide(Verdict(Reason.NOT_SIP, b""))
    assert bench.slot.cells[Cell.TIMED] == 3
    assert bench.slot.cells[Cell.ENGINE_NS] > 0


def test_the_heartbeat_is_stamped_by_packets_and_by_their_absence(bench: Bench) -> None:
    stamps = [bench.slot.cells[Cell.HEARTBEAT]]
    for _ in range(SAMPLE):
        bench.decide(Verdict(Reason.NOT_SIP, b""))
    stamps.append(bench.slot.cells[Cell.HEARTBEAT])
    bench.worker.idle()
    stamps.append(bench.slot.cells[Cell.HEARTBEAT])
    assert stamps == sorted(set(stamps))


# -- bounds and overload

REPLY = Verdict(Reason.NO_BACKEND, b"reply", -1, *FOUR)
NEW, DIALOG = b"E new", b"E dialog"


class OnlyNew:
    """A Triage."""

    def is_new(self, packet: bytes) -> bool:
        return packet == NEW


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def shielded(folder: Path, *, refused: Verdict | None = None, per_network: int = LEAST, workers: int = 1) -> Bench:
    """With room for 2 * LEAST replies a second; the clock of the budgets stands still."""
    bounds = Bounds(2 * LEAST, per_network, (), 0.5, 0.4)
    triage = OnlyNew()
    return Bench(folder, shedder=LoadShedder(bounds, workers, triage, lambda _: refused, Clock()))  # type: ignore[arg-type]  # a stand-in for Triage


def look(bench: Bench, fill: float, age: float = 0.0) -> None:
    bench.load = Load(fill, age)
    bench.worker._look_at = 0  # the time between two looks has passed
    bench.worker.idle()


def some(bench: Bench, packet: bytes, times: int) -> list[bytes | None]:
    return [bench.worker.decide(packet) for _ in range(times)]


def test_replies_over_the_budget_are_counted_and_dropped(tmp_path: Path) -> None:
    bench = shielded(tmp_path)
    answers = [bench.decide(REPLY) for _ in range(100)]
    granted = answers.count(b"reply")
    assert LEAST <= granted <= LEAST + 2
    assert answers == [b"reply"] * granted + [None] * (100 - granted)
    assert bench.counted() == {Reason.NO_BACKEND: granted, Reason.REPLY_LIMIT: 100 - granted}


def test_backends_get_all_their_replies_and_forwards_are_no_replies(tmp_path: Path) -> None:
    bench = shielded(tmp_path)
    assert [bench.decide(REPLY._replace(backend=0)) for _ in range(100)] == [b"reply"] * 100
    forward = Verdict(Reason.REQUEST_ENTERING, b"out", 0, *FOUR)
    assert [bench.decide(forward) for _ in range(100)] == [b"out"] * 100
    assert bench.decide(REPLY) == b"reply"


def test_a_full_queue_lets_go_of_what_is_new(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bench = shielded(tmp_path)
    bench.verdict = Verdict(Reason.REQUEST_ENTERING, b"out", 0, *FOUR)
    look(bench, 0.49)
    assert some(bench, NEW, 3) == [b"out"] * 3
    look(bench, 0.5)
    assert (bench.slot.cells[Cell.SHEDDING], bench.slot.cells[Cell.QUEUE_FILL]) == (1, 500)
    assert some(bench, DIALOG, 3) == [b"out"] * 3
    assert "overload: the queue of a worker is 50 % full" in caplog.text
    # The engine would not refuse these (transactions that have begun): as many as it is asked about go their way.
    assert some(bench, NEW, 3) == [b"out", None, None]
    look(bench, 0.1)
    assert bench.slot.cells[Cell.SHEDDING] == 0
    assert some(bench, NEW, 3) == [b"out"] * 3
    assert bench.counted()[Reason.SHED] == 2
    assert bench.slot.cells[Cell.OVERLOADS] == 1


def test_some_are_told_when_to_come_again_and_the_others_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = Verdict(Reason.OVERLOADED, b"503", -1, *FOUR)
    clock, triage = Clock(), OnlyNew()
    bounds = Bounds(10**4, 10**4, (), 0.5, 0.4)
    bench = Bench(tmp_path, shedder=LoadShedder(bounds, 1, triage, lambda _: refused, clock))  # type: ignore[arg-type]  # a stand-in for Triage
    look(bench, 1.5)
    assert bench.slot.cells[Cell.QUEUE_FILL] == 1000
    packet, answers = b"E" + bytes(11) + FOUR[1].addr, []
    monkeypatch.setattr(triage, "is_new", lambda _: True)
    for _ in range(100):
        clock.now += 0.1 / REFUSALS
        answers += some(bench, packet, 2)
    told = answers.count(b"503")
    assert 0 < told <= 10  # a tenth of the looks; and the network might have had more
    clock.now += 1 / REFUSALS
    answers = some(bench, packet, 2)
    assert answers == [b"503", None]
    assert bench.counted() == {Reason.OVERLOADED: told + 1, Reason.SHED: 201 - told}


def test_refusals_have_a_bound_of_their_own() -> None:
    """They take a worker longer than a decision."""
    bounds = Bounds(10**7, 10**7, (), 0.5, 0.4)
    refused = Verdict(Reason.OVERLOADED, b"503", -1, *FOUR)
    clock = Clock()
    shedder = LoadShedder(bounds, 1, OnlyNew(), lambda _: refused, clock)  # type: ignore[arg-type]  # a stand-in for Triage
    told = 0
    for _ in range(10_000):
        clock.now += 1e-4
        told += shedder.decide(NEW, lambda _: REPLY) is refused
    assert 0.9 * REFUSALS < told <= REFUSALS


def test_a_network_has_its_least_share_of_each_worker(tmp_path: Path) -> None:
    bench = shielded(tmp_path, workers=64)
    assert LEAST <= [bench.decide(REPLY) for _ in range(100)].count(b"reply") <= LEAST + 2


def test_old_packets_in_a_short_queue_are_overload_when_it_lasts(tmp_path: Path) -> None:
    bench = shielded(tmp_path)
    look(bench, 0.1, 0.5)
    assert bench.slot.cells[Cell.QUEUE_AGE] == 500_000
    assert bench.slot.cells[Cell.SHEDDING] == 0
    shedder = bench.worker._shedder
    assert shedder is not None
    assert shedder.look(Load(0.1, 0.5), 1e9)


def test_the_end_of_an_episode_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING")
    shedder = shielded(tmp_path).worker._shedder
    assert shedder is not None
    for now, fill in enumerate((0.9, 0.1, 0.9, 0.9, 0.1, 0.1)):
        if shedder.look(Load(fill, 0.0), float(now)):
            shedder.decide(NEW, lambda _: REPLY)
    assert len(caplog.messages) == 1
    for now in range(6, 30):
        shedder.look(Load(0.1, 0.0), float(now))
    assert len(caplog.messages) == 2
    assert caplog.messages[1].startswith("overload of a worker is over; ")
