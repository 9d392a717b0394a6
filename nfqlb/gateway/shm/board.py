"""The board: one memory-mapped file in which the workers keep their counters, and from which anybody reads them.

Knows the layout of the file, how to make it, and how to read it without asking the writers. Does not know where the
numbers come from or how they are shown.

Layout (LAYOUT counts its versions; a reader refuses any other). Cells are unsigned 64-bit integers in the byte order
of the machine, because board and reader are always on the same one:

    header    HEADER_CELLS cells, named by `Header`
    about     JSON, `Header.ABOUT` bytes long, padded with zeros to whole cells: what does not change while it runs
    slots     `Header.WORKERS` slots of `Header.SLOT_CELLS` cells each: first those named by `Cell`, then one counter
              for each Reason number, then `len(Traffic)` counters for each backend
    retired   one slot more: the sums of all workers of earlier generations

Each cell has one writer: of the header, of the retired slot, and of the cells in a slot that `Cell` says so of, the
supervisor; of the others the worker that owns the slot. They write with plain aligned stores and no locks. Counters
only ever rise, also across the replacement of a worker.

Another set of workers, after a reload or an upgrade, gets a board of its own, which takes the place of the last one
under the same name. What the last one counted goes on in the retired slot, backend by backend as they are named.
"""

import json
import mmap
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import IntEnum
from pathlib import Path

from nfqlb.errors import BoardError, NotRunning
from nfqlb.proxy.verdict import REASON_SLOTS

FILE_NAME = "board"
MAGIC = int.from_bytes(b"nfqlbBRD", "big")
LAYOUT = 4
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
    """Number of the set of workers: rises with each reload, take-over and upgrade."""
    STATE = 6
    PID = 7
    """Of the supervisor."""
    RECENT_USED = 9
    """Choices that are remembered now, roughly (P31)."""
    ALARMS = 10
    """Pools that something is wrong with."""
    OFFENCES = 11
    """That workers have noted; counts on over reloads, take-overs and upgrades, as the next."""
    BANS = 12
    """Sources banned for offences."""
    STARTED = 8
    """When the service started, in nanoseconds since 1970; kept over reloads and upgrades."""


class State(IntEnum):
    STARTING = 0
    RUNNING = 1
    STOPPING = 2
    RETIRED = 3
    """Another board has taken its place; workers that still write here leave."""


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
    RECENT_STORED = 6
    """Choices remembered (P31)."""
    RECENT_KEPT = 7
    """Messages sent where their transaction began, though the table has come to say otherwise."""
    RECENT_MISSES = 8
    """ACKs and CANCELs sent by the table because nothing was known of their INVITE."""
    RECENT_EVICTED = 9
    """Choices forgotten before their time because the memory was full."""
    QUEUE_FILL = 10
    """How full the queue is now, of 1,000."""
    QUEUE_AGE = 11
    """How long the packet in hand has waited in it, in microseconds."""
    SHEDDING = 12
    """1 while new requests are shed, else 0."""
    OVERLOADS = 13
    """How often that has begun, and not just gone on after a moment."""


MOMENTARY = (Cell.PID, Cell.HEARTBEAT, Cell.QUEUE_FILL, Cell.QUEUE_AGE, Cell.SHEDDING)
SUMMED = tuple(cell for cell in Cell if cell not in MOMENTARY)
"""The cells that count something, and so go on in the retired slot."""

STUCK_AFTER = 5.0
"""Seconds without a heartbeat after which a living worker counts as stuck; a busy or idle one stamps within two."""


class Traffic(IntEnum):
    """What is counted for each backend."""

    REQUESTS_TO = 0
    REQUESTS_FROM = 1
    RESPONSES_TO = 2
    RESPONSES_1XX = 3
    """From it, as the next five: by the class of their status codes."""
    RESPONSES_2XX = 4
    RESPONSES_3XX = 5
    RESPONSES_4XX = 6
    RESPONSES_5XX = 7
    RESPONSES_6XX = 8


RESPONSES_FROM = tuple(Traffic)[Traffic.RESPONSES_1XX :]

REASONS = len(Cell)
"""Cell of the counter for Reason number 0."""
BACKENDS = REASONS + REASON_SLOTS
"""Cell of the first counter of backend number 0."""


@dataclass(frozen=True, slots=True)
class About:
    """What a board says once for all: names for the numbers."""

    gateway: str
    queues: tuple[int, ...]
    """The queue of each worker."""
    backends: tuple[str, ...]
    """Their names in the order of `Setup.known`, each but once."""
    addresses: tuple[str, ...] = ()
    """Their addresses, in the same order."""


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
    alarms: int
    """Pools that something is wrong with."""
    remembered: int
    """Recent choices in memory, roughly (P31)."""
    offences: int
    bans: int
    """For offences; what the kernel bans for floods is not in it."""
    slots: tuple[Slot, ...]
    retired: Slot
    """The sums of the workers of earlier generations."""


