"""`nfqlb upgrade` to code that works, and to code that fails in every way; supervisors that are killed on the way."""

import json
import os
import random
import re
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
from livegateway import Gateway
from livehost import CONFIG, NFQLB, Host, request
from livenet import Counter, Net, until

from nfqlb.gateway.host.procfs import process_name
from nfqlb.gateway.runtime.control_socket import ask
from nfqlb.lab import namespaces

pytestmark = pytest.mark.root

SEEDS = int(os.environ.get("NFQLB_KILL_SEEDS", "3"))
"""How many random moments; more make a longer campaign."""

PATIENCE = 12.0
"""Seconds for new code to say that it is ready: enough for good code on a busy machine, and what a hung one costs."""

SPOILED = """
import os, signal, sys, time
from contextlib import suppress
from pathlib import Path
import nfqlb.gateway.supervisor.upgrade as handover

handover.READY_WITHIN = handover.WORK_WITHIN = {patience}
order = Path({order!r}).read_text()
lines = handover.Lines
say, hear = lines.say, lines.hear

def die_instead_of(word):
    def spoiled(self, line):
        if line.startswith(word):
            os.kill(os.getpid(), signal.SIGKILL)
        say(self, line)
    lines.say = spoiled

def die_after(word):
    def spoiled(self, line):
        say(self, line)
        if line.startswith(word):
            os.kill(os.getpid(), signal.SIGKILL)
    lines.say = spoiled

def hang_instead_of(word):
    def spoiled(self, line):
        if line.startswith(word):
            time.sleep(600)
        say(self, line)
    lines.say = spoiled

def die_at_go(self):
    line = hear(self)
    if line == "go":
        os.kill(os.getpid(), signal.SIGKILL)
    return line

if handover.VARIABLE in os.environ and "run" in sys.orig_argv and order:
    if order == "import":
        sys.modules["nfqlb.gateway.supervisor.supervisor"] = None
    elif order == "configuration":
        import nfqlb.gateway.plan.build as plans
        def make(*_, **__):
            raise LookupError("ordered by the test")
        plans.make = make
    elif order == "worker":
        import nfqlb.gateway.plan.build as plans
        plans.worker_process.__code__ = (lambda engine, first_ident, recent, names: 1 / 0).__code__
    elif order == "hang":
        time.sleep(600)
    elif order == "rules":
        import nfqlb.gateway.plan.build as plans
        plans.place_rules.__code__ = (lambda config, queues: exec(
            "from nfqlb.gateway.runtime.job import Refused; raise Refused('no rules today: ordered by the test')"
        )).__code__
    elif order == "at go":
        lines.hear = die_at_go
    else:
        {{"dies": die_instead_of, "dies after": die_after, "hangs": hang_instead_of}}[order.rpartition(" ")[0]](
            order.rpartition(" ")[2])
"""


class NewCode:
    """What is installed when the gateway upgrades: as good as the code that runs, unless the test orders otherwise."""

    def __init__(self, folder: Path) -> None:
        self._order = folder / "order"
        self.order("")
        (folder / "sitecustomize.py").write_text(SPOILED.format(order=str(self._order), patience=PATIENCE))

    def order(self, what: str) -> None:
        self._order.write_text(what)


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NewCode:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    return NewCode(tmp_path)


@pytest.fixture
def host(net: Net) -> Host:
    return Host(net)


FAILURES = {
    "import": "supervisor",
    "configuration": "failed inside",
    "worker": "failed 3 times at its start",
    "hang": f"not ready after {PATIENCE:g} s",
    "dies ready": "has ended before it was ready",
    "dies after ready": "has ended before it had taken over",
    "at go": "has ended before it had taken over",
    "rules": "no rules today: ordered by the test",
    "dies done": "has ended before it had taken over",
    "hangs done": f"not ready after {PATIENCE:g} s",
}


@pytest.mark.parametrize("failure", FAILURES)
def test_new_code_that_fails_changes_nothing(host: Host, code: NewCode, failure: str) -> None:
    gateway = Gateway(host)
    before = gateway.picture()
    code.order(failure)
    told = gateway.upgrade(ok=False).stderr
    assert "Nothing has changed, the old code goes on:" in told
    assert FAILURES[failure] in told
    assert until(gateway.settled), host.net.log
    assert gateway.picture() == before
    assert gateway.serves()
    assert gateway.process.poll() is None
    code.order("")
    old = gateway.status()["pid"]
    gateway.upgrade()
    assert gateway.status()["pid"] != old
    assert until(gateway.settled)
    assert gateway.serves()
    gateway.stop(traceback=True)


