"""A worker that has given up its privileges and tells what it can still do.

Run as a program inside a namespace: `confined.py QUEUE BACKEND INTERNAL [again]`. Each packet goes on to BACKEND, with
what was found out as its payload. Prints the pid of the worker when it takes packets. A second worker stays beside it
and does nothing. With `again` the supervisor itself has only CAP_NET_ADMIN and is nobody, as a service manager may
start it.
"""

import ctypes
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable

from nfqlb.gateway.runtime import privileges
from nfqlb.gateway.worker.nfqueue import Queue
from nfqlb.net import datagram
from nfqlb.net.endpoint import Endpoint, pack_host

PTRACE_ATTACH = 16


def attach(pid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(PTRACE_ATTACH, pid, None, None):
        raise OSError(ctypes.get_errno(), "ptrace")


def attempts(other: int) -> dict[str, Callable[[], object]]:
    """What a worker must not be able to do; `other` is the pid of another worker."""
    return {
        "read passwords": lambda: open("/etc/shadow").close(),
        "set a host name": lambda: os.close(os.open("/proc/sys/kernel/hostname", os.O_WRONLY)),
        "raw socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP).close(),
        "packet socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close(),
        "bind port 80": lambda: socket.socket().bind(("0.0.0.0", 80)),
        "become root": lambda: os.setresuid(0, 0, 0),
        "fork": os.fork,
        "debug another worker": lambda: attach(other),
        "read another's memory": lambda: open(f"/proc/{other}/mem").close(),
        "read its environment": lambda: open(f"/proc/{other}/environ").close(),
    }


class Confined:
    def __init__(self, src: bytes, dst: bytes, other: int) -> None:
        self.src, self.dst, self.other = Endpoint(src, 5060), Endpoint(dst, 5060), other

    def decide(self, packet: bytes) -> bytes | None:
        del packet
        could = []
        for name, attempt in attempts(self.other).items():
            try:
                attempt()
            except OSError:
                continue
            could.append(name)
        found = {"could": could, "cores": sorted(os.sched_getaffinity(0)), "umask": os.umask(0o077)}
        return datagram.build(self.src, self.dst, json.dumps(found).encode(), tos=0, ident=1)

    def failed(self, packet: bytes, error: BaseException) -> None:
        print(f"{error!r} on {packet[:60]!r}", file=sys.stderr, flush=True)

    def idle(self) -> None:
        pass


def packed(text: str) -> bytes:
    found = pack_host(text.encode())
    assert found is not None
    return found


def forked(work: Callable[[], None]) -> int:
    """The pid of a child that does `work` until SIGTERM."""
    pid = os.fork()
    if not pid:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        try:
            work()
        finally:
            os._exit(1)
    return pid


def other() -> None:
    privileges.drop()
    time.sleep(60)


def main(number: str, dst: str, src: str, how: str = "") -> None:
    # None of these may be forked by somebody who has dropped his privileges: he has no right to.
    waiting, letting = os.pipe()
    children = [forked(other)]
    if how == "again":
        privileges.drop()
    queue = Queue(int(number), length=1024, socket_buffer=1 << 20)

    def serve() -> None:
        os.read(waiting, 1)
        privileges.pin(0, 1)
        privileges.drop()
        print(os.getpid(), flush=True)
        queue.serve(Confined(packed(src), packed(dst), children[0]))

    def end(*_: object) -> None:
        for pid in children:
            os.kill(pid, signal.SIGTERM)

    if how == "again":
        os.write(letting, b"x")
        serve()
    else:
        children.append(forked(serve))
        os.write(letting, b"x")
        signal.signal(signal.SIGTERM, end)
        ends = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
        print(*ends, flush=True)
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
