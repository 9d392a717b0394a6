"""What the log says of backends: whom we only take to be up, and who is."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from nfqlb.balance.health import Check
from nfqlb.balance.states import State
from nfqlb.balance.tables import Tables
from nfqlb.config.build import load
from nfqlb.engine import Engine
from nfqlb.gateway.backends import manager as care_module
from nfqlb.gateway.backends import plan as charge_module
from nfqlb.gateway.backends.log import NAMES
from nfqlb.gateway.backends.manager import BackendsManager
from nfqlb.gateway.backends.plan import BackendsPlan
from nfqlb.gateway.health.probe import Round
from nfqlb.gateway.shm.board import About, Board
from nfqlb.net.endpoint import Endpoint
from nfqlb.proxy.setup import Backend, Setup

EXAMPLE = Path(__file__).parents[3] / "docs/nfqlb.example.toml"
KEYS = (b"0123456789abcdef0123456789abcdef",)


@dataclass
class NoProber:
    """Takes the place of HealthManager."""

    round: Round
    board: Board
    known: object
    heard: Any
    selector: object

    def end(self) -> None:
        pass


class NoLoop:
    selector = None


@pytest.fixture(autouse=True)
def _no_process(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(care_module, "HealthManager", NoProber)
    caplog.set_level(logging.INFO, "nfqlb")


@pytest.fixture
def setup() -> Setup:
    """One pool of reg1 and reg2, and of proxies."""
    return load(EXAMPLE).setup(KEYS)


class Scene:
    def __init__(self, folder: Path, setup: Setup, **checks: Check) -> None:
        self.folder, self.checks = folder, checks
        self.board = Board(folder / "board", About("lb", (1,), tuple(each.name for each in setup.known)))
        self.care = BackendsManager(NoLoop(), self.backends_plan(setup), folder, past=False)  # type: ignore[arg-type]  # stands in for the real one
        self.follow(setup)

    def backends_plan(self, setup: Setup) -> BackendsPlan:
        tables: Tables = Engine(setup).tables
        checks = {pool.name: self.checks.get(pool.name, Check()) for pool in setup.pools}
        return charge_module.make(setup, tables, checks, self.folder)

    def follow(self, setup: Setup) -> None:
        backends_plan = self.backends_plan(setup)
        self.care._adopt(backends_plan)
        self.care.apply_plan(backends_plan, self.board)

    def hear(self, address: str, state: State, error: str = "") -> None:
        """What the prober says of a backend."""
        prober = self.care._health
        assert isinstance(prober, NoProber)
        (number,) = [n for n, each in enumerate(prober.round.targets) if str(each.address) == address]
        prober.heard({"target": number, "state": int(state), "changed": True, "error": error})


def test_at_the_start_backends_are_taken_to_be_up_and_are_up_when_they_have_answered(
    tmp_path: Path, setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    scene = Scene(tmp_path, setup, trunks=Check(enabled=False))
    assert caplog.messages == [
        "backends of pool registrars are taken to be up until they have been asked: reg1, reg2, reg1-v6",
        "backends of pool proxies are taken to be up until they have been asked: proxy1, proxy1-v6",
        "backends of pool trunks are taken to be up and nobody asks them: sbc1",
    ]
    told = {"pool": "trunks", "backends": ["sbc1"], "state": "unknown"}
    assert caplog.records[-1].__dict__["about"] == told
    caplog.clear()
    scene.hear("192.168.1.11:5060", State.UNKNOWN, "connection refused")  # in doubt, and still neither
    assert caplog.messages == []
    scene.hear("192.168.1.11:5060", State.UP)
    scene.hear("192.168.1.12:5060", State.DOWN, "no answer to OPTIONS")
    assert caplog.messages == ["backend registrars/reg1 is up", "backend registrars/reg2 is down: no answer to OPTIONS"]
    assert [record.levelno for record in caplog.records] == [logging.INFO, logging.ERROR]
    assert caplog.records[1].__dict__["about"] == {
        "pool": "registrars", "backend": "reg2", "state": "down", "reason": "no answer to OPTIONS"
    }  # fmt: skip


def test_a_reload_tells_of_new_backends_only(tmp_path: Path, setup: Setup, caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene(tmp_path, setup)
    scene.hear("192.168.1.11:5060", State.UP)
    caplog.clear()
    pool = replace(
        setup.pools[0], backends=(*setup.pools[0].backends, Backend("new", Endpoint.parse("192.168.1.99:1")))
    )
    scene.follow(replace(setup, pools=(pool, *setup.pools[1:])))
    assert caplog.messages == ["backends of pool registrars are taken to be up until they have been asked: new"]


@pytest.mark.slow
def test_a_line_does_not_name_a_thousand_backends(
    tmp_path: Path, setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    backends = tuple(
        Backend(f"b{number}", Endpoint(bytes([10, 0, number // 256, number % 256]), 5060)) for number in range(1000)
    )
    scene = Scene(tmp_path, replace(setup, pools=(replace(setup.pools[0], backends=backends), *setup.pools[1:])))
    assert scene
    assert caplog.messages[0].endswith(f"b{NAMES - 1} and {1000 - NAMES} more")
    assert len(caplog.records[0].__dict__["about"]["backends"]) == 1000