@pytest.mark.parametrize("apply_rules", [True, False])
def test_an_upgrade_loses_nothing_and_leaves_nothing(host: Host, apply_rules: bool) -> None:
    before = host.state()
    if not apply_rules:
        assert host.call("rules", "apply").returncode == 0
        with_rules = host.state()
    gateway = Gateway(host, apply_rules=apply_rules)
    phone, farm = [host.net.phone_socket(4) for _ in range(10)], Counter(host.net.receiver(), 65535)
    sent = 0
    started = gateway.status()["started"]
    for _ in range(2):
        asked = subprocess.Popen(
            ["ip", "netns", "exec", host.net.gateway, *NFQLB, "upgrade", "--json", "-c", str(host.config)],
            stdout=subprocess.PIPE,
        )
        while asked.poll() is None:
            phone[sent % 10].send(request(phone[sent % 10], f"x{sent:08}x"))
            sent += 1
            time.sleep(0.002)
        answer = json.loads(asked.communicate()[0])
        assert answer == {"ok": True, "pid": gateway.status()["pid"]}
    assert until(gateway.settled)
    time.sleep(0.3)
    came = [whole for whole in farm.finish() if not whole.startswith(b"OPTIONS ")]  # those are the prober's
    seen = [whole.partition(b"Call-ID: ")[2][:10] for whole in came]
    assert sorted(seen) == [b"x%08dx" % number for number in range(sent)]
    assert gateway.process.wait(5) == 0
    status = gateway.status()
    assert (status["generation"], status["started"]) == (3, started)
    gateway.stop()
    assert host.state() == (before if apply_rules else with_rules)


# -- stopped on the way


@pytest.mark.parametrize("what", ["reload", "other queues", "upgrade"])
@pytest.mark.parametrize("moment", [0.0, 0.15, 0.3, 0.45, 0.6, 0.9])
def test_a_stop_in_the_middle_of_a_change_leaves_nothing(host: Host, what: str, moment: float) -> None:
    before = host.state()
    gateway = Gateway(host)
    begin_change(gateway, what)
    time.sleep(moment)
    gateway.process.send_signal(signal.SIGTERM)
    assert gateway.process.wait(12) == 0, host.net.log
    if handed_over := re.search(r"handed over to pid (\d+)", host.net.log):
        with suppress(ProcessLookupError):  # the stop came late, and is for who runs now: systemd has been told MAINPID
            os.kill(int(handed_over[1]), signal.SIGTERM)
    assert until(lambda: not namespaces.members([host.net.gateway]), 10), host.net.log
    assert set(gateway.files()) <= {"sysctls.json", "state"}
    assert host.state() == before
    assert "Traceback" not in host.net.log
    assert "does not stop" not in host.net.log


def begin_change(gateway: Gateway, what: str) -> None:
    if what == "other queues":
        count = 5 - len(gateway.workers())  # 2, 3, 2, …
        gateway.host.write(CONFIG, workers=count)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(str(gateway.net.run_dir / "control"))
        request = {"do": "upgrade"} if what == "upgrade" else {"do": "reload", "force": True}
        client.sendall(json.dumps(request).encode() + b"\n")


def supervisors(net: Net) -> list[int]:
    """Those processes in the gateway's namespace that are no workers: also such as only work for one."""
    members = namespaces.members([net.gateway])
    return [pid for pid in members if not process_name(pid).startswith("nfqlb-")]


@pytest.mark.timeout(60 + 40 * SEEDS)
def test_killed_at_any_moment_of_a_change_the_next_one_puts_all_right(host: Host) -> None:
    gateway = Gateway(host)
    for seed in range(SEEDS):
        rng = random.Random(seed)
        what = rng.choice(["reload", "other queues", "upgrade"])
        begin_change(gateway, what)
        time.sleep(rng.uniform(0, 1.2))
        victims = [int((host.net.run_dir / "pid").read_text())]
        if what == "upgrade" and rng.random() < 0.5:
            victims = supervisors(host.net)
        for pid in victims:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        started = gateway.start()
        if not started:
            assert until(lambda: answers(gateway), 10), host.net.log
        told = f"seed {seed}: {what}, killed {victims}, started {started}"
        right = until(lambda: gateway.status()["changing"] == "", 15)
        right = right and until(lambda: gateway.settled(len(gateway.workers())), 15)
        members = [f"{process_name(pid)} {pid}" for pid in namespaces.members([host.net.gateway])]
        assert right, f"{told}; {gateway.status()}; {members}; {host.net.log}"
        assert gateway.led_to() == set(gateway.status()["queues"]) == set(host.net.queues()), (told, host.net.log)
        assert gateway.serves(), (told, host.net.log)
        assert "Traceback" not in host.net.log, (told, host.net.log)
    gateway.stop()


def answers(gateway: Gateway) -> bool:
    try:
        return bool(ask(gateway.net.run_dir, {"do": "status"}, timeout=5)["ok"])
    except Exception:
        return False
