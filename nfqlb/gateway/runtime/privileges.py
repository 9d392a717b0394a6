"""What a worker gives up before it looks at its first packet: its user, every capability but one, and more.

Knows the calls of Linux for that, and looks afterwards whether they did what they say. Whatever has to be opened must
be open before: a worker keeps what it has, but opens no file that not everybody may read. Why it needs the one
capability: netfilter asks for it with each verdict.

That goes for modules, too: the program may lie where only root may enter, as below /root. So whatever a process will
ever import is imported before `drop`, also what a library would load only when it first needs it. What is forgotten
tells of itself wherever the program lies: `_Latecomers`.
"""

import ctypes
import logging
import os
import resource
import sys
from collections.abc import Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

from nfqlb.errors import HostError
from nfqlb.gateway.host.procfs import CAP_NET_ADMIN, PROC, has_capability

NOBODY = 65534
"""User and group of a worker whose supervisor is root: they own nothing."""

# linux/prctl.h
_PR_SET_DUMPABLE = 4
_PR_SET_KEEPCAPS = 8
_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4

CAP_SETPCAP = 8
"""Bit number of the capability to take others out of the bounding set (linux/capability.h)."""

# linux/capability.h: sets of 64 capabilities, in two halves
_CAPABILITY_VERSION_3 = 0x20080522

logger = logging.getLogger("nfqlb")


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapabilityHalf(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


class PrivilegeError(HostError):
    """A privilege could not be given up, or not be kept; the text says which, and what to do."""


def drop(keep: int | None = CAP_NET_ADMIN) -> None:
    """Keep one capability, or none, and nothing else: for good, and for whatever this process might execute.

    As root, become nobody. As another user stay it: that is how a service manager starts us. Who may not empty the
    bounding set (CAP_SETPCAP) leaves it: without set-uid programs, by no_new_privs, nothing in it can be had.
    Raises PrivilegeError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    root = os.geteuid() == 0
    may_unbind = has_capability(CAP_SETPCAP)
    os.umask(0o077)
    if may_unbind:
        _empty_bounding_set(libc)
    if root:
        _prctl(libc, "keep capabilities", _PR_SET_KEEPCAPS, 1)
        _become_nobody()
        _prctl(libc, "forget about capabilities to keep", _PR_SET_KEEPCAPS, 0)
    _prctl(libc, "empty the ambient set", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    _prctl(libc, "renounce new privileges", _PR_SET_NO_NEW_PRIVS, 1)
    kept = 0 if keep is None else 1 << keep
    _set_capabilities(libc, kept)
    # No core, no debugger of the same user, no /proc/PID/mem: the keys that sign are in our memory.
    _prctl(libc, "be hidden from debuggers", _PR_SET_DUMPABLE, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))  # no child processes
    _verify(kept, root=root, unbound=may_unbind)
    _Latecomers.watch()


def pin(seat: int, workers: int) -> None:
    """Stay on one core, one for each seat, if there are as many as workers: caches stay warm, and nobody moves over to
    the core of another while his own is idle for a moment.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) >= workers:
        os.sched_setaffinity(0, [cores[seat]])


class _Latecomers:
    """Among Python's finders of modules, before the one that looks for files: finds nothing, but says that somebody has
    looked. Where the file can be read that does no harm, and is a mistake all the same.
    """

    def __init__(self) -> None:
        self._told: set[str] = set()

    @classmethod
    def watch(cls) -> None:
        """From now on, once for each process."""
        finders: list[object] = sys.meta_path  # type: ignore[assignment]  # a finder is whoever has find_spec
        if not any(isinstance(each, cls) for each in finders):
            finders.insert(finders.index(PathFinder) if PathFinder in finders else 0, cls())

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> None:
        del path, target
        if name not in self._told:
            self._told.add(name)
            logger.warning(
                "module %s is looked for only now that privileges are given up; where only root may enter the "
                "program's directory, it is not found. Please report this",
                name,
            )


def _empty_bounding_set(libc: ctypes.CDLL) -> None:
    capability = 0
    while libc.prctl(_PR_CAPBSET_READ, ctypes.c_ulong(capability)) >= 0:  # fails behind the last one of this kernel
        _prctl(libc, f"take capability {capability} out of the bounding set", _PR_CAPBSET_DROP, capability)
        capability += 1


def _become_nobody() -> None:
    try:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    except OSError as error:
        raise PrivilegeError(
            f"A worker cannot become user {NOBODY} ({error.strerror}): let the gateway have CAP_SETUID and CAP_SETGID, "
            "or start it as another user than root, with CAP_NET_ADMIN."
        ) from None


def _set_capabilities(libc: ctypes.CDLL, wanted: int) -> None:
    """`wanted`, as a bit mask, to be permitted and effective; nothing inheritable."""
    header = _CapabilityHeader(_CAPABILITY_VERSION_3, 0)
    low, high = wanted & 0xFFFFFFFF, wanted >> 32
    halves = (_CapabilityHalf * 2)(_CapabilityHalf(low, low, 0), _CapabilityHalf(high, high, 0))
    if libc.capset(ctypes.byref(header), halves):
        why = os.strerror(ctypes.get_errno())
        raise PrivilegeError(f"A worker cannot keep just CAP_NET_ADMIN ({why}): start the gateway with it.")


def _prctl(libc: ctypes.CDLL, purpose: str, option: int, value: int) -> None:
    if libc.prctl(option, *(ctypes.c_ulong(each) for each in (value, 0, 0, 0))) < 0:
        raise PrivilegeError(f"A worker cannot {purpose}: {os.strerror(ctypes.get_errno())}.")


def _verify(kept: int, *, root: bool, unbound: bool, proc: Path = PROC) -> None:
    """What the kernel says of us now is what was asked for."""
    lines = (proc / "self/status").read_text().splitlines()
    status = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
    only, none = [f"{kept:016x}"], [f"{0:016x}"]
    wanted = {"CapEff": only, "CapPrm": only, "CapInh": none, "CapAmb": none, "NoNewPrivs": ["1"]}
    if unbound:
        wanted["CapBnd"] = none
    if root:
        wanted |= {"Uid": [str(NOBODY)] * 4, "Gid": [str(NOBODY)] * 4, "Groups": []}
    wrong = [f"{name} is {' '.join(status[name])}" for name, value in wanted.items() if status[name] != value]
    if wrong:
        raise PrivilegeError(f"A worker has other privileges than it should: {', '.join(wrong)}.")
