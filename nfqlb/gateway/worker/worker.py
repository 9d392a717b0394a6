"""A worker: takes packets from its queue, asks the engine, gives the verdict, counts.

Knows what each verdict means for the packet and for the board. Does not know where the engine's answers come from,
how the queue works, or that there are other workers.
"""

import logging
import time
from collections.abc import Callable
from hashlib import sha256
from typing import TYPE_CHECKING

from nfqlb.balance.recent import Recent
from nfqlb.engine import Engine
from nfqlb.gateway.bans.offences import OFFENCE
from nfqlb.gateway.runtime.log import about
from nfqlb.gateway.runtime.log_limit import LogLimit, more
from nfqlb.gateway.shm.board import BACKENDS, REASONS, Cell, Header, State, Traffic
from nfqlb.gateway.shm.offence_ring import OffenceWriter
from nfqlb.gateway.worker.ipv6_sender import IPV6_MINIMUM_MTU, Ipv6Sender
from nfqlb.gateway.worker.nfqueue import MAX_PACKET
from nfqlb.gateway.worker.overload import Load
from nfqlb.gateway.worker.shedding import LoadShedder
from nfqlb.net import datagram
from nfqlb.net.datagram import DatagramError
from nfqlb.proxy.verdict import REASON_SLOTS, Action, Reason, Verdict

if TYPE_CHECKING:
    from nfqlb.fast.path import WorkerPath

Process = Callable[[bytes], Verdict] | Engine
"""What a worker asks about each packet."""

SAMPLE = 61
"""One packet in so many is timed, and stamps the heartbeat. A prime: requests and responses that alternate, or any
other short pattern, come up in turn."""

LOOK_INTERVAL = 10_000_000
"""Nanoseconds between two looks at how full the queue is: some hundred packets in overload, and queues hold thousands.
"""

LOG_BYTES = 8192
"""Bytes of an offending packet that go to the log when it is to say all; longer ones are cut there, and the line says
so."""

DIGEST = 16
"""Hexadecimal digits of a packet's digest in the log."""

_TRAFFIC = {
    Reason.REQUEST_ENTERING: Traffic.REQUESTS_TO,
    Reason.REQUEST_LEAVING: Traffic.REQUESTS_FROM,
    Reason.RESPONSE_ENTERING: Traffic.RESPONSES_TO,
    Reason.RESPONSE_LEAVING: Traffic.RESPONSES_1XX,
}

# Indexed by the number of a Reason: what the loop needs, without a look at attributes.
_BY_CLASS = Traffic.RESPONSES_1XX
_FORWARDS = [False] * REASON_SLOTS
_REPLIES = [False] * REASON_SLOTS
_TRAFFIC_OFFSET = [-1] * REASON_SLOTS
for _reason in Reason:
    _FORWARDS[_reason] = _reason.action is Action.FORWARD
    _REPLIES[_reason] = _reason.action is Action.REPLY
    _TRAFFIC_OFFSET[_reason] = _TRAFFIC.get(_reason, -1)

_LAYOUT = REASONS, BACKENDS, len(Traffic), _TRAFFIC_OFFSET[:6], int(_BY_CLASS)
"""The same for the fast path, whose reasons to forward are the first six."""

_VERSION = b"2.0 "
"""What stands before the status code, behind SIP/."""
_ZERO = ord("0")

logger = logging.getLogger("nfqlb")


