"""An arena whose every message is counted: receivers in place of the backends, the generator outside.

Knows the programs `generator` and `receiver` and their files. Does not know what happens to the gateway meanwhile.
"""

import json
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from pyroute2 import IPRoute

from devtools.chaos import generator, receiver
from devtools.chaos.accounts import Arrivals
from devtools.chaos.arena import PORT, Arena, Settings
from nfqlb.lab import LabError, namespaces
from nfqlb.lab.lab import tail
from nfqlb.lab.topology import Node, Plan

BACKENDS = 4

FLOW_RATE = 50
"""Messages a second of one flow, about: a flow of its own for every so many of the load's rate."""
MIN_FLOWS = 10
"""So many at least, so that no worker is left without."""
ADDRESSES = 50
FIRST_ADDRESS = 64
"""Of the generator in the network of the phones, counted from the network's own."""


class CountedArena(Arena):
    def __init__(
        self,
        name: str,
        *,
        family: int,
        workers: int,
        say: Callable[[str], None],
        plan: Plan | None = None,
        ports: int = 1,
    ) -> None:
        """`plan`: another than that of BACKENDS, all but one of which are in the configuration. `ports`: that each
        receiver has, from PORT on: as many backends.
        """
        self.ports = ports
        weights = (1,) * (BACKENDS - 1 if plan is None else plan.registrars)
        plan = plan or Plan(name, family=family, registrars=BACKENDS, proxies=0)
        super().__init__(plan, Settings(weights, workers), say)
        self._pipes: list[IO[bytes] | None] = []
        """Of programs that have ended and been replaced."""

    def down(self) -> None:
        pipes = [process.stdout for process in self._processes.values()]
        super().down()
        for pipe in (*pipes, *self._pipes):
            if pipe is not None:
                pipe.close()
        self._pipes.clear()

    # inside

    def start_backend(self, node: Node) -> None:
        """A receiver in place of a registrar."""
        job = receiver.Job(node.ip, PORT, (self.plan.internal.ip, PORT), str(self._record(node.role)), self.ports)
        argv = [sys.executable, "-m", receiver.__name__, json.dumps(asdict(job))]
        log = self.dir / f"{node.role}.log"
        self._processes[node.role] = namespaces.spawn(self.plan.namespace(node.role), argv, log, pipe=True)

    def wait_backend(self, node: Node) -> None:
        self._line(node.role)

    def receive(self) -> None:
        """Start the receivers anew that have ended, with nothing on record."""
        for node in self.plan.backends:
            if self._processes[node.role].poll() is not None:
                self._pipes.append(self._processes[node.role].stdout)
                self.start_backend(node)
                self.wait_backend(node)

    def stop_backends(self) -> list[receiver.Received]:
        """End the receivers, and what each has to say at its end."""
        found = []
        for node in self.plan.backends:
            self._processes[node.role].send_signal(signal.SIGTERM)
            found.append(receiver.Received(**json.loads(self._line(node.role))))
            self._processes[node.role].wait(10)
        return found

    def arrivals(self) -> dict[str, Arrivals]:
        """What the receivers have written down, by backend."""
        return {node.role: receiver.read_arrivals(self._record(node.role)) for node in self.plan.backends}

    def _line(self, role: str, timeout: float = 15.0) -> str:
        return read_line(self._processes[role], f"The program {role}", self.dir / f"{role}.log", timeout)

    def _record(self, role: str) -> Path:
        return self.dir / f"{role}.arrivals"

    # outside

    def flows(self, rate: int) -> tuple[tuple[str, int], ...]:
        """Addresses and ports to send from."""
        network = self.plan.phones[0].interface.network
        return tuple(
            (str(network[FIRST_ADDRESS + flow % ADDRESSES]), PORT + flow // ADDRESSES)
            for flow in range(max(MIN_FLOWS, rate // FLOW_RATE))
        )

    @contextmanager
    def load(
        self,
        rate: int,
        seconds: float,
        *,
        mixed: bool = False,
        answers: Path | None = None,
        domains: tuple[str, ...] = ("example.org",),
    ) -> Iterator["Load"]:
        """Send while the context is open, for so many seconds at most.

        `answers`: where to write them down. `domains`: of the Request-URIs, each flow's the next one.
        """
        self.add_addresses()
        record = self.dir / "sent"
        flows = self.flows(rate)
        job = generator.Job(
            *((self.plan.external.ip, PORT), flows, rate, seconds, mixed, str(record)),
            answers="" if answers is None else str(answers),
            domains=domains,
        )
        argv = [sys.executable, "-m", generator.__name__, json.dumps(asdict(job))]
        log = self.dir / "generator.log"
        if last := self._processes.get("generator"):
            self._pipes.append(last.stdout)
        process = namespaces.spawn(self.plan.namespace("phones"), argv, log, pipe=True)
        self._processes["generator"] = process
        try:
            yield Load(process, log, record, len(flows), int(self._line("generator")))
        finally:
            process.terminate()  # does nothing to one that has ended
            process.wait(10)

    def add_addresses(self) -> None:
        """Those that flows send from."""
        network = self.plan.phones[0].interface.network

        def work() -> None:
            with IPRoute() as ip:
                index = ip.link_lookup(ifname="eth0")[0]
                for number in range(FIRST_ADDRESS, FIRST_ADDRESS + ADDRESSES):
                    ip.addr("replace", index=index, address=str(network[number]), prefixlen=network.prefixlen)

        namespaces.inside(self.plan.namespace("phones"), work)


@dataclass
class Load:
    """A load under way."""

    _process: subprocess.Popen[bytes]
    _log: Path
    _record: Path
    flows: int
    begun: int
    """Nanoseconds since 1970."""

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return (time.time_ns() - self.begun) / 1e9

    def stop(self) -> None:
        """Before its time."""
        self._process.terminate()

    def finish(self, timeout: float) -> generator.Sent:
        """Wait for the end, and what the generator has to say of it."""
        return generator.Sent(**json.loads(read_line(self._process, "The generator", self._log, timeout)))

    def times(self) -> Sequence[int]:
        """When each message was sent, by its number, in nanoseconds since 1970."""
        return generator.read_times(self._record)


def read_line(process: subprocess.Popen[bytes], what: str, log: Path, timeout: float) -> str:
    """The next line that a process prints. LabError with the end of its log when none comes."""
    assert process.stdout is not None
    if select.select([process.stdout], [], [], timeout)[0] and (line := process.stdout.readline()):
        return line.decode().strip()
    raise LabError(f"{what} says nothing. {tail(log)}")
