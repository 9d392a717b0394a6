"""How long an address is away: SIP OPTIONS to it again and again, from outside or inside, and the gaps between answers.

A gateway answers OPTIONS to itself (P13) without any backend, so every lost one is the gateway's or its node's. Runs in
a process of its own: `python -m nfqlb.lab.pulse SOURCE TARGET RATE`, until SIGTERM; it then prints JSON.
"""

import itertools
import json
import select
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nfqlb.lab import LabError, namespaces
from nfqlb.lab.ping import options
from nfqlb.lab.words import ending, last_words

PATIENCE = 0.5
"""Seconds after the last question in which answers count."""


@dataclass(frozen=True)
class Heard:
    sent: int
    answers: tuple[float, ...]
    """When each came, in seconds since 1970."""

    @property
    def lost(self) -> int:
        return self.sent - len(self.answers)

    def gap_after(self, moment: float) -> float:
        """Seconds of the longest silence that ended after `moment`. LabError when nothing came after it."""
        times = [each for each in self.answers if each > moment]
        if not times:
            raise LabError("Nothing is answered after the event.")
        before = [each for each in self.answers if each <= moment][-1:]
        line = [*before, *times]
        return max(later - one for one, later in itertools.pairwise(line)) if len(line) > 1 else 0.0


class Pulse:
    """`with Pulse(namespace, source, target, log) as pulse: …; pulse.stop()`."""

    def __init__(self, namespace: str, source: str, target: str, log: Path, rate: int = 1000) -> None:
        self._argv = [sys.executable, "-m", __name__, source, target, str(rate)]
        self._namespace, self._log = namespace, log
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Pulse":
        self._process = namespaces.spawn(self._namespace, self._argv, self._log, pipe=True)
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"beats\n":
            raise LabError(f"No answer to the first OPTIONS: {self._log.read_text()[-500:]}")
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        if self._process is not None and self._process.stdout is not None:
            self._process.stdout.close()

    def stop(self) -> Heard:
        assert self._process is not None
        assert self._process.stdout is not None
        self._process.send_signal(signal.SIGTERM)
        line = self._process.stdout.readline()
        if not line:
            words = last_words(self._log.read_text(errors="replace"))
            raise LabError(f"The program that asks the gateway {ending(self._process.wait(10))}: {words}")
        said: dict[str, Any] = json.loads(line)
        self._process.wait(10)
        return Heard(said["sent"], tuple(said["answers"]))


def beat(source: str, target: str, rate: int) -> None:
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGTERM, stop)
    version6 = ":" in target
    own, other = (f"[{each}]" if version6 else each for each in (source, target))
    with socket.socket(socket.AF_INET6 if version6 else socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.bind((source, 0))
        here = f"{own}:{asking.getsockname()[1]}"
        answers: list[float] = []
        sent, next_at, told, end = 0, time.time(), False, float("inf")
        while time.time() < end:
            if stopped and end == float("inf"):
                end = time.time() + PATIENCE
            if not stopped and time.time() >= next_at:
                sent += 1
                next_at += 1 / rate
                try:
                    asking.sendto(options(other, here, sent), (target, 5060))
                except OSError:  # no route, nobody at that address: as lost as any other
                    continue
            wait = 0.05 if stopped else max(0.0, min(0.05, next_at - time.time()))
            if select.select([asking], [], [], wait)[0]:
                try:
                    asking.recv(4096)
                except OSError:
                    continue
                answers.append(time.time())
                if not told:
                    told = True
                    print("beats", flush=True)
        print(json.dumps({"sent": sent, "answers": answers}), flush=True)


if __name__ == "__main__":
    beat(sys.argv[1], sys.argv[2], int(sys.argv[3]))
