"""tools/chaos without its lab: what it counts, where it finds requests, what it holds for growth; its command line."""

import itertools
import json
import re
import tomllib
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from click.testing import CliRunner
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet
from scapy.utils import wrpcap

from devtools.chaos import calls, large, messages, receiver, soak
from devtools.chaos.__main__ import main
from devtools.chaos.accounts import Account, Arrivals, account
from devtools.chaos.arena import Arena, PoolPlan, Settings, render
from devtools.chaos.calls import CallArena
from devtools.chaos.counted import CountedArena
from devtools.chaos.fates import Call, CallFates, MessageFates, sort_calls, sort_messages, visits
from devtools.chaos.fates import calls as calls_in
from devtools.chaos.generator import Answer
from devtools.chaos.large import LargeArena
from devtools.chaos.outages import OUTAGES
from devtools.chaos.pauses import Window, pauses, ways
from devtools.chaos.proof import NS, Request, prove, requests_in
from devtools.chaos.scenarios import SCENARIOS, BadReload, Reload, ReloadRules
from devtools.chaos.watch import Sample, Watched
from nfqlb.config.build import build
from nfqlb.lab.scenario import Manner
from nfqlb.lab.scenario import render as render_side
from nfqlb.lab.topology import Plan
from nfqlb.sip.message import parse

MS = 1_000_000
START = 1_700_000_000 * 1000 * MS


@pytest.mark.parametrize("kind", messages.KINDS)
@pytest.mark.parametrize("here", ["198.51.100.64:5060", "[2001:db8:51::40]:5061"])
def test_a_message_bears_its_number_and_is_sip(kind: str, here: str) -> None:
    made = messages.template(kind, 7, here).fill(1234567)
    assert len(made) == messages.SIZE
    assert messages.number_of(made) == 1234567
    assert made.startswith(f"{kind} sip:".encode())
    message = parse(made)
    assert message.fault is None
    assert message.value(b"call-id") == b"chaos-0001234567"
    assert b"chaos-0-0001234567" in (message.value(b"via") or b"")
    other = messages.template(kind, 7, here).fill(1234568)
    assert made != other
    assert messages.number_of(other) == 1234568


def test_what_is_no_message_of_the_load_has_no_number() -> None:
    assert messages.number_of(b"\r\n\r\n") is None
    assert messages.number_of(b"REGISTER sip:a SIP/2.0\r\nCall-ID: chaos-12x4567890\r\n\r\n") is None
    assert messages.number_of(b"REGISTER sip:a SIP/2.0\r\nCall-ID: other\r\n\r\n") is None


def test_a_receiver_answers_requests_that_are_not_of_the_load() -> None:
    request = b"OPTIONS sip:a SIP/2.0\r\nVia: x\r\nFrom: f\r\nTo: t\r\nCall-ID: c\r\nCSeq: 1 OPTIONS\r\nX: y\r\n\r\n"
    answer = receiver.answer_to(request)
    assert answer.startswith(b"SIP/2.0 200 OK\r\nVia: x\r\n")
    assert b"CSeq: 1 OPTIONS\r\n" in answer
    assert b"X: y" not in answer
    assert receiver.answer_to(b"SIP/2.0 200 OK\r\n\r\n") == b""
    assert receiver.answer_to(b"ACK sip:a SIP/2.0\r\n\r\n") == b""
    assert receiver.answer_to(b"\r\n\r\n") == b""


# -- accounts: 4 flows, a message each millisecond, delivered after 1 ms unless something is wrong


def sent(count: int) -> list[int]:
    return [START + number * MS for number in range(count)]


