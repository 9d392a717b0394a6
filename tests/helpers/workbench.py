"""A worker with a real engine, a board, and a socket that only collects."""

from pathlib import Path

from nfqlb.balance.recent import SIZE, Recent
from nfqlb.engine import Engine
from nfqlb.gateway.shm.board import About, Board, Cell, Slot, read
from nfqlb.gateway.shm.offence_ring import OffenceRings
from nfqlb.gateway.worker.ipv6_sender import Ipv6Sender
from nfqlb.gateway.worker.overload import Load
from nfqlb.gateway.worker.shedding import LoadShedder
from nfqlb.gateway.worker.worker import Worker
from nfqlb.net.endpoint import Endpoint
from nfqlb.proxy.setup import Setup

Sent = tuple[bytes, Endpoint, Endpoint]
TIMES = (Cell.HEARTBEAT, Cell.ENGINE_NS)


class Collector(Ipv6Sender):
    """What leaves by a socket."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []

    def send(self, packet: bytes, src: Endpoint, dst: Endpoint) -> None:
        self.sent.append((packet, src, dst))


class Bench:
    """A worker with a real engine."""

    def __init__(self, folder: Path, with_setup: Setup, *, slow: bool, shedder: LoadShedder | None = None) -> None:
        self.path = folder / ("slow" if slow else "fast")
        names = tuple(f"b{number}" for number in range(len(with_setup.known)))
        self.board = Board(self.path, About("lb", (1,), names))
        self.board.publish()
        cells = memoryview(bytearray(SIZE)).cast("Q")
        Recent.format(cells)
        memory = Recent(cells)
        self.load = Load(0.0, 0.0)
        self.sender = Collector()
        self.rings = OffenceRings()
        self.worker = Worker(
            Engine(with_setup, slow=slow).sibling(7, memory),
            self.sender,
            self.board.slot(0),
            self.board.header,
            memory,
            lambda: None,
            self.rings.notebook(0),
            shedder=shedder,
            load=lambda: self.load,
        )

    @property
    def slot(self) -> Slot:
        return read(self.path).slots[0]

    @property
    def counted(self) -> tuple[object, ...]:
        slot = self.slot
        return [slot.cells[cell] for cell in Cell if cell not in TIMES], slot.reasons, slot.backends
