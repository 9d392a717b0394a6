"""The systems under test: nfqlb, Kamailio, and the floor. Each runs in a network of its own, pinned to one core.

Knows how each is configured, started, found ready, and which processes and how much memory it has. Does not know how
they are loaded or measured.
"""

import os
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import ClassVar

from devtools.bench.network import EXTERNAL, INTERNAL, PORT, Network
from nfqlb.lab import LabError, namespaces
from nfqlb.lab.lab import nfqlb_command, tail

READY = 20.0
"""Seconds that a system may take to come up."""

SECRET = "nfqlb-bench-key-for-tests-only-not-a-secret"

SHARED_MEMORY_MB, PRIVATE_MEMORY_MB = 64, 8


def backend_addresses(count: int) -> list[str]:
    """Where `load.c` expects them: one after another from 192.168.1.11 on."""
    first = int.from_bytes(bytes((192, 168, 1, 11)), "big")
    return [".".join(map(str, (first + number).to_bytes(4, "big"))) for number in range(count)]


class System(ABC):
    """Use as a context manager: running and ready inside."""

    name: ClassVar[str]

    def __init__(self, network: Network, place: Path, core: int, backends: int, workers: int = 1) -> None:
        """`place`: a directory of its own for its files. With more `workers` than one it may use all cores."""
        self.network, self.place, self.core, self.workers = network, place, core, workers
        self.backends = backend_addresses(backends)
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """What to start, after preparing what it needs."""

    @abstractmethod
    def ready(self) -> bool: ...

    def __enter__(self) -> "System":
        self.place.mkdir(parents=True)
        self.network.know(self.backends)
        cores = ",".join(map(str, sorted(os.sched_getaffinity(0)))) if self.workers > 1 else str(self.core)
        argv = ["taskset", "-c", cores, *self.command()]
        self._process = namespaces.spawn(self.network.gateway, argv, self.log, cwd=self.place)
        deadline = time.monotonic() + READY
        try:
            while not self.ready():
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise LabError(f"{self.name} did not come up. {tail(self.log)}")
                time.sleep(0.05)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(10)

    @property
    def log(self) -> Path:
        return self.place / "log"

    def pids(self) -> list[int]:
        """All its processes."""
        return namespaces.members([self.network.gateway])

    def memory(self) -> int:
        """Bytes that all its processes take together, shared ones counted once (proportional set size)."""
        total = 0
        for pid in self.pids():
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
        return total


class Nfqlb(System):
    """The real gateway, started by its command. Its probes are off, as the backends do not answer; its limits are
    on, but it sheds nothing before its queue is full."""

    name = "nfqlb"

    def command(self) -> list[str]:
        secret, config = self.place / "secret", self.place / "nfqlb.toml"
        secret.write_text(f"# For tests only.\n{SECRET}\n")
        secret.chmod(0o600)
        backends = "".join(
            f'\n[[pool.backend]]\nname = "b{number}"\naddress = "{address}:{PORT}"\n'
            for number, address in enumerate(self.backends)
        )
        config.write_text(
            f'[gateway]\nname = "lb"\nsecret_file = "{secret}"\nrun_dir = "{self.place}/run"\n'
            f'state_dir = "{self.place}/state"\n'
            f'\n[[listener]]\nname = "main"\nexternal = "{EXTERNAL}:{PORT}"\ninternal = "{INTERNAL}:{PORT}"\n'
            f'\n[[pool]]\nname = "pool"\n{backends}\n[[route]]\npool = "pool"\n'
            f"\n[workers]\ncount = {self.workers}\n\n[health]\nenabled = false\n"
            # The others have a full queue before they lose; so has this one.
            "\n[limits]\nshed_at = 100\nshed_age = 60\n"
        )
        return [*nfqlb_command(), "run", "-c", str(config), "--apply-rules"]

    def ready(self) -> bool:
        return self.log.exists() and "nfqlb is ready" in self.log.read_text(errors="replace")


class Kamailio(System):
    """Kamailio of the distribution, stateless; see kamailio.cfg. As it comes, with its default allocator of memory."""

    name = "kamailio"
    options: ClassVar[tuple[str, ...]] = ()

    def command(self) -> list[str]:
        listing, config = self.place / "dispatcher.list", self.place / "kamailio.cfg"
        listing.write_text("".join(f"1 sip:{address}:{PORT}\n" for address in self.backends))
        text = files(__package__).joinpath("kamailio.cfg").read_text()
        for name, value in {
            "EXTERNAL": f"{EXTERNAL}:{PORT}",
            "INTERNAL": f"{INTERNAL}:{PORT}",
            "INTERNAL_IP": INTERNAL,
            "LIST": str(listing),
            "SET": "1",
        }.items():
            text = text.replace(f"@{name}@", value)
        config.write_text(text)
        # It asks for the address of the host's own name; see nfqlb.lab.kamailio.
        return [
            *("unshare", "--uts", "sh", "-c", 'hostname localhost && exec "$@"', "sh", "kamailio"),
            *("-f", str(config), "-m", str(SHARED_MEMORY_MB), "-M", str(PRIVATE_MEMORY_MB)),
            *("-Y", str(self.place), "-P", str(self.place / "kamailio.pid"), "-DD", "-E", *self.options),
        ]

    def ready(self) -> bool:
        """Both of its sockets are there."""
        return len(namespaces.run(self.network.gateway, ["ss", "-Hlun"]).splitlines()) >= 2


class TunedKamailio(Kamailio):
    """The same with the fastest of its allocators, which an operator may choose on the command line."""

    name = "kamailio-tlsf"
    options = ("-x", "tlsf")


class Floor(System):
    """See floor.py."""

    name = "floor"

    def command(self) -> list[str]:
        rules = ["*raw"]
        for address in (EXTERNAL, INTERNAL):
            match = f"-A PREROUTING -d {address} -p udp --dport {PORT}"
            rules += [f"{match} -j CT --notrack", f"{match} -j NFQUEUE --queue-num 0"]
        text = "\n".join([*rules, "COMMIT", ""])
        namespaces.run(self.network.gateway, ["iptables-restore", "--noflush"], input_text=text)
        ends = (f"{EXTERNAL}:{PORT}", f"{INTERNAL}:{PORT}", f"{self.backends[0]}:{PORT}", "198.18.0.1:40000")
        return [sys.executable, "-m", "devtools.bench.floor", *ends]

    def ready(self) -> bool:
        return self.log.exists() and "ready" in self.log.read_text(errors="replace")


SYSTEMS: dict[str, type[System]] = {system.name: system for system in (Nfqlb, Kamailio, TunedKamailio, Floor)}

Say = Callable[[str], None]


def spare_cores() -> tuple[int, int]:
    """A core for the system, and one for the load. LabError when there are not two."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise LabError("Two cores are needed: one for the system under test, one for the load.")
    return cores[-1], cores[0]