def counted(count: int, *, lose: tuple[int, ...] = (), twice: tuple[int, ...] = (), late: dict[int, int] | None = None,
            events: tuple[int, ...] = (), interval: float = 0.0) -> Account:  # fmt: skip
    late = late or {}
    arrived = [(START + (number + 1 + late.get(number, 0)) * MS, number) for number in range(count)]
    arrived = [each for each in arrived if each[1] not in lose]
    arrived += [(time + 500_000, number) for time, number in arrived if number in twice]
    arrived.sort()
    halves = (arrived[::2], arrived[1::2])
    backends = {
        f"b{index}": Arrivals([number for _, number in half], [time for time, _ in half])
        for index, half in enumerate(halves)
    }
    moments = [START + event * MS for event in events]
    return account(sent(count), backends, flows=4, events=moments, interval=interval)


def test_all_well() -> None:
    found = counted(100)
    assert (found.sent, found.received, found.lost, found.duplicated) == (100, 100, 0, 0)
    assert found.max_gap_ms == 1.0
    assert found.max_delay_ms == 1.0
    # The first of flow 3 arrives with the fourth message; from then on each flow sends every 4 ms.
    assert found.max_port_gap_ms == 4.0
    assert found.port_interval_ms == pytest.approx(4.0, abs=0.1)
    assert found.per_backend == {"b0": 50, "b1": 50}


def test_lost_and_doubled_messages_are_told_apart() -> None:
    found = counted(100, lose=(10, 11), twice=(20, 30, 40))
    assert (found.received, found.lost, found.duplicated) == (98, 2, 3)
    assert [(each.number, each.flow) for each in found.first_lost] == [(10, 2), (11, 3)]
    assert found.first_lost[0].at == pytest.approx(0.010)
    assert found.max_gap_ms == 3.0


def test_a_queue_that_stands_still_shows_from_its_ports_only() -> None:
    """Flow 1 is held up from message 41 on for 40 ms; the others go on."""
    found = counted(200, late={number: 40 - (number - 41) for number in range(41, 81, 4)})
    assert found.max_gap_ms <= 2.0
    assert found.max_port_gap_ms == pytest.approx(44.0)
    assert found.max_port_gap_at == pytest.approx(0.038)
    assert found.max_delay_ms == pytest.approx(41.0)
    assert found.lost == 0


def test_nothing_at_all_for_a_while() -> None:
    found = counted(200, lose=tuple(range(50, 110)))
    assert found.max_gap_ms == 61.0
    assert found.max_gap_at == pytest.approx(0.050)
    assert found.lost == 60


def test_the_end_that_never_comes_is_a_gap() -> None:
    found = counted(100, lose=tuple(range(60, 100)))
    assert found.max_gap_ms == 39.0
    assert found.max_gap_at == pytest.approx(0.060)
    one_flow = counted(100, lose=tuple(range(61, 100, 4)))
    assert one_flow.max_gap_ms <= 2.0
    assert one_flow.max_port_gap_ms == 39.0


def test_losses_belong_to_the_event_that_met_the_message() -> None:
    """A message that was on its way when the event came is lost by this event."""
    found = counted(400, lose=(5, 98, 101, 290, 310), events=(100, 300), interval=0.2)
    assert found.lost_by_event == (1, 2, 2)


def test_a_message_that_nobody_sent_is_our_mistake() -> None:
    with pytest.raises(ValueError, match="never sent"):
        account(sent(3), {"b": Arrivals([5], [START])}, flows=1)


def test_nothing_arrives() -> None:
    found = account(sent(3), {"b": Arrivals([], [])}, flows=1)
    assert (found.sent, found.received, found.lost) == (3, 0, 3)


def test_records_of_a_killed_receiver_end_with_its_last_whole_batch(tmp_path: Path) -> None:
    record = tmp_path / "arrivals"
    assert list(receiver.read_arrivals(record).numbers) == []
    record.write_bytes(b"".join(value.to_bytes(8, "little") for value in (1, 100, 2, 200, 3)))
    found = receiver.read_arrivals(record)
    assert (list(found.numbers), list(found.times)) == ([1, 2], [100, 200])


# -- proof


def call(call_id: str, *steps: tuple[str, str, str]) -> list[Request]:
    """Requests of one call: backend, method, branch."""
    return [Request(backend, method, call_id, 1, branch) for backend, method, branch in steps]


