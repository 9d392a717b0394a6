"""Names that backends send to (P20): the memory that workers share, what they ask for, and where requests go."""

import os
import threading
import time
from collections.abc import Callable, Collection, Iterator
from ipaddress import ip_network

import pytest
from dnsserver import DnsServer
from hypothesis import given
from hypothesis import strategies as st
from sipcase import Gateway, request, setup

from nfqlb.gateway.dns.resolver import BURST, TOLD_EVERY, UNDER_WAY, Counts, Resolver, entry_of
from nfqlb.gateway.shm.name_lookups import NameLookups
from nfqlb.names.lookup import NEGATIVE_TTL, RETRY, Found
from nfqlb.names.target import Address, Dns
from nfqlb.net.endpoint import Endpoint
from nfqlb.proxy.names import (
    QUESTIONS,
    SETS,
    SIZE,
    WAYS,
    Asking,
    Entry,
    Memory,
    Missing,
    Names,
    as_question,
    from_question,
)
from nfqlb.proxy.setup import Setup
from nfqlb.proxy.verdict import Action, Reason

FOUR, SIX = Endpoint.parse("198.51.100.9:5070"), Endpoint.parse("[2001:db8:9::9]:5070")


def memory() -> Memory:
    return Memory(memoryview(bytearray(SIZE)))


# -- the memory


@given(
    st.integers(0, 2**32 - 1),
    st.one_of(st.none(), st.builds(Endpoint, st.binary(min_size=4, max_size=4), st.integers(1, 65535))),
    st.one_of(st.none(), st.builds(Endpoint, st.binary(min_size=16, max_size=16), st.integers(1, 65535))),
)
def test_what_is_stored_is_found_and_replaced(until: int, four: Endpoint | None, six: Endpoint | None) -> None:
    kept = memory()
    assert kept.find(b"a.example.org:0") is None
    for entry in (Entry(7, FOUR, None), Entry(until, four, six)):
        kept.store(b"a.example.org:0", entry)
        assert kept.find(b"a.example.org:0") == entry
    assert kept.find(b"a.example.org:5060") is None


def test_half_an_entry_is_none() -> None:
    """Whatever part of it is of before."""
    cells = bytearray(SIZE)
    kept = Memory(memoryview(cells))
    kept.store(b"a.example.org:0", Entry(1, FOUR, SIX))
    before = bytes(cells)
    kept.store(b"a.example.org:0", Entry(2, Endpoint.parse("198.51.100.8:5071"), SIX))
    after = bytes(cells)
    changed = [at for at in range(SIZE) if before[at] != after[at]]
    assert len(changed) > 8
    for at in changed[:-1]:
        cells[:] = after[: at + 1] + before[at + 1 :]
        assert kept.find(b"a.example.org:0") is None


def test_many_names_take_no_more_memory_and_the_oldest_go_first() -> None:
    kept = memory()
    names = [b"h%d.example.org:0" % number for number in range(3 * SETS * WAYS)]
    for until, name in enumerate(names):
        kept.store(name, Entry(until, FOUR, None))
    found = [until for until, name in enumerate(names) if kept.find(name)]
    assert 0.9 * SETS * WAYS < len(found) <= SETS * WAYS
    assert kept.find(names[-1])
    assert sum(found) / len(found) > 1.5 * SETS * WAYS, "the young ones have stayed"


# -- what is asked for

HOSTILE = [
    b"", b".", b"a", b"localhost", b"x.", b"1.2.3", b"256.1.1.1", b"[::1]", b"a..b", b"-a.org", b"a-.org", b"a.org-",
    b"a.1", b"a" * 64 + b".org", b"a." * 126 + b"org", b"a.org:5", b"a.org\n", b"A.org", "ü.org".encode(), b"a b.org",
    b"a.org..", b"%61.org", b"*.org",
]  # fmt: skip


@pytest.mark.parametrize("host", HOSTILE)
def test_what_no_dns_can_know_is_not_asked_for(host: bytes) -> None:
    asked: list[bytes] = []
    assert Asking(memory(), asked.append, lambda: 0).find(host, None, 4) is Missing.AT_ALL
    assert not asked


