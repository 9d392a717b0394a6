"""Network namespaces: making one, working inside it, ending what lives in it, removing it.

Knows the kernel's view (names under /run/netns, who is a member). Does not know which namespaces the lab has or what
runs in them. Nothing here changes the caller's own namespace: work inside another one happens in a thread of its own,
because entering a namespace is a property of the thread.
"""

import ctypes
import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

from pyroute2 import netns

from nfqlb.lab import LabError
from nfqlb.lab.words import ending, last_words

T = TypeVar("T")

NETNS_DIR = Path("/run/netns")
CLONE_NEWNET = 0x40000000  # <linux/sched.h>
GRACE = 3.0
"""Seconds between asking a process to end (SIGTERM) and ending it (SIGKILL)."""


class Failed(LabError):
    """A program has ended with another status than 0, or has not ended in time."""

    def __init__(self, command: list[str], namespace: str, how: str, said: str) -> None:
        self.how, self.said = how, last_words(said)
        words = f": {self.said}" if self.said else ", without a word."
        super().__init__(f"'{shlex.join(command)}' in {namespace} {how}{words}")


def create(name: str) -> None:
    """Make the namespace `name`, as `ip netns add` does. FileExistsError when there is one."""

    def unshare() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNET) != 0:
            error = ctypes.get_errno()
            raise OSError(error, f"cannot make a network namespace: {os.strerror(error)}")
        netns.attach(name, threading.get_native_id())

    if (NETNS_DIR / name).exists():
        raise FileExistsError(f"there is a network namespace {name!r} already")
    _in_thread(unshare)


def inside(name: str, work: Callable[[], T]) -> T:
    """Call `work` inside the namespace and return what it returns, or raise what it raises.

    Sockets that `work` opens stay in that namespace; processes that it starts do, too.
    """

    def enter_and_work() -> T:
        netns.setns(name, flags=0, fork=False)
        return work()

    return _in_thread(enter_and_work)


def _in_thread(work: Callable[[], T]) -> T:
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:  # handed to the caller, whatever it is
            outcome.set_exception(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join()
    return outcome.result()


def search_path() -> str:
    """Where programs are looked for: the PATH, and where Debian has what only root runs (`su` leaves that out)."""
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def spawn(
    name: str, argv: list[str], log: Path, *, cwd: Path | None = None, pipe: bool = False
) -> subprocess.Popen[bytes]:
    """Start a program inside the namespace, its output appended to `log`, in a session of its own.

    With `pipe`, only stderr goes to `log`; stdout is the caller's to read. `ip netns exec` becomes the program, so the
    process id is the program's. It also gives it a /sys of that namespace.
    """
    with log.open("ab") as output:
        return subprocess.Popen(
            ["ip", "netns", "exec", name, *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if pipe else output,
            stderr=output,
            start_new_session=True,
            cwd=cwd,
            env=os.environ | {"PATH": search_path()},
        )


def run(name: str, argv: list[str], *, timeout: float = 20.0, input_text: str = "") -> str:
    """Run a short program inside the namespace and return its output. Failed, with its own words, when it fails."""
    done = attempt(name, argv, timeout=timeout, input_text=input_text)
    if done.returncode:
        how = f"failed with status {done.returncode}" if done.returncode > 0 else ending(done.returncode)
        raise Failed(argv, name, how, done.stderr or done.stdout)
    return done.stdout


def attempt(
    name: str, argv: list[str], *, timeout: float = 20.0, input_text: str = ""
) -> subprocess.CompletedProcess[str]:
    """The same, whatever its status. Failed when it does not end in time."""
    try:
        return subprocess.run(
            ["ip", "netns", "exec", name, *argv],
            input=input_text,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env=os.environ | {"PATH": search_path()},
        )
    except subprocess.TimeoutExpired as error:
        said = error.stderr or error.stdout or b""  # bytes, whatever `text` says
        words = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
        raise Failed(argv, name, f"did not end within {timeout:.0f} s", words) from None


def sysctl(name: str, settings: Mapping[str, str]) -> None:
    """Set sysctls of the namespace, written with slashes: `net/ipv4/ip_forward`. Only `net/` is per namespace."""
    assert all(key.startswith("net/") for key in settings)

    def write() -> None:
        for key, value in settings.items():
            try:
                Path("/proc/sys", key).write_text(value)
            except OSError as error:
                raise LabError(f"/proc/sys/{key} cannot be set to {value} in {name}: {error.strerror}.") from None

    inside(name, write)


def members(names: Iterable[str]) -> list[int]:
    """Ids of the processes that live in these namespaces, without our own."""
    inodes = {inode for name in names if (inode := _inode(NETNS_DIR / name))}
    own = os.getpid()
    return [
        pid
        for entry in os.listdir("/proc")
        if entry.isdigit() and (pid := int(entry)) != own and _inode(Path(f"/proc/{pid}/ns/net")) in inodes
    ]


def end_members(names: Iterable[str]) -> None:
    """End every process that lives in these namespaces: SIGTERM, then SIGKILL for what stays."""
    names = list(names)
    inodes = {inode for name in names if (inode := _inode(NETNS_DIR / name))}
    for number, limit in ((signal.SIGTERM, GRACE), (signal.SIGKILL, GRACE)):
        remaining = members(names)
        for pid in remaining:
            _signal_member(pid, inodes, number)
        deadline = time.monotonic() + limit
        while remaining and time.monotonic() < deadline:
            time.sleep(0.02)
            remaining = [pid for pid in remaining if _inode(Path(f"/proc/{pid}/ns/net")) in inodes]
        if not members(names):
            break


def _signal_member(pid: int, inodes: set[tuple[int, int]], number: signal.Signals) -> None:
    """Signal a process only if it is a member still: the handle is taken first, so a reused id cannot be hit."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if _inode(Path(f"/proc/{pid}/ns/net")) in inodes:
            signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        pass
    finally:
        os.close(handle)


def remove(name: str) -> None:
    """Remove the namespace's name; its links go with it. Nothing happens when there is none."""
    if (NETNS_DIR / name).exists():
        netns.remove(name)


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
