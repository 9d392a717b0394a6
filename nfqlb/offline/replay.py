"""Stored packets through the engine: one Outcome for each frame of a capture.

Knows how a verdict is told to people and scripts (`Row`). Does not know files, options or terminals; the
engine's own memory aside, it keeps nothing from one frame to the next but the counts of `Replay.counts`.
"""

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from nfqlb.capture.ip import endpoints
from nfqlb.capture.packets import SKIPPED, Packet
from nfqlb.capture.writer import PcapWriter
from nfqlb.engine import Engine
from nfqlb.net.datagram import DatagramError, parse
from nfqlb.proxy.setup import Setup, Standings
from nfqlb.proxy.verdict import Action, Reason, Verdict
from nfqlb.sip.message import glance

Trace = Callable[[str, str], None]


class Row(NamedTuple):
    """What became of one frame; the keys of `nfqlb replay --json`, in its order. None where there is nothing."""

    frame: int
    """From 1."""
    time: float | None
    """Seconds since 1970, when it was captured."""
    side: str | None
    """`outside` or `inside`; None for a packet that is not ours."""
    listener: str | None
    method: str | None
    """Of a request."""
    status: int | None
    """Of a response."""
    call_id: str | None
    verdict: str
    """`forward`, `reply`, `drop` or `ignore`."""
    reason: str
    """Slug of a proxy.verdict.Reason, or a key of capture.packets.SKIPPED."""
    backend: str | None
    """Name of the backend that the packet goes to or came from."""
    src: str | None
    """`192.0.2.1:5060`, `[2001:db8::5]:5060`."""
    dst: str | None
    out_src: str | None
    out_dst: str | None
    out_frame: int | None
    """Number of the packet in the capture that is written; None when none is written."""


class Outcome(NamedTuple):
    row: Row
    before: bytes
    """The UDP payload that came; empty when there was none."""
    verdict: Verdict | None
    """None when the frame gave the engine no packet."""

    @property
    def after(self) -> bytes:
        """The UDP payload that leaves; empty when none does."""
        return _payload(self.verdict.packet) if self.verdict else b""


class Replay:
    """One pass of a capture through a fresh engine."""

    def __init__(self, setup: Setup, writer: PcapWriter | None = None, *, standings: Standings | None = None) -> None:
        self.setup = setup
        # A capture made on a sending host has unfinished checksums: the network card would have written them.
        self.engine = Engine(setup, standings=standings, verify_checksums=False)
        self.writer = writer
        self.counts: Counter[tuple[str, str]] = Counter()
        """Frames by verdict and reason."""
        self._backends = [backend.name for backend in setup.backends]
        self._time_ns = 0

    def process(self, packet: Packet, trace: Trace | None = None) -> Outcome:
        """What the gateway does with the packet; `trace` is called with each rule that decided."""
        verdict = None if packet.skipped else self.engine.process(packet.data, trace)
        before = _payload(packet.data)
        method, status, call_id = glance(before)
        ends = endpoints(packet.data)
        ours = verdict is not None and verdict.reason is not Reason.NOT_OURS
        place = self.engine.locate(*ends) if ours and ends else None
        row = Row(
            frame=packet.frame.number,
            # By an int: by a float, the nanoseconds would be rounded before they are divided.
            time=None if packet.frame.time_ns is None else packet.frame.time_ns / 1_000_000_000,
            side=place[1].value if place else None,
            listener=place[0].name if place else None,
            method=method,
            status=status,
            call_id=call_id,
            verdict=(verdict.action if verdict else Action.IGNORE).name.lower(),
            reason=verdict.reason.slug if verdict else packet.skipped,
            backend=self._backends[verdict.backend] if verdict and verdict.backend >= 0 else None,
            src=str(ends[0]) if ends else None,
            dst=str(ends[1]) if ends else None,
            out_src=str(verdict.src) if verdict and verdict.src else None,
            out_dst=str(verdict.dst) if verdict and verdict.dst else None,
            out_frame=self._write(packet, verdict) if verdict else None,
        )
        self.counts[row.verdict, row.reason] += 1
        return Outcome(row, before, verdict)

    def _write(self, packet: Packet, verdict: Verdict) -> int | None:
        if packet.frame.time_ns is not None:
            self._time_ns = packet.frame.time_ns
        if self.writer is None or verdict.action not in (Action.FORWARD, Action.REPLY):
            return None
        return self.writer.write(verdict.packet, self._time_ns)


def describe(reason: str) -> str:
    """What a reason of a Row means, in a few words."""
    if reason in SKIPPED:
        return SKIPPED[reason]
    return Reason[reason.upper().replace("-", "_")].doc


def _payload(packet: bytes) -> bytes:
    try:
        return parse(packet, verify=False).payload
    except DatagramError:
        return b""
