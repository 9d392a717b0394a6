"""The live matrix: every dialogue, through a real gateway, in every kind of lab, from and to phones behind NAT and not.

Each lab is one module-wide fixture; the last tests of the module look back at all that passed it.
"""

import re
from collections import Counter
from pathlib import Path

import pytest
import tshark
from livelab import Cell

from nfqlb.capture.packets import PacketReader
from nfqlb.capture.source import Source
from nfqlb.config.build import load
from nfqlb.engine import Engine
from nfqlb.lab.kamailio import PLAIN_DOMAIN
from nfqlb.lab.ladder import header, messages
from nfqlb.lab.sipp import Phone
from nfqlb.lab.wire import save
from nfqlb.net.datagram import parse

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]

LADDERS = ("call", "call-ended-by-callee", "cancel", "busy", "reinvite", "subscribe", "message", "options")
FOUR_KB, TWENTY_KB = 50, 250
"""Lines of 80 bytes that are added to an offer."""
MTU = 1500
HEADERS = 48
"""Bytes of IPv6 and UDP header."""


def seen_at(cell: Cell, phone: Phone) -> str:
    """Where the gateway sees the phone: host:port as a URI writes it."""
    plan = cell.lab.plan
    host = plan.nat.host if phone is cell.alice[True] else phone.host
    return f"{host}:{phone.port}"


def test_register_leaves_with_our_path(cell: Cell, alice: Phone) -> None:
    """P25: Path says where the phone is, and the sender's Contact is left alone."""
    seen = cell.register(alice)
    request = next(passage for passage in seen if passage.title == "REGISTER")
    assert request.left
    internal = re.escape(cell.lab.plan.internal.host)
    received = re.escape(f"sip:{seen_at(cell, alice)}")
    path = header(request.left.payload, "path")
    assert path
    assert re.fullmatch(rf"<sip:lb@{internal};lr;received={received};sig=[0-9a-f]+>", path)
    assert header(request.left.payload, "contact") == f"<sip:{alice.user}@{alice.host}:5060>"
    assert request.left.other in cell.backends
    answer = next(passage for passage in seen if passage.title == "200 REGISTER")
    assert answer.left
    assert answer.left.other == request.first.other


@pytest.mark.parametrize("ladder", LADDERS)
def test_dialogue(cell: Cell, pair: tuple[Phone, Phone], ladder: str) -> None:
    """Both phones are content, and whatever came to the gateway left it."""
    seen = cell.play(ladder, *pair)
    assert seen
    assert [passage.title for passage in seen if not (passage.came and passage.left)] == []


@pytest.mark.parametrize("lines", [FOUR_KB, TWENTY_KB], ids=["4kB", "20kB"])
def test_large_invite(cell: Cell, pair: tuple[Phone, Phone], lines: int) -> None:
    """P7: it comes and leaves in fragments on both ways through."""
    seen = [passage for passage in cell.play("call", *pair, more_lines=lines) if passage.title == "INVITE"]
    assert len(seen) == 2
    for passage in seen:
        assert passage.came
        assert passage.left
        assert len(passage.left.payload) > lines * 80
        assert passage.came.fragments > 1
        assert passage.left.fragments > 1


def test_invite_that_grows_over_the_mtu(cell: Cell, alice: Phone) -> None:
    """P38: it comes whole and leaves in fragments, entering and leaving. IPv6 routers do not fragment, we have to."""
    small = [passage for passage in cell.play("call", cell.bob, alice) if passage.title == "INVITE"]
    for index, way in enumerate(("entering", "leaving")):
        lines = (MTU - HEADERS - len(small[index].first.payload)) // 80
        invites = [p for p in cell.play("call", cell.bob, alice, more_lines=lines) if p.title == "INVITE"]
        came, left = invites[index].came, invites[index].left
        assert came
        assert left
        assert (came.fragments, left.fragments) == (1, 2), way
        assert len(came.payload) < len(left.payload)
    if cell.lab.plan.family == 6:
        assert cell.lab.stats()["totals"]["socket_sent"] >= 2


def test_hairpin(cell: Cell, pair: tuple[Phone, Phone]) -> None:
    """P16, P18: a backend that does not record-route; ACK and BYE go from phone to phone by two own pairs."""
    caller, callee = pair
    seen = cell.play("call", caller, callee, domain=PLAIN_DOMAIN)
    within = [passage for passage in seen if passage.title in ("ACK", "BYE", "200 BYE")]
    assert len(within) == 3
    for passage in within:
        assert passage.came
        assert passage.left
        assert {str(passage.came.other), str(passage.left.other)} == {seen_at(cell, caller), seen_at(cell, callee)}
        assert header(passage.left.payload, "route") is None
        assert header(passage.left.payload, "record-route") is None
    invites = [passage for passage in seen if passage.title == "INVITE"]
    assert [passage.left.other in cell.backends for passage in invites if passage.left] == [True, False]


def test_hairpin_ended_by_callee(cell: Cell, pair: tuple[Phone, Phone]) -> None:
    cell.play("call-ended-by-callee", *pair, domain=PLAIN_DOMAIN)


def test_tshark_finds_nothing(cell: Cell, tmp_path: Path) -> None:
    """P37: on either side no malformed packet, no wrong checksum, in all that was played in this lab."""
    assert cell.frames
    for link in {frame.link for frame in cell.frames}:
        pcap = tmp_path / f"{link}.pcap"
        count = save(pcap, (frame for frame in cell.frames if frame.link == link))
        assert tshark.faults(pcap) == []
        assert tshark.verified(pcap) > count / 2  # fragments have no checksum of their own


def test_replay_says_what_the_live_gateway_did(cell: Cell, tmp_path: Path) -> None:
    """P39: two workers, one engine beside them: the same messages from and to the same sockets."""
    pcap = tmp_path / "arrivals.pcap"
    save(pcap, (frame for frame in cell.frames if not frame.outgoing))
    engine = Engine(load(cell.lab.config).setup())
    with Source(pcap) as source:
        verdicts = [engine.process(packet.data) for packet in PacketReader(source) if not packet.skipped]
    replayed = Counter(parse(verdict.packet)[:3] for verdict in verdicts if verdict.packet)
    live = Counter((m.source, m.target, m.payload) for m in messages(cell.frames) if m.outgoing)
    assert sum(replayed.values()) > 0
    assert live == replayed


def test_nothing_was_dropped_or_refused(cell: Cell) -> None:
    """Only forwards, but for the answer to the OPTIONS that waited for the gateway."""
    cell.play("message", cell.bob, cell.alice[True])
    report = cell.lab.stats()
    reasons = {reason for reason, count in report["totals"]["reasons"].items() if count}
    assert reasons <= {
        "request-entering",
        "request-leaving",
        "request-hairpin",
        "response-entering",
        "response-leaving",
        "response-hairpin",
        "ping",
    }
    assert [(row["dropped"], row["user_dropped"], row["waiting"]) for row in report["queues"]] == [(0, 0, 0)] * 2
    assert all(worker["state"] == "up" and worker["restarts"] == 0 for worker in report["workers"])
