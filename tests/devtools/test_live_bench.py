"""tools/bench live: what it starts, what it reports, and that nothing stays. How fast anything is, is not asked."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from sipcase import check_packet

from devtools.bench import floor, live, load, report, systems, traffic
from devtools.bench.floor import ROW, Floor, six
from devtools.bench.live import Bench, Options, Point, Result
from devtools.bench.load import Run
from devtools.bench.systems import SYSTEMS
from nfqlb.lab import LabError, namespaces
from nfqlb.net import datagram
from nfqlb.net.endpoint import Endpoint

EXTERNAL, INTERNAL, BACKEND, PHONE = "203.0.113.5:5060", "192.168.1.5:5060", "192.168.1.11:5060", "198.18.0.1:40000"


def packet(src: str, dst: str, payload: bytes) -> bytes:
    return datagram.build(Endpoint.parse(src), Endpoint.parse(dst), payload, ident=77)


# the floor


@pytest.fixture
def splicer() -> Floor:
    return Floor(six(EXTERNAL), six(INTERNAL), six(BACKEND), six(PHONE))


@pytest.mark.parametrize("start", [b"INVITE sip:a@b SIP/2.0", b"INVITE sip:aa@b SIP/2.0"], ids=["even", "odd"])
@pytest.mark.parametrize("body", [b"x", b"xy"], ids=["odd", "even"])
def test_the_floor_adds_its_row_and_takes_it_away_again(splicer: Floor, start: bytes, body: bytes) -> None:
    message = start + b"\r\nVia: SIP/2.0/UDP 198.18.0.9:4000;branch=z9hG4bK1\r\n\r\n" + body
    entered = splicer.rewrite(packet("198.18.0.9:4000", EXTERNAL, message))
    check_packet(entered)
    got = datagram.parse(entered)
    assert (str(got.src), str(got.dst)) == (INTERNAL, BACKEND)
    assert got.payload == message.replace(b"\r\n", b"\r\n" + ROW, 1)

    answer = b"SIP/2.0 200 OK\r\n" + got.payload.partition(b"\r\n")[2]
    left = splicer.rewrite(packet(BACKEND, INTERNAL, answer))
    check_packet(left)
    got = datagram.parse(left)
    assert (str(got.src), str(got.dst)) == (EXTERNAL, PHONE)
    assert got.payload == b"SIP/2.0 200 OK\r\n" + message.partition(b"\r\n")[2]


def test_words_are_the_sum_of_the_internet_checksum() -> None:
    assert floor.words(b"\x01\x02\x03") == 0x0102 + 0x0300
    assert len(ROW) % 2 == 0


# the generator


def test_scripts_are_written_with_their_lengths() -> None:
    text = load.scripts_text()
    for name, script in traffic.scripts().items():
        steps = len(script.dialog) + len(script.steps)
        assert f"script {name} {len(script.dialog)} {steps} 0\n".encode() in text
        for step in script.steps:
            assert b"step %d %d\n%b\n" % (step.sender == traffic.INSIDE, len(step.text), step.text.encode()) in text


def test_every_mix_is_made_of_scripts() -> None:
    text = load.scripts_text()
    for scripts in load.MIXES.values():
        assert scripts
        for name in scripts:
            assert b"script %b " % name.encode() in text


def test_without_a_compiler_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(LabError, match="apt-get install gcc"):
        load.compiled(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed (tools/test installs it)")
def test_the_generator_compiles_without_a_warning(tmp_path: Path) -> None:
    program = load.compiled(tmp_path)
    done = subprocess.run([program, "nonsense"], capture_output=True, text=True, check=False, timeout=10)
    assert (done.returncode, done.stderr) == (1, "load: nonsense is not KEY=VALUE\n")


# the search


class Limited(Bench):
    """A system that loses a tenth of what exceeds its limit."""

    def __init__(self, limit: float, generator: float = 1e9) -> None:
        super().__init__({}, Options(), lambda _: None)
        self.limit, self.generator, self.asked = limit, generator, 0

    def _run(self, name: str, mix: str, rate: float) -> Run:  # noqa: ARG002
        self.asked += 1
        rate = min(rate, self.generator)
        arrived = 100_000 if rate <= self.limit else 90_000
        return Run(100_000, 100_000, arrived, 0, "", 1.0, rate, 0, 0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize("start", [1000.0, 30_000.0, 300_000.0])
def test_the_search_ends_just_below_the_limit_from_wherever_it_starts(start: float) -> None:
    system = Limited(29_500)
    found = system.capacity("x", "call", start)
    assert 29_500 / live.PRECISION <= found <= 29_500
    assert system.asked < 45


def test_the_search_ends_where_the_generator_does() -> None:
    assert Limited(1e9, generator=50_000).capacity("x", "call", 45_000) == 50_000


def test_a_system_that_always_loses_has_no_rate() -> None:
    assert Limited(0).capacity("x", "call", 3000) == 0


# the report


def point(part: float, core: float, p50: float) -> Point:
    return Point(part, 1000.0, 0.0, core / 2, core / 4, core / 4, core, core, p50, 2 * p50, 3 * p50)


def result(system: str, mix: str, capacity: list[float], core: float) -> Result:
    parts = (0.0,) if mix == live.JUNK else live.PARTS
    points = [point(part, core + number, core) for number in range(2) for part in parts]
    return Result(system, mix, [] if mix == live.JUNK else capacity, points, 2**20)


RESULTS = [
    result("nfqlb", "call", [3000, 4000], 9),
    result("kamailio", "call", [1500, 1000], 19),
    result("nfqlb", "register", [3000, 4000], 9),
    result("kamailio", "register", [1500, 1000], 19),
    result("nfqlb", "junk", [], 1.9),
    result("nfqlb", "register-junk", [4000, 6400], 6),
]


def test_a_ratio_is_formed_within_each_round() -> None:
    found = report.ratios(RESULTS, "call")["kamailio"]
    assert found["throughput"] == (3.0, 2.0, 4.0)
    assert found["core"] == (0.4868, round(9 / 19, 4), 0.5)
    assert found["p50"] == (round(9 / 19, 4),) * 3


def test_junk_is_compared_with_a_forwarded_message() -> None:
    assert report.junk_part(RESULTS) == pytest.approx((0.375, 0.25, 0.5))
    assert report.idle_junk_part(RESULTS) == pytest.approx(2.4 / 9.5)
    assert (report.junk_part(RESULTS[:4]), report.idle_junk_part(RESULTS[:4])) == (None, None)


def test_without_us_there_is_no_ratio() -> None:
    assert report.ratios(RESULTS[1:2], "call") == {}
    assert report.ratio_rows(RESULTS[1:2]) == []


def test_the_picture_is_well_formed_and_shows_each_result_twice() -> None:
    drawn = ElementTree.fromstring(report.svg(RESULTS[:4], "<here & now>"))
    bars = [each for each in drawn.iter("{http://www.w3.org/2000/svg}rect") if each.get("height") == "14"]
    assert len(bars) == 2 * 4
    assert drawn[-1].text == "<here & now>"


def test_what_is_written_can_be_read_again(tmp_path: Path) -> None:
    paths = report.write(RESULTS, {"rounds": 2}, "2026-01-31", tmp_path / "figures")
    assert [path.name for path in paths] == ["figures.json", "figures.svg"]
    read = json.loads(paths[0].read_text())
    assert read["date"] == "2026-01-31"
    assert read["ratios"]["call"]["kamailio"]["throughput"] == [3.0, 2.0, 4.0]
    assert len(read["results"]) == len(RESULTS)


# the real thing


@pytest.mark.root
@pytest.mark.timeout(170)
def test_a_quick_run_measures_all_and_leaves_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "devtools.bench", "live", "--quick", "--mix", "call", "--mix", "junk", "--json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=160,
    )
    assert done.returncode == 0, done.stderr
    read: dict[str, Any] = json.loads(done.stdout)
    found = {(each["system"], each["mix"]): each for each in read["results"]}
    assert set(found) == {
        (system, mix) for system in ("nfqlb", "kamailio", "kamailio-tlsf", "floor") for mix in ("call", "junk")
    }
    for (_, mix), each in found.items():
        assert each["memory"] > 2**20
        assert all(point["processes"] > 0 for point in each["points"])
        if mix == "call":
            assert each["capacity"][0] > 0
            assert all(0 < point["p50"] <= point["p99"] <= point["p999"] for point in each["points"])
    assert {"nfqlb", *read["ratios"]["call"]} == set(SYSTEMS)
    assert not [path for path in namespaces.NETNS_DIR.iterdir() if path.name.startswith(f"{_prefix(done.stderr)}-")]


def _prefix(errors: str) -> str:
    """The run said in which namespaces it works."""
    line = next(line for line in errors.splitlines() if "namespaces" in line)
    return line.split()[-1]


@pytest.mark.root
def test_scaling_measures_messages_larger_than_a_link_would_take(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "devtools.bench", "scaling", "--quick", "--json", "-o", str(tmp_path / "scaling.json")],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)
    assert read == json.loads((tmp_path / "scaling.json").read_text())
    assert [(each["series"], each["value"]) for each in read["costs"]] == [("backends", 10), ("size", 5000)]
    assert all(each["workers"] > 0 and each["loss"] == 0 for each in read["costs"])


@pytest.mark.root
def test_a_system_that_cannot_start_is_told_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systems.Floor, "command", lambda _: ["sh", "-c", "echo no luck; exit 1"])
    options = replace(Options(), systems=("floor",), phones=10, prepared=1)
    name = f"nfqlb-bench{os.getpid()}-none"
    with pytest.raises(LabError, match=r"floor did not come up.*no luck"), live.started(name, options, lambda _: None):
        pass
    assert not list(namespaces.NETNS_DIR.glob(f"{name}*"))