@pytest.mark.parametrize(
    ("question", "target"),
    [
        (b"a.org:0", ("a.org", 0)),
        (b"_x.a-b.org:65535", ("_x.a-b.org", 65535)),
        (b"a.org:65536", None), (b"a.org:", None), (b"a.org:05", None), (b"a.org", None), (b":5", None), (b"", None),
        (b"a.org:-1", None), (b"\xff.org:1", None),
    ],
)  # fmt: skip
def test_questions_can_be_read_back_and_nothing_else(question: bytes, target: tuple[str, int] | None) -> None:
    assert from_question(question) == target


def test_a_trailing_dot_means_the_same() -> None:
    assert as_question(b"a.example.org.", 5) == as_question(b"a.example.org", 5) == b"a.example.org:5"


def test_one_question_a_second_for_each_name_and_a_bound_for_all() -> None:
    asked: list[bytes] = []
    now = 100.0
    names = Asking(memory(), asked.append, lambda: now)
    for _ in range(50):
        assert names.find(b"a.example.org", None, 4) is Missing.YET
    assert asked == [b"a.example.org:0"]
    for number in range(3 * QUESTIONS):
        names.find(b"h%d.example.org" % number, None, 4)
    assert len(asked) == QUESTIONS
    now += 1
    names.find(b"a.example.org", None, 4)
    names.find(b"a.example.org", 5062, 4)
    assert asked[QUESTIONS:] == [b"a.example.org:0", b"a.example.org:5062"]


def test_an_answer_that_has_run_out_counts_and_is_asked_for_anew() -> None:
    asked: list[bytes] = []
    kept = memory()
    kept.store(b"a.example.org:0", Entry(100, FOUR, None))
    now = 99.0
    names = Asking(kept, asked.append, lambda: now)
    assert names.find(b"a.example.org", None, 4) == FOUR
    assert not asked
    now = 100.0
    assert names.find(b"a.example.org", None, 4) == FOUR
    assert asked == [b"a.example.org:0"]
    assert names.find(b"a.example.org", None, 6) is Missing.AT_ALL


# -- where requests go


class Told:
    """Names for an engine, as a test tells them."""

    def __init__(self, **known: Endpoint | Missing) -> None:
        self._known = known
        self.asked: set[tuple[bytes, int | None, int]] = set()

    def find(self, host: bytes, port: int | None, version: int) -> Endpoint | Missing:
        self.asked.add((host, port, version))
        return self._known[host.decode().partition(".")[0]]


def gateway(names: Names, with_setup: Setup | None = None) -> Gateway:
    made = Gateway(with_setup)
    made.engine, made.twin = (each.sibling(0, names=names) for each in (made.engine, made.twin))
    return made


def test_P20_a_request_to_a_name_that_is_not_known_yet_is_dropped_and_its_retransmission_goes_out() -> None:
    names = Told(carrier=Missing.YET)
    sender = gateway(names)
    invite = request("INVITE", "sip:b@carrier.example.com")
    verdict = sender.from_backend(invite)
    assert verdict.reason is Reason.NAME_PENDING
    assert verdict.reason.action is Action.DROP
    names._known["carrier"] = FOUR
    result = sender.from_backend(invite)
    assert (result.reason, result.dst) == (Reason.REQUEST_LEAVING, str(FOUR))
    assert names.asked == {(b"carrier.example.com", None, 4)}
    assert "nat=yes" in result.text, "the dialog stays at the address that the name had"


@pytest.mark.parametrize(
    ("uri", "row", "asked"),
    [
        ("sip:b@CARRIER.example.com:5099", "", (b"carrier.example.com", 5099, 4)),
        ("sip:b@192.0.2.99;maddr=Carrier.example.com", "", (b"carrier.example.com", None, 4)),
        ("sip:b@elsewhere.example.com", "Route: <sip:carrier.example.com;lr>", (b"carrier.example.com", None, 4)),
    ],
)
def test_P20_the_name_is_that_of_the_next_hop(uri: str, row: str, asked: tuple[bytes, int | None, int]) -> None:
    names = Told(carrier=FOUR)
    message = request("INVITE", uri, row) if row else request("INVITE", uri)
    assert gateway(names).from_backend(message).dst == str(FOUR)
    assert names.asked == {asked}


