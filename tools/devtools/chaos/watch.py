"""Who takes what in a lab: processor time of its processes, memory and files of the gateway's, drops of its queues.

A thread that looks again and again, cheaply, and remembers. Knows /proc; does not know what the numbers are good for.
"""

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from nfqlb.gateway.host import procfs
from nfqlb.lab import namespaces

TICKS = os.sysconf("SC_CLK_TCK")
PROC = Path("/proc")

LOOK = 0.05
"""Seconds between two looks at the queues."""
REST = 0.2
"""Seconds that a packet needs at most from a queue to a receiver."""


@dataclass(frozen=True)
class Sample:
    """One process at one moment."""

    seconds: float
    """Since the watch began."""
    rss_kb: int
    pss_kb: int
    """What is shared with others counts in parts; in all it is what the processes really take."""
    private_kb: int
    """What is this process's alone."""
    fds: int


@dataclass
class Watched:
    """One process of the gateway."""

    pid: int
    name: str
    samples: list[Sample] = field(default_factory=list)


@dataclass(frozen=True)
class Times:
    """Processor time so far, in ticks: of each process, and of each core by kind (user, nice, system, idle, …)."""

    at: float
    processes: Mapping[int, tuple[str, int]]
    """By process id: its name (`role/comm`) and ticks."""
    cores: tuple[tuple[int, ...], ...]


