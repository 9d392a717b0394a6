"""What workers note, how it is read, and what it takes to be banned; no process, no kernel."""

import logging
from ipaddress import ip_address, ip_network

import pytest
from pyroute2.netlink.exceptions import NetlinkError

from nfqlb.gateway import offences, penalties
from nfqlb.gateway.bans import BACKLOG, LOG_INTERVAL, LOG_LINES, Bans
from nfqlb.gateway.guarding import Guarding
from nfqlb.gateway.offences import NOTES, OFFENCE, SEATS, WEIGHTS, Note, Rings, Tally
from nfqlb.gateway.penalties import MINUTE, SOURCES, Penalties
from nfqlb.net import datagram
from nfqlb.net.endpoint import Endpoint
from nfqlb.proxy.verdict import Action, Reason

FOUR, SIX = Endpoint.parse("192.0.2.9:5070"), Endpoint.parse("[2001:db8:1:2:3:4:5:6]:5070")
OURS = {4: Endpoint.parse("198.51.100.5:5060"), 6: Endpoint.parse("[2001:db8::5]:5060")}


def packet(source: Endpoint = FOUR, content: bytes = b"nothing that SIP would be") -> bytes:
    return datagram.build(source, OURS[source.version], content, tos=0, ident=1)


def bits(text: str) -> int:
    address = ip_address(text)
    return int(address) >> (64 if address.version == 6 else 0)


class TestNotes:
    def test_a_note_says_who_and_why(self) -> None:
        rings = Rings()
        rings.notebook(0).note(packet(), Reason.NOT_SIP)
        rings.notebook(SEATS - 1).note(packet(SIX), Reason.STRAY_RESPONSE)
        assert list(rings.notes()) == [
            Note(4, bits("192.0.2.9"), Reason.NOT_SIP),
            Note(6, bits("2001:db8:1:2::"), Reason.STRAY_RESPONSE),
        ]
        assert list(rings.notes()) == []

    def test_the_oldest_are_lost_and_counted(self) -> None:
        rings = Rings()
        notebook = rings.notebook(3)
        for number in range(NOTES + 10):
            notebook.note(packet(Endpoint(number.to_bytes(4, "big"), 9)), Reason.NOT_SIP)
        found = [note.source for note in rings.notes()]
        assert found == list(range(10, NOTES + 10))
        assert rings.lost == 10

    @pytest.mark.parametrize("source", [FOUR, SIX])
    def test_a_phones_own_kind_of_keepalive_is_no_offence(self, source: Endpoint) -> None:
        rings = Rings()
        for content in (b"jaK", b"\0\1\2\3\4\5\6\7", b"nine byte"):
            rings.notebook(0).note(packet(source, content), Reason.NOT_SIP)
        assert len(list(rings.notes())) == 1

    @pytest.mark.parametrize(
        ("header", "noted"),
        [(b"To: <sip:a@b>", 1), (b"To: <sip:a@b>;tag=1", 0), (b"t : <sip:a@b> ; Tag = 1", 0), (b"X: ;tag=1", 1)],
    )
    @pytest.mark.parametrize("reason", [Reason.NOT_A_BACKEND, Reason.BAD_FLOW])
    def test_a_refusal_in_a_dialog_is_no_offence(self, header: bytes, noted: int, reason: Reason) -> None:
        rings = Rings()
        rings.notebook(0).note(packet(content=b"BYE sip:x SIP/2.0\r\n" + header + b"\r\n\r\n"), reason)
        assert len(list(rings.notes())) == noted

    def test_what_goes_on_is_no_offence(self) -> None:
        assert not [reason for reason in WEIGHTS if reason.action in (Action.FORWARD, Action.IGNORE)]
        assert [reason for reason in Reason if OFFENCE[reason]] == sorted(WEIGHTS)

    def test_nobody_is_banned_for_what_others_forge_or_backends_do(self) -> None:
        assert not WEIGHTS.keys() & {Reason.BAD_SOURCE, Reason.NOT_FROM_BACKEND, Reason.BAD_CHECKSUM, Reason.NO_BACKEND}


class TestPenalties:
    def test_points_drain_away(self) -> None:
        counted = Penalties(60)
        assert not any(counted.add((4, 1), 1, second) for second in range(1000))
        assert any(counted.add((4, 2), 2, second) for second in range(100))

    def test_each_source_has_its_own(self) -> None:
        counted = Penalties(100)
        assert not any(counted.add((4, source), 50, 0.0) for source in range(1000))
        assert not counted.add((6, 1), 50, 0.0)
        assert counted.add((4, 1), 50, 0.0)

    def test_after_a_ban_it_begins_anew(self) -> None:
        counted = Penalties(10)
        assert counted.add((4, 1), 10, 0.0)
        assert not counted.add((4, 1), 9, 0.0)

    def test_it_is_bounded_and_keeps_who_is_at_it(self) -> None:
        counted = Penalties(1000)
        for source in range(SOURCES + 1000):
            counted.add((4, source), 1, 0.0)
            counted.add((4, -1), 1, 0.0) if source < 900 or source % 10_000 == 0 else None
        assert len(counted) <= SOURCES
        assert counted.add((4, -1), 100, 0.0)

    def test_those_that_have_drained_away_make_room(self) -> None:
        counted = Penalties(60)
        for source in range(SOURCES):
            counted.add((4, source), 10, 0.0)
        counted.add((4, -1), 1, MINUTE)
        assert len(counted) == 1


