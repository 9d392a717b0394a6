"""Whether keepalived on this host sees what the gateway tells it.

keepalived watches the directory of the track file: the one that was there when it read its configuration. One that was
made in its place afterwards it does not see until it reads that again. Knows how the kernel tells what a process
watches; does not know keepalived's configuration, nor what stands in the track file.
"""

import ctypes
import os
from pathlib import Path

from nfqlb.gateway.host.procfs import IPPROTO_VRRP, Watched, processes_with, raw_sockets, watched

_IN_CLOSE_WRITE = 8  # linux/inotify.h


def unwatched(run_dir: Path) -> str:
    """What is wrong, and what to do; empty when it sees it, when none runs here, or when we may not look."""
    ours = _marks(run_dir)
    theirs = [found for pid in _speakers() if (found := _watched(pid)) is not None]
    if not theirs or ours is None or any(ours & each for each in theirs):
        return ""
    why = "it is not the one that was there when keepalived read its configuration" if ours else "it is not there"
    first = "" if ours else "start the gateway, and then: "
    return (
        f"keepalived does not watch {run_dir} ({why}), so it does not see what this gateway says of itself and takes "
        f"it to be unwell. Put that right with: {first}systemctl reload keepalived"
    )


def _speakers() -> set[int]:
    """The processes that speak VRRP here."""
    return {holder.pid for link in raw_sockets(IPPROTO_VRRP) for holder in processes_with(link)}


def _watched(pid: int | str) -> Watched | None:
    """None when it is gone, or we may not look."""
    try:
        return watched(pid)
    except OSError:
        return None


def _marks(directory: Path) -> Watched | None:
    """The directory as /proc has it for one who watches it: on some file systems not what `stat` says. Empty when there
    is none, None when it cannot be found out.
    """
    if not directory.is_dir():
        return frozenset()
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_CLOEXEC)
    if descriptor < 0:
        return None
    try:
        if libc.inotify_add_watch(descriptor, os.fsencode(directory), _IN_CLOSE_WRITE) < 0:
            return None
        return _watched("self") or None
    finally:
        os.close(descriptor)
