"""Three namespaces in a row — phone, gateway, farm — and a gateway process in the middle one."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import standin
from takedown import take_down

from nfqlb.gateway.host.procfs import KernelQueue, kernel_queues
from nfqlb.gateway.shm.board import FILE_NAME, Snapshot, read
from nfqlb.lab import namespaces
from nfqlb.proxy.verdict import Reason

PHONE = {4: "198.51.100.2", 6: "2001:db8:1::2"}
LINKS = """
link add out type veth peer name eth netns {phone}
link add in type veth peer name eth netns {farm}
link set lo up
link set out up
link set in up
address add 198.51.100.1/24 dev out
address add 2001:db8:1::1/64 dev out nodad
address add 10.9.0.1/24 dev in
address add 2001:db8:2::1/64 dev in nodad
-n {phone} link set eth up
-n {phone} address add 198.51.100.2/24 dev eth
-n {phone} address add 2001:db8:1::2/64 dev eth nodad
-n {farm} link set eth up
-n {farm} address add 10.9.0.2/24 dev eth
-n {farm} address add 2001:db8:2::2/64 dev eth nodad
-n {farm} route add default via 10.9.0.1
-n {farm} route add default via 2001:db8:2::1
"""
SYSCTLS = {
    "net/ipv4/ip_forward": "1",
    "net/ipv6/conf/all/forwarding": "1",
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/out/rp_filter": "0",
    "net/ipv4/conf/out/accept_local": "1",
}


@dataclass
class Net:
    """The namespaces, and what tests do in them."""

    phone: str
    gateway: str
    farm: str
    folder: Path
    _opened: list[socket.socket] = field(default_factory=list)
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def run_dir(self) -> Path:
        return self.folder / "run"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def divert(self, workers: int) -> None:
        """Rules that spread SIP from outside over the queues of so many workers."""
        namespaces.inside(self.gateway, lambda: standin.divert(range(standin.QUEUE, standin.QUEUE + workers)))

    def start(
        self, workers: int = 1, how: str = "", *, run_dir: str = "run", wait: bool = True
    ) -> subprocess.Popen[bytes]:
        """Start a stand-in gateway; with `wait`, until its workers take packets."""
        argv = [sys.executable, standin.__file__, str(self.folder / run_dir), str(workers), how]
        process = namespaces.spawn(self.gateway, argv, self.folder / "log", pipe=True)
        self.adopt(process)
        if wait:
            assert self.line(process) == "ready", self.log
        return process

    def line(self, process: subprocess.Popen[bytes], timeout: float = 10.0) -> str:
        """The next line that the gateway prints."""
        assert process.stdout is not None
        readable, _, _ = select.select([process.stdout], [], [], timeout)
        assert readable, f"nothing printed for {timeout} s; log: {self.log}"
        return process.stdout.readline().decode().strip()

    def adopt(self, process: subprocess.Popen[bytes]) -> None:
        """See to it that the process ends with the test."""
        self._processes.append(process)

    def refusal(self, process: subprocess.Popen[bytes]) -> dict[str, str]:
        """The error by which the gateway ended."""
        told = json.loads(self.line(process))
        assert isinstance(told, dict)
        return told

    def end(self, process: subprocess.Popen[bytes]) -> int:
        process.send_signal(signal.SIGTERM)
        return process.wait(10)

    def udp(self, name: str, family: int) -> socket.socket:
        kind = {4: socket.AF_INET, 6: socket.AF_INET6}[family]
        opened = namespaces.inside(name, lambda: socket.socket(kind, socket.SOCK_DGRAM))
        self._opened.append(opened)
        return opened

    def sender(self, family: int = 4) -> Callable[[bytes], object]:
        """A function that sends a datagram from the phone to the external socket."""
        return self.phone_socket(family).send

    def phone_socket(self, family: int) -> socket.socket:
        """A socket of the phone's, connected to the external one; `recv` waits for 3 s at most."""
        opened = self.udp(self.phone, family)
        opened.setsockopt(socket.SOL_SOCKET, 32, 1 << 20)  # SO_SNDBUFFORCE
        opened.connect((standin.EXTERNAL[family].host, standin.EXTERNAL[family].port))
        opened.settimeout(3)
        return opened

    def receiver(self, family: int = 4) -> socket.socket:
        """A socket at the backend's address; `recv` waits for 3 s at most."""
        opened = self.udp(self.farm, family)
        opened.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE
        opened.bind((standin.BACKEND[family].host, standin.BACKEND[family].port))
        opened.settimeout(3)
        return opened

    def board(self) -> Snapshot:
        return read(self.run_dir / FILE_NAME)

    def counted(self, reason: Reason) -> int:
        return sum(slot.reasons[reason] for slot in self.board().slots)

    def retired(self, reason: Reason) -> int:
        """What workers of earlier generations have counted."""
        return self.board().retired.reasons[reason]

    def queue(self, number: int = standin.QUEUE) -> KernelQueue:
        return self.queues()[number]

    def queues(self) -> dict[int, KernelQueue]:
        """By number, the lowest first."""
        return dict(sorted(namespaces.inside(self.gateway, kernel_queues).items()))

    def close(self) -> None:
        take_down(self._opened, self._processes, (self.phone, self.gateway, self.farm))


def until(condition: Callable[..., bool], timeout: float = 5.0) -> bool:
    """Wait for `condition`; whether it came true in time. It is called without arguments, and may have defaults."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def made(folder: Path) -> Iterator[Net]:
    """Make the namespaces; remove them, and all that runs in them, at the end."""
    prefix = f"nfqlb-q{os.getpid()}"
    net = Net(f"{prefix}-phone", f"{prefix}-gw", f"{prefix}-farm", folder)
    try:
        for name in (net.phone, net.gateway, net.farm):
            namespaces.create(name)
        for line in LINKS.format(phone=net.phone, farm=net.farm).strip().splitlines():
            where = [] if line.startswith("-n") else ["-n", net.gateway]
            subprocess.run(["ip", *where, *line.split()], check=True, timeout=10)
        namespaces.sysctl(net.gateway, SYSCTLS)
        yield net
    finally:
        net.close()


class Counter(threading.Thread):
    """Counts the datagrams that arrive on a socket, and remembers their first bytes."""

    def __init__(self, opened: socket.socket, keep: int = 8) -> None:
        super().__init__(daemon=True)
        self._keep = keep
        self.seen: list[bytes] = []
        self._socket = opened
        self._socket.settimeout(0.2)
        self._ending = False
        self.start()

    def run(self) -> None:
        while True:
            try:
                self.seen.append(self._socket.recv(65535)[: self._keep])
            except TimeoutError:
                if self._ending:
                    return

    def finish(self) -> list[bytes]:
        self._ending = True
        self.join(10)
        return self.seen
