"""`nfqlb backends drain --wait`: what is quiet, when a wait ends, and what is to be seen of it."""

import io
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from click.testing import CliRunner, Result

from nfqlb.cli import _draining as draining
from nfqlb.cli import backends as listing
from nfqlb.cli import main as nfqlb
from nfqlb.cli._common import UserError
from nfqlb.cli._draining import INTERVAL, PATIENCE, TOLD_EVERY, Look, Progress, look
from nfqlb.cli.backends import BACKENDS, cells

STARTED = 1000.0


def row(name: str = "reg1", pool: str = "regs", **more: Any) -> dict[str, Any]:
    empty = dict.fromkeys(
        ("until", "requests_per_second", "probe", "error", "error_at", "last_request", "last_response")
    )
    return {
        **empty,
        "pool": pool,
        "name": name,
        "address": "192.0.2.1:5060",
        "state": "draining",
        "since": 1.0,
        "health": "up",
        "warming": 1.0,
        "share": 0.0,
        "counts": {f"responses_{each}xx": 0 for each in range(1, 7)},
        "leaving": False,
        **more,
    }


def backends(*rows: dict[str, Any]) -> dict[str, Any]:
    return {"ok": True, "started": STARTED, "alarms": {}, "backends": list(rows)}


# -- what one answer says


def test_it_is_silent_since_the_last_message_of_any_kind() -> None:
    others = row("reg2", last_request=9999.0), row("reg1", "others", last_request=9999.0)
    assert look(backends(row(), *others), ["regs/reg1"]) == Look((), False, None, None, STARTED)
    asked = row(last_request=1500.0, last_response=1501.0)
    assert look(backends(asked, *others), ["regs/reg1"]) == Look((), False, 1500.0, 1501.0, 1501.0)
    before = row(last_request=500.0)
    assert look(backends(before, *others), ["regs/reg1"]) == Look((), False, 500.0, None, STARTED)


def test_a_name_stands_for_all_its_addresses_also_those_that_it_had() -> None:
    answer = backends(
        row("reg1@192.0.2.1", last_request=1500.0),
        row("reg1@192.0.2.2", last_request=1600.0),
        row("reg1@192.0.2.3", pool="", leaving=True, state="up", last_request=1700.0),
        row("reg11", last_request=9999.0),
    )
    found = look(answer, ["regs/reg1"])
    assert found is not None
    assert (found.back, found.last_request) == ((), 1700.0)
    one = look(answer, ["regs/reg1@192.0.2.1"])
    assert one is not None
    assert one.last_request == 1500.0
    nameless = look(backends(row(state="down", since=None)), ["regs/reg1"])
    assert nameless == Look((), False, None, None, STARTED), "nothing can be sent there"


def test_who_takes_requests_again_and_whom_tables_still_have() -> None:
    found = look(backends(row(state="up", share=0.5)), ["regs/reg1"])
    assert found is not None
    assert (found.back, found.chosen) == (("regs/reg1",), True)
    disabled = look(backends(row(state="disabled")), ["regs/reg1"])
    assert disabled is not None
    assert disabled.back == ()
    assert look(backends(row("other")), ["regs/reg1"]) is None


# -- the wait


