"""What a service manager hears, from a socket that stands in for its own."""

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nfqlb.gateway.runtime.sd_notify import Notifier, for_successor


class Manager:
    """The other end."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self.socket.settimeout(3)

    def environment(self, **more: str) -> dict[str, str]:
        return {"NOTIFY_SOCKET": self.address, **more}

    def heard(self) -> list[str]:
        return self.socket.recv(4096).decode().split("\n")

    def silent(self) -> bool:
        self.socket.setblocking(False)
        try:
            self.socket.recv(4096)
        except BlockingIOError:
            return True
        return False


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    made = Manager(str(tmp_path / "notify") if request.param == "path" else f"@nfqlb-test-{os.getpid()}")
    yield made
    made.socket.close()


@pytest.mark.parametrize(
    ("tell", "expected"),
    [
        (lambda it: it.ready("2 workers"), ["READY=1", "STATUS=2 workers"]),
        (lambda it: it.stopping(), ["STOPPING=1"]),
        (lambda it: it.status("worker 1 failed"), ["STATUS=worker 1 failed"]),
        (lambda it: it.status("two\nREADY=1"), ["STATUS=two READY=1"]),  # one line cannot become two
        (lambda it: it.main_pid(4711), ["MAINPID=4711"]),
        (lambda it: it.alive(), ["WATCHDOG=1"]),
    ],
)
def test_what_is_told(manager: Manager, tell: Callable[[Notifier], None], expected: list[str]) -> None:
    tell(Notifier.from_environment(manager.environment()))
    assert manager.heard() == expected
    assert manager.silent()


def test_a_reload_is_told_with_its_time(manager: Manager) -> None:
    """CLOCK_MONOTONIC in microseconds, by which the manager knows whether READY=1 belongs to this reload."""
    before = time.monotonic_ns() // 1000
    Notifier.from_environment(manager.environment()).reloading()
    first, second = manager.heard()
    name, _, value = second.partition("=")
    assert (first, name) == ("RELOADING=1", "MONOTONIC_USEC")
    assert before <= int(value) <= time.monotonic_ns() // 1000


def test_without_a_manager_nothing_is_told(caplog: pytest.LogCaptureFixture) -> None:
    for environment in ({}, {"NOTIFY_SOCKET": ""}, {"WATCHDOG_USEC": "1000000"}):
        notifier = Notifier.from_environment(environment)
        assert notifier.interval is None
        notifier.ready("")
        notifier.alive()
    assert not caplog.records


def test_the_environment_is_the_process_own(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
    Notifier.from_environment().alive()
    assert manager.heard() == ["WATCHDOG=1"]


@pytest.mark.parametrize(
    ("variables", "interval"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "10000000"}, 5.0),
        ({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": str(os.getpid())}, 5.0),
        ({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": str(os.getppid())}, None),  # meant for another
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": "me"}, None),
    ],
)
def test_how_often_the_watchdog_wants_to_be_patted(variables: dict[str, str], interval: float | None) -> None:
    assert Notifier.from_environment({"NOTIFY_SOCKET": "/run/x", **variables}).interval == interval


def test_whoever_takes_our_place_pats_the_watchdog_too() -> None:
    ours = {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "10000000", "WATCHDOG_PID": str(os.getppid()), "LANG": "C"}
    theirs = for_successor(ours)
    assert theirs["LANG"] == "C"
    assert Notifier.from_environment(theirs).interval == 5.0


@pytest.mark.parametrize("address", ["/nowhere/at/all", "@nobody-listens-here", "vsock:2:1234", "/" + "x" * 200])
def test_a_manager_that_cannot_be_reached_is_told_of_once(address: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        notifier = Notifier.from_environment({"NOTIFY_SOCKET": address})
        for _ in range(3):
            notifier.alive()
    (record,) = caplog.records
    assert address in record.getMessage()


def test_a_manager_that_does_not_listen_holds_nobody_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its socket is full: what cannot be said is not said."""
    manager = Manager(str(tmp_path / "notify"))
    notifier = Notifier.from_environment(manager.environment())
    for _ in range(3000):  # a unix socket takes a few hundred
        notifier.alive()
    notifier.stopping()
    assert manager.heard() == ["WATCHDOG=1"]
    manager.socket.close()
    assert len(caplog.records) == 1


def test_a_manager_that_is_slow_hears_what_matters(tmp_path: Path) -> None:
    manager = Manager(str(tmp_path / "notify"))
    notifier = Notifier.from_environment(manager.environment())
    for _ in range(3000):
        notifier.alive()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(notifier.ready, "at last")
        while manager.heard() == ["WATCHDOG=1"]:
            pass  # until there is room for it, and it comes out behind the others
        waiting.result(3)
    manager.socket.close()
