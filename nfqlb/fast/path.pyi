from nfqlb.balance.recent import Recent
from nfqlb.proxy.choice import Choice
from nfqlb.proxy.identity import Identity
from nfqlb.proxy.setup import Setup
from nfqlb.proxy.verdict import Verdict

SOURCES: str

class Unusual(Exception): ...

class FastPath:
    def __init__(
        self, setup: Setup, identity: Identity, choice: Choice, recent: Recent | None, verify: bool
    ) -> None: ...
    def process(self, packet: bytes, ident: int) -> Verdict | None: ...