def test_calls_that_stay_where_they_began() -> None:
    proof = prove(
        [
            *call("a", ("b1", "INVITE", "x"), ("b1", "INVITE", "x"), ("b1", "CANCEL", "x"), ("b1", "ACK", "x")),
            *call("b", ("b2", "INVITE", "y"), ("b2", "ACK", "z"), ("b2", "BYE", "w"), ("b2", "BYE", "w")),
        ]
    )
    assert proof.calls == 2
    assert proof.requests == {"INVITE": 3, "CANCEL": 1, "ACK (non-2xx)": 1, "ACK": 1, "BYE": 2}
    assert proof.repeated == {"INVITE": 1, "BYE": 1}
    assert (proof.stray_calls, proof.strays) == (0, ())


@pytest.mark.parametrize("method", ["INVITE", "CANCEL", "ACK", "BYE"])
def test_a_request_elsewhere_is_a_stray(method: str) -> None:
    proof = prove(call("a", ("b1", "INVITE", "x"), ("b2", method, "x")))
    assert proof.stray_calls == 1
    assert [(each.backend, each.method) for each in proof.strays] == [("b2", method)]


def test_a_request_without_an_invite_is_a_stray() -> None:
    assert prove(call("a", ("b1", "CANCEL", "x"))).stray_calls == 1


def test_captures_are_read(tmp_path: Path) -> None:
    text = (
        b"INVITE sip:b@example.org SIP/2.0\r\nv: SIP/2.0/UDP 1.2.3.4;branch=z9hG4bKno\r\n"
        b"Via: SIP/2.0/UDP 192.168.1.5;branch=z9hG4bKone, SIP/2.0/UDP 1.2.3.4;branch=z9hG4bKtwo\r\n"
        b"Call-ID: abc\r\nCSeq: 7 INVITE\r\n\r\n"
    )
    toward = Ether() / IP(src="192.168.1.5", dst="192.168.1.11") / UDP(sport=5060, dport=5061) / text
    back = Ether() / IP(src="192.168.1.11", dst="192.168.1.5") / UDP(sport=5061, dport=5060) / text
    answer = Ether() / IP(src="192.168.1.5", dst="192.168.1.11") / UDP(sport=5060, dport=5061) / b"SIP/2.0 200 OK\r\n"
    capture = tmp_path / "one.pcap"
    wrpcap(str(capture), [toward, back, answer])
    found = requests_in(capture, "reg1", ip_address("192.168.1.11").packed)
    assert found == [Request("reg1", "INVITE", "abc", 7, "z9hG4bKone")]


# -- fates and pauses


def test_calls_and_messages_are_told_by_whether_they_met_the_victim() -> None:
    found = [
        Call(START, START + 1, START + 2, backends={"a"}),
        Call(START, START + 1, backends={"a", "b"}),
        Call(START, backends={"b"}),
        Call(START),
    ]
    assert sort_calls(found, "a") == CallFates(4, 1, 2, failed_on_victim=1, failed_elsewhere=2, late=0, doubtful=0)
    arrivals = {"a": Arrivals([0, 1], [START, START]), "b": Arrivals([2, 3], [START, START])}
    answers = [Answer(0, 200, START), Answer(2, 200, START), Answer(3, 503, START)]
    assert sort_messages(5, arrivals, answers, "a") == MessageFates(2, 1, 2, {503: 1})


@pytest.mark.parametrize(
    ("seconds", "done", "late", "doubtful"),
    [(0.1, 1, 0, 0), (9.7, 1, 0, 0), (9.9, 1, 0, 1), (10.1, 0, 1, 1), (10.3, 0, 1, 0), (16.0, 0, 1, 0)],
)
def test_an_answer_that_nobody_waits_for_any_more_ends_no_call_well(
    seconds: float, done: int, late: int, doubtful: int
) -> None:
    call = Call(START, START + NS, START + NS + round(seconds * NS), patience=10.0, backends={"a"})
    fates = sort_calls([call], "a")
    assert (fates.done, fates.late, fates.doubtful) == (done, late, doubtful)
    assert (fates.failed_on_victim, fates.failed_elsewhere) == (1 - done, 0)


