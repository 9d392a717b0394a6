"""The units under a systemd of their own: docs/install.md followed, then everything that docs/service.md promises."""

import json
import re
import shlex
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from booted import SYSTEMD, Systemd, booted, control_group
from hostnet import EXTERNAL, FAMILY, PHONE, Host, until

from nfqlb.lab import namespaces

pytestmark = pytest.mark.root

PAGE = (Path(__file__).parents[2] / "docs" / "install.md").read_text()
PROGRAM = str(Path(sys.prefix, "bin", "nfqlb"))
CONFIG = "/etc/nfqlb/nfqlb.toml"
ONLY_NET_ADMIN = f"{1 << 12:016x}"
NET_ADMIN_AND_RAW = f"{3 << 12:016x}"


@pytest.fixture
def systemd(host: Host) -> Iterator[Systemd]:
    if not SYSTEMD.exists():
        pytest.skip("systemd is not installed (sudo tools/test does)")
    try:
        control_group()
    except FileNotFoundError:
        pytest.skip("this machine has no control groups of version 2 that may be written to")
    with booted(host.gateway, host.folder) as running:
        yield running


def configure(systemd: Systemd, host: Host, **more: Any) -> None:
    """The configuration and its keys, where the commands look for them."""
    text = host.config(**more).path.read_text()
    systemd.write(CONFIG, re.sub(r"(?m)^run_dir = .*\n", "", text))


