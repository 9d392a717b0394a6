"""Many phones in one process: they register, and are called to see whether they can be reached.

Sockets in the namespaces of the lab, some behind the NAT router, several users at each; a thread answers. Every phone
answers an INVITE with 486 and its own name, so whoever reads the name knows that the call has reached it. Knows as much
SIP as that takes.
"""

import re
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from nfqlb.lab import namespaces
from nfqlb.lab.kamailio import DOMAIN
from nfqlb.lab.topology import Node, Plan

USERS_PER_SOCKET = 25
FIRST_PORT = 20000
RETRY = (0.5, 1.0, 2.0, 4.0)
"""Seconds between repetitions [RFC 3261 17.1: T1, doubled]."""
PACE = 400
"""Requests begun per second."""


class Phones:
    """Use as a context manager; half of the users are behind the NAT router."""

    def __init__(self, plan: Plan, count: int) -> None:
        self._plan, self.count = plan, count
        self._target = (plan.external.ip, 5060)
        self._sockets: list[tuple[socket.socket, str]] = []
        """With the host:port that each knows of itself."""
        self._answers: dict[str, tuple[int, str]] = {}
        """Call-ID → final status, and the name of the phone that gave it."""
        self._translated: set[str] = set()
        """Call-IDs of requests that came to the gateway from another address than their phone knows of itself."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="phones", daemon=True)
        self._serial = 0

    def __enter__(self) -> "Phones":
        places = [self._plan.home[0], self._plan.phones[0]]
        for number in range(max(2, -(-self.count // USERS_PER_SOCKET))):
            node = places[number % 2]
            opened = namespaces.inside(self._plan.namespace(node.role), partial(_open, node, FIRST_PORT + number))
            self._sockets.append((opened, f"{node.host}:{FIRST_PORT + number}"))
        self._caller = namespaces.inside(
            self._plan.namespace("phones"), lambda: _open(self._plan.phones[1], FIRST_PORT - 1)
        )
        self._sockets.append((self._caller, f"{self._plan.phones[1].host}:{FIRST_PORT - 1}"))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for opened, _here in self._sockets:
            opened.close()

    def register(self) -> int:
        """Register all; how many were answered 200."""
        self._serial += 1

        def ask(user: int) -> tuple[str, socket.socket, bytes]:
            opened, here = self._sockets[user % (len(self._sockets) - 1)]
            call_id = f"reg-{self._serial}-{user}"
            text = _request("REGISTER", f"sip:{DOMAIN}", here, call_id, f"u{user}", f"u{user}", "Expires: 3600\r\n")
            return call_id, opened, text

        return self._play(ask, 200)

    @property
    def behind_nat(self) -> int:
        """How many of the phones were registered through a NAT at the last time: their answers say so (`received`)."""
        return sum(call_id.startswith(f"reg-{self._serial}-") for call_id in self._translated)

    def call(self) -> int:
        """Call each; how many calls have reached their phone."""
        self._serial += 1
        here = self._sockets[-1][1]

        def ask(user: int) -> tuple[str, socket.socket, bytes]:
            call_id = f"call-{self._serial}-{user}"
            text = _request("INVITE", f"sip:u{user}@{DOMAIN}", here, call_id, "caller", f"u{user}", "")
            return call_id, self._caller, text

        return self._play(ask, 486)

    def _play(self, ask: Callable[[int], tuple[str, socket.socket, bytes]], wanted: int) -> int:
        asked = [ask(user) for user in range(self.count)]
        begun = time.monotonic()
        due = [(begun + number / PACE, number, 0) for number in range(self.count)]
        while due:
            due.sort(reverse=True)
            moment, number, tries = due.pop()
            time.sleep(max(0.0, moment - time.monotonic()))
            call_id, opened, text = asked[number]
            if call_id in self._answers:
                continue
            if tries <= len(RETRY):
                opened.sendto(text, self._target)
                due.append((time.monotonic() + (*RETRY, RETRY[-1])[tries], number, tries + 1))
        good = 0
        for number, (call_id, _, _) in enumerate(asked):
            status, name = self._answers.get(call_id, (0, ""))
            good += status == wanted and (wanted != 486 or name == f"u{number}")
        return good

    # -- the thread

    def _listen(self) -> None:
        here_of = dict(self._sockets)
        while not self._stop.is_set():
            for opened in select.select(list(here_of), [], [], 0.1)[0]:
                try:
                    datagram, source = opened.recvfrom(65535)
                except OSError:
                    continue
                self._take(opened, datagram.decode("utf-8", "replace"), source)

    def _take(self, opened: socket.socket, text: str, source: tuple[str, int]) -> None:
        if text.startswith("SIP/2.0 "):
            status = int(text[8:11])
            if status >= 200:
                found = re.search(r"^X-Phone: (\S+)", text, re.MULTILINE)
                call_id, via = _value(text, "Call-ID"), _value(text, "Via")
                self._answers[call_id] = status, found[1] if found else ""
                seen = re.search(r";received=([^;,]+)", via)
                if seen and seen[1] != opened.getsockname()[0]:
                    self._translated.add(call_id)
                if "INVITE" in _value(text, "CSeq"):
                    opened.sendto(_ack(text), self._target)
        elif text.startswith(("INVITE ", "OPTIONS ")):
            user = re.match(r"\S+ sip:([^@]+)@", text)
            opened.sendto(_busy(text, user[1] if user else "?"), source[:2])


def _open(node: Node, port: int) -> socket.socket:
    opened = socket.socket(socket.AF_INET6 if node.interface.version == 6 else socket.AF_INET, socket.SOCK_DGRAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    opened.bind((node.ip, port))
    return opened


def _request(method: str, uri: str, here: str, call_id: str, user: str, peer: str, more: str) -> bytes:
    return (
        f"{method} {uri} SIP/2.0\r\n"
        f"Via: SIP/2.0/UDP {here};rport;branch=z9hG4bK{call_id}\r\n"
        "Max-Forwards: 70\r\n"
        f"From: <sip:{user}@{DOMAIN}>;tag={call_id}\r\n"
        f"To: <sip:{peer}@{DOMAIN}>\r\n"
        f"Call-ID: {call_id}\r\n"
        f"CSeq: 1 {method}\r\n"
        f"Contact: <sip:{user}@{here}>\r\n{more}"
        "Content-Length: 0\r\n\r\n"
    ).encode()


def _rows(text: str, names: Sequence[str]) -> str:
    """The header lines of these names, as they are."""
    wanted = "|".join(names)
    return "".join(f"{row[0]}\r\n" for row in re.finditer(rf"^(?:{wanted}):[^\r\n]*", text, re.MULTILINE))


def _value(text: str, name: str) -> str:
    found = re.search(rf"^{name}: *([^\r\n]*)", text, re.MULTILINE)
    return found[1] if found else ""


def _busy(text: str, user: str) -> bytes:
    to = _value(text, "To")
    return (
        f"SIP/2.0 486 Busy Here\r\n{_rows(text, ('Via', 'From', 'Call-ID', 'CSeq'))}To: {to};tag={user}\r\n"
        f"X-Phone: {user}\r\nContent-Length: 0\r\n\r\n"
    ).encode()


def _ack(text: str) -> bytes:
    """To a refusal: hop by hop, with the branch of its INVITE [17.1.1.3]."""
    via = _rows(text, ("Via",)).partition("\r\n")[0]
    to = _value(text, "To")
    uri = re.search(r"<([^>]*)>", to)
    return (
        f"ACK {uri[1] if uri else 'sip:' + DOMAIN} SIP/2.0\r\n{via}\r\nMax-Forwards: 70\r\n"
        f"{_rows(text, ('From', 'To', 'Call-ID'))}CSeq: 1 ACK\r\nContent-Length: 0\r\n\r\n"
    ).encode()
