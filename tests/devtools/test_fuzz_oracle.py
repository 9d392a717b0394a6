"""tools/fuzz would find what it looks for: each invariant is broken here on purpose, and so are gateways."""

from collections.abc import Callable
from functools import cache
from random import Random

import pytest

from devtools.fuzz import findings, journey, naive, oracle, packets
from devtools.fuzz.invariants import Violation
from devtools.fuzz.targets import TARGETS
from devtools.fuzz.world import Way, World, build_all, payload_of, request
from nfqlb.net import datagram
from nfqlb.net.endpoint import Endpoint
from nfqlb.proxy.verdict import Action, Reason, Verdict
from nfqlb.sip import via

pytestmark = pytest.mark.slow

TOS = 0xB8
PLAIN = request(b"INVITE", b"sip:b@c", b"SIP/2.0/UDP h;branch=z9hG4bK1, SIP/2.0/UDP g;branch=2", b"Supported: path")


# -- each invariant, broken -------------------------------------------------------------------------------------------


@cache
def worlds() -> list[World]:
    return build_all()


def forwarded(prefix: bytes, world: int = 0) -> tuple[Way, bytes, Verdict]:
    """What came, and the verdict, of the first seed that begins so and is forwarded."""
    here = worlds()[world]
    for src, dst, payload in here.seeds:
        verdict = here.engine.process(datagram.build(src, dst, payload, tos=TOS))
        if payload.startswith(prefix) and verdict.action is Action.FORWARD:
            return Way(here, src, dst), payload, verdict
    raise AssertionError(prefix)


def rewritten(verdict: Verdict, payload: bytes | None = None, **changes: Endpoint) -> Verdict:
    """The verdict with other bytes or ends, sound as a packet."""
    src, dst = changes.get("src", verdict.src), changes.get("dst", verdict.dst)
    assert src is not None
    assert dst is not None
    packet = datagram.build(src, dst, payload_of(verdict) if payload is None else payload, tos=TOS)
    return verdict._replace(packet=packet, src=src, dst=dst)


def replaced(verdict: Verdict, old: bytes, new: bytes) -> Verdict:
    written = payload_of(verdict)
    assert old in written
    return rewritten(verdict, written.replace(old, new, 1))


STRANGER = Endpoint.parse("192.0.2.66:5060")
Broken = tuple[Way, bytes, Verdict]


def of_request(change: Callable[[Verdict], Verdict], prefix: bytes = b"INVITE sip:bob") -> Callable[[], Broken]:
    def made() -> Broken:
        way, payload, verdict = forwarded(prefix)
        return way, payload, change(verdict)

    return made


def of_reply(change: Callable[[Verdict], Verdict], asked: bytes = b"") -> Callable[[], Broken]:
    def made() -> Broken:
        here = worlds()[0]
        way = Way(here, here.peers[0], here.outside)
        payload = request(b"OPTIONS", b"sip:203.0.113.5", b"SIP/2.0/UDP 172.31.23.177;branch=z9hG4bKo")
        verdict = here.engine.process(datagram.build(way.src, way.dst, payload, tos=TOS))
        assert verdict.action is Action.REPLY
        return way, asked or payload, change(verdict)

    return made


def flipped(at: int) -> Callable[[Verdict], Verdict]:
    def flip(verdict: Verdict) -> Verdict:
        packet = bytearray(verdict.packet)
        packet[at] ^= 1
        return verdict._replace(packet=bytes(packet))

    return flip