class Gateway:
    """Answers, and has a clock that goes on when somebody sleeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 2000.0
        self.rows: Callable[[], list[dict[str, Any]]] = lambda: [row(last_request=1990.0)]
        self.asked: list[dict[str, Any]] = []
        self.away: Callable[[], bool] = lambda: False
        self.started = True
        monkeypatch.setattr(time, "time", lambda: self.now)
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "sleep", self.sleep)
        monkeypatch.setattr(draining, "ask", self.ask)
        monkeypatch.setattr(listing, "ask", self.ask)

    def sleep(self, seconds: float) -> None:
        assert 0 < seconds <= INTERVAL
        self.now += seconds
        assert self.now < 20_000, "it never ends"

    def ask(self, _path: object, request: dict[str, Any], **_: object) -> dict[str, Any]:
        self.asked.append(request)
        if request["do"] == "drain":
            return {"ok": True, "backends": ["regs/reg1"], "warning": ""}
        if self.away():
            raise UserError("No gateway runs here.")
        answer = backends(*self.rows())
        return answer if self.started else {key: value for key, value in answer.items() if key != "started"}

    def drain(self, *argv: str) -> Result:
        return CliRunner().invoke(nfqlb, ["backends", "drain", "reg1", *argv])


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    made = Gateway(monkeypatch)
    yield made
    monkeypatch.undo()


def test_it_ends_when_all_has_been_silent_for_so_long(gateway: Gateway) -> None:
    gateway.rows = lambda: [row(last_request=min(gateway.now, 2050.0), last_response=min(gateway.now, 2060.0))]
    done = gateway.drain("--wait", "--idle", "100s")
    assert (done.exit_code, gateway.now) == (0, 2160.0)
    assert done.stdout == (
        "regs/reg1 gets nothing new\nregs/reg1 is quiet: no request to it and no response from it for 100s\n"
    )


def test_three_minutes_unless_told_otherwise(gateway: Gateway) -> None:
    assert gateway.drain("--wait").exit_code == 0
    assert gateway.now == 1990.0 + 180.0
    assert "3m" in CliRunner().invoke(nfqlb, ["backends", "drain", "--help"]).stdout


def test_one_that_is_quiet_already_is_looked_at_twice(gateway: Gateway) -> None:
    """A request may have been on its way to it in the moment in which it left the tables."""
    gateway.rows = lambda: [row(last_request=1500.0)]
    assert gateway.drain("--wait", "--idle", "100s").exit_code == 0
    assert gateway.now == 2000.0 + INTERVAL
    gateway.now = 2000.0
    gateway.rows = lambda: [row(last_request=1500.0, share=0.5 if gateway.now < 2010 else 0.0)]
    assert gateway.drain("--wait", "--idle", "100s").exit_code == 0
    assert gateway.now == 2010.0 + INTERVAL, "tables take a while"


def test_its_time_runs_out(gateway: Gateway) -> None:
    gateway.rows = lambda: [row(last_request=gateway.now - 5)]
    done = gateway.drain("--wait=10m")
    assert (done.exit_code, gateway.now) == (1, 2600.0)
    assert done.stderr.splitlines()[-1] == (
        "Error: regs/reg1: not quiet after 10m (last request 5s ago, no response yet). "
        "It stays drained; take that back with: nfqlb backends enable regs/reg1"
    )
    named = gateway.drain("--wait", "3s", "-c", "/tmp/other.toml")
    assert named.stderr.endswith("nfqlb backends enable regs/reg1 -c /tmp/other.toml\n")


def test_who_is_enabled_meanwhile_is_not_waited_for(gateway: Gateway) -> None:
    gateway.rows = lambda: [row(last_request=gateway.now, state="draining" if gateway.now < 2010 else "up")]
    done = gateway.drain("--wait")
    assert (done.exit_code, gateway.now) == (1, 2010.0)
    assert "regs/reg1 takes requests again: somebody has enabled it, or its time is over" in done.stderr
    assert "stays drained" not in done.stderr
    gateway.rows = list
    assert "the gateway does not know it any more" in gateway.drain("--wait").stderr


def test_a_gateway_may_be_away_for_a_while(gateway: Gateway) -> None:
    """As in an upgrade; and one that has started anew has seen nothing of before."""
    gateway.away = lambda: 2005 < gateway.now < 2005 + PATIENCE
    assert gateway.drain("--wait").exit_code == 0
    gateway.now = 2000.0
    gateway.away = lambda: gateway.now > 2005
    done = gateway.drain("--wait", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["why"] == "No gateway runs here."
    assert 2005 + PATIENCE < gateway.now < 2010 + PATIENCE
    gateway.away = lambda: False
    gateway.started = False
    assert "nfqlb upgrade" in gateway.drain("--wait").stderr


def test_json_is_one_object(gateway: Gateway) -> None:
    done = gateway.drain("--wait", "--json")
    assert json.loads(done.stdout) == {
        "ok": True,
        "backends": ["regs/reg1"],
        "warning": "",
        "quiet": True,
        "why": None,
        "waited": 170.0,
        "last_request": 1990.0,
        "last_response": None,
    }
    assert done.stderr == ""
    gateway.now = 2000.0
    done = gateway.drain("--wait=5s", "--json")
    assert done.exit_code == 1
    told = json.loads(done.stdout)
    assert (told["quiet"], told["why"], told["waited"]) == (False, "not quiet after 5s", 5.0)


def test_without_wait_nothing_is_waited_for(gateway: Gateway) -> None:
    done = gateway.drain("--json")
    assert json.loads(done.stdout) == {"ok": True, "backends": ["regs/reg1"], "warning": ""}
    assert [each["do"] for each in gateway.asked] == ["drain"]


@pytest.mark.parametrize(
    ("argv", "limit"),
    [
        (["--wait", "reg1"], None),
        (["reg1", "--wait"], None),
        (["--wait=7s", "reg1"], 7.0),
        (["--wait", "7s", "reg1"], 7.0),
        (["reg1", "--wait", "7s"], 7.0),
        (["--wait", "--idle", "30d", "reg1", "--for", "7s"], None),
    ],
)
def test_the_time_behind_wait_may_be_left_out(gateway: Gateway, argv: list[str], limit: float | None) -> None:
    gateway.rows = lambda: [row(last_request=gateway.now if limit or gateway.now < 2500 else 2.0)]
    if "--idle" in argv:
        gateway.rows = list
    CliRunner().invoke(nfqlb, ["backends", "drain", *argv])
    assert gateway.asked[0]["backend"] == "reg1"
    assert gateway.now == (2000.0 + limit if limit else gateway.now)
    assert len(gateway.asked) > 1


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--idle", "5s"], "it goes with --wait"),
        (["--wait=soon"], "expected a time such as 90s, 10m, 2h or 1d, not 'soon'"),
        (["--wait", "--idle", "0s"], "not '0s'"),
        (["--wait", "soon"], "unexpected extra argument (soon)"),
    ],
)
def test_wrong_usage(gateway: Gateway, argv: list[str], told: str) -> None:
    done = gateway.drain(*argv)
    assert done.exit_code == 2
    assert told in done.stderr
    assert gateway.asked == []


def test_ctrl_c_says_what_stays(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupted)
    done = gateway.drain("--wait")
    assert done.exit_code == 130
    assert done.stderr.splitlines()[-1] == (
        "regs/reg1 is not waited for any more. It stays drained; take that back with: nfqlb backends enable regs/reg1"
    )
    assert "Traceback" not in done.stderr


# -- what is to be seen


def test_plain_lines_where_there_is_no_terminal(gateway: Gateway) -> None:
    gateway.rows = lambda: [row(last_request=1990.0, last_response=1995.0)]
    done = gateway.drain("--wait")
    lines = done.stderr.splitlines()
    assert lines[0] == "regs/reg1: last request 10s ago, last response 5s ago; quiet after 3m"
    assert len(lines) == 1 + int((gateway.now - 2000) // TOLD_EVERY)
    assert "\r" not in done.stderr


def test_one_line_that_changes_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((40, 24)))
    progress = Progress("regs/reg1", quiet=False)
    progress.show("last request 1s ago", 0.0)
    progress.show("x" * 100, 0.0)
    progress.end()
    progress.end()
    assert terminal.getvalue() == (
        "\rregs/reg1: last request 1s ago\x1b[K" + "\r" + ("regs/reg1: " + "x" * 27 + "…") + "\x1b[K" + "\n"
    )


def test_the_table_says_when_one_that_is_out_was_last_asked() -> None:
    out = row(last_request=1990.0), row(state="disabled"), row(pool="", leaving=True, state="up", last_request=1400.0)
    state, last = BACKENDS.titles.index("State"), BACKENDS.titles.index("Last")
    assert [(cells(each, 2000.0)[state], cells(each, 2000.0)[last]) for each in out] == [
        ("draining", "10s ago"),
        ("disabled", "none yet"),
        ("up (leaving)", "10m ago"),
    ]
    assert cells(row(state="up", last_request=1990.0), 2000.0)[last] == ""
