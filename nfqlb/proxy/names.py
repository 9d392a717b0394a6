"""What the rules ask of names of hosts (P20), and a memory of answers that one process writes and all workers read.

Knows the layout, which hosts are worth a question, and how often to put one. Does not know DNS, processes or the time:
who asks and what time it is, is given.

Layout: entries of 64 bytes, in sets of four. The digest of a name and port says in which set its entry stands:

    check       8 bytes  keyed with the digest, over all that follows
    until       4        second of CLOCK_MONOTONIC until which the answer holds
    IPv4        4 + 2    address, port; port 0: there is none
    IPv6        16 + 2   the same

Who reads while it is written finds a check that does not hold, and has found nothing. The memory is bounded: strangers
may name as many hosts as they like, and drive each other out.
"""

import re
from collections.abc import Callable
from enum import Enum
from hashlib import blake2b
from struct import Struct
from typing import NamedTuple, Protocol

from nfqlb.net.endpoint import Endpoint

WAYS = 4
SETS = 1024
_ENTRY = Struct("=8sI4sH16sH28x")
_REST = Struct("=I4sH16sH")
SIZE = _ENTRY.size * WAYS * SETS
"""Bytes: 256 KiB for 4,096 names."""

ASK_AGAIN = 1.0
"""Seconds in which one process puts the same question once."""

QUESTIONS = 1024
"""Names that one process remembers to have asked for."""

# Host names as RFC 3261 25.1 has them, with the underscore that people use anyway; one with a domain, from the root.
_HOST = re.compile(rb"(?=.{1,253}$)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?\.)+[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")


class Missing(Enum):
    """Why there is no address."""

    YET = "not looked up yet"
    AT_ALL = "has no address"


class Names(Protocol):
    """Who knows the addresses of hosts."""

    def find(self, host: bytes, port: int | None, version: int) -> Endpoint | Missing:
        """Of a host (in lower case) as a URI names it, with the port that it names, of that IP version (4 or 6). At
        once: who has to wait says `Missing.YET`.
        """


class Entry(NamedTuple):
    """What is known of one name and port."""

    until: int
    """Second until which it holds."""
    ipv4: Endpoint | None
    ipv6: Endpoint | None


class Memory:
    """The memory, for who writes and for who reads."""

    def __init__(self, view: memoryview) -> None:
        """`view`: SIZE bytes, zeros at first."""
        assert view.nbytes == SIZE
        self._view = view

    def find(self, question: bytes) -> Entry | None:
        digest, place = _digest(question)
        for at in range(place, place + WAYS * _ENTRY.size, _ENTRY.size):
            found = self._read(digest, at)
            if found is not None:
                return found
        return None

    def store(self, question: bytes, entry: Entry) -> None:
        """In the place of an earlier one, else of the one that ends first. One process at a time."""
        digest, place = _digest(question)
        best, ends = place, 1 << 32
        for at in range(place, place + WAYS * _ENTRY.size, _ENTRY.size):
            if self._read(digest, at) is not None:
                best = at
                break
            until = _ENTRY.unpack_from(self._view, at)[1]
            if until < ends:
                best, ends = at, until
        four, six = entry.ipv4, entry.ipv6
        rest = _REST.pack(
            entry.until,
            *(four.addr, four.port) if four else (bytes(4), 0),
            *(six.addr, six.port) if six else (bytes(16), 0),
        )
        self._view[best : best + _ENTRY.size] = (_check(digest, rest) + rest).ljust(_ENTRY.size, b"\0")

    def forget(self) -> None:
        """All there is: each name is asked for anew."""
        self._view[:] = bytes(SIZE)

    def _read(self, digest: bytes, at: int) -> Entry | None:
        whole = bytes(self._view[at : at + 8 + _REST.size])
        if whole[:8] != _check(digest, whole[8:]):
            return None
        until, four, port4, six, port6 = _REST.unpack(whole[8:])
        return Entry(until, Endpoint(four, port4) if port4 else None, Endpoint(six, port6) if port6 else None)


class Asking:
    """Names for the rules, out of the memory; what is not in it, or old, is asked for."""

    def __init__(self, memory: Memory, ask: Callable[[bytes], None], clock: Callable[[], float]) -> None:
        """`ask`: hands a question on, without waiting. `clock`: seconds, as `Entry.until`."""
        self._memory, self._ask, self._clock = memory, ask, clock
        self._asked: dict[bytes, float] = {}

    def find(self, host: bytes, port: int | None, version: int) -> Endpoint | Missing:
        """An answer that has run out still counts, and is asked for anew: if DNS is dead, it is the best there is."""
        question = as_question(host, port)
        if question is None:
            return Missing.AT_ALL
        now = self._clock()
        entry = self._memory.find(question)
        if entry is None or entry.until <= now:
            self._put(question, now)
        if entry is None:
            return Missing.YET
        return (entry.ipv4 if version == 4 else entry.ipv6) or Missing.AT_ALL

    def _put(self, question: bytes, now: float) -> None:
        if now - self._asked.get(question, float("-inf")) < ASK_AGAIN:
            return
        if len(self._asked) >= QUESTIONS:
            self._asked = {each: at for each, at in self._asked.items() if now - at < ASK_AGAIN}
            if len(self._asked) >= QUESTIONS:
                return
        self._asked[question] = now
        self._ask(question)


def as_question(host: bytes, port: int | None) -> bytes | None:
    """`host:port`, port 0 for none, as it is asked for; None for what no DNS can know."""
    host = host.removesuffix(b".")
    return b"%b:%d" % (host, port or 0) if _HOST.fullmatch(host) else None


def from_question(question: bytes) -> tuple[str, int] | None:
    """Host and port; None for what is no question."""
    host, _, port = question.rpartition(b":")
    if not port.isdigit() or len(port) > 5 or int(port) > 0xFFFF or as_question(host, int(port)) != question:
        return None
    return host.decode("ascii"), int(port)


def _digest(question: bytes) -> tuple[bytes, int]:
    """What an entry is told by, and the first byte of its set."""
    digest = blake2b(question, digest_size=16, person=b"nfqlb-names").digest()
    return digest, int.from_bytes(digest[:4], "big") % SETS * WAYS * _ENTRY.size


def _check(digest: bytes, rest: bytes) -> bytes:
    return blake2b(rest, digest_size=8, key=digest).digest()
