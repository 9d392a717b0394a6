"""The numbers of a running gateway in one report: the board's, the kernel's, and whether the processes live.

Only reads; asks no process. The shape of `Report` is the shape of `nfqlb stats --json`: field names are its keys, and
keys are only ever added. Does not know how it is shown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic_ns
from typing import Any

from nfqlb.balance.recent import ENTRIES, SIZE
from nfqlb.errors import NotRunning
from nfqlb.gateway.host import procfs
from nfqlb.gateway.shm.board import FILE_NAME, RESPONSES_FROM, STUCK_AFTER, Cell, Slot, Snapshot, State, Traffic, read
from nfqlb.proxy.verdict import Action, Reason

UP, STARTING, STUCK, DEAD = "up", "starting", "stuck", "dead"
ORPHANED = "orphaned"
"""State of a gateway whose supervisor is gone while workers go on."""


_RECENT = {
    "stored": Cell.RECENT_STORED,
    "kept": Cell.RECENT_KEPT,
    "misses": Cell.RECENT_MISSES,
    "evicted": Cell.RECENT_EVICTED,
}


@dataclass(frozen=True, slots=True)
class QueueRow:
    """What the kernel says of a queue; None where only root may look, or when nobody holds the queue."""

    queue: int
    worker: int
    waiting: int | None
    """Packets without a verdict."""
    dropped: int | None
    """Because the queue was full."""
    user_dropped: int | None
    """Because the worker's socket buffer was full."""
    fill: float
    """How full it is, 0 to 1, as its worker sees it: of the packets or the bytes that may wait, the nearer limit."""
    age: float
    """Seconds that the packet in the worker's hands has waited."""
    shedding: bool
    """The worker has more to do than it can, and sheds new requests."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Since the gateway started, across replaced workers; or per second, as `rates` makes them."""

    packets: float
    """Verdicts: the sum of the next four."""
    forwards: float
    replies: float
    drops: float
    ignored: float
    reasons: dict[str, float]
    """Every reason by its slug, also those with 0."""
    backends: dict[str, dict[str, float]]
    """Backend → requests_to, requests_from, responses_to, responses_from, and of these responses_1xx to
    responses_6xx."""
    us_per_packet: float | None
    """Microseconds in the engine: the mean over the timed packets, None when there are none."""
    timed: float
    """Packets that were timed, a sample of all."""
    engine_ns: float
    """Nanoseconds that the timed packets took."""
    overloads: float
    """Times that a worker has begun to shed new requests; what comes and goes within seconds is one time."""
    socket_sent: float
    """Packets among the forwards and replies that left through a socket: large IPv6 ones."""
    recent: dict[str, float]
    """The memory of recent choices (P31): stored, kept (sent where the transaction began, though the table has come to
    say otherwise), misses (ACKs and CANCELs of an INVITE that it does not know), evicted (forgotten for want of
    room)."""


@dataclass(frozen=True, slots=True)
class WorkerRow:
    worker: int
    pid: int
    state: str
    """up, starting, stuck (alive, but without a heartbeat for 5 s) or dead."""
    restarts: int
    heartbeat_age: float | None
    """Seconds."""
    counts: Counts


@dataclass(frozen=True, slots=True)
class MemoryRow:
    """The table of recent choices (P31), which all workers share."""

    entries: int
    """In use, roughly."""
    capacity: int
    bytes: int


@dataclass(frozen=True, slots=True)
class LimitsRow:
    """What was stopped before it cost anything, or will be."""

    offences: int
    """Noted by workers; goes on over reloads and upgrades, as the next."""
    bans: int
    """Of sources, for offences."""
    banned: int | None = None
    """Sources that are banned now; None where only root may look."""
    stopped: dict[str, int] | None = None
    """Packets that the kernel dropped since the rules were changed last: banned, denied (by an operator), limited, junk
    (no SIP), shed (in overload); None where only root may look."""


@dataclass(frozen=True, slots=True)
class Report:
    gateway: str
    state: str
    """starting, running, stopping, or orphaned: the supervisor is gone, and dead workers are not replaced."""
    generation: int
    pid: int
    """Of the supervisor."""
    started: str
    """ISO 8601, UTC."""
    time: str
    """Of this report."""
    queues: tuple[QueueRow, ...]
    workers: tuple[WorkerRow, ...]
    totals: Counts
    """Of these workers, and of all before them: also of earlier configurations and versions."""
    memory: MemoryRow
    alarms: int
    """Pools that something is wrong with."""
    limits: LimitsRow

    @property
    def healthy(self) -> bool:
        return self.state != ORPHANED and all(worker.state in (UP, STARTING) for worker in self.workers)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def gather(run_dir: Path, proc: Path = procfs.PROC) -> Report:
    """Report on the gateway whose run directory this is. Raises NotRunning when none runs there,
    BoardError when the board cannot be read."""
    path = run_dir / FILE_NAME
    snapshot = read(path)
    workers = tuple(_worker(index, slot, snapshot, proc) for index, slot in enumerate(snapshot.slots))
    state = snapshot.state.name.lower()
    if not procfs.alive(snapshot.pid, proc):
        if all(worker.state == DEAD for worker in workers):
            raise NotRunning(f"The gateway that wrote {path} (pid {snapshot.pid}) is gone: it was killed.")
        state = ORPHANED
    try:
        kernel = procfs.kernel_queues(proc)
    except PermissionError:  # only root may look there, but anybody may read the board
        kernel = {}
    return Report(
        gateway=snapshot.about.gateway,
        state=state,
        generation=snapshot.generation,
        pid=snapshot.pid,
        started=_iso(datetime.fromtimestamp(snapshot.started / 1e9, UTC)),
        time=_iso(datetime.now(UTC)),
        queues=tuple(
            _queue(number, index, kernel.get(number), snapshot.slots[index].cells)
            for index, number in enumerate(snapshot.about.queues)
        ),
        workers=workers,
        totals=_counts((*snapshot.slots, snapshot.retired), snapshot.about.backends),
        memory=MemoryRow(snapshot.remembered, ENTRIES, SIZE),
        alarms=snapshot.alarms,
        limits=LimitsRow(snapshot.offences, snapshot.bans),
    )