class Worker:
    """The Consumer of one queue. `slot` is the worker's part of the board, `header` the board's beginning.

    `leave` is called when the board is no longer the one in force: its worker serves what waits, and goes. The
    supervisor tells the same by a signal; this is for when it has died before it could.
    """

    def __init__(
        self,
        process: Process,
        sender: Ipv6Sender,
        slot: memoryview,
        header: memoryview,
        recent: Recent,
        leave: Callable[[], None],
        offences: OffenceWriter,
        *,
        shedder: LoadShedder | None = None,
        load: Callable[[], Load] | None = None,
    ) -> None:
        self._calm = process.process if isinstance(process, Engine) else process
        self._process = self._calm
        self._shedder, self._load = shedder, load
        self._shedding = False
        self._episodes = 0
        self._look_at = 0
        self._sender = sender
        self._slot = slot
        self._header = header
        self._recent = recent
        self._leave = leave
        self._offences = offences
        self._until_sample = 1
        self._failures, self._unsent = LogLimit(), LogLimit()
        self._worker_path: WorkerPath | None = None
        self.decide: Callable[[bytes], bytes | None] = self._decide
        """The engine's verdict as the queue wants it; counts it under its Reason. Consumer.decide."""
        self.direct: object = None
        """The same for a compiled loop, without an object for each packet; None: there is no fast path."""
        if isinstance(process, Engine) and process.fast is not None:
            from nfqlb.fast import path  # it is there

            limits = MAX_PACKET, IPV6_MINIMUM_MTU, SAMPLE
            self._worker_path = path.WorkerPath(
                process.fast, slot, _LAYOUT, limits, self._sampled, self._settle, self._otherwise
            )
            self.decide = self._worker_path.decide
            self.direct = self._worker_path.direct
            self._consider = process.consider
        self._stamp(time.monotonic_ns())

    def _decide(self, packet: bytes) -> bytes | None:
        self._until_sample -= 1
        return self._settle(packet, self._process(packet)) if self._until_sample else self._sampled(packet)

    def _sampled(self, packet: bytes) -> bytes | None:
        return self._settle(packet, self._timed(packet))

    def _otherwise(self, packet: bytes) -> bytes | None:
        """What the fast path has left."""
        return self._settle(packet, self._process(packet) if self._shedding else self._consider(packet))

    def _settle(self, packet: bytes, verdict: Verdict) -> bytes | None:
        reason = verdict.reason
        if not _FORWARDS[reason]:
            if OFFENCE[reason]:
                self._offences.note(packet, reason)
            if not _REPLIES[reason] or not self._granted(verdict):
                self._slot[REASONS + (Reason.REPLY_LIMIT if _REPLIES[reason] else reason)] += 1
                return None
        answer: bytes | None = verdict.packet
        if len(verdict.packet) > IPV6_MINIMUM_MTU:
            reason, answer = self._large(verdict)
        elif not answer:
            raise ValueError(f"verdict {reason.slug} without a packet")
        self._slot[REASONS + reason] += 1
        if verdict.backend >= 0 and (offset := _TRAFFIC_OFFSET[reason]) >= 0:
            if offset == _BY_CLASS:
                offset += status_class(verdict.packet) - 1
            self._slot[BACKENDS + verdict.backend * len(Traffic) + offset] += 1
        return answer

    def failed(self, packet: bytes, error: BaseException) -> None:
        """An exception on the way of a packet, which is dropped already: our bug. The log says which packet, and only
        at its level `debug` what was in it: that, and the text of an exception, may be what people say to each other.
        """
        self._slot[REASONS + Reason.INTERNAL_ERROR] += 1
        now = time.monotonic()
        before = self._failures.before(now)
        if before is None:
            return
        summary = described(packet)
        what = f"{type(error).__name__} at {_place(error)}"
        logger.error(
            "internal error, one packet is dropped; please report it: %s; the packet has %s%s",
            what,
            ", ".join(f"{name} {value}" for name, value in summary.items()),
            more(before),
            extra=about(reason=Reason.INTERNAL_ERROR.slug, error=what, packet=summary, before=before),
        )
        if logger.isEnabledFor(logging.DEBUG):
            content = packet[:LOG_BYTES].hex() + ("…" if len(packet) > LOG_BYTES else "")
            trace = (type(error), error, error.__traceback__)
            logger.debug("the packet of this internal error: %s", content, exc_info=trace)

    def idle(self) -> None:
        self._stamp(time.monotonic_ns())

    def _timed(self, packet: bytes) -> Verdict:
        self._until_sample = SAMPLE
        begin = time.monotonic_ns()
        verdict = self._process(packet)
        end = time.monotonic_ns()
        slot = self._slot
        slot[Cell.ENGINE_NS] += end - begin
        slot[Cell.TIMED] += 1
        self._stamp(end)
        return verdict

    def _granted(self, verdict: Verdict) -> bool:
        """Whether a reply may leave. Backends get all of theirs."""
        if self._shedder is None or verdict.backend >= 0 or verdict.dst is None:
            return True
        return self._shedder.reply_limit.grants(verdict.dst.addr)

    def _large(self, verdict: Verdict) -> tuple[Reason, bytes | None]:
        """What becomes of a packet over IPV6_MINIMUM_MTU: Reason to count, and what goes on in the queue."""
        packet = verdict.packet
        if packet[0] >> 4 == 4:
            return (verdict.reason, packet) if len(packet) <= MAX_PACKET else (Reason.TOO_LARGE, None)
        if verdict.src is None or verdict.dst is None:
            raise ValueError(f"verdict {verdict.reason.slug} without endpoints")
        try:
            self._sender.send(packet, verdict.src, verdict.dst)
        except OSError as error:
            self._not_sent(verdict, error)
            return Reason.SEND_FAILED, None
        self._slot[Cell.SOCKET_SENT] += 1
        return verdict.reason, None

    def _stamp(self, now: int) -> None:
        """What need not be done for each packet; `now` in nanoseconds of CLOCK_MONOTONIC."""
        slot, recent = self._slot, self._recent
        slot[Cell.HEARTBEAT] = now
        recent.now = now // 1_000_000_000
        slot[Cell.RECENT_STORED] += recent.stored
        slot[Cell.RECENT_KEPT] += recent.kept
        slot[Cell.RECENT_MISSES] += recent.misses
        slot[Cell.RECENT_EVICTED] += recent.evicted
        recent.stored = recent.kept = recent.misses = recent.evicted = 0
        if now >= self._look_at and self._load is not None:
            self._look_at = now + LOOK_INTERVAL
            self._look(self._load(), now)
        if self._header[Header.STATE] == State.RETIRED:
            self._leave()

    def _look(self, load: Load, now: int) -> None:
        """Where there is more to do than can be done, let go of what can wait."""
        slot, shedder = self._slot, self._shedder
        slot[Cell.QUEUE_FILL] = min(1000, int(1000 * load.fill))
        slot[Cell.QUEUE_AGE] = int(1e6 * load.age)
        if shedder is None:
            return
        self._shedding = shedder.look(load, now / 1e9)
        if shedder.failing:
            self._offences.full(now)
        slot[Cell.SHEDDING] = self._shedding
        slot[Cell.OVERLOADS] += shedder.overload.episodes - self._episodes
        self._episodes = shedder.overload.episodes
        # Another function, so that in all other times no packet is asked whether there is overload.
        self._process = self._pressed if self._shedding else self._calm
        if self._worker_path is not None:
            self._worker_path.open = not self._shedding

    def _pressed(self, packet: bytes) -> Verdict:
        assert self._shedder is not None
        return self._shedder.decide(packet, self._calm)

    def _not_sent(self, verdict: Verdict, error: OSError) -> None:
        now = time.monotonic()
        before = self._unsent.before(now)
        if before is not None:
            src, dst, why = str(verdict.src), str(verdict.dst), error.strerror
            told = about(reason=Reason.SEND_FAILED.slug, error=why, source=src, destination=dst, before=before)
            logger.error("an IPv6 packet from %s to %s is not sent: %s%s", src, dst, why, more(before), extra=told)


def status_class(packet: bytes) -> int:
    """1..6, of a SIP response in an IP packet that we have built: without IP options."""
    version = 32 if packet[0] >> 4 == 4 else 52
    if packet[version : version + 4] != _VERSION:  # CRLFs may stand before the start line (P3)
        version = packet.index(_VERSION, version)
    return packet[version + 4] - _ZERO


def described(packet: bytes) -> dict[str, object]:
    """An IP packet for the log, without a word of what is in it. The digest tells whether another one is the same."""
    found: dict[str, object] = {"bytes": len(packet)}
    try:
        read = datagram.parse(packet, verify=False)
    except DatagramError as error:
        found["fault"] = error.fault.value
    else:
        found |= {"source": str(read.src), "destination": str(read.dst)}
    return {**found, "sha256": sha256(packet).hexdigest()[:DIGEST]}


def _place(error: BaseException) -> str:
    """`file:line` of the innermost frame that the exception came through."""
    traceback = error.__traceback__
    if traceback is None:
        return "?"
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return f"{traceback.tb_frame.f_code.co_filename}:{traceback.tb_lineno}"
