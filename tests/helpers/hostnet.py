"""A host between two networks, in namespaces of its own: phone — gateway — farm, and a third link of the gateway.

phone  198.51.100.2 ── out  198.51.100.1, E 198.51.100.5 [ gateway ] I 10.9.0.5, 10.9.0.1  in ── 10.9.0.2  farm
       2001:db8:1::2        2001:db8:1::1, E ::5                     I 2001:db8:2::5, ::1        2001:db8:2::2
       10.7.0.2 ── side  10.7.0.1
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import rewriter
from takedown import take_down

from nfqlb.config.build import load
from nfqlb.config.model import Config
from nfqlb.gateway.host.procfs import kernel_queues
from nfqlb.gateway.netfilter import ruleset
from nfqlb.lab import namespaces

T = TypeVar("T")

EXTERNAL = {4: "198.51.100.5", 6: "2001:db8:1::5"}
INTERNAL = {4: "10.9.0.5", 6: "2001:db8:2::5"}
BACKEND = {4: "10.9.0.2", 6: "2001:db8:2::2"}
PHONE = {4: "198.51.100.2", 6: "2001:db8:1::2"}
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
QUEUE = 5060

LINKS = """
link add out type veth peer name eth netns {phone}
link add in type veth peer name eth netns {farm}
link add side type veth peer name aside netns {phone}
link set lo up
link set out up
link set in up
link set side up
address add 198.51.100.1/24 dev out
address add 198.51.100.5/24 dev out
address add 10.9.0.1/24 dev in
address add 10.9.0.5/24 dev in
address add 10.7.0.1/24 dev side
address add 2001:db8:1::1/64 dev out nodad
address add 2001:db8:1::5/64 dev out nodad
address add 2001:db8:2::1/64 dev in nodad
address add 2001:db8:2::5/64 dev in nodad
-n {phone} link set lo up
-n {phone} link set eth up
-n {phone} link set aside up
-n {phone} address add 198.51.100.2/24 dev eth
-n {phone} address add 10.7.0.2/24 dev aside
-n {phone} address add 2001:db8:1::2/64 dev eth nodad
-n {phone} route add default via 198.51.100.1
-n {phone} route add default via 2001:db8:1::1
-n {farm} link set lo up
-n {farm} link set eth up
-n {farm} address add 10.9.0.2/24 dev eth
-n {farm} address add 2001:db8:2::2/64 dev eth nodad
-n {farm} route add default via 10.9.0.1
-n {farm} route add default via 2001:db8:2::1
"""

BEFORE = {
    **{f"net/ipv4/conf/{link}/rp_filter": "1" for link in ("all", "default", "out", "in")},
    "net/ipv4/conf/side/rp_filter": "0",
    "net/ipv4/ip_forward": "0",
    "net/ipv6/conf/all/forwarding": "0",
    **{f"net/ipv4/conf/{link}/send_redirects": "1" for link in ("all", "default", "out", "in", "side")},
}
"""What the administrator had set before us: forwarding off, the reverse path filter strict everywhere."""

TWO_ARMED = """
[[listener]]
name = "four"
external = "198.51.100.5:5060"
internal = "10.9.0.5:5060"

[[listener]]
name = "six"
external = "[2001:db8:1::5]:5060"
internal = "[2001:db8:2::5]:5060"
"""

ONE_ARMED = """
[[listener]]
name = "four"
external = "198.51.100.5:5060"
internal = "198.51.100.5:5060"