ROUTED = b"BYE sip:b2b"
BREAKS: dict[str, tuple[str, Callable[[], Broken]]] = {
    "a drop with bytes": ("known-verdict", of_request(lambda v: v._replace(reason=Reason.NOT_SIP))),
    "ignored": ("known-verdict", of_request(lambda v: v._replace(reason=Reason.NOT_OURS))),
    "UDP checksum": ("sound-packet", of_request(flipped(26))),
    "IP checksum": ("sound-packet", of_request(flipped(10))),
    "DF": ("sound-packet", of_request(flipped(6))),
    "a length": ("sound-packet", of_request(flipped(25))),
    "TOS": ("sound-packet", of_request(flipped(1))),
    "other ends": ("sound-packet", of_request(lambda v: v._replace(dst=STRANGER))),
    "no SIP": ("rereads", of_request(lambda v: rewritten(v, b"hello"))),
    "two Call-IDs": ("rereads", of_request(lambda v: replaced(v, b"CSeq", b"Call-ID: x\r\nCSeq"))),
    "body": ("untouched", of_request(lambda v: rewritten(v, payload_of(v)[:-1] + b"!"))),
    "row lost": ("untouched", of_request(lambda v: replaced(v, b"User-Agent: phone/1.0\r\n", b""))),
    "row moved": ("untouched", of_request(lambda v: replaced(v, b"Contact", b"X: y\r\nContact"))),
    "case": ("untouched", of_request(lambda v: replaced(v, b"User-Agent", b"user-agent"))),
    "request URI": ("untouched", of_request(lambda v: replaced(v, b"sip:bob", b"sip:eve"))),
    "hops": ("untouched", of_request(lambda v: replaced(v, b"Max-Forwards: 69", b"Max-Forwards: 68"))),
    "no Via": ("untouched", of_request(lambda v: replaced(v, b"Via: SIP/2.0/UDP 192.168.1.5", b"X: "))),
    "Via below": ("untouched", of_request(lambda v: replaced(v, b"z9hG4bKp0", b"z9hG4bKp9"))),
    "received": ("untouched", of_request(lambda v: replaced(v, b"received=172.31.23.177", b"received=172.31.23.178"))),
    "rport": ("untouched", of_request(lambda v: replaced(v, b"rport=5060", b"rport=5061"))),
    "Route": ("untouched", of_request(lambda v: replaced(v, b"Max-F", b"Route: <sip:x;lr>\r\nMax-F"), ROUTED)),
    "source": ("own-source", of_request(lambda v: rewritten(v, src=STRANGER))),
    "other half": ("own-source", of_request(lambda v: rewritten(v, src=Endpoint.parse("203.0.113.5:5060")))),
    "no backend": ("permitted-destination", of_request(lambda v: rewritten(v, dst=STRANGER))),
    "ourselves": ("permitted-destination", of_request(lambda v: rewritten(v, dst=Endpoint.parse("203.0.113.5:1")))),
    "loopback": ("permitted-destination", of_request(lambda v: rewritten(v, dst=Endpoint.parse("127.0.0.1:1")))),
    "leaves": ("permitted-destination", of_request(
        lambda v: rewritten(v, src=Endpoint.parse("203.0.113.5:5060"))._replace(reason=Reason.REQUEST_LEAVING))),
    "unsigned flow": ("permitted-destination", of_request(lambda v: rewritten(v, dst=STRANGER), b"INVITE sip:alice")),
    "another dialog's flow": ("permitted-destination", of_request(
        lambda v: rewritten(v, dst=Endpoint.parse("198.51.100.77:40000")), b"INFO")),
    "response elsewhere": ("keyed", of_request(lambda v: rewritten(v, dst=STRANGER), b"SIP/2.0")),
    "reply elsewhere": ("reply-to-asker", of_reply(lambda v: rewritten(v, dst=STRANGER))),
    "reply to an ACK": ("reply-to-asker", of_reply(lambda v: v, b"ACK sip:a SIP/2.0\r\n\r\n")),
    "reply to a response": ("reply-to-asker", of_reply(lambda v: v, b"SIP/2.0 200 OK\r\n\r\n")),
    "long reply": ("reply-size", of_reply(lambda v: replaced(v, b"Content", b"Server: %b\r\nContent" % (b"x" * 900)))),
    "foreign row in a reply": ("untouched", of_reply(lambda v: replaced(v, b"Content", b"Path: <sip:x>\r\nContent"))),
}  # fmt: skip


@pytest.mark.parametrize("what", BREAKS)
def test_the_oracle_sees_what_is_wrong(what: str) -> None:
    invariant, made = BREAKS[what]
    way, payload, verdict = made()
    with pytest.raises(Violation) as caught:
        oracle.judge(way, payload, TOS, verdict)
    assert caught.value.invariant == invariant, caught.value


@pytest.mark.parametrize("prefix", [b"INVITE sip:bob", b"INVITE sip:alice", b"INFO", b"BYE", b"REGISTER", b"SIP/2.0"])
@pytest.mark.parametrize("world", range(6))
def test_the_oracle_passes_what_is_right(prefix: bytes, world: int) -> None:
    way, payload, verdict = forwarded(prefix, world)
    oracle.judge(way, payload, TOS, verdict)
    if not payload.startswith(b"SIP"):
        journey.check(way, payload, payload_of(verdict), verdict)


def test_a_branch_that_nobody_made_is_seen() -> None:
    way, payload, verdict = forwarded(b"SIP/2.0")
    way.world.branches, kept = {}, way.world.branches
    try:
        with pytest.raises(Violation, match="keyed"):
            oracle.judge(way, payload, TOS, verdict)
    finally:
        way.world.branches = kept


@pytest.mark.parametrize(
    ("invariant", "prefix", "old", "new"),
    [
        ("response-returns", b"INVITE sip:bob", b"branch=z9hG4bKnfq", b"branch=z9hG4bKnfq0"),
        ("response-returns", b"INVITE sip:bob", b"rport=5060", b"rport=5061"),
        ("path-returns", b"REGISTER", b"sig=", b"sig=0"),
        ("record-route-returns", b"INVITE sip:bob", b"Record-Route: <sip:lb@192", b"Record-Route: <sip:lb@193"),
    ],
)
def test_a_journey_that_does_not_come_back_is_seen(invariant: str, prefix: bytes, old: bytes, new: bytes) -> None:
    way, payload, verdict = forwarded(prefix)
    with pytest.raises(Violation, match=invariant):
        journey.check(way, payload, payload_of(replaced(verdict, old, new)), verdict)


