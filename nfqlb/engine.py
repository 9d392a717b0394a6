"""Datagram bytes in, verdict out: the one function that live workers, replay, benchmarks and fuzzers all call."""

from collections.abc import Callable
from copy import copy
from typing import TYPE_CHECKING, Any

from nfqlb import fast
from nfqlb.balance.recent import Recent
from nfqlb.balance.tables import Ready, Tables
from nfqlb.net import datagram
from nfqlb.net.datagram import DatagramError, Fault
from nfqlb.net.endpoint import Endpoint
from nfqlb.proxy.identity import NEVER_SOURCES
from nfqlb.proxy.names import Names
from nfqlb.proxy.proxy import Proxy
from nfqlb.proxy.request import Arrival, Outcome
from nfqlb.proxy.setup import Listener, Setup, Standings
from nfqlb.proxy.verdict import Reason, Side, Verdict

if TYPE_CHECKING:
    from nfqlb.fast.path import FastPath

Trace = Callable[[str, str], None]
"""Told, in order, each rule that decided and what it did: `("P22", "top Via gets its true source …")`."""

_FAULTS = {
    Fault.NOT_UDP: Reason.NOT_OURS,
    Fault.BROKEN: Reason.BAD_DATAGRAM,
    Fault.FRAGMENT: Reason.BAD_DATAGRAM,
    Fault.CHECKSUM: Reason.BAD_CHECKSUM,
}


class Engine:
    """The rules of one Setup, and one counter: the IP identification (P37).

    Without `recent` it can be pickled, with its tables, and what is loaded gives the same verdicts.
    """

    def __init__(
        self,
        setup: Setup,
        *,
        standings: Standings | None = None,
        ready: Ready | None = None,
        recent: Recent | None = None,
        verify_checksums: bool = True,
        first_ident: int = 0,
        slow: bool = False,
    ) -> None:
        """`standings` of the backends; one that is missing is UNKNOWN. `ready`: tables that exist already; those that
        are the same here are not built again. `recent`: what the workers remember of their choices (P31); without it
        the verdict is a function of packet, setup and standings alone. `verify_checksums`: off for captures, whose
        packets may have been taken before the sending host's card filled the checksum in. `first_ident`: give each
        worker another one, so that their IP identifications lie apart. `slow`: no fast path.
        """
        self.tables = Tables(setup.pools, setup.places, standings, ready)
        """Shared with all siblings, and with whom `share` says. One process may write them."""
        self._proxy = Proxy(setup, self.tables, recent)
        self._verify = verify_checksums
        self._ident = first_ident
        self._setup = setup
        self._slow = slow
        self.fast = self._fast_path(recent)
        """Gives the verdict on plain packets. None: there is none, and all take the slow path."""

    def sibling(self, first_ident: int, recent: Recent | None = None, names: Names | None = None) -> "Engine":
        """An engine of the same rules and tables, shared with this one, with a counter and a memory of its own.

        `names`: who knows the addresses of hosts that backends send to; without, only addresses will do (P20).
        """
        other = copy(self)
        other._ident = first_ident
        other._proxy = self._proxy.sibling(recent, names)
        other.fast = other._fast_path(recent)
        return other

    @property
    def path(self) -> str:
        """What plain packets go by: "compiled" for the fast path, "pure" for the slow one."""
        return "pure" if self.fast is None else "compiled"

    def share(self, memory: memoryview) -> None:
        """Keep tables and states in `memory` from now on: `tables.size` bytes that processes share. Workers that are
        forked after this see, from their next packet on, what is put into `tables` here.
        """
        self.tables.share(memory)

    def locate(self, src: Endpoint, dst: Endpoint) -> tuple[Listener, Side] | None:
        """The listener and the side of a packet between these, None when `dst` is none of our sockets."""
        own = self._proxy.identity.sockets.get(dst)
        return None if own is None else (own.listener, self._proxy.identity.side(own, src))

    def process(self, packet: bytes, trace: Trace | None = None) -> Verdict:
        """The verdict on one whole IP packet, as NFQUEUE delivers it (defragmented)."""
        if self.fast is not None and trace is None:
            verdict = self.fast.process(packet)
            if verdict is not None:
                return verdict
        return self.consider(packet, trace)

    def consider(self, packet: bytes, trace: Trace | None = None) -> Verdict:
        """The same, by the slow path."""
        try:
            src, dst, payload, tos = datagram.parse(packet, verify=self._verify)
        except DatagramError as error:
            return _refused(_FAULTS[error.fault], trace)
        own = self._proxy.identity.sockets.get(dst)
        if own is None:
            return _refused(Reason.NOT_OURS, trace)
        arrival = Arrival(own, self._proxy.identity.side(own, src), src)
        if self._cannot_be_answered(src):
            return _refused(Reason.BAD_SOURCE, trace)
        outcome = self._proxy.decide(payload, arrival, trace)
        try:
            return self._written(outcome, tos)
        except DatagramError:  # TOO_LARGE: what we add has made it so
            outcome = self._proxy.too_large(payload, arrival, trace)
        try:
            return self._written(outcome, tos)
        except DatagramError:
            return _refused(Reason.TOO_LARGE, trace)

    def refuse(self, packet: bytes) -> Verdict | None:
        """503 to a new request from outside, where there is no time to `process` it. None: it is something else."""
        try:
            src, dst, payload, tos = datagram.parse(packet, verify=self._verify)
        except DatagramError:
            return None
        own = self._proxy.identity.sockets.get(dst)
        if own is None or self._proxy.identity.side(own, src) is not Side.OUTSIDE or self._cannot_be_answered(src):
            return None
        outcome = self._proxy.refuse(payload, Arrival(own, Side.OUTSIDE, src))
        try:
            return None if outcome is None else self._written(outcome, tos)
        except DatagramError:
            return _refused(Reason.TOO_LARGE, None)

    def _cannot_be_answered(self, src: Endpoint) -> bool:
        """Port 0 [RFC 768], ourselves, or an address that no single host has."""
        return not src.port or src in self._proxy.identity.sockets or src.addr in NEVER_SOURCES

    def _fast_path(self, recent: Recent | None) -> "FastPath | None":
        if self._slow:
            return None
        return fast.make(self._setup, self._proxy, recent, verify=self._verify, ident=self._ident)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"fast": None, "_ident": self._ident if self.fast is None else self.fast.ident}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self.fast = self._fast_path(None)

    def _written(self, outcome: Outcome, tos: int) -> Verdict:
        """The outcome as a packet. Raises DatagramError (TOO_LARGE)."""
        if outcome.out is None or outcome.dst is None:
            return Verdict(outcome.reason, b"", outcome.backend)
        self._ident = (self._ident + 1) & 0xFFFF if self.fast is None else self.fast.next_ident()
        packet = datagram.build(outcome.out, outcome.dst, outcome.payload, tos=tos, ident=self._ident)
        return Verdict(outcome.reason, packet, outcome.backend, outcome.out, outcome.dst)


def _refused(reason: Reason, trace: Trace | None) -> Verdict:
    if trace and reason.rule:
        trace(reason.rule, f"dropped: {reason.doc}")
    return Verdict(reason, b"")
