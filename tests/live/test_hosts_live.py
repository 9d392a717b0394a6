"""The gateway on hosts that were set up for other things as well, and what the lab shows besides the matrix."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import tshark
from livelab import Cell, fresh_name, running

from nfqlb.lab import namespaces
from nfqlb.lab.ladder import header
from nfqlb.lab.topology import Plan
from nfqlb.lab.wire import save
from nfqlb.net.endpoint import Endpoint

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]

SUBSET = ("call", "call-ended-by-callee", "cancel", "message")


@pytest.fixture(
    scope="module",
    params=[(4, False), (4, True), (6, False), (6, True)],
    ids=["IPv4-two-armed", "IPv4-one-armed", "IPv6-two-armed", "IPv6-one-armed"],
)
def guarded(request: pytest.FixtureRequest) -> Iterator[Cell]:
    """FORWARD policy DROP, and a MASQUERADE for everything else on the gateway."""
    family, one_armed = request.param
    plan = Plan(fresh_name(), family=family, one_armed=one_armed)
    with running(plan, forward_drop=True, masquerade=True) as cell:
        yield cell


@pytest.fixture(scope="module")
def masquerading() -> Iterator[Cell]:
    """Only the MASQUERADE."""
    with running(Plan(fresh_name()), masquerade=True) as cell:
        yield cell


@pytest.mark.parametrize("ladder", SUBSET)
@pytest.mark.parametrize("behind_nat", [True, False], ids=["behind-NAT", "public"])
def test_dialogue_with_forward_drop_and_masquerade(guarded: Cell, behind_nat: bool, ladder: str) -> None:
    """SIP passes, and leaves from E itself: the MASQUERADE does not see it."""
    alice = guarded.alice[behind_nat]
    external = Endpoint.parse(f"{guarded.lab.plan.external.host}:5060")
    for caller, callee in ((alice, guarded.bob), (guarded.bob, alice)):
        for passage in guarded.play(ladder, caller, callee):
            assert passage.left, passage.title
            if passage.left.other not in guarded.backends:
                assert passage.left.source == external


def test_large_invite_with_forward_drop_and_masquerade(guarded: Cell) -> None:
    guarded.play("call", guarded.bob, guarded.alice[True], more_lines=250)


@pytest.mark.parametrize("guarded", [(4, False), (6, False)], ids=["IPv4", "IPv6"], indirect=True)
def test_nothing_else_is_forwarded(guarded: Cell) -> None:
    """With FORWARD policy DROP a backend's other traffic stays behind the gateway."""
    assert other_traffic(guarded) is None


def test_other_traffic_is_masqueraded(masquerading: Cell) -> None:
    """Without that policy it passes, with the gateway's address: our chains leave it alone."""
    assert other_traffic(masquerading) == masquerading.lab.plan.external.ip
    masquerading.play("call", masquerading.bob, masquerading.alice[True])


def test_tshark_finds_nothing_with_forward_drop_and_masquerade(guarded: Cell, tmp_path: Path) -> None:
    assert guarded.frames
    for link in {frame.link for frame in guarded.frames}:
        pcap = tmp_path / f"{link}.pcap"
        assert save(pcap, (frame for frame in guarded.frames if frame.link == link))
        assert tshark.faults(pcap) == []


def test_tshark_finds_faults_where_there_are_some(guarded: Cell, tmp_path: Path) -> None:
    """The control of the tests above: one byte of a message changed, and tshark tells."""
    guarded.play("message", guarded.bob, guarded.alice[False])
    frame = next(frame for frame in guarded.frames if b"SIP/2.0" in frame.packet)
    spoilt = frame._replace(packet=frame.packet[:-1] + bytes([frame.packet[-1] ^ 1]))
    pcap = tmp_path / "spoilt.pcap"
    save(pcap, [frame, spoilt])
    assert len(tshark.faults(pcap)) == 1
    assert tshark.verified(pcap) == 1


def test_the_exchange(masquerading: Cell) -> None:
    """P18, P25: a REGISTER from 172.31.23.177:5060 leaves with our Path; an INVITE along that Path leaves from E to
    172.31.23.177:5060 without the Route, and its response finds back."""
    cell, plan = masquerading, masquerading.lab.plan
    dave = cell.lab.phone("dave", plan.home[0], contact="172.31.23.177:5060")
    register = next(passage for passage in cell.register(dave) if passage.title == "REGISTER")
    assert register.came
    assert register.left
    assert str(register.came.source) == "172.31.23.177:5060"
    path = header(register.left.payload, "path")
    assert path
    assert path.startswith("<sip:lb@192.168.1.5;lr;received=sip:172.31.23.177:5060;sig=")

    seen = cell.play("call", cell.bob, dave)
    invite = next(passage for passage in seen if passage.title == "INVITE" and passage.first.source in cell.backends)
    assert invite.came
    assert invite.left
    assert invite.came.payload.startswith(b"INVITE sip:dave@172.31.23.177:5060 SIP/2.0\r\n")
    assert header(invite.came.payload, "route") == path
    assert (str(invite.left.source), str(invite.left.target)) == ("203.0.113.5:5060", "172.31.23.177:5060")
    assert header(invite.left.payload, "route") is None
    answer = next(passage for passage in seen if passage.title == "200 INVITE")
    assert answer.came
    assert answer.left
    assert (str(answer.came.source), answer.left.target) == ("172.31.23.177:5060", invite.came.source)


def test_two_phones_behind_one_nat(masquerading: Cell) -> None:
    """The NAT gives one of them another port; calls between them go through the gateway and come back."""
    cell, plan = masquerading, masquerading.lab.plan
    erin, frank = (cell.lab.phone(user, at) for user, at in zip(("erin", "frank"), plan.home, strict=True))
    ports = {passage.first.other.port for phone in (erin, frank) for passage in cell.register(phone)}
    assert len(ports) == 2
    cell.play("call", erin, frank)
    cell.play("call-ended-by-callee", frank, erin)
    cell.play("cancel", frank, erin)


def other_traffic(cell: Cell) -> str | None:
    """Send a datagram that is no SIP from a backend to a phone; the source it came with, or None."""
    plan = cell.lab.plan
    phone, backend = plan.phones[0], plan.backends[0]
    family = socket.AF_INET6 if plan.family == 6 else socket.AF_INET

    def opened() -> socket.socket:
        sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.settimeout(0.5)
        return sock

    def send() -> None:
        with opened() as sock:
            sock.sendto(b"no SIP", (phone.ip, 9999))

    with namespaces.inside(plan.namespace(phone.role), opened) as listening:
        listening.bind((phone.ip, 9999))
        namespaces.inside(plan.namespace(backend.role), send)
        try:
            source = listening.recvfrom(100)[1][0]
        except TimeoutError:
            return None
        return str(source)
