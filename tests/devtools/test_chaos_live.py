"""tools/chaos, each scenario in its short form: what was lost is held against the bounds, and the real tool is run."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
from livelab import fresh_name

from devtools.chaos import calls, flood, large, outages
from devtools.chaos.counted import CountedArena
from devtools.chaos.run import Options, measure
from devtools.chaos.scenarios import SCENARIOS, BadReload, Happened, Scenario
from nfqlb.lab import lab

pytestmark = pytest.mark.root

CHAOS = [sys.executable, "-m", "devtools.chaos"]
SHORT = Options(rate=500, seconds=2.0, every=0.9)
SLOW_MACHINE = ("Nothing arrived",)
"""How problems begin that a machine with other work to do may cause: no test of ours asserts speed."""


@pytest.fixture(scope="module")
def arena() -> Iterator[CountedArena]:
    with CountedArena(fresh_name(), family=4, workers=2, say=print) as arena:
        yield arena


@pytest.mark.parametrize("name", SCENARIOS)
def test_bounds_are_kept(arena: CountedArena, name: str) -> None:
    result = measure(arena, SCENARIOS[name], SHORT, print)
    told = json.loads(json.dumps(result.as_dict()))
    assert [each for each in told["problems"] if not each.startswith(SLOW_MACHINE)] == []
    assert told["sent"] == 1000
    assert told["received"] + told["lost"] == told["sent"]
    assert told["duplicated"] == 0
    assert told["events"]
    assert told["where"]["receiver_dropped"] == 0
    assert sum(told["per_backend"].values()) == told["received"]


class Harm(Scenario):
    """Takes the rules out for a moment, which nothing can make up for."""

    name = "harm"

    def event(self, number: int) -> Happened:  # noqa: ARG002
        self.arena.nfqlb("rules", "remove", "--yes", "-c", str(self.arena.config))
        time.sleep(0.2)
        self.arena.nfqlb("rules", "apply", "-c", str(self.arena.config))
        return Happened("no rules for a while")


def test_what_is_lost_is_found(arena: CountedArena) -> None:
    """The tool itself, against a fault that does cost messages: it must not call that well."""
    result = measure(arena, Harm, replace(SHORT, seconds=8.0, every=2.0), print)
    assert not result.ok
    assert result.account.lost > 50
    assert result.events[0].lost > 50
    assert result.lost_before_events == 0
    assert result.account.max_gap_ms > 100
    assert any("messages were lost by no rules for a while" in each for each in result.problems)


class GoodReload(BadReload):
    MISTAKES: ClassVar = {"# harmless": "\n# harmless\n"}


def test_a_reload_that_is_not_refused_is_found(arena: CountedArena) -> None:
    happened = GoodReload(arena).event(0)
    assert "ended with status 0 instead of 1" in happened.problem


def test_calls() -> None:
    options = calls.Options(rate=60, hold=0.8, every=1.0, reloads=2, upgrades=1, kills=1, lost=0)
    result = calls.run(fresh_name(), options, print)
    assert result.problems == []
    told = json.loads(json.dumps(result.as_dict()))
    assert (told["failed"], told["successful"]) == (0, told["calls"])
    assert told["calls"] > 200
    assert told["proof"]["calls"] == told["calls"]
    assert told["proof"]["requests"]["CANCEL"] > 20
    assert told["proof"]["requests"]["ACK (non-2xx)"] > 40
    assert told["proof"]["repeated"]["INVITE"] > 20
    assert [event["status"] for event in told["events"] if event["what"].startswith("nfqlb")] == [0, 0, 0]


QUICK = outages.Options(rate=200, calls=20, hold=1.5, lead=1.5, out=1.0, interval=0.6, timeout=0.4, fall=2)


@pytest.mark.parametrize(("name", "family"), [("backend-kill", 4), ("backend-freeze", 6), ("drain", 4)])
def test_a_backend_out_costs_nobody_else(name: str, family: int) -> None:
    result = outages.run(fresh_name(), outages.OUTAGES[name], replace(QUICK, family=family), print)
    assert [each for each in result.problems if "later than" not in each] == []
    told = json.loads(json.dumps(result.as_dict()))
    assert told["calls"]["failed_elsewhere"] == told["messages"]["unanswered_elsewhere"] == 0
    assert 0 < told["calls"]["on_victim"] < told["calls"]["made"]
    assert told["sent"] == told["received"] > 400
    assert told["serving_after_ms"] is not None


class NoWord(outages.Drain):
    """Somebody restarts a backend without a word to the gateway."""

    def command(self, *words: str) -> None:
        pass


def test_a_restart_without_a_drain_is_found() -> None:
    result = outages.run(fresh_name(), NoWord, QUICK, print)
    assert any("later than 1000 ms" in each for each in result.problems)


def test_a_large_farm() -> None:
    result = large.run(fresh_name(), large.Options(pools=5, backends=100, rate=500, changes=2, reloads=1), print)
    assert [each for each in result.problems if not each.startswith(("A packet waited", "A reload of"))] == []
    assert sum(result.flows_of_workers) == 10
    assert {each.pools for each in result.reloaded} == {1, 5}
    assert result.pauses["one table"].windows == 4
    assert result.pauses["every table at once"].messages > 1000
    assert {each.name for each in result.memory_after} >= {"nfqlb-0", "nfqlb-1"}


def test_a_flood() -> None:
    """Whether calls suffer is a matter of the machine; who is banned, and for how long, is not."""
    options = flood.Options(seconds=5, calls=20, junk=2000, sources=20, ban=8)
    result = flood.run(fresh_name(), options, print)
    told = json.loads(json.dumps(result.as_dict()))
    slow = ("Of ", "The flooding source was banned after", "The ban lasted", "nfqlb-")
    assert [each for each in told["problems"] if not each.startswith(slow)] == []
    assert told["sent"]["options"] > 20_000
    assert told["bans"] >= 1
    assert told["banned_sources"] > 1
    assert told["successful"] > 0
    assert told["restarts"] == 0
    assert {each["name"] for each in told["memory"]} >= {"nfqlb-0", "nfqlb-1", "nfqlb-guard"}


def test_an_interrupted_soak_has_a_result_and_leaves_nothing_behind(tmp_path: Path) -> None:
    name, output = fresh_name(), tmp_path / "soak.json"
    argv = [*CHAOS, "soak", "--minutes", "5", "--rate", "500", "--settle", "1", "--sample", "1", "--name", name]
    running = subprocess.Popen(
        [*argv, "--output", str(output)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline and running.poll() is None:
        if output.exists() and json.loads(output.read_text())["ran"] > 3.5:
            break
        time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    errors = running.communicate(timeout=40)[1]
    assert running.returncode == 128 + signal.SIGINT, errors
    assert "Traceback" not in errors
    assert lab.names(name) == []
    told = json.loads(output.read_text())
    assert told["interrupted"] is True
    # Growth is a matter of hours: in the first seconds a process still touches pages that it has had all along.
    # So does who bans: on a busy machine it has only begun when growth counts.
    early = [each for each in told["problems"] if "has grown by" in each or each.startswith("nfqlb-guard")]
    assert [each for each in told["problems"] if each not in early] == []
    assert told["sent"] == told["received"] > 1000
    assert {each["name"].partition("-")[0] for each in told["growth"]} >= {"nfqlb"}
    assert len(told["growth"]) == 5  # a supervisor, two workers, who asks the backends, and who bans
    assert all(each["rss_kb"] > 1000 for each in told["growth"])


def test_one_scenario_from_the_command_line_and_ipv6() -> None:
    name = fresh_name()
    options = ("--rate", "300", "--seconds", "1.5", "--every", "0.6", "--ipv6", "--mixed", "--json", "--name", name)
    done = subprocess.run([*CHAOS, "worker-kill", *options], capture_output=True, text=True, timeout=60, check=False)
    told = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1
    assert [each for each in told["problems"] if not each.startswith(SLOW_MACHINE)] == []
    assert done.returncode == (0 if told["ok"] else 1)
    assert told["received"] + told["lost"] == told["sent"] == 450
    assert len(told["events"]) == 2
    assert lab.names(name) == []


def test_all_scenarios_from_the_command_line() -> None:
    """All that there are: two of them here, as each has its test above."""
    name, two = fresh_name(), ["worker-kill", "bad-reload"]
    options = ("--rate", "200", "--seconds", "1", "--every", "0.6", "--json", "--name", name)
    code = f"""
from devtools.chaos import __main__ as chaos
for each in set(chaos.SCENARIOS) - set({two!r}):
    del chaos.SCENARIOS[each]
chaos.main()
"""
    argv = [sys.executable, "-c", code, "all", *options]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert "Traceback" not in done.stderr
    told = json.loads(done.stdout)
    assert [each["scenario"] for each in told] == [each for each in SCENARIOS if each in two]
    assert done.returncode == (0 if all(each["ok"] for each in told) else 1)
    assert lab.names(name) == []
