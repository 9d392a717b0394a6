"""What a backend is asked to see whether it lives, and how its answer is recognised [RFC 3261 11].

Bytes in, bytes out. Does not know sockets or time, nor what an answer means for the backend.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from nfqlb.balance.health import Check
from nfqlb.balance.states import Place
from nfqlb.net.endpoint import Endpoint
from nfqlb.sip import message, via
from nfqlb.sip.grammar import QuotingError

_BRANCH = re.compile(rb"z9hG4bKask([0-9a-f]+)\.([0-9]{1,9})\.([0-9]{1,18})")


@dataclass(frozen=True, slots=True)
class Target:
    """An address that is asked, for all members of pools that stand for it."""

    address: Endpoint
    source: Endpoint
    """The internal socket on whose address it is asked: packets to it leave there."""
    check: Check
    places: tuple[Place, ...]
    """Whose health that is."""
    numbers: tuple[int, ...]
    """Their numbers on the board."""


@dataclass(frozen=True, slots=True)
class Round:
    """Whom a prober asks."""

    targets: tuple[Target, ...]
    internals: tuple[Endpoint, ...]
    """Internal sockets."""
    name: str
    """User part of our URI."""


class Answer(NamedTuple):
    target: int
    probe: int
    status: int
    """100..699."""


class Questions:
    """Makes questions and knows their answers. `secret`: some chance, in hex, which nobody can guess who is not asked:
    a source address proves nothing.
    """

    def __init__(self, name: str, secret: str) -> None:
        """`name`: user part of our URI."""
        self._name, self._secret = name.encode(), secret.encode()

    def ask(self, target: Target, number: int, probe: int, here: Endpoint) -> bytes:
        """The request for target `number`; `here` is the socket that the answer shall come to."""
        check = target.check
        method = check.method.encode()
        uri = check.uri.replace("{address}", target.address.hostport.decode()).encode()
        key = b"%b.%d.%d" % (self._secret, number, probe)
        return (
            b"%b %b SIP/2.0\r\n"
            b"Via: SIP/2.0/UDP %b;rport;branch=z9hG4bKask%b\r\n"
            b"Max-Forwards: 70\r\n"
            b"From: <sip:%b@%b>;tag=%b\r\n"
            b"To: <%b>\r\n"
            b"Call-ID: %b@%b\r\n"
            b"CSeq: %d %b\r\n"
            b"Contact: <sip:%b@%b>\r\n"
            b"Accept: application/sdp\r\n"
            b"User-Agent: nfqlb\r\n"
            b"Content-Length: 0\r\n\r\n"
        ) % (
            *(method, uri, here.hostport, key),
            *(self._name, here.hostport, key, uri, key, here.uri_host),
            *(probe, method, self._name, here.hostport),
        )

    def answer(self, datagram: bytes) -> Answer | None:
        """The answer that came, None when it is none to a question of ours."""
        try:
            read = message.parse(datagram)
            vias = read.values(b"via", 1)
        except (message.NotSip, QuotingError):
            return None
        if read.is_request or read.fault or not vias:
            return None
        top = via.parse(datagram, *vias[0])
        found = _BRANCH.fullmatch(top.branch) if top and top.branch else None
        if found is None or found.group(1) != self._secret:
            return None
        return Answer(int(found.group(2)), int(found.group(3)), read.status)


def source_for(address: Endpoint, internals: Iterable[Endpoint]) -> Endpoint | None:
    """The internal socket that faces that backend: of its IP version, the one whose address has most leading bits in
    common with the backend's, the first of several; None when there is none.
    """
    own = [each for each in internals if each.version == address.version]
    return max(own, key=lambda each: _common_bits(each.addr, address.addr), default=None)


def _common_bits(one: bytes, other: bytes) -> int:
    return 8 * len(one) - (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).bit_length()
