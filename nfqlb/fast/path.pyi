from collections.abc import Callable

from nfqlb.balance.recent import Recent
from nfqlb.proxy.choice import Choice
from nfqlb.proxy.identity import Identity
from nfqlb.proxy.setup import Setup
from nfqlb.proxy.verdict import Verdict

SOURCES: str
VECTORS: tuple[str, ...]

def use_vectors(name: str) -> None: ...
def hashed(key: bytes, person: bytes, size: int, inputs: list[bytes]) -> list[bytes]: ...

class Unusual(Exception): ...

class FastPath:
    def __init__(
        self, setup: Setup, identity: Identity, choice: Choice, recent: Recent | None, verify: bool, ident: int
    ) -> None: ...
    @property
    def ident(self) -> int: ...
    def next_ident(self) -> int: ...
    def process(self, packet: bytes) -> Verdict | None: ...

class WorkerPath:
    open: bool
    def __init__(
        self,
        path: FastPath,
        slot: memoryview,
        layout: tuple[int, int, int, list[int], int],
        limits: tuple[int, int, int],
        sampled: Callable[[bytes], bytes | None],
        settle: Callable[[bytes, Verdict], bytes | None],
        otherwise: Callable[[bytes], bytes | None],
    ) -> None: ...
    @property
    def direct(self) -> object: ...
    def is_new(self, packet: bytes) -> bool: ...
    def decide(self, packet: bytes, /) -> bytes | None: ...
