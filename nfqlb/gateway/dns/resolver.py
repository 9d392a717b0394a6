"""The process that asks DNS: again and again for the names of backends, and once it is asked for names that backends
send to.

Knows when it is time to ask again, what stands when DNS fails, and how much strangers may make it ask. A process of its
own (`manager` makes it), so that nobody waits for DNS. What it finds out of backends goes line by line into a pipe;
of other names, into the memory that workers share.
"""

import asyncio
import json
import logging
import os
import socket
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

from nfqlb.gateway.runtime.log_limit import LogLimit, more
from nfqlb.names.lookup import NEGATIVE_TTL, Found, Lookups, Past
from nfqlb.names.target import Dns, Target, as_plain
from nfqlb.net.endpoint import Endpoint
from nfqlb.proxy.names import Entry, Memory, from_question

HEARTBEAT = 2.0
"""Seconds between two signs of life, with what has been counted."""

JITTER = 0.1
"""Each answer is taken to hold up to this part less: two gateways do not ask at once."""

UNDER_WAY = 128
"""Names of strangers that are being looked up at a time; more have to ask again."""

PER_SECOND, BURST = 50.0, 200.0
"""Such names that are looked up per second, and how many at once after a pause."""

TOLD_EVERY = 60.0
"""Seconds between two lines in the log about names of strangers."""

BATCH = 64
"""Questions that are read before others have their turn."""

QUESTION_MAX = 512
"""Bytes."""

logger = logging.getLogger("nfqlb")


@dataclass
class Counts:
    """Since the gateway started."""

    looked_up: int = 0
    """Looks at names, of backends and others."""
    failed: int = 0
    """Those that DNS has not answered."""
    asked: int = 0
    """Questions of workers."""
    refused: int = 0
    """Those that were too many at a time."""


class Resolver:
    """Asks until whom we tell is gone."""

    def __init__(
        self,
        targets: Sequence[Target],
        settings: Dns,
        versions: Collection[int],
        memory: Memory,
        questions: socket.socket,
        tell: int,
        counts: Counts,
    ) -> None:
        """`versions`: the IP versions whose addresses are of use. `questions`: where workers ask. `tell`: the end of a
        pipe to write to. `counts`: to go on from.
        """
        self._targets, self._settings, self._versions, self._memory = targets, settings, versions, memory
        self._questions, self._pipe, self._counts = questions, tell, counts
        self._under_way: dict[bytes, asyncio.Task[None]] = {}
        self._random = Random()
        self._credit, self._credit_at = BURST, time.monotonic()
        self._complaints = LogLimit(seconds=TOLD_EVERY)

    def run(self) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        self._lookups = Lookups(self._settings, self._versions)
        self._ended = asyncio.Event()
        loop.add_reader(self._pipe, self._ended.set)  # nobody writes there, so: the other end is closed
        loop.add_reader(self._questions, self._take_questions)
        work = [asyncio.create_task(self._beat()), *(asyncio.create_task(self._watch(each)) for each in self._targets)]
        ended = asyncio.create_task(self._ended.wait())
        await asyncio.wait([*work, ended], return_when=asyncio.FIRST_COMPLETED)
        for task in work:
            if task.done():
                task.result()  # our bug: let it be seen
            task.cancel()

    # -- names of backends

    async def _watch(self, target: Target) -> None:
        past: Past = {}
        while True:
            found = await self._look(target, past)
            self._tell(as_plain(target, found.known))
            await asyncio.sleep(found.ttl * (1 - JITTER * self._random.random()))

    async def _look(self, target: Target, past: Past | None = None) -> Found:
        found = await self._lookups.find(target, past)
        self._counts.looked_up += 1
        self._counts.failed += found.silent
        return found

    # -- names that backends send to

    def _take_questions(self) -> None:
        for _ in range(BATCH):
            try:
                question = self._questions.recv(QUESTION_MAX)
            except BlockingIOError:
                return
            self._counts.asked += 1
            wanted = from_question(question)
            if wanted is None or question in self._under_way:
                continue
            entry = self._memory.find(question)
            if entry is not None and entry.until > time.monotonic():
                continue
            if len(self._under_way) >= UNDER_WAY or not self._may():
                self._counts.refused += 1
                continue
            self._under_way[question] = asyncio.create_task(self._answer(question, Target(*wanted)))

    def _may(self) -> bool:
        now = time.monotonic()
        self._credit = min(BURST, self._credit + (now - self._credit_at) * PER_SECOND)
        self._credit_at = now
        if self._credit < 1:
            return False
        self._credit -= 1
        return True

    async def _answer(self, question: bytes, target: Target) -> None:
        try:
            found = await self._look(target)
            now = time.monotonic()
            before = self._memory.find(question)
            if found.silent and not found.addresses:
                self._complain(found.error, now)
            self._memory.store(question, entry_of(found, before, now))
        finally:
            del self._under_way[question]

    def _complain(self, error: str, now: float) -> None:
        before = self._complaints.before(now)
        if before is not None:
            logger.warning("cannot look up a name that a backend sends to: %s%s", error, more(before))

    # -- what is told

    async def _beat(self) -> None:
        while True:
            self._tell({"counts": asdict(self._counts)})
            await asyncio.sleep(HEARTBEAT)

    def _tell(self, what: Mapping[str, Any]) -> None:
        try:
            os.write(self._pipe, json.dumps(what).encode() + b"\n")
        except BrokenPipeError:
            self._ended.set()


def entry_of(found: Found, before: Entry | None, now: float) -> Entry:
    """What workers are told: one address for each IP version, since a request, its CANCEL and its retransmissions have
    to go to the same place. Of the best rank, the heaviest; the one that was told before, as long as it is among the
    best. When DNS is silent, what was told before stands.
    """
    until = int(now + found.ttl) + 1
    if found.silent and not found.addresses:
        return Entry(until, None, None) if before is None else before._replace(until=until)
    if not found.addresses:
        return Entry(int(now + NEGATIVE_TTL) + 1, None, None)

    def best(version: int, told: Endpoint | None) -> Endpoint | None:
        among = [each for each in found.addresses if each.endpoint.version == version]
        rank = min((each.rank for each in among), default=0)
        among = [each for each in among if each.rank == rank]
        if told is not None and any(each.endpoint == told for each in among):
            return told
        return max(among, key=lambda each: each.weight).endpoint if among else None

    return Entry(until, best(4, before and before.ipv4), best(6, before and before.ipv6))
