"""What else takes bytes of strangers: STUN on the SIP port, notes of offences, answers to probes, names to look up.

An input is given to all of them; each knows what is not for it.
"""

from collections.abc import Hashable, Sequence
from random import Random

from devtools.fuzz import mutate
from devtools.fuzz.invariants import broken
from devtools.fuzz.target import Target
from devtools.fuzz.world import response
from nfqlb.balance.health import Check
from nfqlb.gateway.bans.offences import WEIGHTS
from nfqlb.gateway.health.probe import Questions
from nfqlb.gateway.health.probe import Target as Asked
from nfqlb.gateway.shm.offence_ring import Note, OffenceRings
from nfqlb.net import datagram, stun
from nfqlb.net.endpoint import Endpoint
from nfqlb.proxy import names

SECRET = "0123456789abcdef"
SOURCES = (Endpoint.parse("198.51.100.77:40000"), Endpoint.parse("[2001:db8:9::2]:40000"))
SOCKETS = (Endpoint.parse("203.0.113.5:5060"), Endpoint.parse("[2001:db8::5]:5060"))
REASONS = sorted(WEIGHTS)


def binding(*attributes: tuple[int, bytes]) -> bytes:
    """A STUN binding request with those attributes [RFC 8489 5, 14]."""
    body = b"".join(
        kind.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value + bytes(-len(value) % 4)
        for kind, value in attributes
    )
    return b"\0\1" + len(body).to_bytes(2, "big") + stun.COOKIE + b"transaction." + body


class EdgesTarget(Target):
    name = "edges"
    about = "STUN, notes of offences, answers to probes, names to look up"

    def __init__(self) -> None:
        self.questions = Questions("lb", SECRET)
        self.rings = OffenceRings()
        self.notebook = self.rings.notebook(0)

    def seeds(self) -> list[bytes]:
        backend = Endpoint.parse("192.168.1.11:5060")
        asked = Asked(backend, SOCKETS[0], Check(), (("registrars", "reg1"),), (0,))
        question = self.questions.ask(asked, 0, 7, SOCKETS[0])
        answers = [response(question, status) for status in (b"200 OK", b"503 Service Unavailable", b"404 x")]
        requests = [
            binding(), binding((0x8022, b"phone 1.0")), binding((0x0006, b"user"), (0x0008, bytes(20))),
            binding((0x0003, bytes(4))), binding(*((0x7F00 + number, b"") for number in range(20))),
        ]  # fmt: skip
        hosts = [b"peer.example.net:5060", b"peer.example.net:0", b"a_b.example.:65535", b"x." * 120 + b"y:1"]
        return [*requests, *answers, *hosts]

    def mutate(self, data: bytes, others: Sequence[bytes], chance: Random) -> bytes:
        if data.startswith(b"SIP/"):
            return mutate.message(data, others, chance)
        made = mutate.data(data, chance)
        if stun.COOKIE in made[:8] and chance.random() < 0.7:
            made = made[:2] + ((len(made) - 20) & 0xFFFF).to_bytes(2, "big") + made[4:]
        return made

    def run(self, data: bytes) -> Hashable:
        found = self.questions.answer(data)
        if found is not None and (not 100 <= found.status <= 699 or SECRET.encode() not in data):
            broken("keyed", f"{found} by an answer that does not know our secret")
        return self.try_stun(data), self.try_notes(data), self.try_name(data), found is not None

    def try_stun(self, data: bytes) -> Hashable:
        if not stun.is_stun(data):
            return None
        for source in SOURCES:
            kind, written = stun.answer(data, source)
            if bool(written) is (kind is stun.Answer.NONE):
                broken("known-verdict", f"{kind} with {len(written)} bytes")
            if 2 * len(written) > 3 * len(data) + 400:
                broken("reply-size", f"{len(written)} bytes to {len(data)}")
            if written and (not stun.is_stun(written) or written[8:20] != data[8:20]):
                broken("rereads", f"{written!r}")
        return kind

    def try_notes(self, data: bytes) -> Hashable:
        """Whatever the payload, an offence is noted of its source or not at all."""
        reason = REASONS[len(data) % len(REASONS)]
        for source, own in zip(SOURCES, SOCKETS, strict=True):
            self.notebook.note(datagram.build(source, own, data[: mutate.LONGEST]), reason)
        noted = [*self.rings.notes()]
        for note in noted:
            source = SOURCES[note.version == 6]
            if note != Note(source.version, int.from_bytes(source.addr[:8], "big"), reason):
                broken("like-naive", f"{note} for {reason.name}")
        return len(noted)

    def try_name(self, data: bytes) -> Hashable:
        asked = names.from_question(data)
        if asked is None:
            return False
        host, port = asked
        if names.as_question(host.encode(), port) != data:
            broken("round-trip", f"{asked} of {data!r}")
        return True
