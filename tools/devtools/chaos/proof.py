"""Where the requests of each call went: read from captures on the backends' side, by an independent reader (dpkt).

What must hold: all requests of a call (one Call-ID) reach the backend that its INVITE reached, in whatever transaction
and however often repeated. A request that did not is a stray.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import dpkt

NS = 1_000_000_000

SHOWN = 20
"""Strays that are listed one by one."""

_REQUEST = re.compile(rb"([A-Z]+) \S+ SIP/2\.0\r\n")
_CALL_ID = re.compile(rb"^Call-ID: *(\S+)", re.MULTILINE | re.IGNORECASE)
_CSEQ = re.compile(rb"^CSeq: *(\d+)", re.MULTILINE | re.IGNORECASE)
_BRANCH = re.compile(rb"^Via:[^,\r]*;branch=([^;,\r\s]+)", re.MULTILINE | re.IGNORECASE)


class Request(NamedTuple):
    """One request as it reached a backend."""

    backend: str
    method: str
    call_id: str
    cseq: int
    branch: str
    """Of the top Via."""


@dataclass(frozen=True)
class Proof:
    calls: int
    """With an INVITE that reached a backend."""
    requests: dict[str, int]
    """By method, repeated ones included; `ACK` is that of a 2xx, `ACK (non-2xx)` the other."""
    repeated: dict[str, int]
    """Requests that had reached a backend before, by method."""
    stray_calls: int
    strays: tuple[Request, ...]
    """At most SHOWN requests that did not reach the backend of their INVITE."""


class Packet(NamedTuple):
    at: int
    """Nanoseconds since 1970."""
    sender: bytes
    """Its address, packed."""
    target: bytes
    text: bytes
    """What is in the datagram."""


def packets(capture: Path) -> Iterator[Packet]:
    """The UDP datagrams in a capture of Ethernet frames."""
    with capture.open("rb") as file:
        for at, frame in dpkt.pcap.Reader(file):
            ip = dpkt.ethernet.Ethernet(frame).data
            if isinstance(ip, dpkt.ip.IP | dpkt.ip6.IP6) and isinstance(ip.data, dpkt.udp.UDP):
                yield Packet(round(at * NS), ip.src, ip.dst, ip.data.data)


def requests_in(capture: Path, backend: str, ip: bytes) -> list[Request]:
    """The requests to the address `ip` (packed) in a capture of Ethernet frames."""
    to_it = (packet.text for packet in packets(capture) if packet.target == ip)
    return [request for text in to_it if (request := read(backend, text))]


def read(backend: str, message: bytes) -> Request | None:
    """None when it is no request of a call."""
    start = _REQUEST.match(message)
    call_id, cseq, branch = (each.search(message) for each in (_CALL_ID, _CSEQ, _BRANCH))
    if not (start and call_id and cseq and branch):
        return None
    return Request(backend, start[1].decode(), call_id[1].decode(), int(cseq[1]), branch[1].decode())


def prove(requests: Iterable[Request]) -> Proof:
    """Look at the requests that all backends got, each backend's in the order of arrival."""
    calls: defaultdict[str, list[Request]] = defaultdict(list)
    for request in requests:
        calls[request.call_id].append(request)
    counted: Counter[str] = Counter()
    repeated: Counter[str] = Counter()
    strays: list[Request] = []
    stray_calls = with_invite = 0
    for each in calls.values():
        invites = [request for request in each if request.method == "INVITE"]
        branches = {request.branch for request in invites}
        seen: set[tuple[str, str]] = set()
        for request in each:
            other_ack = request.method == "ACK" and request.branch in branches
            name = "ACK (non-2xx)" if other_ack else request.method
            counted[name] += 1
            repeated[name] += (request.method, request.branch) in seen
            seen.add((request.method, request.branch))
        with_invite += bool(invites)
        home = invites[0].backend if invites else ""
        away = [request for request in each if request.backend != home]
        stray_calls += bool(away)
        strays += away
    return Proof(with_invite, dict(counted), dict(+repeated), stray_calls, tuple(strays[:SHOWN]))
