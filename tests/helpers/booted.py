"""A systemd of its own: process 1 of new namespaces, in a network namespace that a test has made.

It has the programs of this machine and a copy of its /etc, but no units of it; whatever it writes goes with it.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nfqlb.lab import namespaces
from nfqlb.units import closed_to_others

CHECKOUT = Path(__file__).parents[2]
SYSTEMD = Path("/lib/systemd/systemd")
UNITS = "/etc/systemd/system:/run/units"
TARGETS = ("basic", "sysinit", "shutdown", "multi-user", "network-online", "local-fs", "timers", "paths", "sockets")
LOG = "/run/units.log"

BOOT = f"""
set -e
mount --make-rprivate /
mount -t cgroup2 none /sys/fs/cgroup
mount -t tmpfs tmpfs /run
mkdir /run/etc /run/units
cp -a /etc/. /run/etc
rm -rf /run/etc/systemd/system /run/etc/nfqlb
mkdir -p /run/etc/systemd/system/service.d /run/etc/nfqlb
mount --bind /run/etc /etc
printf '[Service]\\nStandardOutput=append:{LOG}\\nStandardError=append:{LOG}\\n' >/etc/systemd/system/service.d/log.conf
# What services need is kept where it is, also where others than root may not go.
number=0
for needed in $NEEDED; do
    mkdir -p /run/needed/$((number += 1))
    mount --bind "$needed" /run/needed/$number
done
for place in $CLOSED; do mount -t tmpfs -o mode=755 tmpfs "$place"; done
for place in /tmp /var/tmp /var/log /var/lib/systemd; do
    [ ! -d $place ] || mount -t tmpfs -o mode=1777 tmpfs $place
done
number=0
for needed in $NEEDED; do
    mkdir -p "$needed"
    mount --bind /run/needed/$((number += 1)) "$needed"
done
mount -t tmpfs tmpfs /dev
for each in null:3 zero:5 full:7 random:8 urandom:9; do mknod -m 666 /dev/${{each%:*}} c 1 ${{each#*:}}; done
mknod -m 666 /dev/tty c 5 0
mkdir /dev/shm /dev/pts /dev/mqueue /dev/hugepages
mount -t devpts -o newinstance,ptmxmode=0666 devpts /dev/pts
ln -s pts/ptmx /dev/ptmx
mount -t proc proc /proc
for name in {" ".join(TARGETS)}; do cp /lib/systemd/system/$name.target /run/units; done
hostname booted
exec env -i PATH="$PATH" container=test SYSTEMD_UNIT_PATH={UNITS} SYSTEMD_GENERATOR_PATH=/nowhere \\
    SYSTEMD_LOG_TARGET=console SYSTEMD_LOG_LEVEL=info {SYSTEMD} --system --unit=multi-user.target
"""


class Systemd:
    """Runs until `close`."""

    def __init__(self, namespace: str, folder: Path) -> None:
        """Boot in the network namespace; `folder` keeps its messages. Raises OSError, or TimeoutError."""
        self.log = folder / "systemd.log"
        self._group = control_group() / f"{namespace}-{folder.name}"
        self._group.mkdir()
        # Into the group first: `ip netns exec` has a /sys of its own.
        enter = f'echo $$ >"{self._group}/cgroup.procs" && exec "$@"'
        own = ["unshare", "--fork", "--kill-child", "--pid", "--mount", "--uts", "--ipc", "--cgroup"]
        needed = [*dict.fromkeys(map(str, (CHECKOUT, sys.prefix, sys.base_prefix)))]
        closed = {str(place) for path in needed if (place := closed_to_others(Path(path, "x")))}
        variables = {"PATH": namespaces.search_path(), "NEEDED": " ".join(needed), "CLOSED": " ".join(closed)}
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                ["bash", "-c", enter, "-", "ip", "netns", "exec", namespace, *own, "bash", "-c", BOOT],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env=os.environ | variables,
            )
        end = time.monotonic() + 15
        while not self._up():
            if time.monotonic() > end or self._process.poll() is not None:
                self.close()
                raise TimeoutError(f"systemd does not boot: {self.log.read_text()}")
            time.sleep(0.05)

    def _up(self) -> bool:
        """Whether it runs and answers."""
        try:
            return self.ask("systemctl", "is-active", "multi-user.target").strip() == "active"
        except (OSError, IndexError, subprocess.SubprocessError, AssertionError):
            return False

    @property
    def _first(self) -> int:
        """Its process 1, as we count."""
        pid = self._process.pid
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])

    def run(self, *argv: str) -> "subprocess.CompletedProcess[str]":
        """Run a program beside it, as root would from a shell."""
        enter = ["nsenter", "-t", str(self._first), "-m", "-u", "-i", "-n", "-p", "-C"]
        environment = {"PATH": namespaces.search_path(), "SYSTEMD_UNIT_PATH": UNITS, "LC_ALL": "C.UTF-8"}
        return subprocess.run(
            [*enter, *argv], capture_output=True, text=True, timeout=30, check=False, env=environment, cwd="/"
        )

    def ask(self, *argv: str) -> str:
        """Its output. It shall not fail."""
        done = self.run(*argv)
        assert done.returncode == 0, f"{argv}: {done.stdout}\n{done.stderr}\n{self.logged()}"
        return done.stdout

    def logged(self) -> str:
        return self.run("cat", LOG).stdout

    def write(self, path: str, content: str) -> None:
        Path(f"/proc/{self._first}/root{path}").write_text(content)

    def close(self) -> None:
        """End it and all that it runs: with process 1 goes the whole namespace."""
        try:
            os.kill(self._first, signal.SIGKILL)
        except (OSError, IndexError):
            self._process.kill()
        self._process.wait(10)
        end = time.monotonic() + 5
        while self._group.exists():
            for folder in sorted((path for path in self._group.rglob("*") if path.is_dir()), reverse=True):
                folder.rmdir()
            try:
                self._group.rmdir()
            except OSError:  # the kernel has not put the last one away yet
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)


def control_group() -> Path:
    """Where this machine has the second version of control groups. Raises FileNotFoundError."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, options = line.split()[:4]
        if kind == "cgroup2" and "rw" in options.split(","):
            return Path(place)
    raise FileNotFoundError("no control groups of version 2")


@contextmanager
def booted(namespace: str, folder: Path) -> Iterator[Systemd]:
    """One that ends with the block."""
    made = Systemd(namespace, folder)
    try:
        yield made
    finally:
        made.close()