class Kernel:
    """Takes the place of pyroute2's IPSet."""

    def __init__(self) -> None:
        self.added: dict[tuple[str, str], tuple[int, str]] = {}
        self.error: Exception | None = None

    def add(self, name: str, entry: str, *, timeout: int, comment: str, **_: object) -> None:
        if self.error:
            raise self.error
        self.added[name, entry] = timeout, comment


class Court:
    """Bans with a kernel of its own."""

    def __init__(self, *allowed: str) -> None:
        self.rings, self.kernel = Rings(), Kernel()
        self.tally = memoryview(bytearray(8 * len(Tally))).cast("Q")
        guarding = Guarding(100, 600, tuple(ip_network(each) for each in allowed))
        self.bans = Bans(guarding, self.rings, self.tally, self.kernel)

    def note(self, source: Endpoint, reason: Reason, times: int) -> None:
        for _ in range(times):
            self.rings.notebook(0).note(packet(source), reason)

    def turn(self, now: float) -> None:
        self.bans.turn(now)


def test_offenders_are_banned_with_the_reason() -> None:
    court = Court()
    court.note(FOUR, Reason.NOT_SIP, 100 // WEIGHTS[Reason.NOT_SIP])
    court.note(SIX, Reason.STRAY_RESPONSE, 100)
    court.note(Endpoint.parse("192.0.2.10:1"), Reason.NOT_SIP, 100 // WEIGHTS[Reason.NOT_SIP] - 1)
    court.turn(5.0)
    assert court.kernel.added == {
        ("NFQLB-ban4", "192.0.2.9"): (600, "not-sip"),
        ("NFQLB-ban6", "2001:db8:1:2::"): (600, "stray-response"),
    }
    assert court.tally[Tally.BANS] == 2
    assert court.tally[Tally.OFFENCES] == 10 + 100 + 9
    assert court.tally[Tally.HEARTBEAT] == 5_000_000_000


def test_what_waited_in_a_queue_is_no_second_ban() -> None:
    court = Court()
    court.note(FOUR, Reason.NOT_SIP, 500)
    court.turn(0.0)
    court.note(FOUR, Reason.NOT_SIP, 500)
    court.turn(BACKLOG / 2)
    assert court.tally[Tally.BANS] == 1
    court.note(FOUR, Reason.NOT_SIP, 500)
    court.turn(BACKLOG + 1)
    assert court.tally[Tally.BANS] == 2


def test_whom_the_file_allows_is_never_banned() -> None:
    court = Court("192.0.2.0/24", "2001:db8:1::/48")
    for source in (FOUR, SIX):
        court.note(source, Reason.NOT_SIP, 1000)
    court.turn(0.0)
    assert court.kernel.added == {}
    assert court.tally[Tally.BANS] == 0


def test_bans_are_logged_but_not_without_bound(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "nfqlb")
    court = Court()
    for number in range(50):
        court.note(Endpoint(bytes([10, 0, 0, number]), 9), Reason.NOT_SIP, 10)
    court.turn(0.0)
    assert len(caplog.records) == LOG_LINES
    assert "10.0.0.0 banned for 600 s, for too many offences, of late: not-sip" in caplog.text
    court.note(FOUR, Reason.NOT_SIP, 20)
    court.turn(LOG_INTERVAL + 1)
    assert f"and {50 - LOG_LINES} more sources banned" in caplog.text


@pytest.mark.parametrize("error", [NetlinkError(2, "no such set"), OSError(12, "no memory")])
def test_a_kernel_that_refuses_is_told_of_once(caplog: pytest.LogCaptureFixture, error: Exception) -> None:
    court = Court()
    court.kernel.error = error
    for number in range(20):
        court.note(Endpoint(bytes([10, 0, 0, number]), 9), Reason.NOT_SIP, 20)
    court.turn(0.0)
    assert len(caplog.records) == 1
    assert "nfqlb rules apply" in caplog.text
    assert court.tally[Tally.BANS] == 0


def test_the_memory_of_offences_costs_little() -> None:
    """A source that is remembered, and a worker's ring: what docs/limits.md says."""
    assert offences.RING * offences.CELL == 65_560
    assert penalties.SOURCES == 65_536
