"""Datagram bytes in, verdict out: the one function that live workers, replay, benchmarks and fuzzers all call."""

from collections.abc import Callable, Mapping

from nfqlb.proxy.setup import Setup
from nfqlb.proxy.verdict import Verdict

Trace = Callable[[str, str], None]


class Engine:
    def __init__(
        self,
        setup: Setup,
        *,
        up: Mapping[str, bool] | None = None,
        verify_checksums: bool = True,
        first_ident: int = 0,
    ) -> None:
        raise NotImplementedError

    def process(self, packet: bytes, trace: Trace | None = None) -> Verdict:
        """`packet` is a whole IP packet as NFQUEUE delivers it (defragmented)."""
        raise NotImplementedError
