"""Calls per second through the lab: pairs of SIPp phones, the callees behind NAT, and a sum at the end.

Knows SIPp's statistics file. The figures are the phones' (calls that failed, messages sent twice) and the kernel's
(packets that a queue refused); nothing is judged by what the workers count.
"""

import csv
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nfqlb.lab import LabError
from nfqlb.lab.lab import Lab
from nfqlb.lab.sipp import Dialogue, Phone

PAIRS = 4
"""Caller and callee pairs: several flows, so that the kernel has something to spread over the workers."""


@dataclass(frozen=True)
class Result:
    """One run. `ok` is the verdict."""

    rate: int
    """Calls per second, wanted."""
    seconds: float
    """From the first call to the end of the last."""
    calls: int
    successful: int
    failed: int
    retransmissions: int
    """Of the phones, both sides."""
    queue_dropped: int
    """Packets that the kernel dropped because a queue or its socket buffer was full."""
    packets: int
    """That the workers gave a verdict on."""
    packets_per_worker: tuple[int, ...]
    us_per_packet: float | None
    """Microseconds in the engine."""
    worker_memory_mb: tuple[float, ...]
    """Resident memory of each worker at the end."""

    @property
    def ok(self) -> bool:
        return self.failed == 0 and self.queue_dropped == 0 and self.successful == self.calls

    def as_dict(self) -> dict[str, Any]:
        return {"ok": self.ok, **asdict(self)}


def run(lab: Lab, rate: int, seconds: int, say: Callable[[str], None]) -> Result:
    """`rate` calls per second for `seconds`, in a lab that is up."""
    plan = lab.plan
    callers = [lab.phone(f"caller{n}", plan.phones[0], port=5060 + n) for n in range(PAIRS)]
    callees = [lab.phone(f"callee{n}", plan.home[0], port=5060 + n) for n in range(PAIRS)]
    say(f"{PAIRS} phones register from behind the NAT")
    for phone in callees:
        phone.register()
    share = [rate // PAIRS + (n < rate % PAIRS) for n in range(PAIRS)]
    say(f"{rate} calls/s for {seconds} s")
    called: list[Dialogue] = []
    calling: list[Dialogue] = []
    begun = time.monotonic()
    try:
        for phone, calls in zip(callees, share, strict=True):
            called += _start(phone, calls * seconds, caller=False)
        for phone, callee, calls in zip(callers, callees, share, strict=True):
            calling += _start(phone, calls * seconds, caller=True, peer=callee.user, rate=calls)
        try:
            statuses = [dialogue.process.wait(seconds + 40) for dialogue in calling]
        except subprocess.TimeoutExpired:
            raise LabError(f"SIPp does not end its calls within {seconds + 40} s.") from None
        statuses += _end(called)
    finally:
        for dialogue in called + calling:
            if dialogue.process.poll() is None:
                dialogue.process.kill()
                dialogue.process.wait()
    elapsed = time.monotonic() - begun
    made = [last_row(dialogue.errors.with_suffix(".csv")) for dialogue in calling]
    sums = made + [last_row(dialogue.errors.with_suffix(".csv")) for dialogue in called]
    failed = sum(row["FailedCall(C)"] for row in sums)
    report = lab.stats()
    return Result(
        rate=rate,
        seconds=round(elapsed, 2),
        calls=rate * seconds,
        successful=sum(row["SuccessfulCall(C)"] for row in made),
        # SIPp's exit status also tells of what it does not count as a call.
        failed=failed or sum(status != 0 for status in statuses),
        retransmissions=sum(row["Retransmissions(C)"] for row in sums),
        queue_dropped=sum(row["dropped"] + row["user_dropped"] for row in report["queues"]),
        packets=report["totals"]["packets"],
        packets_per_worker=tuple(worker["counts"]["packets"] for worker in report["workers"]),
        us_per_packet=report["totals"]["us_per_packet"],
        worker_memory_mb=tuple(_resident_mb(worker["pid"]) for worker in report["workers"]),
    )


def _start(phone: Phone, calls: int, *, caller: bool, peer: str = "", rate: int = 0) -> list[Dialogue]:
    if not calls:
        return []
    stem = phone.run_dir / f"{phone.user}-load"
    extra = ["-trace_stat", "-stf", str(stem.with_suffix(".csv")), "-fd", "1"]
    if caller:
        extra += ["-r", str(rate), "-l", str(calls)]
    started = phone.start(
        "call",
        caller=caller,
        peer=peer,
        calls=calls,
        extra=tuple(extra),
        name=stem.name,
        timeout=calls // (rate or 1) + 60,
    )
    return [started]


def _end(called: list[Dialogue]) -> list[int]:
    """The exit statuses of those who are called, once all calls have been made; but for those that wait for calls which
    were refused on their way: they are told to end.
    """
    _wait(called)
    statuses = [status for dialogue in called if (status := dialogue.process.poll()) is not None]
    for dialogue in called:
        if dialogue.process.poll() is None:
            dialogue.process.send_signal(signal.SIGUSR1)  # for SIPp: no new calls, end with those that there are
    _wait(called)
    return statuses


def _wait(dialogues: list[Dialogue], patience: float = 4.0) -> None:
    """Until all have ended, but not longer than `patience` seconds."""
    deadline = time.monotonic() + patience
    for dialogue in dialogues:
        with suppress(subprocess.TimeoutExpired):
            dialogue.process.wait(max(0.0, deadline - time.monotonic()))


def last_row(path: Path) -> dict[str, int]:
    """The last line of SIPp's statistics: cumulative counts end in (C)."""
    if not path.exists():
        raise LabError(f"SIPp left no statistics at {path.name}: it did not start.")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter=";"))
    if not rows:
        raise LabError(f"SIPp left no statistics at {path.name}: it did not start.")
    wanted = ("TotalCallCreated", "SuccessfulCall(C)", "FailedCall(C)", "Retransmissions(C)")
    return {name: int(rows[-1][name]) for name in wanted}


def _resident_mb(pid: int) -> float:
    """Resident memory of a process in MB (10⁶ bytes); 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmRSS:")), 0.0)
