"""The compiled look at what can wait says what the other one says, and a worker sheds alike with both."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sipcase import EXT, INT, PHONE, REG1, endpoint, request, setup, wire

from nfqlb import fast
from nfqlb.balance.recent import SIZE, Recent
from nfqlb.engine import Engine
from nfqlb.gateway.shm.board import REASONS, About, Board
from nfqlb.gateway.shm.offence_ring import OffenceRings
from nfqlb.gateway.worker.overload import Load
from nfqlb.gateway.worker.shedding import Bounds, LoadShedder
from nfqlb.gateway.worker.worker import Worker
from nfqlb.net import datagram
from nfqlb.proxy.triage import Triage
from nfqlb.proxy.verdict import Reason

DIALOG = "<sip:bob@example.org>;tag=t1"
TRIAGE = Triage(setup())


def packet(message: str | bytes, src: str = PHONE, dst: str = EXT) -> bytes:
    payload = wire(message) if isinstance(message, str) else message
    return datagram.build(endpoint(src), endpoint(dst), payload)


def worker(folder: Path) -> tuple[Worker, memoryview]:
    """One that is shedding, and its slot."""
    cells = memoryview(bytearray(SIZE)).cast("Q")
    Recent.format(cells)
    recent = Recent(cells)
    engine = Engine(setup(), recent=recent)
    board = Board(folder / "board", About("lb", (1,), ("reg1", "reg2", "proxy1")))
    shedder = LoadShedder(Bounds(10**6, 10**6, (), 0.5, 0.4), 1, TRIAGE, engine.refuse)
    one = Worker(
        engine,
        None,  # type: ignore[arg-type]  # nothing is sent by a socket
        board.slot(0),
        board.header,
        recent,
        lambda: None,
        OffenceRings().notebook(0),
        shedder=shedder,
        load=lambda: Load(0.9, 0.0),
    )
    one.idle()
    return one, board.slot(0)


def test_a_worker_sheds_what_is_new_and_passes_the_rest(tmp_path: Path) -> None:
    one, slot = worker(tmp_path)
    for number in range(400):
        one.decide(packet(request(Call_ID=f"n{number}")))
        assert one.decide(packet(request(Call_ID=f"d{number}", To=DIALOG))) is not None
    counted = {reason: slot[REASONS + reason] for reason in Reason if slot[REASONS + reason]}
    assert counted.pop(Reason.REQUEST_ENTERING) == 400
    assert set(counted) == {Reason.SHED, Reason.OVERLOADED}
    assert sum(counted.values()) == 400
    assert counted[Reason.OVERLOADED] < 100


HEADS = st.sampled_from(
    [b"INVITE ", b"BYE ", b"ACK ", b"INFO ", b"PRACK ", b"UPDATE ", b"CANCEL ", b"ACKS ", b"SIP/2.0 ",
     b"\r\n\r\nOPTIONS ", b"x" * 33 + b" ", b"\x7f ", b"", b"\r\n", b"\r\nBYE "]
)  # fmt: skip
PIECES = (
    *(b"\r\nTo: <sip:b@x>", b"\r\nt:b", b"\r\nTO\t :b", b"\r\nTot: b", b"\r\nVia: x", b"\r\nT", b"o:"),
    *(b";tag=1", b";\r\n tag = 1", b"; TAG", b";\r\ntag=1", b"tag=1", b";ta", b"g=", b"=", b";"),
    *(b"\r\n ", b"\r", b"\n", b" ", b"\r\n\r\n"),
)
LINES = st.lists(st.sampled_from(PIECES), max_size=12)


@pytest.mark.skipif(fast.which() != "compiled", reason="there is no compiled look")
def test_both_looks_agree(tmp_path: Path) -> None:
    one, _ = worker(tmp_path)
    lane = one._worker_path
    assert lane is not None

    @given(HEADS, LINES)
    def agree(head: bytes, lines: list[bytes]) -> None:
        found = packet(head + b"sip:b@x SIP/2.0" + b"".join(lines))
        assert lane.is_new(found) is TRIAGE.is_new(found)

    agree()
    for src, dst in ((PHONE, INT), (REG1, INT), (REG1, EXT), (PHONE, "203.0.113.9:5060")):
        found = packet(request(), src, dst)
        assert not lane.is_new(found)
        assert not TRIAGE.is_new(found)
    assert lane.is_new(packet(request()))