def test_a_cancel_that_goes_elsewhere_is_seen() -> None:
    way, payload, verdict = forwarded(b"INVITE sip:bob")
    with pytest.raises(Violation, match="cancel-follows"):
        journey.cancel_follows(way, naive.read(payload), payload_of(verdict), verdict._replace(dst=STRANGER))


def test_workers_that_differ_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    way, payload, verdict = forwarded(b"INVITE sip:bob")
    packet = datagram.build(way.src, way.dst, payload, tos=TOS)
    packets.both(way, packet)

    class Other:
        def process(self, *_: object) -> Verdict:
            return replaced(verdict, b"User-Agent", b"user-agent")

    monkeypatch.setattr(way.world, "twin", Other())
    with pytest.raises(Violation, match="deterministic"):
        packets.both(way, packet)


UNLIKE = via.parse(b"SIP/2.0/UDP other", 0, 17)


@pytest.mark.parametrize("prefix", [b"BYE sip:b2b", b"INFO", b"INVITE sip:alice", b"SIP/2.0"])
def test_shedding_of_what_is_not_new_is_seen(prefix: bytes) -> None:
    with pytest.raises(Violation, match="sheds-new-only"):
        oracle.judge_new(*forwarded(prefix))


def test_a_packet_that_takes_long_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    way, payload, _ = forwarded(b"INVITE sip:bob")
    monkeypatch.setattr(packets, "SLOW", -1.0)
    with pytest.raises(Violation, match="quick"):
        packets.both(way, datagram.build(way.src, way.dst, payload))


@pytest.mark.parametrize(
    ("name", "where", "instead", "data", "invariant"),
    [
        ("message", "nfqlb.sip.message.Message.values", lambda *_: [], PLAIN, "like-naive"),
        ("message", "nfqlb.sip.edit.remove_values", lambda *_: [], PLAIN, "round-trip"),
        ("lists", "nfqlb.sip.grammar.split_list", lambda *_: [(0, 1)], b"a, b", "like-naive"),
        ("lists", "nfqlb.sip.grammar.first_value", lambda *_: (0, 4), b"a, b", "like-naive"),
        ("via", "nfqlb.proxy.added_headers.fill_via", lambda _, *__: (UNLIKE, []), b"SIP/2.0/UDP h", "round-trip"),
        ("uri", "nfqlb.sip.uri.escape_param", lambda value: value, b"sip:a@b;c", "round-trip"),
        ("packet", "nfqlb.net.datagram.build", None, None, "sound-packet"),
    ],
)  # fmt: skip
def test_a_reader_that_errs_is_seen(
    name: str, where: str, instead: object, data: bytes | None, invariant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = TARGETS[name]()
    if name == "packet":
        good, build = here.seeds()[0], datagram.build
        data, instead = good, lambda *args, **more: build(*args, **more)[:-1]
    if where.endswith("values"):
        instead = property(lambda _: instead)  # a reader that cannot be called any more: an exception of its own
        invariant = "no-exception"
    assert data is not None
    assert findings.attempt(here, data)[1] is None
    monkeypatch.setattr(where, instead)
    found = findings.attempt(here, data)[1]
    assert found is not None
    assert found.invariant == invariant


# -- gateways with a hole ---------------------------------------------------------------------------------------------

HOLES: dict[str, tuple[str, Callable[..., object]]] = {
    "any Path is signed": ("nfqlb.proxy.keys.Keyring.is_path", lambda *_: True),
    "any Record-Route is signed": ("nfqlb.proxy.keys.Keyring.is_route", lambda *_: True),
    "any branch is ours": ("nfqlb.proxy.keys.Keyring.is_branch", lambda *_: True),
    "anybody is a backend": ("nfqlb.proxy.identity.Identity.backend_at", lambda *_: 0),
    "anybody is a peer": ("nfqlb.proxy.identity.Identity.may_be_peer", lambda *_: True),
    "sources are not filled in": ("nfqlb.proxy.added_headers.fill_via", lambda top, *_: (top, [])),
    "any number is one": ("nfqlb.sip.grammar.number", lambda *_: 1),
    "edits come twice": ("nfqlb.sip.edit.apply", lambda raw, edits, *_: raw + b"".join(new for *_, new in edits)),
}


@pytest.mark.parametrize("hole", HOLES)
def test_a_hole_in_the_gateway_is_found(hole: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blind, within some thousand executions of the same chance each time."""
    monkeypatch.setenv("NFQLB_PURE", "1")
    here = packets.JourneyTarget()
    seeds = here.seeds()
    monkeypatch.setattr(*HOLES[hole])
    chance = Random(1)
    for _ in range(20_000):
        data = here.mutate(chance.choice(seeds), seeds, chance)
        if findings.attempt(here, data)[1] is not None:
            return
    raise AssertionError("nothing found")