[[listener]]
name = "six"
external = "[2001:db8:1::5]:5060"
internal = "[2001:db8:1::5]:5060"
"""

BACKENDS = ("10.9.0.2:5060", "[2001:db8:2::2]:5060")

SECRET = "for-tests-only-0123456789abcdef"


def write_config(
    folder: Path,
    listeners: str = TWO_ARMED,
    *,
    backends: tuple[str, ...] = BACKENDS,
    workers: int = 2,
    more: str = "",
    secret: str = SECRET,
) -> Config:
    """A configuration in `folder`, its run directory beside it."""
    secret_file = folder / "secret"
    secret_file.write_text(f"{secret}\n")
    secret_file.chmod(0o600)
    pool = "".join(f'\n[[pool.backend]]\nname = "b{i}"\naddress = "{each}"\n' for i, each in enumerate(backends))
    path = folder / "nfqlb.toml"
    path.write_text(
        f'[gateway]\nsecret_file = "secret"\nrun_dir = "{folder}/run"\n{listeners}\n[[pool]]\nname = "all"\n{pool}\n'
        f'[[route]]\npool = "all"\n\n[workers]\ncount = {workers}\nqueue = {QUEUE}\n{more}\n'
    )
    return load(path)


@dataclass
class Host:
    """The namespaces, and what tests do in them."""

    phone: str
    gateway: str
    farm: str
    folder: Path
    _opened: list[socket.socket] = field(default_factory=list)
    _processes: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def here(self, work: Callable[..., T]) -> T:
        """Call `work` on the gateway, without arguments."""
        return namespaces.inside(self.gateway, work)

    def config(self, listeners: str = TWO_ARMED, **more: Any) -> Config:
        return write_config(self.folder, listeners, **more)

    def apply(self, config: Config, queues: range | None = None) -> list[ruleset.Difference]:
        return self.here(lambda: ruleset.apply(config, queues))

    def remove(self, config: Config) -> list[ruleset.Difference]:
        return self.here(lambda: ruleset.remove(config))

    def differences(self, config: Config, queues: range | None = None) -> list[ruleset.Difference]:
        return self.here(lambda: ruleset.differences(config, queues))

    def run(self, *argv: str, text: str = "") -> str:
        """Run a program on the gateway; its output."""
        return namespaces.run(self.gateway, list(argv), input_text=text)

    def saved(self, backend: str, family: int) -> dict[str, list[str]]:
        """The rule set as it stands: table → lines, without counters, dates and tables that hold nothing."""
        base = {4: "iptables", 6: "ip6tables"}[family]
        tables: dict[str, list[str]] = {}
        for line in self.run(f"{base}-{backend}-save").splitlines():
            if line.startswith("*"):
                table = tables.setdefault(line, [])
            elif line.startswith(":"):
                table.append(line.rsplit(" ", 1)[0])
            elif line.startswith("-"):
                table.append(line)
        return {
            name: lines
            for name, lines in tables.items()
            if any(line.startswith("-") or not line.endswith(" ACCEPT") for line in lines)
        }

    def restore(self, text: str, backend: str = "nft", family: int = 4) -> None:
        """Rules of the administrator's."""
        base = {4: "iptables", 6: "ip6tables"}[family]
        self.run(f"{base}-{backend}-restore", "--noflush", "--wait", "10", text=text)

    def sysctls(self) -> dict[str, str]:
        """Every value below conf/ of both IP versions, and the global switches."""

        def read() -> dict[str, str]:
            names = ("forwarding", "accept_local", "rp_filter", "send_redirects", "accept_ra")
            root = Path("/proc/sys")
            files = [path for name in names for path in root.glob(f"net/ipv[46]/conf/*/{name}")]
            return {str(path.relative_to(root)): path.read_text().strip() for path in files}

        return self.here(read)

    def serve(self, family: int, workers: int = 2, *, first: int = QUEUE, **pairs: Any) -> None:
        """Start the stand-in for the workers: what comes to E goes from I to the backend, what comes to I from E to the
        phone.
        """
        way = {
            f"{EXTERNAL[family]}": (INTERNAL[family], BACKEND[family]),
            f"{INTERNAL[family]}": (EXTERNAL[family], PHONE[family]),
            **pairs,
        }
        arguments = [f"{dst}={src},{to}" for dst, (src, to) in way.items()]
        argv = [sys.executable, rewriter.__file__, str(first), str(workers), *arguments]
        process = namespaces.spawn(self.gateway, argv, self.folder / "rewriter.log", pipe=True)
        self.adopt(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n", (self.folder / "rewriter.log").read_text()

    def adopt(self, process: "subprocess.Popen[Any]") -> None:
        """See to it that the process ends with the test."""
        self._processes.append(process)

    def udp(self, name: str, host: str, port: int = 0, *, timeout: float = 3.0) -> socket.socket:
        """A socket in a namespace, bound."""
        family = FAMILY[6 if ":" in host else 4]
        opened = namespaces.inside(name, lambda: socket.socket(family, socket.SOCK_DGRAM))
        self._opened.append(opened)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        opened.bind((host, port))
        opened.settimeout(timeout)
        return opened

    def queued(self) -> list[int]:
        """How many packets each queue has been given, by number of the queue."""
        return [row.last_id for _, row in sorted(self.here(kernel_queues).items())]

    def tracked(self, family: int) -> str:
        """conntrack's table."""
        return self.run("conntrack", "-L", "-f", {4: "ipv4", 6: "ipv6"}[family])

    def close(self) -> None:
        take_down(self._opened, self._processes, (self.phone, self.gateway, self.farm))


def heard(opened: socket.socket) -> tuple[bytes, str, int] | None:
    """The next datagram with its source, None when none comes in time."""
    try:
        content, source = opened.recvfrom(65535)
    except TimeoutError:
        return None
    return content, source[0], source[1]


def made(folder: Path) -> Iterator[Host]:
    """Make the namespaces; remove them, and all that runs in them, at the end."""
    prefix = f"nfqlb-h{os.getpid()}"
    host = Host(f"{prefix}-phone", f"{prefix}-gw", f"{prefix}-farm", folder)
    try:
        for name in (host.phone, host.gateway, host.farm):
            namespaces.create(name)
            # Or link-local addresses could not ask for neighbours in the first second.
            namespaces.sysctl(name, {"net/ipv6/conf/default/accept_dad": "0"})
        for line in LINKS.format(phone=host.phone, farm=host.farm).strip().splitlines():
            where = [] if line.startswith("-n") else ["-n", host.gateway]
            subprocess.run(["ip", *where, *line.split()], check=True, timeout=10)
        namespaces.sysctl(host.gateway, BEFORE)
        yield host
    finally:
        host.close()


def until(condition: Callable[..., bool], seconds: float) -> bool:
    """Wait for `condition`; whether it came true in time. It is called without arguments, and may have defaults."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True
