"""The report of a running gateway, and what `nfqlb stats` prints of it."""

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from boardcase import Gateway
from click.testing import CliRunner, Result

from nfqlb.balance.recent import ENTRIES
from nfqlb.cli import _screen as screen
from nfqlb.cli import stats as command_module
from nfqlb.cli.stats import Speed, command
from nfqlb.errors import NotRunning
from nfqlb.gateway import stats
from nfqlb.gateway.host import procfs
from nfqlb.gateway.shm.board import BACKENDS, REASONS, STUCK_AFTER, Cell, Header, Traffic
from nfqlb.gateway.stats import rates
from nfqlb.proxy.verdict import Reason

DEAD_PID = 2**22 + 1  # beyond the kernel's highest


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    return Gateway(tmp_path)


def test_counts_are_summed_by_action_worker_and_backend(gateway: Gateway) -> None:
    gateway.count(0, Reason.REQUEST_ENTERING, 5)
    gateway.count(1, Reason.RESPONSE_LEAVING, 4)
    gateway.count(1, Reason.PING, 3)
    gateway.count(0, Reason.NOT_SIP, 2)
    gateway.count(1, Reason.NOT_OURS)
    gateway.slots[0][BACKENDS + len(Traffic) + Traffic.REQUESTS_TO] = 5  # reg2
    gateway.slots[1][BACKENDS + len(Traffic) + Traffic.RESPONSES_1XX] = 1
    gateway.slots[1][BACKENDS + len(Traffic) + Traffic.RESPONSES_4XX] = 3
    gateway.slots[0][Cell.TIMED], gateway.slots[0][Cell.ENGINE_NS] = 2, 5000
    gateway.slots[1][Cell.TIMED], gateway.slots[1][Cell.ENGINE_NS] = 3, 20000
    report = gateway.report()
    first, second = (worker.counts for worker in report.workers)
    total = report.totals
    assert (first.packets, first.forwards, first.replies, first.drops, first.ignored) == (7, 5, 0, 2, 0)
    assert (second.packets, second.forwards, second.replies, second.drops, second.ignored) == (8, 4, 3, 0, 1)
    assert (total.packets, total.forwards, total.replies, total.drops, total.ignored) == (15, 9, 3, 2, 1)
    assert (first.us_per_packet, second.us_per_packet, total.us_per_packet) == (2.5, 6.67, 5.0)
    assert total.backends["reg1"] == dict.fromkeys(total.backends["reg1"], 0)
    assert total.backends["reg2"] == {
        "requests_to": 5,
        "requests_from": 0,
        "responses_to": 0,
        "responses_from": 4,
        **{f"responses_{each}xx": {1: 1, 4: 3}.get(each, 0) for each in range(1, 7)},
    }
    assert {slug: count for slug, count in total.reasons.items() if count} == {
        "request-entering": 5,
        "response-leaving": 4,
        "ping": 3,
        "not-sip": 2,
        "not-ours": 1,
    }


def test_the_keys_of_the_json_form_are_stable(gateway: Gateway) -> None:
    """Scripts of users know these. Adding one is fine; removing or renaming one breaks them."""
    shape = gateway.report().as_dict()
    assert list(shape) == [
        *("gateway", "state", "generation", "pid", "started", "time"),
        *("queues", "workers", "totals", "memory", "alarms", "limits"),
    ]
    assert list(shape["queues"][0]) == [
        *("queue", "worker", "waiting", "dropped", "user_dropped"),
        *("fill", "age", "shedding"),
    ]
    assert list(shape["workers"][0]) == ["worker", "pid", "state", "restarts", "heartbeat_age", "counts"]
    counts = [
        *("packets", "forwards", "replies", "drops", "ignored", "reasons", "backends", "us_per_packet"),
        *("timed", "engine_ns", "overloads", "socket_sent", "recent"),
    ]
    assert list(shape["workers"][0]["counts"]) == list(shape["totals"]) == counts
    assert set(shape["totals"]["reasons"]) == {reason.slug for reason in Reason}
    assert shape["started"] == "2023-11-14T22:13:20.123Z"


def test_totals_go_on_from_what_earlier_workers_counted_and_the_memory_is_told(gateway: Gateway) -> None:
    before = gateway.report().totals
    retired = gateway.board.slot(2)
    retired[REASONS + Reason.PING] = 1000
    retired[Cell.RECENT_KEPT] = 7
    gateway.board.slot(0)[Cell.RECENT_KEPT] = 2
    gateway.board.set(Header.RECENT_USED, 321)
    report = gateway.report()
    assert report.totals.packets == before.packets + 1000
    assert report.totals.recent == {"stored": 0, "kept": 9, "misses": 0, "evicted": 0}
    assert (report.memory.entries, report.memory.capacity) == (321, ENTRIES)
    assert report.memory.bytes >= 16 * ENTRIES


def test_the_kernel_tells_of_the_queues(gateway: Gateway) -> None:
    first, second = gateway.report().queues
    assert (first.queue, first.waiting, first.dropped, first.user_dropped) == (5060, 7, 12, 3)
    assert (second.queue, second.waiting, second.dropped, second.user_dropped) == (5061, None, None, None)


def test_without_root_the_queues_are_unknown_and_the_rest_is_told(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_: Path) -> dict[int, object]:
        raise PermissionError

    monkeypatch.setattr(procfs, "kernel_queues", refused)
    report = gateway.report()
    assert {row.waiting for row in report.queues} == {None}
    assert report.healthy


