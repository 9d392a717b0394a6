"""What a core and its processes have done: counters of /proc before and after.

Two of them are exact: the running time of a process, and the time that a core was idle, so that the rest of the time
it was busy. How that divides into user, system and interrupts the kernel only samples by its ticks, and a core that
sleeps between packets has no ticks: interrupts that wake it are hardly seen. So those three are a hint, and their sum
is not what the core did. A process' time includes interrupts that came in the midst of it.
"""

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """Seconds. Of `busy`, only differences mean anything."""

    user: float
    system: float
    softirq: float
    """Soft and hard interrupts."""
    busy: float
    """All of the core's time that was not idle, whoever's."""
    processes: float
    """The running time of the processes alone."""

    def __sub__(self, before: "Usage") -> "Usage":
        return Usage(
            self.user - before.user,
            self.system - before.system,
            self.softirq - before.softirq,
            self.busy - before.busy,
            self.processes - before.processes,
        )


def usage(core: int, pids: Iterable[int]) -> Usage:
    """Up to now."""
    line = next(row for row in Path("/proc/stat").read_text().splitlines() if row.startswith(f"cpu{core} "))
    user, nice, system, idle, iowait, irq, softirq = (int(word) / _TICKS for word in line.split()[1:8])
    return Usage(
        user=user + nice,
        system=system,
        softirq=irq + softirq,
        busy=time.monotonic() - idle - iowait,
        processes=sum(map(_running, pids)),
    )


def _running(pid: int) -> float:
    """Seconds that all threads of a process have run; 0 when it is gone."""
    total = 0
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
    except FileNotFoundError:
        pass
    return total / 1e9
