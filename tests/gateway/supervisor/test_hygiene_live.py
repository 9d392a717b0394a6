"""What processes hold open, how they grow, what the service manager hears, and what a full disk does."""

import json
import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from livegateway import Gateway
from livehost import NFQLB, Host, request
from livenet import Counter, Net, until

from nfqlb.gateway.host.procfs import alive
from nfqlb.lab import namespaces

pytestmark = pytest.mark.root

GROWTH = 2 << 10
"""kB that a process may grow by, after the first changes."""


@pytest.fixture
def host(net: Net) -> Host:
    return Host(net)


def files(pid: int) -> list[str]:
    """What it has open, by kind."""
    folder = Path(f"/proc/{pid}/fd")
    return sorted(re.sub(r"\d+", "", os.readlink(entry)).partition(" ")[0] for entry in folder.iterdir())


def resident(pid: int) -> int:
    """kB."""
    return int(re.findall(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[0])


def test_a_worker_holds_open_what_it_needs_and_nothing_else(host: Host) -> None:
    gateway = Gateway(host)
    for _ in range(2):
        for pid in gateway.workers():
            held = files(pid)
            # stdin, stdout, stderr; the pipe that says ready; its queue, twice; a socket for each IPv6 endpoint;
            # one to ask for names
            assert len(held) == 3 + 1 + 2 + 2 + 1, held
            assert held.count("socket:[]") == 5
            assert not [name for name in held if "anon_inode" in name or "run/" in name]
        gateway.reload("--force")
        assert until(gateway.settled)
    gateway.stop()


@pytest.mark.timeout(120)
def test_changes_leave_no_file_open_and_no_memory_behind(host: Host) -> None:
    gateway = Gateway(host)
    for _ in range(5):
        gateway.change("reload")
    assert until(gateway.settled)
    pid = gateway.status()["pid"]
    time.sleep(0.1)
    first, size = files(pid), resident(pid)
    for _ in range(20):
        gateway.change("reload")
    assert until(gateway.settled)
    assert until(lambda: files(pid) == first)  # a socket may still be there on which we have just been answered
    assert resident(pid) - size < GROWTH
    worker = files(gateway.workers()[0])
    for _ in range(3):
        gateway.change("upgrade")
        assert until(gateway.settled)
    pid = gateway.status()["pid"]
    assert until(lambda: files(pid) == first)
    assert files(gateway.workers()[0]) == worker
    gateway.stop()


def test_what_the_service_manager_hears(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(host.net.folder / "notify"))
        manager.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(host.net.folder / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "2000000")

        def hear(word: str) -> str:
            """The next message that is no pat for the watchdog."""
            while (message := manager.recv(4096).decode()) == "WATCHDOG=1":
                pass
            assert message.startswith(word), message
            return message

        gateway = Gateway(host)
        hear("READY=1\nSTATUS=2 workers on queues 300 to 301")
        gateway.reload()
        hear("RELOADING=1\nMONOTONIC_USEC=")
        hear("READY=1")
        host.config.write_text(host.config.read_text() + "[nonsense]\n")
        gateway.reload(ok=False)
        hear("RELOADING=1")
        hear("READY=1")
        host.config.write_text(host.config.read_text().replace("[nonsense]\n", ""))
        gateway.upgrade()
        assert hear("MAINPID=") == f"MAINPID={gateway.status()['pid']}"
        hear("READY=1\nSTATUS=2 workers on queues 302 to 303")
        while manager.recv(4096) != b"WATCHDOG=1":  # the new one pats, too
            pass
        os.kill(gateway.status()["pid"], signal.SIGTERM)
        hear("STOPPING=1")


def test_the_watchdog_is_fed_only_while_all_workers_go_round(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(host.net.folder / "notify"))
        manager.settimeout(8)
        monkeypatch.setenv("NOTIFY_SOCKET", str(host.net.folder / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "400000")
        gateway = Gateway(host)
        while not manager.recv(4096).startswith(b"READY=1"):
            pass
        os.kill(gateway.process.pid, signal.SIGSTOP)  # who would replace the worker
        worker = gateway.workers()[1]
        os.kill(worker, signal.SIGSTOP)
        time.sleep(5.2)
        manager.setblocking(False)
        try:
            while manager.recv(4096):
                pass
        except BlockingIOError:
            manager.settimeout(8)
        os.kill(gateway.process.pid, signal.SIGCONT)
        assert until(lambda: not alive(worker)), "it stood still"
        assert manager.recv(4096) == b"WATCHDOG=1"  # from when it is replaced
        assert gateway.workers()[1] != worker
        assert "is stuck" in host.net.log


@pytest.mark.parametrize("stopped", [False, True])
def test_a_worker_that_dies_or_hangs_at_the_hand_over(host: Host, stopped: bool) -> None:
    """In the place of one that is killed, or stands still, the next comes all the same; what waits is not lost."""
    gateway = Gateway(host)
    farm = Counter(host.net.receiver(), 65535)
    victim = gateway.workers()[0]
    os.kill(victim, signal.SIGSTOP)
    phones = [host.net.phone_socket(4) for _ in range(20)]
    for index, phone in enumerate(phones):
        phone.send(request(phone, f"x{index:08}x"))
    assert until(lambda: sum(queue.waiting for queue in host.net.queues().values()) > 0)
    asked = subprocess.Popen(
        ["ip", "netns", "exec", host.net.gateway, *NFQLB, "reload", "--force", "--json", "-c", str(host.config)],
        stdout=subprocess.PIPE,
    )
    assert until(lambda: gateway.status()["generation"] == 2, 10), host.net.log
    if not stopped:
        os.kill(victim, signal.SIGKILL)
    assert json.loads(asked.communicate(timeout=20)[0])["ok"] is True
    assert until(gateway.settled), host.net.log
    assert until(lambda: sum(queue.waiting for queue in host.net.queues().values()) == 0)
    came = [whole for whole in farm.finish() if not whole.startswith(b"OPTIONS ")]  # those are the prober's
    seen = [whole.partition(b"Call-ID: ")[2][:10] for whole in came]
    assert len(set(seen)) == len(seen)
    assert len(seen) >= len(phones) - 1  # the one that it may have had in its hands
    gateway.stop()


def test_new_workers_that_die_at_the_gate_are_replaced(host: Host) -> None:
    gateway = Gateway(host)
    os.kill(gateway.workers()[0], signal.SIGSTOP)  # so that the next one has to wait
    asked = subprocess.Popen(
        ["ip", "netns", "exec", host.net.gateway, *NFQLB, "reload", "--force", "-c", str(host.config)],
        stdout=subprocess.DEVNULL,
    )
    assert until(lambda: gateway.status()["generation"] == 2, 10), host.net.log
    for _ in range(2):
        at_gate = gateway.workers()[0]
        os.kill(at_gate, signal.SIGKILL)
        assert until(lambda at_gate=at_gate: gateway.workers()[0] != at_gate)
    assert asked.wait(20) == 0
    assert until(gateway.settled)
    assert all(gateway.serves() for _ in range(10))
    gateway.stop()


@pytest.mark.parametrize("size", ["64k", "8200k"])
def test_a_full_disk_is_told(host: Host, size: str) -> None:
    """For the board, or only for the memory of recent choices."""
    host.net.run_dir.mkdir()
    mount = f"mount -t tmpfs -o size={size} tmpfs {host.net.run_dir} && exec {' '.join(NFQLB)} run -c {host.config}"
    done = subprocess.run(
        ["ip", "netns", "exec", host.net.gateway, "sh", "-c", mount], capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 1, done.stderr
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert namespaces.members([host.net.gateway]) == []


def test_a_run_directory_that_cannot_be_written_is_told(host: Host) -> None:
    host.config.write_text(host.config.read_text().replace(str(host.net.run_dir), "/proc/self/nowhere"))
    done = host.call("run")
    assert done.returncode == 1
    assert "cannot be" in done.stderr
    assert "Traceback" not in done.stderr