def rates(before: Counts, after: Counts, seconds: float) -> Counts:
    """What came between two moments, per second; the time per packet is that of the packets between."""

    def rate(name: str) -> float:
        return float(getattr(after, name) - getattr(before, name)) / seconds

    def table(old: Mapping[str, float], new: Mapping[str, float]) -> dict[str, float]:
        return {key: (value - old.get(key, 0)) / seconds for key, value in new.items()}

    return Counts(
        **{name: rate(name) for name in ("packets", "forwards", "replies", "drops", "ignored")},
        reasons=table(before.reasons, after.reasons),
        backends={name: table(before.backends.get(name, {}), new) for name, new in after.backends.items()},
        us_per_packet=_mean(after.engine_ns - before.engine_ns, after.timed - before.timed),
        **{name: rate(name) for name in ("timed", "engine_ns", "overloads", "socket_sent")},
        recent=table(before.recent, after.recent),
    )


def _worker(index: int, slot: Slot, snapshot: Snapshot, proc: Path) -> WorkerRow:
    pid, heartbeat = slot.cells[Cell.PID], slot.cells[Cell.HEARTBEAT]
    age = max(0, monotonic_ns() - heartbeat) / 1e9 if heartbeat else None
    if not pid or not procfs.alive(pid, proc):
        state = DEAD if heartbeat or snapshot.state is not State.STARTING else STARTING
    elif age is None:
        state = STARTING
    else:
        state = STUCK if age > STUCK_AFTER else UP
    return WorkerRow(
        worker=index,
        pid=pid,
        state=state,
        restarts=slot.cells[Cell.RESTARTS],
        heartbeat_age=None if age is None else round(age, 3),
        counts=_counts((slot,), snapshot.about.backends),
    )


def _queue(number: int, worker: int, row: procfs.KernelQueue | None, cells: Sequence[int]) -> QueueRow:
    return QueueRow(
        queue=number,
        worker=worker,
        waiting=None if row is None else row.waiting,
        dropped=None if row is None else row.dropped,
        user_dropped=None if row is None else row.user_dropped,
        fill=cells[Cell.QUEUE_FILL] / 1000,
        age=cells[Cell.QUEUE_AGE] / 1e6,
        shedding=bool(cells[Cell.SHEDDING]),
    )


def _counts(slots: Sequence[Slot], backends: Sequence[str]) -> Counts:
    """The sum over these slots."""
    by_action: dict[Action, float] = dict.fromkeys(Action, 0)
    reasons: dict[str, float] = {}
    for reason in Reason:
        reasons[reason.slug] = count = sum(slot.reasons[reason] for slot in slots)
        by_action[reason.action] += count
    timed, engine_ns = (sum(slot.cells[cell] for slot in slots) for cell in (Cell.TIMED, Cell.ENGINE_NS))
    return Counts(
        packets=sum(by_action.values()),
        forwards=by_action[Action.FORWARD],
        replies=by_action[Action.REPLY],
        drops=by_action[Action.DROP],
        ignored=by_action[Action.IGNORE],
        reasons=reasons,
        backends={name: traffic(slots, number) for number, name in enumerate(backends)},
        us_per_packet=_mean(engine_ns, timed),
        timed=timed,
        engine_ns=engine_ns,
        overloads=sum(slot.cells[Cell.OVERLOADS] for slot in slots),
        socket_sent=sum(slot.cells[Cell.SOCKET_SENT] for slot in slots),
        recent={name: sum(slot.cells[cell] for slot in slots) for name, cell in _RECENT.items()},
    )


def traffic(slots: Sequence[Slot], number: int) -> dict[str, float]:
    """Of the backend of that number, over these slots: as `Counts.backends` has it."""
    sums: dict[str, float] = {}
    for each in Traffic:
        if each == Traffic.RESPONSES_1XX:
            sums["responses_from"] = sum(slot.backends[number][part] for slot in slots for part in RESPONSES_FROM)
        sums[each.name.lower()] = sum(slot.backends[number][each] for slot in slots)
    return sums


def _mean(nanoseconds: float, packets: float) -> float | None:
    return round(nanoseconds / packets / 1000, 2) if packets > 0 else None


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
