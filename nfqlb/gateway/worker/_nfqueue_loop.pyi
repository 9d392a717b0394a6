"""What `pump.pyx` offers."""

from mmap import mmap

from nfqlb.gateway.worker.nfqueue import Consumer

SOURCES: str
ROOM: int

class QueueLoop:
    stamp: float
    def __init__(self, fd: int, number: int, consumer: Consumer, hands: mmap) -> None: ...
    def stop(self, deadline: float) -> None: ...
    def run(self) -> None: ...
