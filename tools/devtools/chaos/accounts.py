"""Every message accounted for: from what was sent and what arrived to lost, duplicated, gaps and delays.

Pure: lists of numbers and times in, values out. Times are nanoseconds since 1970, of one machine's clock. What counts:

- *lost*: sent, and never arrived. Lost *by an event*: see `EventLoss`.
- *duplicated*: arrivals beyond the first of a message.
- *max_gap_ms*: the longest time in which nothing arrived anywhere.
- *max_port_gap_ms*: the longest time in which nothing arrived from one flow (one sender's port). A worker that stands
  still shows only here, because the others go on. A flow sends at its own pace: that much gap is always there
  (`port_interval_ms`).
- *max_delay_ms*: the longest time between a message's sending and its first arrival.

The time before the first arrival and after the last one counts, as long as messages are sent.
"""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import merge
from typing import NamedTuple

LEAD = 0.25
"""Of the interval between two events: a message that was sent so much before an event, and lost, is lost by this event
and not by the one before. It waited in a queue, or for its turn in a worker, when the event came."""

SHOWN = 20
"""Lost messages that are listed one by one."""


class Arrivals(NamedTuple):
    """What one receiver has seen, in the order of arrival."""

    numbers: Sequence[int]
    times: Sequence[int]


@dataclass(frozen=True)
class LostMessage:
    number: int
    at: float
    """Seconds after the beginning, when it was sent."""
    flow: int


@dataclass(frozen=True)
class Account:
    sent: int
    received: int
    """Messages that arrived, each counted once."""
    lost: int
    duplicated: int
    max_gap_ms: float
    max_gap_at: float
    """Seconds after the beginning, where the gap begins."""
    max_port_gap_ms: float
    max_port_gap_at: float
    port_interval_ms: float
    """Between two messages of one flow."""
    max_delay_ms: float
    lost_by_event: tuple[int, ...]
    """For each event the messages lost by it; before all of them, those lost without an event."""
    first_lost: tuple[LostMessage, ...]
    """At most SHOWN."""
    per_backend: dict[str, int]
    """Arrivals."""


def account(
    sent: Sequence[int],
    arrivals: Mapping[str, Arrivals],
    flows: int,
    events: Sequence[int] = (),
    interval: float = 0.0,
) -> Account:
    """Compare what was sent with what arrived.

    `sent` has the time of each message by its number, `arrivals` what each backend has seen, by its name, `events` the
    times of the events in their order, `interval` the seconds between them.
    """
    begun = sent[0] if sent else 0
    first = array("Q", bytes(8 * len(sent)))
    duplicated = 0
    gap, gap_at = 0, begun
    port_gap, port_gap_at = 0, begun
    delay = 0
    last = begun
    last_of_flow = list(sent[:flows])
    for time, number in merge(*(zip(each.times, each.numbers, strict=True) for each in arrivals.values())):
        if number >= len(sent):
            raise ValueError(f"message {number} arrived and was never sent")
        if time - last > gap:
            gap, gap_at = time - last, last
        last = time
        flow = number % flows
        if time - last_of_flow[flow] > port_gap:
            port_gap, port_gap_at = time - last_of_flow[flow], last_of_flow[flow]
        last_of_flow[flow] = time
        if first[number]:
            duplicated += 1
            continue
        first[number] = time
        delay = max(delay, time - sent[number])
    for number in range(max(0, len(sent) - flows), len(sent)):
        ended, flow = sent[number], number % flows
        if ended - last > gap:
            gap, gap_at = ended - last, last
        if ended - last_of_flow[flow] > port_gap:
            port_gap, port_gap_at = ended - last_of_flow[flow], last_of_flow[flow]
    lost = [number for number, time in enumerate(first) if not time]
    by_event = [0] * (len(events) + 1)
    lead = int(LEAD * interval * 1e9)
    for number in lost:
        by_event[sum(sent[number] >= event - lead for event in events)] += 1
    seconds = (sent[-1] - begun) / 1e9 if sent else 0.0
    return Account(
        sent=len(sent),
        received=len(sent) - len(lost),
        lost=len(lost),
        duplicated=duplicated,
        max_gap_ms=_ms(gap),
        max_gap_at=_since(gap_at, begun),
        max_port_gap_ms=_ms(port_gap),
        max_port_gap_at=_since(port_gap_at, begun),
        port_interval_ms=round(1e3 * seconds * flows / len(sent), 1) if sent else 0.0,
        max_delay_ms=_ms(delay),
        lost_by_event=tuple(by_event),
        first_lost=tuple(LostMessage(n, _since(sent[n], begun), n % flows) for n in lost[:SHOWN]),
        per_backend={name: len(each.numbers) for name, each in arrivals.items()},
    )


def _ms(nanoseconds: int) -> float:
    return round(nanoseconds / 1e6, 1)


def _since(time: int, begun: int) -> float:
    return round((time - begun) / 1e9, 3)