@pytest.mark.parametrize("address", ["127.0.0.1:5060", "224.0.0.1:5060", "203.0.113.5:5060", "192.168.1.5:7000"])
def test_P20_a_name_opens_no_way_that_an_address_does_not(address: str) -> None:
    names = Told(carrier=Endpoint.parse(address))
    assert gateway(names).from_backend(request("INVITE", "sip:b@carrier.example.com")).reason is Reason.NO_EGRESS


def test_P20_a_name_must_lead_into_permitted_networks() -> None:
    narrow = setup(egress=(ip_network("198.51.100.0/25"),))
    wanted = request("INVITE", "sip:b@carrier.example.com")
    assert gateway(Told(carrier=FOUR), narrow).from_backend(wanted).dst == str(FOUR)
    beyond = Told(carrier=Endpoint.parse("198.51.100.200:5060"))
    assert gateway(beyond, narrow).from_backend(wanted).reason is Reason.NO_EGRESS


def test_P20_a_name_without_an_address_of_that_version_gets_503() -> None:
    result = gateway(Told(carrier=Missing.AT_ALL)).from_backend(request("INVITE", "sip:b@carrier.example.com"))
    assert result.lines[0] == "SIP/2.0 503 Service Unavailable"
    assert "carrier.example.com has no IPv4 address" in result.header("Warning")


def test_P20_an_ack_to_a_name_is_never_answered() -> None:
    result = gateway(Told(carrier=Missing.AT_ALL)).from_backend(request("ACK", "sip:b@carrier.example.com"))
    assert result.reason is Reason.BROKEN_ACK


# -- what workers are told


def found(*addresses: tuple[str, int, int], ttl: float = 60, silent: bool = False) -> Found:
    return Found(
        tuple(Address(Endpoint.parse(each), rank, weight) for each, rank, weight in addresses), ttl, "", silent
    )


def test_the_best_rank_and_the_heaviest_and_no_change_without_need() -> None:
    many = found(("192.0.2.3:1", 1, 90), ("192.0.2.1:1", 0, 1), ("192.0.2.2:1", 0, 5), ("[2001:db8::1]:1", 2, 1))
    entry = entry_of(many, None, 100.5)
    assert (str(entry.ipv4), str(entry.ipv6), entry.until) == ("192.0.2.2:1", "[2001:db8::1]:1", 161)
    stays = entry_of(many, Entry(1, Endpoint.parse("192.0.2.1:1"), None), 100)
    assert str(stays.ipv4) == "192.0.2.1:1"
    assert str(entry_of(many, Entry(1, Endpoint.parse("192.0.2.3:1"), None), 100).ipv4) == "192.0.2.2:1"


def test_silence_keeps_what_was_told_and_no_is_an_answer() -> None:
    before = Entry(1, FOUR, SIX)
    assert entry_of(found(ttl=RETRY, silent=True), before, 100) == Entry(106, FOUR, SIX)
    assert entry_of(found(ttl=RETRY, silent=True), None, 100) == Entry(106, None, None)
    assert entry_of(found(ttl=NEGATIVE_TTL), before, 100) == Entry(131, None, None)


def test_names_that_cannot_be_looked_up_are_told_of_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    desk = NameLookups()
    resolver = Resolver((), Dns(), (4,), desk.memory, desk.questions, -1, Counts())
    for now in (0.0, 1.0, 2.0, TOLD_EVERY):
        resolver._complain("no server answers", now)
    text = "cannot look up a name that a backend sends to: no server answers"
    assert caplog.messages == [text, f"{text} (and 2 more before)"]
    desk.close()


# -- the process that asks, here as a thread