def test_captures_tell_new_calls_from_old_ones(tmp_path: Path) -> None:
    gateway, backend, phone = "192.168.1.5", "192.168.1.11", "198.51.100.20"

    def message(start: str, method: str, to: str = "<sip:b@c>", call: str = "one") -> bytes:
        return (
            f"{start}\r\nVia: SIP/2.0/UDP 1.2.3.4;branch=z9hG4bK{method}\r\nTo: {to}\r\n"
            f"Call-ID: {call}\r\nCSeq: 1 {method}\r\n\r\n"
        ).encode()

    def packet(src: str, dst: str, text: bytes) -> Packet:
        made: Packet = Ether() / IP(src=src, dst=dst) / UDP(sport=5060, dport=5060) / text
        return made

    load = messages.template("REGISTER", 0, "198.51.100.64:5060").fill(17)
    inside = [
        packet(gateway, backend, message("INVITE sip:b@c SIP/2.0", "INVITE")),
        packet(gateway, backend, message("INVITE sip:b@c SIP/2.0", "INVITE", "<sip:b@c>;tag=x")),
        packet(gateway, backend, load),
        packet("192.168.1.21", backend, message("BYE sip:b@c SIP/2.0", "BYE")),
    ]
    outside = [
        packet(phone, "203.0.113.5", message("INVITE sip:b@c SIP/2.0", "INVITE")),
        packet(phone, "203.0.113.5", message("INVITE sip:b@c SIP/2.0", "INVITE", call="two")),
        packet("203.0.113.5", phone, message("SIP/2.0 200 OK", "INVITE", call="two")),
        packet(phone, "203.0.113.5", message("BYE sip:b@c SIP/2.0", "BYE")),
        packet("203.0.113.5", phone, message("SIP/2.0 200 OK", "BYE")),
        packet("203.0.113.5", phone, message("SIP/2.0 200 OK", "BYE")),
    ]
    for name, seen in (("inside", inside), ("outside", outside)):
        wrpcap(str(tmp_path / name), seen)
    found, arrivals = visits(tmp_path / "inside", "a", ip_address(backend).packed, ip_address(gateway).packed)
    assert [visit.new for visit in found] == [True, False]
    assert list(arrivals.numbers) == [17]
    told = calls_in(tmp_path / "outside", found, patience=10.0)
    assert {name: (call.done, call.backends) for name, call in told.items()} == {
        "one": (True, {"a"}),
        "two": (False, set()),
    }


def test_a_pause_is_the_longest_way_in_its_window_and_of_its_worker() -> None:
    """Flows 1 and 3 are the second worker's; it stands for 30 ms at message 101."""
    late = {number: 30 - (number - 101) for number in range(101, 131, 2)}
    times = sent(400)
    arrived = {"b": Arrivals(range(400), [at + MS + late.get(n, 0) * MS for n, at in enumerate(times)])}
    windows = [Window("quiet", times[0], times[90]), Window("change", times[95], times[200])]
    found = pauses(times, ways(times, arrived), [0, 1, 0, 1], 2, windows)
    assert found["quiet"].longest_ms == (1.0, 1.0)
    assert found["change"].longest_ms == (1.0, 31.0)
    assert found["change"].messages == 105


def test_every_edition_of_a_large_farm_is_right(tmp_path: Path) -> None:
    arena = LargeArena("x", large.Options(pools=3, backends=24), print)
    arena.dir = tmp_path
    arena.config = tmp_path / "nfqlb.toml"
    texts = []
    for edition in range(3):
        arena.editions = [edition] * 3
        arena.write_config()
        texts.append(arena.config.read_text())
        config = build(arena.config, tomllib.loads(texts[-1]))
        assert [len(pool.backends) for pool in config.pools] == [7, 7, 7]
    assert len(set(texts)) == 3


# -- growth


