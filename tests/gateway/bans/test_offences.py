"""What workers note, how it is read, and what it takes to be banned; no process, no kernel."""

import logging
from ipaddress import ip_address, ip_network

import pytest

from nfqlb.errors import HostError
from nfqlb.gateway.bans import scoring
from nfqlb.gateway.bans.banning import BACKLOG, LOG_LINES, Banning
from nfqlb.gateway.bans.kernel_bans import AT_ONCE
from nfqlb.gateway.bans.offences import OFFENCE, WEIGHTS
from nfqlb.gateway.bans.plan import BansPlan
from nfqlb.gateway.bans.scoring import MINUTE, SOURCES, OffenceScores
from nfqlb.gateway.netfilter.kernel_sets import Address
from nfqlb.gateway.runtime.log_limit import INTERVAL
from nfqlb.gateway.shm import offence_ring
from nfqlb.gateway.shm.offence_ring import NOTES, SEATS, Note, OffenceRings, Tally
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
        rings = OffenceRings()
        rings.notebook(0).note(packet(), Reason.NOT_SIP)
        rings.notebook(SEATS - 1).note(packet(SIX), Reason.STRAY_RESPONSE)
        assert list(rings.notes()) == [
            Note(4, bits("192.0.2.9"), Reason.NOT_SIP),
            Note(6, bits("2001:db8:1:2::"), Reason.STRAY_RESPONSE),
        ]
        assert list(rings.notes()) == []

    def test_the_oldest_are_lost_and_counted(self) -> None:
        rings = OffenceRings()
        notebook = rings.notebook(3)
        for number in range(NOTES + 10):
            notebook.note(packet(Endpoint(number.to_bytes(4, "big"), 9)), Reason.NOT_SIP)
        found = [note.source for note in rings.notes()]
        assert found == list(range(10, NOTES + 10))
        assert rings.lost == 10

    @pytest.mark.parametrize("source", [FOUR, SIX])
    def test_a_phones_own_kind_of_keepalive_is_no_offence(self, source: Endpoint) -> None:
        rings = OffenceRings()
        for content in (b"jaK", b"\0\1\2\3\4\5\6\7", b"nine byte"):
            rings.notebook(0).note(packet(source, content), Reason.NOT_SIP)
        assert len(list(rings.notes())) == 1

    @pytest.mark.parametrize(
        ("header", "noted"),
        [(b"To: <sip:a@b>", 1), (b"To: <sip:a@b>;tag=1", 0), (b"t : <sip:a@b> ; Tag = 1", 0), (b"X: ;tag=1", 1)],
    )
    @pytest.mark.parametrize("reason", [Reason.NOT_A_BACKEND, Reason.BAD_FLOW])
    def test_a_refusal_in_a_dialog_is_no_offence(self, header: bytes, noted: int, reason: Reason) -> None:
        rings = OffenceRings()
        rings.notebook(0).note(packet(content=b"BYE sip:x SIP/2.0\r\n" + header + b"\r\n\r\n"), reason)
        assert len(list(rings.notes())) == noted

    def test_what_goes_on_is_no_offence(self) -> None:
        assert not [reason for reason in WEIGHTS if reason.action in (Action.FORWARD, Action.IGNORE)]
        assert [reason for reason in Reason if OFFENCE[reason]] == sorted(WEIGHTS)

    def test_nobody_is_banned_for_what_others_forge_or_backends_do(self) -> None:
        assert not WEIGHTS.keys() & {Reason.BAD_SOURCE, Reason.NOT_FROM_BACKEND, Reason.BAD_CHECKSUM, Reason.NO_BACKEND}


class TestOffenceScores:
    def test_points_drain_away(self) -> None:
        counted = OffenceScores(60)
        assert not any(counted.add((4, 1), 1, second) for second in range(1000))
        assert any(counted.add((4, 2), 2, second) for second in range(100))

    def test_each_source_has_its_own(self) -> None:
        counted = OffenceScores(100)
        assert not any(counted.add((4, source), 50, 0.0) for source in range(1000))
        assert not counted.add((6, 1), 50, 0.0)
        assert counted.add((4, 1), 50, 0.0)

    def test_after_a_ban_it_begins_anew(self) -> None:
        counted = OffenceScores(10)
        assert counted.add((4, 1), 10, 0.0)
        assert not counted.add((4, 1), 9, 0.0)

    @pytest.mark.slow
    def test_it_is_bounded_and_keeps_who_is_at_it(self) -> None:
        counted = OffenceScores(1000)
        for source in range(SOURCES + 1000):
            counted.add((4, source), 1, 0.0)
            counted.add((4, -1), 1, 0.0) if source < 900 or source % 10_000 == 0 else None
        assert len(counted) <= SOURCES
        assert counted.add((4, -1), 100, 0.0)

    def test_those_that_have_drained_away_make_room(self) -> None:
        counted = OffenceScores(60)
        for source in range(SOURCES):
            counted.add((4, source), 10, 0.0)
        counted.add((4, -1), 1, MINUTE)
        assert len(counted) == 1


