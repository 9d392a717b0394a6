"""What /proc says of netfilter queues, of who holds them, and of processes.

Knows the text of a few files below /proc, all of them of the reader's own network namespace. Talks to nobody and
changes nothing. Every function takes the place of /proc, so that a test can show it a made-up one.
"""

import os
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")

CAP_NET_ADMIN = 12
"""Bit number of the capability that netfilter asks for (linux/capability.h)."""

IPPROTO_VRRP = 112
"""What keepalived speaks (RFC 5798)."""

NETLINK_NETFILTER = 12
"""The netlink protocol number whose sockets hold queues (linux/netlink.h)."""


class KernelQueue(NamedTuple):
    """One row of /proc/net/netfilter/nfnetlink_queue; the counters are the kernel's 32-bit ones."""

    number: int
    port: int
    """Netlink port of the socket that holds the queue."""
    waiting: int
    """Packets without a verdict: still in the socket, or in a worker's hands."""
    copy_mode: int
    copy_range: int
    """Bytes of each packet that are copied to the holder."""
    dropped: int
    """Packets dropped because the queue was full."""
    user_dropped: int
    """Packets dropped because the holder's socket buffer was full."""
    last_id: int


class Holder(NamedTuple):
    """A process that has the socket of a queue open."""

    pid: int
    name: str

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid})"


def kernel_queues(proc: Path = PROC) -> dict[int, KernelQueue]:
    """The queues that somebody holds, by number; empty when the kernel has no NFQUEUE (or nobody asked for it yet).

    Raises PermissionError: only root may read the file.
    """
    # By way of the thread: /proc/net is the namespace of the process' first thread.
    try:
        text = (proc / "thread-self/net/netfilter/nfnetlink_queue").read_text("ascii")
    except FileNotFoundError:
        return {}
    rows = (KernelQueue(*map(int, line.split()[:8])) for line in text.splitlines())
    return {row.number: row for row in rows}


def holders(queue: KernelQueue, proc: Path = PROC) -> tuple[Holder, ...]:
    """The processes that keep `queue` alive, lowest pid first; empty when they cannot be found."""
    try:
        inode = _netlink_inode(queue.port, proc)
    except OSError:
        return ()
    return processes_with(f"socket:[{inode}]", proc) if inode else ()


def _netlink_inode(port: int, proc: Path) -> str | None:
    for line in (proc / "thread-self/net/netlink").read_text("ascii").splitlines()[1:]:
        # sk, protocol, port, groups, rmem, wmem, dump, locks, drops, inode
        fields = line.split()
        if int(fields[1]) == NETLINK_NETFILTER and int(fields[2]) == port:
            return fields[9]
    return None


def processes_with(link: str, proc: Path = PROC) -> tuple[Holder, ...]:
    """The processes that have what `link` names (`socket:[inode]`) open, lowest pid first."""
    found = []
    for pid in sorted(int(name) for name in os.listdir(proc) if name.isdigit()):
        folder = proc / str(pid) / "fd"
        try:
            if any(os.readlink(folder / fd) == link for fd in os.listdir(folder)):
                found.append(Holder(pid, process_name(pid, proc)))
        except OSError:  # it ended meanwhile, or we may not look
            continue
    return tuple(found)


def raw_sockets(protocol: int, proc: Path = PROC) -> tuple[str, ...]:
    """The sockets that there are for this IP protocol, of either IP version, whoever has them; each as `processes_with`
    wants it.
    """
    found = []
    for name in ("raw", "raw6"):
        try:
            rows = (proc / "thread-self/net" / name).read_text("ascii").splitlines()[1:]
        except FileNotFoundError:  # a kernel without IPv6
            continue
        for words in map(str.split, rows):
            # The protocol stands where other sockets have their port.
            if int(words[1].rpartition(":")[2], 16) == protocol:
                found.append(f"socket:[{words[9]}]")
    return tuple(found)


Watched = frozenset[tuple[str, str]]
"""Files and directories: inode and device of each, as the kernel writes them."""


def watched(pid: int | str, proc: Path = PROC) -> Watched:
    """What a process watches by inotify. Raises OSError: it is gone, or we may not look."""
    found = set()
    for file in (proc / str(pid) / "fdinfo").iterdir():
        try:
            text = file.read_text("ascii")
        except FileNotFoundError:  # it was closed meanwhile
            continue
        for line in text.splitlines():
            if line.startswith("inotify "):
                values = dict(word.split(":", 1) for word in line.split()[1:] if ":" in word)
                found.add((values["ino"], values["sdev"]))
    return frozenset(found)


def process_name(pid: int, proc: Path = PROC) -> str:
    """The short name of a process, `?` when it is gone."""
    try:
        return (proc / str(pid) / "comm").read_text().strip()
    except OSError:
        return "?"


def alive(pid: int, proc: Path = PROC) -> bool:
    """Whether the process runs: it exists and is more than a zombie that nobody has waited for."""
    try:
        stat = (proc / str(pid) / "stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def has_capability(bit: int, proc: Path = PROC) -> bool:
    """Whether this process has the capability in its effective set."""
    for line in (proc / "self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "CapEff":
            return bool(int(value, 16) >> bit & 1)
    return False
