"""What a core and its processes have done: counters of /proc before and after.

The kernel counts time by ticks (4 ms with HZ=250), except that of processes, which is exact: their figure includes
soft interrupts that ran in the midst of them. So the core's figure is the whole truth on a machine with nothing else
to do, and the processes' figure a lower bound on any.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """Seconds."""

    user: float
    system: float
    softirq: float
    """Soft and hard interrupts."""
    busy: float
    """All of the core's time that was not idle: the three above, whoever's."""
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
    user, nice, system, _idle, _iowait, irq, softirq = (int(word) / _TICKS for word in line.split()[1:8])
    return Usage(
        user=user + nice,
        system=system,
        softirq=irq + softirq,
        busy=user + nice + system + irq + softirq,
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
