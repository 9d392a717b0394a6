"""What `pump.pyx` offers."""

from nfqlb.gateway.queue import Consumer

SOURCES: str

class Pump:
    stamp: float
    def __init__(self, fd: int, number: int, consumer: Consumer) -> None: ...
    def stop(self, deadline: float) -> None: ...
    def run(self) -> None: ...