def follow_the_page(systemd: Systemd, *options: str) -> None:
    """The commands of the section "As a service", to the letter; `options` are for install-units."""
    (section,) = re.findall(r"^## \d+\. As a service\n(.*?)(?=^## )", PAGE, re.MULTILINE | re.DOTALL)
    (session, _) = re.findall(r"^```console\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    systemd.ask(PROGRAM, "secret", "new")  # of a section before
    for line in session.splitlines():
        words = shlex.split(line.removeprefix("# "))
        if words[0] == "nfqlb":
            words = [PROGRAM, *words[1:], *options]
        systemd.ask(*words)


def shown(systemd: Systemd, name: str, unit: str = "nfqlb") -> str:
    return systemd.ask("systemctl", "show", unit, "--property", name, "--value").strip()


def main_pid(systemd: Systemd) -> str:
    return shown(systemd, "MainPID")


LIST = """
cd /sys/fs/cgroup/system.slice/nfqlb.service 2>/dev/null || exit 0
for pid in $(cat cgroup.procs); do echo $pid $(cat /proc/$pid/comm); done
"""


def processes(systemd: Systemd) -> dict[str, str]:
    """pid → name of each process of the service."""
    lines = systemd.ask("bash", "-c", LIST).splitlines()
    return {pid: name for pid, _, name in (line.partition(" ") for line in lines)}


def workers(systemd: Systemd) -> set[str]:
    return {pid for pid, name in processes(systemd).items() if re.fullmatch(r"nfqlb-\d+", name)}


def status(systemd: Systemd, pid: str) -> dict[str, list[str]]:
    lines = systemd.ask("cat", f"/proc/{pid}/status").splitlines()
    return {name: value.split() for name, _, value in (line.partition(":") for line in lines)}


class Asker(threading.Thread):
    """A phone that asks the gateway again and again, and waits for each answer to come in the end."""

    def __init__(self, host: Host) -> None:
        super().__init__(daemon=True)
        self.asked: set[str] = set()
        self.answered: set[str] = set()
        self._socket = namespaces.inside(host.phone, lambda: socket.socket(FAMILY[4], socket.SOCK_DGRAM))
        self._socket.bind((PHONE[4], 0))
        self._socket.connect((EXTERNAL[4], 5060))
        self._socket.settimeout(0.01)
        self._ending = threading.Event()
        self.start()

    def run(self) -> None:
        here = f"{PHONE[4]}:{self._socket.getsockname()[1]}"
        while not self._ending.is_set():
            name = f"ask{len(self.asked)}"
            self.asked.add(name)
            self._socket.send(
                f"OPTIONS sip:{EXTERNAL[4]} SIP/2.0\r\nVia: SIP/2.0/UDP {here};branch=z9hG4bK{name}\r\n"
                f"Max-Forwards: 70\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:b@b>\r\nCall-ID: {name}\r\n"
                "CSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n".encode()
            )
            self._hear()
            time.sleep(0.005)

    def _hear(self) -> None:
        try:
            answer = self._socket.recv(4096).decode()
        except (TimeoutError, ConnectionRefusedError):
            return
        assert answer.startswith("SIP/2.0 200 "), answer
        self.answered |= set(re.findall(r"(?m)^Call-ID: (\w+)", answer))

    def lost(self) -> set[str]:
        """After a few more, stop, and say what was never answered."""
        enough = len(self.asked) + 20
        until(lambda: len(self.asked) >= enough, 3)
        self._ending.set()
        self.join()

        def all_answered() -> bool:
            self._hear()
            return self.asked == self.answered

        until(all_answered, 2)
        self._socket.close()
        assert len(self.asked) >= enough
        return self.asked - self.answered


def test_a_service_by_the_page(systemd: Systemd, host: Host) -> None:
    configure(systemd, host)
    follow_the_page(systemd)
    assert shown(systemd, "StatusText") == "2 workers on queues 5060 to 5061"

    supervisor = status(systemd, main_pid(systemd))
    user = systemd.ask("id", "-u", "nfqlb").strip()
    assert supervisor["Uid"] == [user] * 4
    assert supervisor["CapBnd"] == supervisor["CapEff"] == [NET_ADMIN_AND_RAW]
    assert len(workers(systemd)) == 2
    for pid in workers(systemd):
        worker = status(systemd, pid)
        assert worker["Uid"] == [user] * 4
        assert (worker["CapPrm"], worker["CapAmb"]) == ([ONLY_NET_ADMIN], [f"{0:016x}"])
    assert systemd.ask("stat", "--format=%U:%G %a", "/etc/nfqlb/secret") == "root:nfqlb 640\n"
    assert Asker(host).lost() == set()

    before = {unit: shown(systemd, "ActiveEnterTimestampMonotonic", unit) for unit in ("nfqlb", "nfqlb-rules")}
    assert int(before["nfqlb-rules"]) < int(before["nfqlb"])
    systemd.ask("systemctl", "stop", "nfqlb")
    assert processes(systemd) == {}
    assert "NFQUEUE" in systemd.ask("iptables-save")  # closed, not open
    systemd.ask("systemctl", "start", "nfqlb")
    assert Asker(host).lost() == set()

    systemd.ask("systemctl", "disable", "--now", "nfqlb", "nfqlb-rules")
    assert "NFQLB" not in systemd.ask("iptables-save") + systemd.ask("ip6tables-save")
    systemd.ask(PROGRAM, "install-units", "--remove")


JOURNAL = ("systemd-journald.service", "systemd-journald.socket", "systemd-journald-dev-log.socket")


def test_in_the_journal_events_have_their_priority_and_process(systemd: Systemd, host: Host) -> None:
    if not Path("/lib/systemd/systemd-journald").exists():
        pytest.skip("systemd-journald is not installed")
    systemd.ask("cp", *(f"/lib/systemd/system/{unit}" for unit in JOURNAL), "/run/units")
    systemd.ask("rm", "/etc/systemd/system/service.d/log.conf")  # which sends all into a file
    systemd.ask("systemctl", "daemon-reload")
    systemd.ask("systemctl", "start", "systemd-journald")
    configure(systemd, host)
    follow_the_page(systemd)
    systemd.ask("kill", "-KILL", victim := min(workers(systemd), key=int))
    assert until(lambda: any("died" in entry["MESSAGE"] for entry in journal(systemd)), 10), journal(systemd)
    entries = journal(systemd)
    # Once, though stdout leads there, too.
    (ready,) = (entry for entry in entries if entry["MESSAGE"].startswith("nfqlb is ready"))
    (died,) = (entry for entry in entries if entry["MESSAGE"].startswith(f"worker 0 (pid {victim}) died"))
    assert (ready["PRIORITY"], died["PRIORITY"]) == ("6", "3")
    assert died["_PID"] == main_pid(systemd)
    systemd.ask("systemctl", "disable", "--now", "nfqlb", "nfqlb-rules")


def journal(systemd: Systemd) -> list[dict[str, str]]:
    """What the service itself has said."""
    lines = systemd.ask("journalctl", "-u", "nfqlb", "-o", "json", "_TRANSPORT=stdout").splitlines()
    return [json.loads(line) for line in lines]


def test_a_change_at_noon(systemd: Systemd, host: Host) -> None:
    configure(systemd, host)
    follow_the_page(systemd)
    asker = Asker(host)

    configure(systemd, host, backends=("10.9.0.2:5060", "10.9.0.3:5060", "[2001:db8:2::2]:5060"))
    old = workers(systemd)
    systemd.ask("systemctl", "reload", "nfqlb")
    assert not old & workers(systemd)

    configure(systemd, host, workers=3)  # other rules, which the service has to change by itself
    systemd.ask("systemctl", "reload", "nfqlb")
    assert until(lambda: len(workers(systemd)) == 3, 5)

    first = main_pid(systemd)
    systemd.ask(PROGRAM, "upgrade")
    assert until(lambda: first not in processes(systemd), 5)
    second = main_pid(systemd)
    assert second in processes(systemd)
    assert shown(systemd, "ActiveState") == "active"

    systemd.write(CONFIG, "[[listener]]\n")
    refused = systemd.run("systemctl", "reload", "nfqlb")
    assert refused.returncode == 1
    assert (main_pid(systemd), shown(systemd, "ActiveState")) == (second, "active")
    assert "listener[0].external" in systemd.logged()

    assert shown(systemd, "NRestarts") == "0"
    assert asker.lost() == set()


def test_a_supervisor_that_dies_or_hangs(systemd: Systemd, host: Host) -> None:
    configure(systemd, host)
    follow_the_page(systemd)
    systemd.ask("mkdir", "-p", "/etc/systemd/system/nfqlb.service.d")
    systemd.write("/etc/systemd/system/nfqlb.service.d/test.conf", "[Service]\nWatchdogSec=1\n")
    systemd.ask("systemctl", "daemon-reload")
    systemd.ask("systemctl", "restart", "nfqlb")
    asker = Asker(host)
    for restarts, signal in enumerate(("KILL", "STOP"), 1):
        old_supervisor, old_workers = main_pid(systemd), workers(systemd)
        assert len(old_workers) == 2
        systemd.ask("kill", f"-{signal}", old_supervisor)
        assert until(lambda gone=old_supervisor: main_pid(systemd) not in ("0", gone), 10)
        # They go on until the next one is ready.
        assert shown(systemd, "ActiveState") == "active" or old_workers <= set(processes(systemd))
        assert until(lambda: shown(systemd, "ActiveState") == "active", 10)
        assert until(lambda gone=old_workers: not gone & set(processes(systemd)), 10)
        assert len(workers(systemd)) == 2
        assert shown(systemd, "NRestarts") == str(restarts)
    old_supervisor = main_pid(systemd)
    systemd.ask(PROGRAM, "upgrade")
    assert until(lambda: main_pid(systemd) not in ("0", old_supervisor), 5)
    time.sleep(2.5)  # the watchdog would bite whoever does not feed it
    assert shown(systemd, "NRestarts") == "2"
    assert asker.lost() == set()


def test_with_the_legacy_back_end_it_has_to_be_root(systemd: Systemd, host: Host) -> None:
    configure(systemd, host, more='[rules]\nbackend = "legacy"')
    follow_the_page(systemd, "--as-root")
    supervisor = main_pid(systemd)
    has = status(systemd, supervisor)
    assert has["Uid"] == ["0"] * 4
    assert int(has["CapEff"][0], 16).bit_count() == 7
    for pid in workers(systemd):
        worker = status(systemd, pid)
        assert worker["Uid"] == ["65534"] * 4
        assert (worker["CapPrm"], worker["CapBnd"]) == ([ONLY_NET_ADMIN], [f"{0:016x}"])
    asker = Asker(host)
    systemd.ask("kill", "-KILL", supervisor)
    assert until(lambda: main_pid(systemd) not in ("0", supervisor), 10)
    assert until(lambda: shown(systemd, "ActiveState") == "active", 10)
    assert asker.lost() == set()
    assert "NFQUEUE" in systemd.ask("iptables-legacy-save")
    systemd.ask("systemctl", "stop", "nfqlb")
    assert processes(systemd) == {}