class Kernel:
    """Takes the place of KernelSets."""

    def __init__(self) -> None:
        self.added: dict[tuple[str, str], tuple[int, str]] = {}
        self.error: Exception | None = None

    def put(self, name: str, address: Address, seconds: int, comment: str = "") -> None:
        if self.error:
            raise self.error
        self.added[name, str(address)] = seconds, comment

    def remove(self, name: str, address: Address) -> None:
        self.added.pop((name, str(address)), None)

    def has(self, name: str, address: Address) -> bool:
        return (name, str(address)) in self.added

    def entries(self, name: str) -> list[tuple[Address, int]]:
        if self.error:
            raise self.error
        return [(ip_address(each), seconds) for (where, each), (seconds, _) in self.added.items() if where == name]

    def catch(self, kind: str, source: str, seconds: int = 600) -> None:
        """What the rules do by themselves with who floods or sends junk."""
        for each in ("ban", kind):
            self.added[f"NFQLB-{each}{ip_address(source).version}", source] = seconds, ""


class Court:
    """Bans with a kernel of its own."""

    def __init__(self, *allowed: str) -> None:
        self.rings, self.kernel = OffenceRings(), Kernel()
        self.tally = memoryview(bytearray(8 * len(Tally))).cast("Q")
        outside = tuple(each.host for each in OURS.values())
        bans_plan = BansPlan(100, 600, tuple(ip_network(each) for each in allowed), outside=outside)
        self.bans = Banning(bans_plan, self.rings, self.tally, self.kernel)  # type: ignore[arg-type]  # stands in for the real one

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
    assert "10.0.0.0 banned for 600 s for too many offences, the last one: not-sip" in caplog.text
    court.turn(INTERVAL - 1)
    assert len(caplog.records) == LOG_LINES
    court.turn(INTERVAL + 1)  # also when nobody else is banned
    assert caplog.messages[LOG_LINES:] == [f"{50 - LOG_LINES} more sources were banned; 'nfqlb bans' lists them"]
    court.note(FOUR, Reason.NOT_SIP, 20)
    court.turn(INTERVAL + 2)
    assert caplog.messages[-1].startswith("192.0.2.9 banned")


def test_a_ban_is_logged_with_fields(caplog: pytest.LogCaptureFixture) -> None:
    court = Court()
    court.note(SIX, Reason.SCANNER, 1)
    court.turn(0.0)
    told = {"source": "2001:db8:1:2::/64", "reason": "scanner", "seconds": 600, "by": "gateway"}
    assert caplog.records[0].__dict__["about"] == told


@pytest.mark.parametrize(
    ("kind", "source", "shown", "text"),
    [
        ("junk", "192.0.2.9", "192.0.2.9", "junk: non-SIP bytes"),
        ("flood", "192.0.2.9", "192.0.2.9", "a flood: too many requests a second"),
        ("junk", "2001:db8:1:2::", "2001:db8:1:2::/64", "junk: non-SIP bytes"),
    ],
)
def test_whom_the_kernel_bans_is_noticed_once_and_gets_a_reason(
    caplog: pytest.LogCaptureFixture, kind: str, source: str, shown: str, text: str
) -> None:
    court = Court()
    court.kernel.catch(kind, source, 599)
    for now in range(5):
        court.turn(float(now))
    assert caplog.messages == [f"{shown} banned for 600 s for {text}"]
    assert caplog.records[0].__dict__["about"] == {"source": shown, "reason": kind, "seconds": 600, "by": "kernel"}
    assert court.kernel.added == {(f"NFQLB-ban{ip_address(source).version}", source): (599, kind)}
    assert court.tally[Tally.BANS] == 0  # it was no offence


def test_whom_an_operator_has_let_go_meanwhile_is_not_banned_again(caplog: pytest.LogCaptureFixture) -> None:
    court = Court()
    court.kernel.catch("junk", "192.0.2.9")
    del court.kernel.added["NFQLB-ban4", "192.0.2.9"]
    court.turn(0.0)
    assert court.kernel.added == {}
    assert len(caplog.messages) == 1


def test_many_whom_the_kernel_bans_take_some_turns_and_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    court = Court()
    for number in range(1000):
        court.kernel.catch("junk", f"10.0.{number // 256}.{number % 256}")
    court.turn(0.0)
    assert sum(comment == "junk" for _, comment in court.kernel.added.values()) == AT_ONCE
    for turn in range(1, 20):
        court.turn(turn / 10)
    assert all(comment == "junk" for _, comment in court.kernel.added.values())
    assert len(court.kernel.added) == 1000
    assert len(caplog.messages) == LOG_LINES


def test_without_rules_nobody_is_noticed_and_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    court = Court()
    court.kernel.error = HostError("there is no such set")
    court.turn(0.0)
    assert caplog.messages == []


def test_a_kernel_that_refuses_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    court = Court()
    court.kernel.error = HostError("there is no such set")
    for number in range(20):
        court.note(Endpoint(bytes([10, 0, 0, number]), 9), Reason.NOT_SIP, 20)
    court.turn(0.0)
    assert len(caplog.records) == 1
    assert "nfqlb rules apply" in caplog.text
    court.note(Endpoint(bytes([10, 0, 1, 0]), 9), Reason.NOT_SIP, 20)
    court.turn(INTERVAL)
    assert "10.0.1.0 cannot be banned (there is no such set) (and 19 more before). Are the rules" in caplog.messages[1]
    assert caplog.records[1].__dict__["about"]["before"] == 19
    assert court.tally[Tally.BANS] == 0


def test_the_memory_of_offences_costs_little() -> None:
    """A source that is remembered, and a worker's ring: what docs/limits.md says."""
    assert offence_ring.RING * offence_ring.CELL == 65_560
    assert scoring.SOURCES == 65_536