def process(*sizes: int, fds: tuple[int, ...] = (), begin: float = 0.0) -> Watched:
    """A process with a look every 10 s."""
    counts = fds or (5,) * len(sizes)
    samples = [
        Sample(begin + 10 * number, size, size // 2, size // 4, count)
        for number, (size, count) in enumerate(zip(sizes, counts, strict=True))
    ]
    return Watched(1, "nfqlb-0", samples)


def test_growth_counts_after_settling_and_to_the_peak() -> None:
    found = soak.growth_of(process(10_000, 20_000, 20_100, 23_100, 20_100), settle=10, end=40, every=10)
    assert found is not None
    assert (found.rss_kb, found.rss_growth_kb, found.pss_growth_kb, found.private_growth_kb) == (
        20_000,
        3100,
        1550,
        775,
    )


def test_files_that_are_open_for_a_moment_are_no_leak() -> None:
    steady = process(*[1] * 6, fds=(5, 5, 9, 5, 5, 9))
    leaking = process(*[1] * 6, fds=(5, 5, 6, 7, 8, 9))
    assert [each.fds_growth for each in map(grown, (steady, leaking)) if each] == [0, 2]


def grown(watched: Watched) -> soak.Growth | None:
    return soak.growth_of(watched, settle=10, end=50, every=10)


def test_who_came_late_or_left_early_tells_nothing() -> None:
    assert grown(process(1, 1, 1, 1, begin=20)) is None
    assert grown(process(1, 1, 1)) is None
    assert grown(process(1, 1, 1, 1, 1, 1)) is not None


@pytest.mark.parametrize(("peak", "ok"), [(21_000, True), (23_000, False)])
def test_a_process_may_grow_a_little(peak: int, ok: bool) -> None:
    options = soak.Options(seconds=40, settle=10)
    result = soak.measured(options, 40, [process(10_000, 20_000, 20_000, peak, 20_000)], [])
    assert result.ok is ok
    assert json.loads(json.dumps(result.as_dict()))["growth"][0]["rss_growth_kb"] == peak - 20_000


# -- configurations and SIPp's sides


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("pools", [Arena.pools, CallArena.pools], ids=["one pool", "a pool for each kind of call"])
def test_every_configuration_is_right(family: int, pools: tuple[PoolPlan, ...], tmp_path: Path) -> None:
    plan = Plan("x", family=family, registrars=4, proxies=0)
    settings = [Settings(weights, 2) for weights in Reload.WEIGHTS] + [Settings((1, 1), 3, listeners=2)]
    texts = [render(plan, 'secret_file = "secret"', each, pools) for each in settings]
    for text in texts:
        config = build(tmp_path / "nfqlb.toml", tomllib.loads(text))
        assert config.warnings == ()
    assert len(set(texts)) == len(texts)
    assert texts[1].count("reg3") == 0
    assert texts[4].count("[[listener]]") == 2


def test_reloads_differ_each_from_the_one_before() -> None:
    arena = CountedArena("x", family=4, workers=2, say=print)
    for kind in (Reload, ReloadRules):
        scenario = kind(arena)
        first = arena.settings
        seen = [first, *(scenario.settings(number) for number in range(8))]
        assert all(one != next_ for one, next_ in itertools.pairwise(seen)), kind
        rules = [(each.workers, each.listeners) for each in seen]
        assert (len(set(rules)) == 1) is (kind is Reload)


def test_a_reload_is_reviewed_by_who_got_what() -> None:
    """Events from 1 to 2 and from 3 to 4 s; then the weights are (1, 2, 0, 1), and (0, 1, 1, 1)."""
    scenario = Reload(CountedArena("x", family=4, workers=2, say=print))
    second = 1000 * MS
    scenario._phases = [(1 * second, 2 * second), (3 * second, 4 * second)]

    def arrivals(**times: list[float]) -> dict[str, Arrivals]:
        return {name: Arrivals(range(len(each)), [int(time * second) for time in each]) for name, each in times.items()}

    many = [0.5] * 300
    good = arrivals(
        reg1=[*many, *[2.5] * 100], reg2=[*many, 2.5, 4.5], reg3=[*many, 1.5, 4.5, 3.5], reg4=[*[2.5] * 100, 4.5]
    )
    assert scenario.review(good) == []
    stale = dict(good) | arrivals(reg3=[2.5, 4.5])
    assert scenario.review(stale) == ["After event 0 reg3 was not in the configuration and got 1."]
    idle = dict(good) | arrivals(reg4=[4.5], reg2=[*[2.5] * 200, 4.5])
    assert scenario.review(idle) == ["After event 0 reg4 was in the configuration and got nothing."]


def test_a_bad_file_has_every_mistake_that_must_be_named(tmp_path: Path) -> None:
    from nfqlb.config.problems import ConfigError

    plan = Plan("x", registrars=4, proxies=0)
    good = render(plan, 'secret_file = "secret"', Settings((1, 1, 1), 2), Arena.pools)
    bad = good + "".join(BadReload.MISTAKES.values())
    with pytest.raises(ConfigError) as told:
        build(tmp_path / "nfqlb.toml", tomllib.loads(bad))
    for word in BadReload.MISTAKES:
        assert word in str(told.value)


def test_sides_hold_are_late_lose_and_linger() -> None:
    manner = Manner(hold_ms=3000, late_ms=700, lost=3, linger_ms=4000)
    caller, callee = (render_side("call", caller=who, manner=manner) for who in (True, False))
    assert re.findall(r'<pause milliseconds="(\d+)"', caller) == ["3000"]
    assert re.findall(r'<pause milliseconds="(\d+)"', callee) == ["700", "60"]
    assert re.findall(r'<send(.*?)><!\[CDATA\[\s*(\S+ ?\S*)', callee) == [
        ("", "SIP/2.0 180"), (' retrans="500" lost="3"', "SIP/2.0 200"), (' lost="3"', "SIP/2.0 200"),
    ]  # fmt: skip
    assert "lost=" not in caller
    assert render_side("busy", caller=True, manner=manner).count(' lost="3"') == 1
    assert caller.count('<timewait milliseconds="4000"/>') == 1
    cancelled = render_side("cancel", caller=False, manner=manner)
    # The 200 to a CANCEL is never lost: the 487 would overtake it.
    assert re.findall(r'<send(.*?)><!\[CDATA\[\s*SIP/2.0 (\d+)', cancelled) == [
        ("", "180"), ("", "200"), (' retrans="500" lost="3"', "487"),
    ]  # fmt: skip
    assert re.findall(r'<pause milliseconds="(\d+)"', cancelled) == ["700", "700", "60"]


def test_events_of_a_run_of_calls_are_mixed() -> None:
    planned = [kind.name for kind in calls.plan_events(calls.Options())]
    assert {name: planned.count(name) for name in set(planned)} == {"reload": 10, "upgrade": 3, "worker-kill": 5}
    assert all(name in planned[:9] and name in planned[9:] for name in ("reload", "upgrade", "worker-kill"))
    assert sum(kind.share for kind in calls.KINDS) == 100
    fewer = calls.plan_events(replace(calls.Options(), reloads=0, upgrades=0, kills=2))
    assert [kind.name for kind in fewer] == ["worker-kill", "worker-kill"]


# -- the command line


@pytest.mark.parametrize("name", [*SCENARIOS, *OUTAGES, "all", "soak", "calls", "large"])
def test_every_scenario_has_help_and_an_example_that_parses(name: str) -> None:
    shown = CliRunner().invoke(main, [name, "--help"])
    assert shown.exit_code == 0, shown.output
    example = re.search(r"Example:\n +sudo tools/chaos (.*)", shown.output)
    assert example
    assert example[1].split()[0] == name
    assert CliRunner().invoke(main, [*example[1].split(), "--help"]).exit_code == 0


def test_an_unknown_scenario_is_wrong_usage() -> None:
    assert CliRunner().invoke(main, ["no-such-thing"]).exit_code == 2
