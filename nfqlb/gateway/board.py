"""The board: one memory-mapped file in which the workers keep their counters, and from which anybody reads them.

Knows the layout of the file, how to make it, and how to read it without asking the writers. Does not know where the
numbers come from or how they are shown.

Layout (LAYOUT counts its versions; a reader refuses any other). Cells are unsigned 64-bit integers in the byte order
of the machine, because board and reader are always on the same one:

    header    HEADER_CELLS cells, named by `Header`
    about     JSON, `Header.ABOUT` bytes long, padded with zeros to whole cells: what does not change while it runs
    slots     `Header.WORKERS` slots of `Header.SLOT_CELLS` cells each: first those named by `Cell`, then one counter
              for each Reason number, then `len(Traffic)` counters for each backend

Each cell has one writer: of the header, and of the cells in a slot that `Cell` says so of, the supervisor; of the
others the worker that owns the slot. They write with plain aligned stores and no locks. Counters only ever rise, also
across the replacement of a worker.
"""

import json
import mmap
import os
from dataclasses import asdict, dataclass
from enum import IntEnum
from pathlib import Path

from nfqlb.proxy.verdict import REASON_SLOTS

FILE_NAME = "board"
MAGIC = int.from_bytes(b"nfqlbBRD", "big")
LAYOUT = 1
HEADER_CELLS = 16
CELL = 8
"""Bytes of a cell."""


class Header(IntEnum):
    MAGIC = 0
    LAYOUT = 1
    WORKERS = 2
    SLOT_CELLS = 3
    ABOUT = 4
    """Bytes of JSON behind the header."""
    GENERATION = 5
    """Rises when the supervisor swaps in another configuration."""
    STATE = 6
    PID = 7
    """Of the supervisor."""
    STARTED = 8
    """When, in nanoseconds since 1970."""


class State(IntEnum):
    STARTING = 0
    RUNNING = 1
    STOPPING = 2


class Cell(IntEnum):
    """The cells at the beginning of a worker's slot."""

    PID = 0
    """Written by the supervisor."""
    RESTARTS = 1
    """Processes that had this slot before. Written by the supervisor."""
    HEARTBEAT = 2
    """Time of CLOCK_MONOTONIC in nanoseconds, stamped by the loop over packets itself; 0 before it runs."""
    TIMED = 3
    """Packets whose way through the engine was timed: a sample."""
    ENGINE_NS = 4
    """Nanoseconds that those took together."""
    SOCKET_SENT = 5
    """Packets that left through a socket (P38)."""


STUCK_AFTER = 5.0
"""Seconds without a heartbeat after which a living worker counts as stuck; a busy or idle one stamps within two."""


class Traffic(IntEnum):
    """What is counted for each backend."""

    REQUESTS_TO = 0
    REQUESTS_FROM = 1
    RESPONSES_TO = 2
    RESPONSES_FROM = 3


REASONS = len(Cell)
"""Cell of the counter for Reason number 0."""
BACKENDS = REASONS + REASON_SLOTS
"""Cell of the first counter of backend number 0."""


class BoardError(Exception):
    """There is no board to read; the text says why and what to do."""


class NotRunning(BoardError):
    """Because no gateway runs. How to start one is for the caller to say: it knows the configuration."""


@dataclass(frozen=True, slots=True)
class About:
    """What a board says once for all: names for the numbers."""

    gateway: str
    queues: tuple[int, ...]
    """The queue of each worker."""
    backends: tuple[str, ...]
    """Names in the order of `Setup.backends`; a name may stand in more than one pool."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A worker's numbers at one moment."""

    cells: tuple[int, ...]
    """By `Cell`."""
    reasons: tuple[int, ...]
    """By number of the Reason."""
    backends: tuple[tuple[int, ...], ...]
    """By number of the backend, then by `Traffic`."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole board at one moment."""

    about: About
    state: State
    generation: int
    pid: int
    started: int
    slots: tuple[Slot, ...]


class Board:
    """The writers' view. Made by the supervisor before the fork; each worker then writes into its own `slot`."""

    def __init__(self, path: Path, about: About) -> None:
        """Make the file anew, all counters 0. Raises OSError."""
        self.path = path
        self.about = about
        text = json.dumps(asdict(about)).encode()
        self._first_slot = HEADER_CELLS + -(-len(text) // CELL)
        self._slot_cells = BACKENDS + len(Traffic) * len(about.backends)
        size = CELL * (self._first_slot + len(about.queues) * self._slot_cells)
        # Under another name until it is whole: a reader finds a board, or none.
        fresh = path.with_name(path.name + ".new")
        fresh.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            os.ftruncate(descriptor, size)
            self._map = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)
        self._map[HEADER_CELLS * CELL : HEADER_CELLS * CELL + len(text)] = text
        self._cells = memoryview(self._map).cast("Q")
        for cell, value in (
            (Header.MAGIC, MAGIC),
            (Header.LAYOUT, LAYOUT),
            (Header.WORKERS, len(about.queues)),
            (Header.SLOT_CELLS, self._slot_cells),
            (Header.ABOUT, len(text)),
            (Header.GENERATION, 1),
        ):
            self._cells[cell] = value
        fresh.rename(path)

    def set(self, cell: Header, value: int) -> None:
        self._cells[cell] = value

    def slot(self, worker: int) -> memoryview:
        """The cells of one worker, to be written with plain stores: `slot[Cell.TIMED] += 1`."""
        first = self._first_slot + worker * self._slot_cells
        return self._cells[first : first + self._slot_cells]

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def read(path: Path) -> Snapshot:
    """Read the board in `path`. Raises BoardError when it is missing or not a board of this layout."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise NotRunning(f"No gateway runs here: {path} does not exist.") from None
    except OSError as error:
        raise BoardError(f"{path} cannot be read: {error.strerror}.") from None
    foreign = BoardError(f"{path} is not a board of nfqlb. Remove it, or name another [gateway] run_dir.")
    if len(content) < HEADER_CELLS * CELL:
        raise foreign
    cells = memoryview(content[: len(content) // CELL * CELL]).cast("Q")
    if cells[Header.MAGIC] != MAGIC:
        raise foreign
    if cells[Header.LAYOUT] != LAYOUT:
        raise BoardError(
            f"{path} has layout {cells[Header.LAYOUT]}, and this nfqlb reads layout {LAYOUT}: "
            "ask with the version that the gateway runs."
        )
    workers, slot_cells, about_size = (cells[i] for i in (Header.WORKERS, Header.SLOT_CELLS, Header.ABOUT))
    try:
        start = HEADER_CELLS * CELL
        about = json.loads(content[start : start + about_size])
        names = About(about["gateway"], tuple(about["queues"]), tuple(about["backends"]))
        state = State(cells[Header.STATE])
    except (ValueError, KeyError, TypeError):
        raise foreign from None
    first = HEADER_CELLS + -(-about_size // CELL)
    if (
        len(cells) != first + workers * slot_cells
        or workers != len(names.queues)
        or slot_cells != BACKENDS + len(Traffic) * len(names.backends)
    ):
        raise foreign
    slots = tuple(_slot(cells[first + i * slot_cells : first + (i + 1) * slot_cells]) for i in range(workers))
    return Snapshot(names, state, cells[Header.GENERATION], cells[Header.PID], cells[Header.STARTED], slots)


def _slot(cells: memoryview) -> Slot:
    backends = range(BACKENDS, len(cells), len(Traffic))
    return Slot(
        tuple(cells[:REASONS]),
        tuple(cells[REASONS:BACKENDS]),
        tuple(tuple(cells[i : i + len(Traffic)]) for i in backends),
    )