class Board:
    """The writers' view. Made by the supervisor before the fork; each worker then writes into its own `slot`."""

    def __init__(self, path: Path, about: About) -> None:
        """Make the file, all counters 0; readers find it at `path` after `publish`. Raises OSError."""
        self.path = path
        self.about = about
        text = json.dumps(asdict(about)).encode()
        self._first_slot = HEADER_CELLS + -(-len(text) // CELL)
        self._slot_cells = BACKENDS + len(Traffic) * len(about.backends)
        size = CELL * (self._first_slot + (len(about.queues) + 1) * self._slot_cells)
        self._fresh = path.with_name(f"{path.name}.{os.getpid()}")
        self._last = path.with_name(f"{path.name}.{os.getpid()}.last")
        for left_over in (self._fresh, self._last):
            left_over.unlink(missing_ok=True)
        descriptor = os.open(self._fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            os.posix_fallocate(descriptor, 0, size)  # where the disk is full, a hole would be the death of who writes
            self._map = mmap.mmap(descriptor, size)
            self.inode = os.fstat(descriptor).st_ino
            """Tells the file from others, whatever its name is at the moment."""
        except OSError:
            self._fresh.unlink()
            raise
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

    def publish(self) -> None:
        """Put the board in its place, where readers find it. One that is there is kept until `settle`."""
        with suppress(FileNotFoundError):
            os.link(self.path, self._last)
        self._fresh.rename(self.path)

    def reclaim(self) -> None:
        """Come back to the place, which somebody has taken and did not settle in."""
        for path in self.path.parent.glob(f"{self.path.name}.*.last"):
            if path.stat().st_ino == self.inode:
                path.rename(self.path)

    def settle(self) -> None:
        """The board stays: let go of the one that was there before."""
        self._last.unlink(missing_ok=True)

    def withdraw(self) -> None:
        """The board does not come to its place, or leaves it to the one that was there before."""
        if self._fresh.exists():
            self._fresh.unlink()
        elif self._last.exists():
            self._last.rename(self.path)
        else:
            self.path.unlink(missing_ok=True)

    def set(self, cell: Header, value: int) -> None:
        self._cells[cell] = value

    def get(self, cell: Header) -> int:
        return self._cells[cell]

    @property
    def header(self) -> memoryview:
        return self._cells[:HEADER_CELLS]

    def slot(self, worker: int) -> memoryview:
        """The cells of one worker, to be written with plain stores: `slot[Cell.TIMED] += 1`."""
        first = self._first_slot + worker * self._slot_cells
        return self._cells[first : first + self._slot_cells]

    def carry_over(self, past: Snapshot) -> None:
        """Count on from what workers of an earlier generation have counted, they and those before them."""
        self.set(Header.OFFENCES, past.offences)
        self.set(Header.BANS, past.bans)
        retired = self.slot(len(self.about.queues))
        slots = (*past.slots, past.retired)
        for cell in SUMMED:
            retired[cell] = sum(slot.cells[cell] for slot in slots)
        for reason in range(REASON_SLOTS):
            retired[REASONS + reason] = sum(slot.reasons[reason] for slot in slots)
        number = {name: index for index, name in enumerate(past.about.backends)}
        for index, name in enumerate(self.about.backends):
            if name in number:
                for traffic in Traffic:
                    total = sum(slot.backends[number[name]][traffic] for slot in slots)
                    retired[BACKENDS + index * len(Traffic) + traffic] = total

    def sums(self, *traffic: Traffic) -> list[int]:
        """Of each backend, by all workers and those before them: what is counted as any of `traffic`."""
        slots = [self.slot(worker) for worker in range(len(self.about.queues) + 1)]
        columns = [slot[BACKENDS + each :: len(Traffic)].tolist() for slot in slots for each in traffic]
        return [sum(column) for column in zip(*columns, strict=True)]

    def snapshot(self) -> Snapshot:
        return _parse(self._map[:], self.path)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


class FoundBoard:
    """The board of a gateway that was killed, or that hands over: its numbers, and a word to its workers."""

    def __init__(self, path: Path) -> None:
        """Raises BoardError."""
        self.path = path
        try:
            with path.open("r+b") as file:
                self._map = mmap.mmap(file.fileno(), 0)
                self.inode = os.fstat(file.fileno()).st_ino
        except (OSError, ValueError):
            raise _foreign(path) from None
        self.snapshot()

    def snapshot(self) -> Snapshot:
        return _parse(self._map[:], self.path)

    def retire(self) -> None:
        """Tell its workers to leave when nothing waits for them any more."""
        memoryview(self._map).cast("Q")[Header.STATE] = State.RETIRED

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
    return _parse(content, path)


def _foreign(path: Path) -> BoardError:
    return BoardError(f"{path} is not a board of nfqlb. Remove it, or name another [gateway] run_dir.")


def _parse(content: bytes, path: Path) -> Snapshot:
    foreign = _foreign(path)
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
        lists = (tuple(about[name]) for name in ("queues", "backends", "addresses"))
        names = About(about["gateway"], *lists)
        state = State(cells[Header.STATE])
    except (ValueError, KeyError, TypeError):
        raise foreign from None
    first = HEADER_CELLS + -(-about_size // CELL)
    if (
        len(cells) != first + (workers + 1) * slot_cells
        or workers != len(names.queues)
        or slot_cells != BACKENDS + len(Traffic) * len(names.backends)
    ):
        raise foreign
    *slots, retired = (_slot(cells[first + i * slot_cells : first + (i + 1) * slot_cells]) for i in range(workers + 1))
    generation, pid, started = (cells[each] for each in (Header.GENERATION, Header.PID, Header.STARTED))
    alarms, remembered = cells[Header.ALARMS], cells[Header.RECENT_USED]
    offences, bans = cells[Header.OFFENCES], cells[Header.BANS]
    return Snapshot(names, state, generation, pid, started, alarms, remembered, offences, bans, tuple(slots), retired)


def _slot(cells: memoryview) -> Slot:
    backends = range(BACKENDS, len(cells), len(Traffic))
    return Slot(
        tuple(cells[:REASONS]),
        tuple(cells[REASONS:BACKENDS]),
        tuple(tuple(cells[i : i + len(Traffic)]) for i in backends),
    )