@pytest.mark.parametrize(
    ("pid", "age", "state"),
    [
        (os.getpid(), 0.0, "up"),
        (os.getpid(), STUCK_AFTER + 1, "stuck"),
        (os.getpid(), None, "starting"),
        (DEAD_PID, 0.0, "dead"),
        (0, 0.0, "dead"),
    ],
    ids=["up", "stuck", "starting", "dead", "none"],
)
def test_the_state_of_a_worker(gateway: Gateway, pid: int, age: float | None, state: str) -> None:
    gateway.slots[1][Cell.PID] = pid
    gateway.slots[1][Cell.HEARTBEAT] = 0 if age is None else time.monotonic_ns() - int(age * 1e9)
    report = gateway.report()
    assert [worker.state for worker in report.workers] == ["up", state]
    assert report.healthy == (state in ("up", "starting"))


def test_a_dead_supervisor_leaves_orphans(gateway: Gateway) -> None:
    gateway.board.set(Header.PID, DEAD_PID)
    report = gateway.report()
    assert (report.state, report.healthy) == ("orphaned", False)


def test_a_board_whose_writers_are_all_dead_is_no_gateway(gateway: Gateway) -> None:
    gateway.board.set(Header.PID, DEAD_PID)
    for slot in gateway.slots:
        slot[Cell.PID] = DEAD_PID
    with pytest.raises(NotRunning, match=rf"pid {DEAD_PID}.* is gone"):
        gateway.report()


def test_rates_are_differences_per_second(gateway: Gateway) -> None:
    gateway.count(0, Reason.REQUEST_ENTERING, 100)
    gateway.slots[0][Cell.TIMED], gateway.slots[0][Cell.ENGINE_NS] = 1, 1_000_000
    before = gateway.report().totals
    gateway.count(0, Reason.REQUEST_ENTERING, 40)
    gateway.count(1, Reason.STUN, 10)
    gateway.slots[0][BACKENDS] = 40
    gateway.slots[0][Cell.TIMED], gateway.slots[0][Cell.ENGINE_NS] = 3, 1_006_000
    speed = rates(before, gateway.report().totals, 2.0)
    assert (speed.packets, speed.forwards, speed.drops) == (25, 20, 5)
    assert (speed.reasons["request-entering"], speed.reasons["stun"], speed.reasons["ping"]) == (20, 5, 0)
    assert speed.backends["reg1"]["requests_to"] == 20
    assert speed.us_per_packet == 3.0  # of the two packets between, not of all


def test_there_is_no_speed_across_a_restart(gateway: Gateway) -> None:
    speed = Speed()
    assert speed.of(gateway.report()) is None
    assert speed.of(gateway.report()) is not None
    gateway.board.set(Header.STARTED, 1)
    assert speed.of(gateway.report()) is None


# -- the command

Invoke = Callable[..., Result]
"""Given the words behind `nfqlb stats`."""


@pytest.fixture
def invoke(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Run `nfqlb stats` against the made-up gateway."""

    loaded = SimpleNamespace(
        path=Path("/x/nfqlb.toml"),
        gateway=SimpleNamespace(run_dir=gateway.run_dir),
        limits=SimpleNamespace(enabled=False),
    )
    monkeypatch.setattr(command_module, "load_config", lambda _: loaded)
    real = stats.gather
    monkeypatch.setattr(stats, "gather", lambda run_dir: real(run_dir, gateway.proc))

    def call(*argv: str) -> Result:
        return CliRunner().invoke(command, argv, env={"COLUMNS": "160"})

    return call


def test_the_tables_leave_out_what_is_zero(gateway: Gateway, invoke: Invoke) -> None:
    gateway.count(0, Reason.REQUEST_ENTERING, 1234)
    gateway.count(1, Reason.STRAY_RESPONSE, 5)
    result = invoke()
    assert result.exit_code == 0
    assert "Totals: 1239 packets: 1234 forwards, 0 replies, 5 drops, 0 ignored" in result.output
    row = next(line for line in result.output.splitlines() if line.strip().startswith("stray-response"))
    assert row.split()[:4] == ["stray-response", "0", "5", "5"]
    assert "bad-checksum" not in result.output
    assert "reg2" in result.output  # a backend without traffic is news


def test_something_wrong_is_exit_status_1(gateway: Gateway, invoke: Invoke) -> None:
    gateway.slots[0][Cell.PID] = DEAD_PID
    assert invoke().exit_code == 1
    result = invoke("--json")
    assert result.exit_code == 1
    assert json.loads(result.output)["workers"][0]["state"] == "dead"


def test_no_gateway_is_a_sentence(gateway: Gateway, invoke: Invoke) -> None:
    gateway.board.remove()
    result = invoke()
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: No gateway runs here")
    assert re.search(r" Start one with: nfqlb run -c /\S+\n$", result.stderr)
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("as_json", [True, False])
def test_watch_shows_rates_until_interrupted(
    gateway: Gateway, invoke: Invoke, monkeypatch: pytest.MonkeyPatch, as_json: bool
) -> None:
    slept: list[float] = []

    def pause(seconds: float) -> None:
        slept.append(seconds)
        gateway.count(0, Reason.REQUEST_ENTERING, 1000)
        if len(slept) == 3:
            raise KeyboardInterrupt

    clock = iter(range(100))
    monkeypatch.setattr(screen, "pause", pause)
    monkeypatch.setattr(time, "monotonic", lambda: next(clock) / 1.0)
    result = invoke("--watch", "2.5", *(["--json"] if as_json else []))
    assert slept == [2.5] * 3
    assert "Traceback" not in result.output
    if as_json:
        lines = [json.loads(line) for line in result.output.splitlines() if line.startswith("{")]
        assert lines[0]["per_second"] is None
        assert [line["totals"]["forwards"] for line in lines] == [0, 1000, 2000]
        assert lines[1]["per_second"]["forwards"] > 0
    else:
        assert "packets per second; in all, 2000 packets" in result.output
