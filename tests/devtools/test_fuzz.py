"""tools/fuzz: half a minute of it; its targets, mutations and findings, its processes and its command line."""

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest
from click.testing import CliRunner, Result

from devtools.fuzz import campaign, findings, mutate, process, targets
from devtools.fuzz.__main__ import main
from devtools.fuzz.gauge import LONGEST, Gauge
from devtools.fuzz.invariants import INVARIANTS, broken
from devtools.fuzz.packets import TwinsTarget
from devtools.fuzz.process import Job
from devtools.fuzz.target import Target
from devtools.fuzz.targets import TARGETS
from devtools.fuzz.world import request
from nfqlb import fast
from nfqlb.gateway.ha.digest import code
from nfqlb.proxy.verdict import Action, Reason

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(420)
def test_half_a_minute_of_hostile_bytes_breaks_nothing(tmp_path: Path) -> None:
    """All targets, guided by coverage where atheris is installed; whatever is found stands in the message."""
    ran = subprocess.run(
        ["nice", sys.executable, "-m", "devtools.fuzz", "--seconds", "30", "--jobs", "1", "--seed", "1", "--json",
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


@pytest.mark.skipif(fast.which() != "compiled", reason=f"no fast path here: {fast.which()}")
def test_twins_are_asked_in_both_ip_versions() -> None:
    here = target("twins")
    assert isinstance(here, TwinsTarget)
    versions = Counter(here.way(data).src.version for data in here.seeds())
    assert versions[4] > 100
    assert versions[6] > 60


# -- mutations --------------------------------------------------------------------------------------------------------

PLAIN = request(
    b"INVITE", b"sip:b@c", b"SIP/2.0/UDP [2001:db8::1];branch=z9hG4bK1, SIP/2.0/UDP g;branch=2", b"Supported: path"
)


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


def job(tmp_path: Path, name: str = "brittle", **changes: Any) -> Job:
    gauge = tmp_path / "gauge"
    Gauge.create(gauge)
    (tmp_path / "corpus").mkdir(exist_ok=True)
    plain = Job(name, False, 20.0, 3000, 1, str(gauge), str(tmp_path / "corpus"), str(tmp_path / "findings"))
    return plain._replace(**changes)


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


def running(tmp_path: Path, **changes: Any) -> campaign.Running:
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
    monkeypatch.setattr("devtools.fuzz.__main__.has_atheris", lambda: False)
    result = call("--kind", "guided")
    assert result.exit_code == 1
    assert "atheris is not installed" in result.output


def test_results_are_told_and_accounted_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")  # it needs no other program
    result = call("lists", "via", "--runs", "500", "--jobs", "2", "--kind", "blind", "--seed", "4", "--dir", tmp_path)
    assert result.exit_code == 0, result.output
    assert "0 violations (seed 4)" in result.output
    lines = [json.loads(line) for line in (tmp_path / "account.jsonl").read_text().splitlines()]
    assert {line["target"] for line in lines} == {"lists", "via"}
    assert all(line["executions"] >= 500 and not line["violations"] for line in lines)
    assert {line["code"] for line in lines} == {code()}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_all_and_tells_what_was_done(number: signal.Signals, tmp_path: Path) -> None:
    started = subprocess.Popen(
        ["sh", "-c", 'trap "" INT; exec "$@"', "sh", sys.executable, "-m", "devtools.fuzz", "lists", "via",
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
