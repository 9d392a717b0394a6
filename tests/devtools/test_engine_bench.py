"""tools/bench engine and ratchet: what is measured is what the engine forwards, and a count that grew is told."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from devtools.bench import counting, ratchet, timing, traffic
from devtools.bench.__main__ import main
from devtools.bench.cases import Case, cases
from devtools.bench.player import Phone, Player, PlayError, engine, setup
from devtools.bench.traffic import OUTSIDE, Script, Step
from nfqlb import fast
from nfqlb.lab import LabError, namespaces
from nfqlb.proxy.verdict import Action, Reason

pytestmark = pytest.mark.slow

JUNK = {kind for kind, _ in traffic.JUNK}


@pytest.fixture(scope="module")
def made() -> list[Case]:
    return cases(2, phones=4)


def test_there_is_a_case_of_every_step_and_no_packet_twice(made: list[Case]) -> None:
    assert [case.kind for case in made] == traffic.kinds()
    for case in made:
        assert len(case.packets) == 8
        if case.kind not in JUNK:
            assert max(Counter(case.warm + case.packets).values()) == 1, case.kind


def test_the_engine_does_with_each_what_its_name_says(made: list[Case]) -> None:
    """In another engine than the one that they were played with, as in a measurement."""
    engines = {version: engine(setup(version=version)).process for version in (4, 6)}
    reasons = {case.kind: {engines[case.version](packet).reason for packet in case.packets} for case in made}
    for name, found in reasons.items():
        kind, (reason,) = name.removesuffix(traffic.IPV6), found
        if kind == "stun":
            assert reason.slug.startswith("stun")
        elif kind in JUNK | {"stray"}:
            assert reason.action is Action.DROP, kind
        elif kind == "ping":
            assert reason is Reason.PING
        elif kind.startswith(("100", "180", "200")):
            assert reason is (Reason.RESPONSE_ENTERING if kind.endswith("-in") else Reason.RESPONSE_LEAVING), kind
        else:
            assert reason is (Reason.REQUEST_LEAVING if kind.endswith("-out") else Reason.REQUEST_ENTERING), kind


def test_a_register_has_the_size_of_the_documentation() -> None:
    player = Player(setup())
    player.send("register", traffic.scripts()["register"].steps[0].text, Phone(2250))
    (packet,) = player.packets["register"]
    assert abs(len(packet) - 28 - traffic.REGISTER_SIZE) < 10


def test_a_message_that_is_not_forwarded_ends_the_play() -> None:
    stray = Script("stray", (Step("stray", OUTSIDE, traffic.STRAY),))
    with pytest.raises(PlayError, match="stray-response"):
        Player(setup()).play(stray, Phone(0))


def test_pyperf_times_what_is_asked_for() -> None:
    found = CliRunner().invoke(main, ["engine", "--quick", "--kind", "keepalive", "--kind", "register", "--json"])
    assert found.exit_code == 0, found.output
    times = {each["kind"]: each for each in json.loads(found.output)}
    assert set(times) == {"keepalive", "register"}
    assert times["keepalive"]["size"] == 4
    assert all(0 < each["best"] <= each["median"] for each in times.values())


@pytest.mark.skipif(fast.which() != "compiled", reason=f"no fast path here: {fast.which()}")
def test_the_careful_path_is_timed_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in the processes that pyperf starts."""
    best = []
    for pure in ("0", "1"):
        monkeypatch.setenv(fast.PURE, pure)
        (found,) = timing.measure(("register-ipv6",), quick=True)
        best.append(found.best)
    assert best[1] > 5 * best[0]


def test_a_kind_that_is_none_is_a_usage_error() -> None:
    found = CliRunner().invoke(main, ["engine", "--quick", "--kind", "nonsense"])
    assert found.exit_code == 2
    assert "'nonsense' is not one of" in found.output


# the ratchet

KEPT = {"a": 1000, "b": 1000, "c": 1000, "gone": 5}
NOW = {"a": 1050, "b": 1051, "c": 940, "new": 7}


def test_a_change_is_broken_above_the_tolerance_and_stale_below_it() -> None:
    changes = {change.kind: change for change in ratchet.compare(KEPT, NOW)}
    assert list(changes) == ["a", "b", "c", "new", "gone"]
    assert [kind for kind, change in changes.items() if change.broken] == ["b"]
    assert [kind for kind, change in changes.items() if change.stale] == ["c", "new", "gone"]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ratchet of our own, and counts that need no valgrind."""
    path = tmp_path / "ratchet.json"
    monkeypatch.setattr(ratchet.renew, "__defaults__", (path, ""))
    monkeypatch.setattr(ratchet.kept, "__defaults__", (path,))
    monkeypatch.setattr(counting, "count", lambda: NOW)
    return path


@pytest.mark.usefixtures("file")
def test_renewing_keeps_this_builds_counts_and_leaves_others() -> None:
    ratchet.renew(KEPT, of="another")
    found = CliRunner().invoke(main, ["ratchet", "--renew"])
    assert (found.exit_code, ratchet.kept()) == (0, {"another": KEPT, ratchet.build(): NOW})


@pytest.mark.usefixtures("file")
def test_what_grew_is_named_with_the_way_to_renew() -> None:
    ratchet.renew(KEPT)
    found = CliRunner().invoke(main, ["ratchet"])
    assert found.exit_code == 1
    assert "1 kind(s) need over 5% more than is kept: b." in found.output
    assert "tools/bench ratchet --renew" in found.output


@pytest.mark.usefixtures("file")
def test_without_counts_of_this_build_nothing_is_said() -> None:
    found = CliRunner().invoke(main, ["ratchet"])
    assert found.exit_code == 0
    assert "Nothing is kept for this build of Python" in found.output


def test_without_valgrind_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespaces, "search_path", lambda: "/nonexistent")
    with pytest.raises(LabError, match="apt-get install valgrind"):
        counting.count()


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed (sudo tools/test does)")
@pytest.mark.timeout(300)
def test_the_engine_needs_no_more_instructions_than_are_kept() -> None:
    before = ratchet.kept().get(ratchet.build())
    if before is None:
        pytest.skip(f"no counts are kept for this build of Python ({ratchet.build()}): {ratchet.RENEW}")
    changes = ratchet.compare(before, counting.count())
    broken = [
        f"{change.kind}: {change.kept} → {change.now} ({change.part:+.1%})" for change in changes if change.broken
    ]
    assert not broken, f"Where that is the price of something, say which in the commit, and: {ratchet.RENEW}"


def test_the_program_that_is_timed_does_not_end_silently_when_it_fails() -> None:
    done = subprocess.run(
        [sys.executable, "-m", timing.MODULE, "/nonexistent"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode != 0
    assert "/nonexistent" in done.stderr
