"""What became of each call and each message: read from captures, by an independent reader (dpkt).

Pure, but for the files that are read. Knows which backend a call or a message reached, and whether it came to its good
end for whoever began it. Does not know what was done to a backend meanwhile.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from devtools.chaos.accounts import Arrivals
from devtools.chaos.generator import Answer
from devtools.chaos.messages import number_of
from devtools.chaos.proof import NS, Request, packets, read

_DONE = re.compile(rb"SIP/2\.0 200 ")
_CALL_ID = re.compile(rb"^Call-ID: *(\S+)", re.MULTILINE | re.IGNORECASE)
_BYE = re.compile(rb"^CSeq: *\d+ BYE\b", re.MULTILINE | re.IGNORECASE)
_BYE_REQUEST = re.compile(rb"BYE \S+ SIP/2\.0\r\n")
_TO_TAG = re.compile(rb"^To:[^\r]*;tag=", re.MULTILINE | re.IGNORECASE)


MARGIN = 0.25
"""Seconds by which the clock of a caller may be off, when it says that it has waited long enough."""


class Visit(NamedTuple):
    """A request of a call as it reached a backend."""

    at: int
    request: Request
    new: bool
    """It begins the call."""


def visits(capture: Path, backend: str, address: bytes, gateway: bytes) -> tuple[list[Visit], Arrivals]:
    """What the gateway sent to a backend: requests of calls, and numbered messages."""
    found: list[Visit] = []
    numbers: list[int] = []
    times: list[int] = []
    for packet in packets(capture):
        if (packet.sender, packet.target) != (gateway, address):
            continue
        number = number_of(packet.text)
        if number is not None:
            numbers.append(number)
            times.append(packet.at)
        elif request := read(backend, packet.text):
            found.append(Visit(packet.at, request, request.method == "INVITE" and not _TO_TAG.search(packet.text)))
    return found, Arrivals(numbers, times)


@dataclass
class Call:
    """As its caller saw it, and the backends."""

    begun: int
    """Nanoseconds since 1970: its first INVITE."""
    ended: int = 0
    """Its first BYE; 0: none."""
    answered: int = 0
    """The first 200 to a BYE; 0: none."""
    patience: float = float("inf")
    """Seconds that its caller waits for that."""
    backends: set[str] = field(default_factory=set)
    """That any request of it reached."""

    @property
    def waited(self) -> float:
        """Seconds that the end of it took, whether or not the caller still waited; inf: it came to none."""
        return (self.answered - self.ended) / NS if self.ended and self.answered else float("inf")

    @property
    def done(self) -> bool:
        """Its BYE was answered with 200 while its caller still waited: what comes later, SIPp takes for nothing."""
        return self.waited < self.patience

    @property
    def doubtful(self) -> bool:
        """The answer came just when the caller gave up, so that it may have been in time for it or not."""
        return abs(self.waited - self.patience) < MARGIN


def calls(callers: Path, reached: Iterable[Visit], patience: float) -> dict[str, Call]:
    """All calls, by Call-ID. `callers`: a capture where they are made, with nobody else's packets in it; `patience`:
    seconds that they wait for the answer to a BYE.
    """
    found: dict[str, Call] = {}
    for packet in packets(callers):
        if (call_id := _CALL_ID.search(packet.text)) is None:
            continue
        name = call_id[1].decode()
        if packet.text.startswith(b"INVITE "):
            found.setdefault(name, Call(packet.at, patience=patience))
        elif name in found and _BYE_REQUEST.match(packet.text):
            found[name].ended = found[name].ended or packet.at
        elif name in found and _DONE.match(packet.text) and _BYE.search(packet.text):
            found[name].answered = found[name].answered or packet.at
    for visit in reached:
        if visit.request.call_id in found:
            found[visit.request.call_id].backends.add(visit.request.backend)
    return found


@dataclass(frozen=True)
class CallFates:
    """Counts of calls, where one backend is special: the victim."""

    made: int
    done: int
    on_victim: int
    """A request of theirs reached it, if only in vain."""
    failed_on_victim: int
    failed_elsewhere: int
    late: int
    """Of those that failed: their end was answered when their caller had given up."""
    doubtful: int
    """Their end was answered just when their caller gave up."""


def sort_calls(found: Iterable[Call], victim: str) -> CallFates:
    listed = list(found)
    there = [call for call in listed if victim in call.backends]
    failed = [call for call in listed if not call.done]
    at_victim = sum(victim in call.backends for call in failed)
    return CallFates(
        len(listed),
        len(listed) - len(failed),
        len(there),
        at_victim,
        failed_elsewhere=len(failed) - at_victim,
        late=sum(call.answered > 0 for call in failed),
        doubtful=sum(call.doubtful for call in listed),
    )


@dataclass(frozen=True)
class MessageFates:
    """Counts of numbered messages."""

    answered: int
    """With 200."""
    unanswered_on_victim: int
    """That reached it, and came to nothing."""
    unanswered_elsewhere: int
    refused: dict[int, int]
    """Status → answers, of all that are not 200."""


def sort_messages(sent: int, arrivals: dict[str, Arrivals], answers: Sequence[Answer], victim: str) -> MessageFates:
    """`sent` messages, numbered from 0."""
    good = {answer.number for answer in answers if answer.status == 200}
    refused: dict[int, int] = {}
    for answer in answers:
        if answer.status != 200:
            refused[answer.status] = refused.get(answer.status, 0) + 1
    at_victim = set(arrivals[victim].numbers)
    missing = set(range(sent)) - good
    return MessageFates(len(good), len(missing & at_victim), len(missing - at_victim), refused)
