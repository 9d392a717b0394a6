"""Figures in the documentation are those that were measured, and the arithmetic of capacity is right."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from devtools.bench import page
from devtools.bench.__main__ import main
from devtools.bench.page import Profile
from nfqlb.lab import LabError

ROOT = Path(__file__).parent.parent.parent


def results(system: str, mix: str, capacity: list[float]) -> dict[str, Any]:
    point = {
        "core": 20.0,
        "processes": 15.0,
        "user": 10.0,
        "system": 6.0,
        "softirq": 4.0,
        "p50": 50.0,
        "p99": 70.0,
        "p999": 90.0,
    }
    parts = (0.0,) if mix == "junk" else (0.25, 0.5, 0.8)
    points = [{"part": part, **point} for part in parts for _ in range(2)]
    return {"system": system, "mix": mix, "capacity": capacity, "points": points, "memory": 50 * 2**20}


LIVE: dict[str, Any] = {
    "date": "2026-01-31",
    "machine": {"nfqlb": "0.1", "path": "compiled", "python": "3.11.2", "kernel": "6.1", "processor": "X"},
    "options": {"rounds": 5},
    "junk_part": [0.21, 0.2, 0.22],
    "idle_junk_part": 0.6,
    "results": [
        results("nfqlb", "register", [30_000.0, 36_000.0, 33_000.0]),
        results("nfqlb", "call", [28_000.0, 28_000.0, 28_000.0]),
        results("nfqlb", "junk", []),
    ],
    "ratios": {"register": {"kamailio": {"throughput": [1.5, 1.4, 1.6], "core": [0.6, 0.5, 0.7]}}},
}
COST = {"series": "backends", "value": 1000, "workers": 12.34, "memory": 50 * 2**20}
SCALING: dict[str, Any] = {"date": "2026-02-01", "costs": [COST]}


def test_a_table_shows_the_median_and_the_spread() -> None:
    text = page.filled("a\n<!-- bench:throughput -->\nold\n<!-- /bench -->\nz\n", LIVE, SCALING)
    assert text.startswith("a\n<!-- bench:throughput -->\n| ")
    assert "| register: nfqlb | 33,000 (30,000–36,000) | 20.0 | 15.0 | 10.0 | 6.0 | 4.0 | 50 |\n" in text
    assert "old" not in text
    assert "junk" not in text
    assert page.filled(text, LIVE, SCALING) == text


def test_every_table_can_be_made() -> None:
    for name in page.TABLES:
        text = page.filled(f"<!-- bench:{name} -->\n<!-- /bench -->", LIVE, SCALING)
        assert len(text) > 80, name
    assert "1.50 (1.40–1.60)" in page.ratios(LIVE, SCALING)
    assert "21% (20%–22%) of a forwarded REGISTER" in page.ratios(LIVE, SCALING)
    assert "| backends 1,000 | 12.3 | 50 |" in page.growth(LIVE, SCALING)


def test_what_a_subscriber_asks_for() -> None:
    """4 messages in 5 minutes, a call an hour of twice 7, and two messages each half a minute."""
    assert Profile("x", 300, 4, 1, 30).messages() == pytest.approx(4 / 300 + 14 / 3600 + 2 / 30)
    assert Profile("x", 1800, 4, 0).messages() == pytest.approx(4 / 1800)


def test_capacity_is_that_of_the_slower_mix_at_half_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "PROFILES", (Profile("x", 400, 4, 0),))
    text = page.capacity(LIVE, SCALING)
    assert "One core passes 28,000 messages a second; planned with 50% of that, 14,000:" in text
    assert "| x | 0.0100 | 1,400,000 | 0 | 1 |" in text
    assert "registrations: 2,000 a second and core" in text


def test_a_table_that_is_not_there_is_told() -> None:
    with pytest.raises(LabError, match="no table 'nonsense'"):
        page.filled("<!-- bench:nonsense -->\n<!-- /bench -->", LIVE, SCALING)


def test_the_command_writes_the_pages_of_a_checkout(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    for name in page.PAGES:
        (tmp_path / name).write_text("<!-- bench:where -->\n<!-- /bench -->\n")
    found = CliRunner().invoke(main, ["page", str(tmp_path)])
    assert found.exit_code == 1
    assert "docs/benchmark.json is missing: 'tools/bench live -o docs/benchmark'" in found.output
    (tmp_path / page.LIVE).write_text(json.dumps(LIVE))
    (tmp_path / page.SCALING).write_text(json.dumps(SCALING))
    found = CliRunner().invoke(main, ["page", str(tmp_path)])
    assert (found.exit_code, found.output.count("written:")) == (0, 3)
    assert "on 2026-01-31: X" in (tmp_path / "README.md").read_text()
    assert CliRunner().invoke(main, ["page", str(tmp_path)]).output == ""


def test_the_pages_here_show_the_figures_that_lie_beside_them() -> None:
    live, scaling = (json.loads((ROOT / name).read_text()) for name in (page.LIVE, page.SCALING))
    for name in page.PAGES:
        text = (ROOT / name).read_text()
        assert "<!-- bench:" in text
        assert page.filled(text, live, scaling) == text, f"{name}: tools/bench page"