class Watch:
    """Looks while the context is open.

    `roles` are the namespaces to look into by the name that they are shown under. Memory and files are only looked at
    in the namespace of the role "gw", and only with `memory_every`, in seconds.
    """

    def __init__(
        self,
        roles: Mapping[str, str],
        *,
        every: float = 1.0,
        memory_every: float = 0.0,
        on_sample: Callable[[], None] = lambda: None,
    ) -> None:
        self._roles, self._every, self._memory_every = roles, every, memory_every
        self._on_sample = on_sample
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._begun = time.monotonic()
        self._queues: dict[tuple[int, int], procfs.KernelQueue] = {}
        self._most_waiting = 0
        self._ticks: dict[int, tuple[str, int]] = {}
        self._first: dict[int, int] = {}
        self._first_times: Times | None = None
        self._last_times: Times | None = None
        self.processes: dict[int, Watched] = {}
        self.error: Exception | None = None
        """What ended the watch before its time."""

    def __enter__(self) -> "Watch":
        self._begun = time.monotonic()
        self._look(memory=bool(self._memory_every))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def settle(self) -> None:
        """Until nothing waits in a queue any more, and what left it last has arrived; for 10 s at most."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            time.sleep(REST)
            rows = namespaces.inside(self._roles["gw"], procfs.kernel_queues).values()
            if not any(row.waiting for row in rows):
                break
        time.sleep(REST)

    def close(self) -> None:
        """A last look, and no more. Raises what went wrong in an earlier one."""
        self._stop.set()
        self._thread.join()
        if self.error is not None:
            raise self.error
        self._look(memory=bool(self._memory_every))

    def queues(self) -> dict[str, int]:
        """Packets in queues, those that are gone included.

        `dropped`: a queue or its holder's buffer was full. `left_behind`: at the last look before a queue went, LOOK
        seconds at most, so many waited in it, and were served or lost. `most_waiting`: at any look, in one queue.
        """
        present = self._rows()
        return {
            "dropped": sum(row.dropped + row.user_dropped for row in self._queues.values()),
            "left_behind": sum(row.waiting for key, row in self._queues.items() if key not in present),
            "most_waiting": self._most_waiting,
        }

    def cpu(self) -> dict[str, float]:
        """Percent of one core by name; of processes that live or have lived under that name, up to the last look."""
        seconds = self._elapsed()
        total: dict[str, float] = {}
        for pid, (name, ticks) in self._ticks.items():
            total[name] = total.get(name, 0.0) + (ticks - self._first.get(pid, 0)) / TICKS / seconds * 100
        return {name: round(percent, 1) for name, percent in sorted(total.items()) if percent >= 0.1}

    def cores(self) -> list[dict[str, float]]:
        """For each core, percent of the time: busy in all, and of that in softirq, and what the host took (steal)."""
        assert self._first_times is not None
        assert self._last_times is not None
        found = []
        for before, after in zip(self._first_times.cores, self._last_times.cores, strict=True):
            spent = [new - old for old, new in zip(before, after, strict=True)]
            whole = sum(spent[:8]) or 1
            idle = spent[3] + spent[4]
            shares = {"busy": whole - idle, "softirq": spent[6], "steal": spent[7]}
            found.append({name: round(100 * ticks / whole, 1) for name, ticks in shares.items()})
        return found

    def others(self) -> float:
        """Percent of one core that went elsewhere: to what is no process of the lab, and to the kernel's own work."""
        return round(max(0.0, sum(core["busy"] for core in self.cores()) - sum(self.cpu().values())), 1)

    def _elapsed(self) -> float:
        assert self._first_times is not None
        assert self._last_times is not None
        return max(0.001, self._last_times.at - self._first_times.at)

    def _run(self) -> None:
        next_look = next_memory = 0.0
        try:
            while not self._stop.wait(LOOK):
                self._rows()
                elapsed = time.monotonic() - self._begun
                if elapsed < next_look + self._every:
                    continue
                next_look = elapsed
                memory = bool(self._memory_every) and elapsed >= next_memory + self._memory_every
                self._look(memory=memory)
                if memory:
                    next_memory += self._memory_every
                    self._on_sample()
        except Exception as error:  # told by whoever closes the watch
            self.error = error

    def _rows(self) -> set[tuple[int, int]]:
        """Look at the queues; the number and port of each that is there."""
        rows = namespaces.inside(self._roles["gw"], procfs.kernel_queues)
        found = {(row.number, row.port): row for row in rows.values()}
        self._queues |= found
        self._most_waiting = max([self._most_waiting, *(row.waiting for row in found.values())])
        return set(found)

    def _look(self, *, memory: bool) -> None:
        members = dict(_members(self._roles))
        self._ticks |= {pid: seen for pid, role in members.items() if (seen := _process_ticks(pid, role))}
        times = Times(time.monotonic(), dict(self._ticks), _core_ticks())
        if self._first_times is None:
            self._first_times = times
            self._first = {pid: ticks for pid, (_, ticks) in self._ticks.items()}
        self._last_times = times
        if memory:
            for pid in (pid for pid, role in members.items() if role == "gw"):
                if sample := self._sample(pid):
                    self.processes.setdefault(pid, Watched(pid, procfs.process_name(pid))).samples.append(sample)

    def _sample(self, pid: int) -> Sample | None:
        try:
            rollup = (PROC / str(pid) / "smaps_rollup").read_text()
            fds = len(os.listdir(PROC / str(pid) / "fd"))
        except OSError:  # it has ended
            return None
        sizes = {words[0]: int(words[1]) for line in rollup.splitlines()[1:] if len(words := line.split()) == 3}
        private = sizes["Private_Clean:"] + sizes["Private_Dirty:"]
        return Sample(round(time.monotonic() - self._begun, 1), sizes["Rss:"], sizes["Pss:"], private, fds)


def _members(roles: Mapping[str, str]) -> Iterable[tuple[int, str]]:
    """The processes of these namespaces, our own left out, each with its role."""
    inodes = {}
    for role, name in roles.items():
        status = (namespaces.NETNS_DIR / name).stat()
        inodes[status.st_dev, status.st_ino] = role
    own = os.getpid()
    for entry in os.listdir(PROC):
        if entry.isdigit() and int(entry) != own:
            try:
                status = (PROC / entry / "ns/net").stat()
            except OSError:
                continue
            if found := inodes.get((status.st_dev, status.st_ino)):
                yield int(entry), found


def _process_ticks(pid: int, role: str) -> tuple[str, int] | None:
    try:
        before, _, after = (PROC / str(pid) / "stat").read_text().rpartition(")")
    except OSError:
        return None
    fields = after.split()  # state is field 3 of proc(5), utime 14, stime 15
    return f"{role}/{before.partition('(')[2]}", int(fields[11]) + int(fields[12])


def _core_ticks() -> tuple[tuple[int, ...], ...]:
    lines = (PROC / "stat").read_text().splitlines()
    return tuple(tuple(map(int, line.split()[1:])) for line in lines if line.startswith("cpu") and line[3].isdigit())
