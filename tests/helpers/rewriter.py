"""Stands in for the workers: gives packets new addresses, and nothing else.

Run as a program inside a namespace: `rewriter.py FIRST_QUEUE WORKERS DST=NEW_SRC,NEW_DST …`. The new source keeps the
port that the packet came to, the new destination port is 5060. Prints `ready` when all queues are served.
"""

import os
import signal
import sys

from nfqlb.gateway.worker.nfqueue import Queue
from nfqlb.net import datagram
from nfqlb.net.endpoint import Endpoint, pack_host

Way = dict[bytes, tuple[bytes, bytes]]


class Rewriter:
    def __init__(self, way: Way) -> None:
        self.way = way

    def decide(self, packet: bytes) -> bytes | None:
        found = datagram.parse(packet)
        src, dst = self.way[found.dst.addr]
        return datagram.build(Endpoint(src, found.dst.port), Endpoint(dst, 5060), found.payload, tos=found.tos, ident=1)

    def failed(self, packet: bytes, error: BaseException) -> None:
        print(f"{error!r} on {packet[:60]!r}", file=sys.stderr, flush=True)

    def overrun(self) -> None:
        print("overrun", file=sys.stderr, flush=True)

    def idle(self) -> None:
        pass


def main(first: str, workers: str, *pairs: str) -> None:
    way: Way = {}
    for pair in pairs:
        dst, _, new = pair.partition("=")
        way[packed(dst)] = (packed(new.partition(",")[0]), packed(new.partition(",")[2]))
    queues = [Queue(int(first) + index, length=4096, socket_buffer=8 << 20) for index in range(int(workers))]
    children = []
    for queue in queues:
        pid = os.fork()
        if not pid:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            queue.serve(Rewriter(way))
            os._exit(0)
        children.append(pid)

    def end(*_: object) -> None:
        for pid in children:
            os.kill(pid, signal.SIGTERM)

    signal.signal(signal.SIGTERM, end)
    print("ready", flush=True)
    for pid in children:
        os.waitpid(pid, 0)
    os._exit(0)


def packed(text: str) -> bytes:
    found = pack_host(text.encode())
    assert found is not None, text
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
