"""A worker with a real engine, a board, and a socket that only collects."""

from pathlib import Path

from nfqlb.balance.recent import SIZE, Recent
from nfqlb.engine import Engine
from nfqlb.gateway.shm.board import About, Board, Cell, Slot, read
from nfqlb.gateway.shm.offence_ring import Rings
from nfqlb.gateway.worker.ipv6_sender import Sender
from nfqlb.gateway.worker.overload import Load
from nfqlb.gateway.worker.shedding import Shield
from nfqlb.gateway.worker.worker import Worker
from nfqlb.net.endpoint import Endpoint
from nfqlb.proxy.setup import Setup

Sent = tuple[bytes, Endpoint, Endpoint]
TIMES = (Cell.HEARTBEAT, Cell.ENGINE_NS)


class Collector(Sender):
    """What leaves by a socket."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []

    def send(self, packet: bytes, src: Endpoint, dst: Endpoint) -> None:
        self.sent.append((packet, src, dst))


class Bench:
    """A worker with a real engine."""

    def __init__(self, folder: Path, with_setup: Setup, *, careful: bool, shield: Shield | None = None) -> None:
        self.path = folder / ("careful" if careful else "fast")
        names = tuple(f"b{number}" for number in range(len(with_setup.known)))
        self.board = Board(self.path, About("lb", (1,), names))
        self.board.publish()
        cells = memoryview(bytearray(SIZE)).cast("Q")
        Recent.format(cells)
        memory = Recent(cells)
        self.load = Load(0.0, 0.0)
        self.sender = Collector()
        self.rings = Rings()
        self.worker = Worker(
            Engine(with_setup, careful=careful).sibling(7, memory),
            self.sender,
            self.board.slot(0),
            self.board.header,
            memory,
            lambda: None,
            self.rings.notebook(0),
            shield=shield,
            load=lambda: self.load,
        )

    @property
    def slot(self) -> Slot:
        return read(self.path).slots[0]

    @property
    def counted(self) -> tuple[object, ...]:
        slot = self.slot
        return [slot.cells[cell] for cell in Cell if cell not in TIMES], slot.reasons, slot.backends
