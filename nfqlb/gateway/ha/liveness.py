"""A sign of life that no SIGKILL can leave behind: a network interface that is there as long as one of us is.

A TUN device that is not persistent belongs to the processes that have it open. Supervisor and workers do; when the last
of them is gone, whatever ended it, the kernel takes the device away, and keepalived, which tracks it, hears of that at
once. No packet is ever sent to it. (keepalived can track processes, too, but needs the kernel's proc connector for
that, which does not exist in containers and other network namespaces, and names that it would have to guess.)

Workers whose supervisor died let go of it after ORPHANED_FOR, unless a next supervisor has relieved them by then.
"""

import ctypes
import fcntl
import os
import signal
import socket
import struct
from contextlib import suppress
from pathlib import Path

from nfqlb.gateway.ha.protocol import LIFELINE as NAME
from nfqlb.gateway.host.procfs import PROC

DEVICE = Path("/dev/net/tun")

ORPHANED_FOR = 4.0
"""Seconds that workers go on for their node when their supervisor has died: systemd starts the next one in less."""

# linux/if_tun.h, linux/sockios.h, linux/if.h, linux/prctl.h
_TUNSETIFF = 0x400454CA
_IFF_TUN = 0x0001
_IFF_MULTI_QUEUE = 0x0100
_IFF_NO_PI = 0x1000
_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 0x1
_PR_SET_PDEATHSIG = 1
_IFREQ = struct.Struct("16sH22x")


class Lifeline:
    """One hold on the device. Several processes, of several generations, may have one each (it has many queues)."""

    def __init__(self) -> None:
        self._descriptor = -1

    @property
    def held(self) -> bool:
        return self._descriptor >= 0

    @property
    def filenos(self) -> list[int]:
        return [self._descriptor] if self.held else []

    def take(self) -> None:
        """Take hold, if we have none yet. Raises OSError."""
        if self.held:
            return
        descriptor = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
        try:
            kind = _IFF_TUN | _IFF_NO_PI | _IFF_MULTI_QUEUE
            fcntl.ioctl(descriptor, _TUNSETIFF, _IFREQ.pack(NAME.encode(), kind))
            with suppress(OSError):  # only to keep the kernel from asking for routers there
                (PROC / f"sys/net/ipv6/conf/{NAME}/disable_ipv6").write_text("1")
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
                answer = fcntl.ioctl(any_socket, _SIOCGIFFLAGS, _IFREQ.pack(NAME.encode(), 0))
                flags = _IFREQ.unpack(answer)[1] | _IFF_UP
                fcntl.ioctl(any_socket, _SIOCSIFFLAGS, _IFREQ.pack(NAME.encode(), flags))
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def release(self) -> None:
        if self.held:
            os.close(self._descriptor)
            self._descriptor = -1

    def release_when_orphaned(self, supervisor: int) -> None:
        """In a worker, when it has given up its privileges: a change of user would undo this. Takes SIGALRM."""
        if not self.held:
            return
        signal.signal(signal.SIGALRM, self._alarmed)
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_PDEATHSIG, *(ctypes.c_ulong(each) for each in (signal.SIGALRM, 0, 0, 0)))
        if os.getppid() != supervisor:  # it has died before
            self._alarmed()

    def _alarmed(self, *_: object) -> None:
        """First by the death of the supervisor, then by the clock."""
        signal.signal(signal.SIGALRM, lambda *_: self.release())
        signal.setitimer(signal.ITIMER_REAL, ORPHANED_FOR)
