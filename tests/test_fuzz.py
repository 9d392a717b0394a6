"""tools/fuzz: a minute of it, and that it would find what it looks for: each invariant is broken here on purpose."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random

import pytest
from click.testing import CliRunner, Result

from nfqlb.lab.fuzz import campaign, findings, journey, mutate, naive, oracle, packets, process, targets
from nfqlb.lab.fuzz.__main__ import main
from nfqlb.lab.fuzz.gauge import LONGEST, Gauge
from nfqlb.lab.fuzz.invariants import INVARIANTS, Violation, broken
from nfqlb.lab.fuzz.process import Job
from nfqlb.lab.fuzz.target import Target
from nfqlb.lab.fuzz.targets import TARGETS
from nfqlb.lab.fuzz.world import Way, World, build_all, payload_of, request
from nfqlb.net import datagram
from nfqlb.net.endpoint import Endpoint
from nfqlb.proxy.verdict import Action, Reason, Verdict
from nfqlb.sip import via

ROOT = Path(__file__).parent.parent
TOS = 0xB8


@pytest.mark.timeout(420)
def test_a_minute_of_hostile_bytes_breaks_nothing(tmp_path: Path) -> None:
    """All targets, guided by coverage where atheris is installed; whatever is found stands in the message."""
    ran = subprocess.run(
        ["nice", sys.executable, "-m", "nfqlb.lab.fuzz", "--seconds", "60", "--jobs", "2", "--seed", "1", "--json",
         "--dir", tmp_path], capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    told = json.loads(ran.stdout)
    assert (ran.returncode, told["violations"]) == (0, 0), ran.stdout + ran.stderr
    assert {each["target"] for each in told["results"]} == set(TARGETS)
    assert all(each["executions"] for each in told["results"])
    if not process.has_atheris():
        assert "not guided by coverage" in ran.stderr


@cache
def target(name: str) -> Target:
    return TARGETS[name]()


@pytest.mark.parametrize("name", TARGETS)
def test_every_seed_holds(name: str) -> None:
    here = target(name)
    seeds = here.seeds()
    assert len(seeds) > 5
    shapes = set()
    for data in seeds:
        shape, found = findings.attempt(here, data)
        assert found is None, found
        shapes.add(shape)
    assert len(shapes) > 2, "seeds of all kinds"


def test_seeds_of_the_engine_go_every_way() -> None:
    here = target("engine")
    reasons = {shape[1] for shape in map(here.run, here.seeds()) if isinstance(shape, tuple)}
    assert reasons >= {each for each in Reason if each.action is Action.FORWARD}
    assert reasons >= {Reason.PING, Reason.HOPS_PING, Reason.KEEPALIVE}


# -- mutations --------------------------------------------------------------------------------------------------------

PLAIN = request(b"INVITE", b"sip:b@c", b"SIP/2.0/UDP h;branch=z9hG4bK1, SIP/2.0/UDP g;branch=2", b"Supported: path")


@pytest.mark.parametrize("change", dict.fromkeys(mutate.CHANGES), ids=lambda change: change.__name__)
def test_each_change_changes_rows_and_leaves_the_start_line(change: mutate.Change) -> None:
    made = set()
    for seed in range(30):
        chance = Random(seed)
        lines = PLAIN.split(b"\r\n")[:-2]
        change(lines, chance.randrange(1, len(lines)), chance)
        assert lines[0] == b"INVITE sip:b@c SIP/2.0"
        made.add(b"\r\n".join(lines))
    assert made - {b"\r\n".join(PLAIN.split(b"\r\n")[:-2])}


@pytest.mark.parametrize("name", TARGETS)
def test_mutations_are_the_same_for_the_same_seed_and_of_many_kinds(name: str) -> None:
    here = target(name)
    seeds = here.seeds()
    made = [here.mutate(seeds[seed % len(seeds)], seeds, Random(seed)) for seed in range(200)]
    assert made == [here.mutate(seeds[seed % len(seeds)], seeds, Random(seed)) for seed in range(200)]
    assert len(set(made)) > 150
    assert max(map(len, made)) <= process.LONGEST
    for data in (b"", b"\0", bytes(process.LONGEST)):
        assert len(here.mutate(data, seeds, Random(1))) <= process.LONGEST


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
        ("via", "nfqlb.proxy.stamp.fill_via", lambda _, *__: (UNLIKE, []), b"SIP/2.0/UDP h", "round-trip"),
        ("uri", "nfqlb.sip.uri.escape_param", lambda value: value, b"sip:a@b;c", "round-trip"),
        ("packet", "nfqlb.net.datagram.build", None, None, "sound-packet"),
    ],
)  # fmt: skip
def test_a_reader_that_errs_is_seen(
    name: str, where: str, instead: object, data: bytes | None, invariant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = target(name)
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
    "sources are not filled in": ("nfqlb.proxy.stamp.fill_via", lambda top, *_: (top, [])),
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


# -- running it -------------------------------------------------------------------------------------------------------


class Brittle(Target):
    """Breaks at two letters, in two ways."""

    name = about = "brittle"

    def run(self, data: bytes) -> object:
        if b"!" in data:
            broken("untouched", "an exclamation mark")
        if b"?" in data:
            raise ValueError("a question mark")
        return len(data) % 7

    def seeds(self) -> list[bytes]:
        return [b"fine", b"fine, too", b"x" * 40 + b"!"]


def job(tmp_path: Path, name: str = "brittle", **changes: object) -> Job:
    gauge = tmp_path / "gauge"
    Gauge.create(gauge)
    (tmp_path / "corpus").mkdir(exist_ok=True)
    plain = Job(name, False, 20.0, 3000, 1, str(gauge), str(tmp_path / "corpus"), str(tmp_path / "findings"))
    return plain._replace(**changes)  # type: ignore[arg-type]


def test_what_breaks_is_counted_made_small_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(TARGETS, "brittle", Brittle)
    process.blind(job(tmp_path))
    executions, violations, new = Gauge(tmp_path / "gauge").read()
    assert executions >= 3000
    assert 0 < violations < executions
    assert new > 0
    told = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert {each["invariant"] for each in told} == {"untouched", "no-exception"}
    assert len(told) <= 2 * findings.KEPT
    for each in told:
        assert Path(each["file"]).read_bytes() in (b"!", b"?")
        assert "exclamation" in each["detail"] or "ValueError at test_fuzz.py" in each["detail"]
    assert list((tmp_path / "corpus").iterdir())


def test_the_same_seed_tries_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TARGETS, "brittle", Brittle)
    tried: list[list[bytes]] = []
    for number in range(2):
        here = tmp_path / str(number)
        here.mkdir()
        mine: list[bytes] = []
        monkeypatch.setattr(Brittle, "run", lambda _, data, mine=mine: mine.append(data) or len(data))
        process.blind(job(here, runs=200))
        tried.append(mine)
    assert tried[0] == tried[1]


def test_the_gauge_holds_the_input_at_hand(tmp_path: Path) -> None:
    gauge = Gauge.create(tmp_path / "gauge")
    other = Gauge(tmp_path / "gauge")
    gauge.begin(b"one")
    gauge.violated()
    gauge.new()
    assert (other.read(), other.input()) == ((1, 1, 1), b"one")
    gauge.begin(bytes(LONGEST + 5))
    assert (other.read(), other.input()) == ((2, 1, 1), bytes(LONGEST))


def running(tmp_path: Path, **changes: object) -> campaign.Running:
    return campaign.Running(job(tmp_path, "lists", runs=0, **changes), tmp_path)


def wait(one: campaign.Running, until: Callable[[], bool]) -> bool:
    """Whether it still runs, when that holds or it has ended."""
    for _ in range(600):
        goes_on = one.look()
        if not goes_on or until():
            return goes_on
        signal.sigtimedwait([], 0.1)
    raise AssertionError("not within a minute")


def test_an_input_that_does_not_end_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = running(tmp_path)
    try:
        assert wait(one, lambda: one.result.executions > 0)
        one._process.send_signal(signal.SIGSTOP)
        monkeypatch.setattr(campaign, "HANGS", 0.5)
        assert not wait(one, lambda: False)
    finally:
        one.end()
    assert [each["invariant"] for each in one.result.findings] == ["ends"]
    assert one.result.violations == 1
    assert Path(one.result.findings[0]["file"]).exists()
    assert "does not end" in one.result.problem


def test_a_process_that_dies_is_found(tmp_path: Path) -> None:
    one = running(tmp_path)
    try:
        assert wait(one, lambda: one.result.executions > 0)
        one._process.kill()
        assert not wait(one, lambda: False)
    finally:
        one.end()
    assert one.result.violations == 1
    assert "died with -9" in one.result.problem


def call(*args: object) -> Result:
    return CliRunner().invoke(main, [str(each) for each in args])


def test_targets_and_invariants_are_listed() -> None:
    text = call("--list").output
    told = json.loads(call("--list", "--json").output)
    assert told["invariants"] == INVARIANTS
    assert {*told["targets"]} == {*TARGETS}
    for name in (*TARGETS, *INVARIANTS):
        assert f"  {name} " in text
    assert "Example:" in call("--help").output


def test_every_invariant_is_checked_somewhere() -> None:
    sources = [Path(module.__file__ or "").parent for module in (targets,)]
    text = "".join(path.read_text() for path in sources[0].glob("*.py") if path.name != "invariants.py")
    for name in INVARIANTS:
        assert f'"{name}"' in text


def test_a_stored_input_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TARGETS, "brittle", Brittle)
    good, bad, worse = (tmp_path / name for name in ("good", "bad", "worse"))
    good.write_bytes(b"x")
    bad.write_bytes(b"!")
    worse.write_bytes(b"?")
    assert call("brittle", good).exit_code == 0
    result = call("brittle", good, bad, worse)
    assert result.exit_code == 1
    assert "untouched: an exclamation mark" in result.output
    assert "Traceback" in result.output


@pytest.mark.parametrize(
    ("args", "text"),
    [(("nonsense",), "nonsense is neither a target"), ((__file__,), "Say which target"), (("--jobs", "x"), "--jobs")],
)
def test_wrong_usage_is_told(args: tuple[str, ...], text: str) -> None:
    result = call(*args)
    assert result.exit_code == 2
    assert text in result.output


def test_without_atheris_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nfqlb.lab.fuzz.__main__.has_atheris", lambda: False)
    result = call("--kind", "guided")
    assert result.exit_code == 1
    assert "atheris is not installed" in result.output


def test_results_are_told_and_accounted_for(tmp_path: Path) -> None:
    result = call("lists", "via", "--runs", "500", "--jobs", "2", "--kind", "blind", "--seed", "4", "--dir", tmp_path)
    assert result.exit_code == 0, result.output
    assert "0 violations (seed 4)" in result.output
    lines = [json.loads(line) for line in (tmp_path / "account.jsonl").read_text().splitlines()]
    assert {line["target"] for line in lines} == {"lists", "via"}
    assert all(line["executions"] >= 500 and not line["violations"] for line in lines)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_all_and_tells_what_was_done(number: signal.Signals, tmp_path: Path) -> None:
    started = subprocess.Popen(
        ["sh", "-c", 'trap "" INT; exec "$@"', "sh", sys.executable, "-m", "nfqlb.lab.fuzz", "lists", "via",
         "--jobs", "2", "--kind", "blind", "--seconds", "600", "--dir", tmp_path],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    try:
        for _ in range(600):
            if len(list(tmp_path.glob("corpus/*/*"))) > 1:
                break
            signal.sigtimedwait([], 0.1)
        started.send_signal(number)
        out, err = started.communicate(timeout=60)
    finally:
        started.kill()
    assert started.returncode == 130, err
    assert "Traceback" not in err
    assert "executions, 0 violations" in out