class Running:
    def __init__(self, server: DnsServer, versions: Collection[int] = (4, 6)) -> None:
        self.desk = NameLookups()
        self.counts = Counts()
        self._reading, writing = os.pipe()
        settings = Dns(servers=(Endpoint.parse(f"127.0.0.1:{server.port}"),), timeout=0.3, min_ttl=1)
        resolver = Resolver((), settings, versions, self.desk.memory, self.desk.questions, writing, self.counts)
        self._thread = threading.Thread(target=resolver.run, daemon=True)
        self._writing = writing
        self._thread.start()

    def until(self, condition: Callable[[], object]) -> bool:
        deadline = time.monotonic() + 10
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True

    def close(self) -> None:
        os.close(self._reading)
        self._thread.join(10)
        assert not self._thread.is_alive(), "it ends when nobody hears it any more"
        os.close(self._writing)
        self.desk.close()


@pytest.fixture
def server() -> Iterator[DnsServer]:
    started = DnsServer.on_loopback({"carrier.example.com": ["1 A 198.51.100.9", "1 AAAA 2001:db8:9::9"]})
    yield started
    started.finish()


def test_what_no_listener_could_send_to_is_not_asked_for(server: DnsServer) -> None:
    running = Running(server, [6])
    names = running.desk.names()
    running.until(lambda: names.find(b"carrier.example.com", 5070, 6) == SIX)
    assert names.find(b"carrier.example.com", 5070, 4) is Missing.AT_ALL
    assert server.asked == {("carrier.example.com", "AAAA"): 1}
    running.desk.memory.forget()
    assert running.desk.names().find(b"carrier.example.com", 5070, 6) is Missing.YET
    running.close()


@pytest.fixture
def running(server: DnsServer) -> Iterator[Running]:
    started = Running(server)
    yield started
    started.close()


@pytest.mark.slow
def test_a_name_is_looked_up_when_a_worker_asks_and_again_when_it_is_old(running: Running, server: DnsServer) -> None:
    names = running.desk.names()
    assert names.find(b"carrier.example.com", 5070, 4) is Missing.YET
    assert running.until(lambda: names.find(b"carrier.example.com", 5070, 4) == FOUR)
    assert names.find(b"carrier.example.com", 5070, 6) == SIX
    server.records["carrier.example.com"] = ["60 A 198.51.100.10"]
    other = Endpoint.parse("198.51.100.10:5070")
    assert running.until(lambda: names.find(b"carrier.example.com", 5070, 4) == other)
    assert names.find(b"carrier.example.com", 5070, 6) is Missing.AT_ALL


@pytest.mark.slow
def test_the_last_answer_stands_while_dns_is_dead(running: Running, server: DnsServer) -> None:
    names = running.desk.names()
    assert running.until(lambda: names.find(b"carrier.example.com", 5070, 4) == FOUR)
    server.mode = "silent"
    assert running.until(lambda: names.find(b"carrier.example.com", 5070, 4) != FOUR or running.counts.failed)
    assert names.find(b"carrier.example.com", 5070, 4) == FOUR


def test_no_such_name_is_looked_up_once(running: Running, server: DnsServer) -> None:
    names = running.desk.names()
    assert running.until(lambda: names.find(b"nobody.example.com", None, 4) is Missing.AT_ALL)
    looked = server.asked.total()
    for _ in range(20):
        running.desk._ask(b"nobody.example.com:0")
    assert running.until(lambda: running.counts.asked >= 21)
    assert server.asked.total() == looked


def test_a_flood_of_names_makes_few_questions(running: Running, server: DnsServer) -> None:
    """Strangers write what they like into a Contact; a backend's request then names it."""
    server.mode = "silent"
    for number in range(2000):
        running.desk._ask(b"h%d.example.com:5060" % number)
        if not number % 50:
            time.sleep(0.01)
    running.desk._ask(b"\xff" * 400)
    assert running.until(lambda: running.counts.refused > 0)
    assert len({name for name, _ in server.asked}) <= BURST + UNDER_WAY


def test_who_asks_never_waits() -> None:
    desk = NameLookups()
    try:
        for number in range(5000):  # nobody reads them
            desk._ask(b"h%d.example.com:5060" % number)
        desk.questions.close()
        desk._ask(b"a.example.com:5060")
    finally:
        desk.close()
