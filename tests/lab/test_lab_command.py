"""`nfqlb lab`: up, down, demo and load, as a user calls them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from livelab import fresh_name

from nfqlb.lab import lab, namespaces

LAB = [sys.executable, "-m", "nfqlb", "lab"]
CHAOS = [sys.executable, "-m", "devtools.chaos"]


def nfqlb_lab(*argv: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*LAB, *argv], capture_output=True, text=True, timeout=timeout, check=False)


def remains(name: str) -> list[str]:
    """What there is of a lab."""
    found = lab.names(name)
    return found + [str(path) for path in (lab.run_dir(name),) if path.exists()]


@pytest.mark.root
def test_up_and_down() -> None:
    name = fresh_name()
    try:
        up = nfqlb_lab("up", "--name", name)
        assert up.returncode == 0, up.stderr
        assert f"nfqlb-{name}-gw" in up.stdout
        assert len(namespaces.members(lab.names(name))) > 8
        again = nfqlb_lab("up", "--name", name)
        assert (again.returncode, again.stdout) == (1, "")
        assert f"nfqlb lab down --name {name}" in again.stderr
        assert remains(name)
    finally:
        down = nfqlb_lab("down", "--name", name)
    assert down.returncode == 0
    assert remains(name) == []
    none = nfqlb_lab("down", "--name", name)
    assert (none.returncode, none.stdout) == (0, f"There is no lab '{name}'.\n")


@pytest.mark.root
def test_down_after_its_maker_was_killed() -> None:
    name = fresh_name()
    maker = subprocess.Popen([*LAB, "demo", "--name", name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while not (lab.run_dir(name) / "gateway.log").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        maker.kill()
        maker.wait()
        left = namespaces.members(lab.names(name))
        assert left
    finally:
        maker.kill()
        maker.wait()
        assert nfqlb_lab("down", "--name", name).returncode == 0
    assert remains(name) == []
    # What has ended may still be waiting for its parent to look, but it is in no namespace any more.
    assert not any(Path(f"/proc/{pid}/ns/net").exists() for pid in left)


@pytest.mark.root
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_demo_cleans_up(number: signal.Signals) -> None:
    name = fresh_name()
    demo = subprocess.Popen([*LAB, "demo", "--name", name], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 20
    while not (lab.run_dir(name) / "baresip-alice").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    demo.send_signal(number)
    errors = demo.communicate(timeout=30)[1]
    assert demo.returncode == 128 + number
    assert "Traceback" not in errors
    assert remains(name) == []


@pytest.mark.root
@pytest.mark.parametrize(
    ("options", "internal", "received"),
    [
        ((), "192.168.1.5", "172.31.23.177:5060"),
        (("--ipv6", "--one-armed"), "[2001:db8:5::5]", "[2001:db8:23::177]:5060"),
    ],
    ids=["IPv4-two-armed", "IPv6-one-armed"],
)
def test_demo(options: tuple[str, ...], internal: str, received: str) -> None:
    """P25: real phones (baresip) register and call; the ladder shows what was rewritten."""
    name = fresh_name()
    demo = nfqlb_lab("demo", "--name", name, *options)
    assert demo.returncode == 0, demo.stderr
    assert f"+ Path: <sip:lb@{internal};lr;received=sip:{received};sig=" in demo.stdout
    assert " INVITE " in demo.stdout
    assert " 200 BYE " in demo.stdout
    assert "Queue" in demo.stdout
    assert "reg1" in demo.stdout
    assert remains(name) == []


@pytest.mark.root
def test_load() -> None:
    """No failed call and no packet dropped by a queue at a rate that a busy machine carries; workers stay small."""
    load = nfqlb_lab("load", "--name", fresh_name(), "--rate", "60", "--seconds", "5", "--json", timeout=100)
    assert load.stdout, load.stderr
    result = json.loads(load.stdout)
    assert (result["failed"], result["queue_dropped"], result["successful"]) == (0, 0, 300)
    assert result["ok"] is True
    assert load.returncode == 0
    assert result["packets"] >= 3_900
    assert len(result["packets_per_worker"]) == 2
    assert all(packets > 0 for packets in result["packets_per_worker"])
    assert all(0 < memory < 40 for memory in result["worker_memory_mb"])


@pytest.mark.root
def test_load_counts_calls_that_are_refused() -> None:
    """Then whoever is called waits for some in vain: the figures are told all the same."""
    name = fresh_name()
    argv = [*LAB, "load", "--name", name, "--rate", "40", "--seconds", "3", "--json"]
    load = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    told = ""
    assert load.stderr is not None
    while "calls/s" not in told:
        line = load.stderr.readline()
        assert line, told
        told += line
    config = lab.run_dir(name) / "nfqlb.toml"
    disable = [sys.executable, "-m", "nfqlb", "backends", "disable", "proxy1", "-c", str(config)]
    asked = subprocess.run(disable, capture_output=True, text=True, timeout=60, check=False)
    try:
        stdout, stderr = load.communicate(timeout=100)
    finally:
        load.kill()
    assert asked.returncode == 0, asked.stderr
    assert stdout, told + stderr
    result = json.loads(stdout)
    assert (load.returncode, result["ok"], result["calls"]) == (1, False, 120)
    assert 0 < result["failed"] == 120 - result["successful"]
    assert remains(name) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="is about those who are not root")
def test_without_root() -> None:
    demo = nfqlb_lab("demo")
    assert demo.returncode == 1
    assert "sudo" in demo.stderr


@pytest.mark.root
def test_a_bad_name() -> None:
    bad = nfqlb_lab("up", "--name", "my-lab")
    assert bad.returncode == 1
    assert "small letters and digits" in bad.stderr


@pytest.mark.root
def test_a_missing_program_is_named(tmp_path: Path) -> None:
    """With nothing in PATH but ip, everything else is missing."""
    environment = {"PATH": str(tmp_path)}
    done = subprocess.run([*LAB, "demo"], capture_output=True, text=True, timeout=30, check=False, env=environment)
    assert done.returncode == 1
    assert "baresip-core" in done.stderr
    assert "sudo tools/demo" in done.stderr


KILLED_WHEN_STEERED = """
( for try in $(seq 3000); do grep -q ' 01 ' /proc/net/tcp && break; sleep 0.01; done; kill -KILL $$ ) &
exec "$REAL" "$@"
"""
"""A phone that is there, and dies when the demo has connected to its control port (TCP state 01: established)."""

FAILING = [
    (
        ["demo"],
        "iptables",
        "echo 'no such table, sorry' >&2; exit 3",
        'At "namespaces, links, addresses, a NAT router": \'iptables -w -t nat ',
        "failed with status 3: no such table, sorry",
    ),
    (
        ["demo"],
        "kamailio",
        "echo 'no memory, sorry' >&2; exit 9",
        'At "backends: reg1, reg2, proxy1": Kamailio reg1 ended with status 9. ',
        "Its log ends: no memory, sorry",
    ),
    (
        ["demo"],
        "iptables-restore",
        "echo 'not today' >&2; exit 4",
        'At "the gateway: nfqlb rules apply, nfqlb run": \'nfqlb rules apply ',
        "iptables-restore failed: not today",
    ),
    (
        ["demo"],
        "baresip",
        "echo 'line 7 of my configuration?'; exit 1",
        'At "alice registers from ',
        "alice (baresip) does not start. Its log ends: line 7 of my configuration?",
    ),
    (
        ["demo"],
        "baresip",
        KILLED_WHEN_STEERED,
        'At "',
        "(baresip) was ended by SIGKILL. Its log ends: ",
    ),
    (
        ["load", "--rate", "10", "--seconds", "2"],
        "sipp",
        "echo 'what scenario?'; exit 254",
        'At "4 phones register from behind the NAT": SIPp (callee0, register, caller) failed with status 254.',
        "what scenario?",
    ),
    (
        ["up", "--pair"],
        "keepalived",
        "echo 'no VRRP, sorry'; exit 2",
        'At "keepalived on both nodes: nfqlb ha render": ',
        "no VRRP, sorry",
    ),
    (
        ["worker-kill", "--rate", "100", "--seconds", "2"],
        "iptables",
        "echo 'no such table, sorry' >&2; exit 3",
        'At "namespaces, links, addresses, a NAT router": \'iptables -w -t nat ',
        "failed with status 3: no such table, sorry",
    ),
]


@pytest.mark.root
@pytest.mark.parametrize(
    ("words", "program", "does", "step", "said"), FAILING, ids=[f"{case[0][0]}-{case[1]}" for case in FAILING]
)
def test_a_program_that_fails_is_told_in_a_sentence_with_its_own_words(
    tmp_path: Path, words: list[str], program: str, does: str, step: str, said: str
) -> None:
    name = fresh_name()
    path = namespaces.search_path()
    failing = tmp_path / program
    failing.write_text(f"#!/bin/sh\nREAL={shutil.which(program, path=path)}\n{does}\n")
    failing.chmod(0o755)
    command = [*LAB, *words] if words[0] in ("demo", "load", "up") else [sys.executable, "-m", "devtools.chaos", *words]
    try:
        done = subprocess.run(
            [*command, "--name", name],
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
            env=os.environ | {"PATH": f"{tmp_path}:{path}"},
        )
        error = done.stderr.partition("Error: ")[2]
        assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
        assert step in error
        assert said in error
        assert error.endswith(f"\nThe logs are kept in {lab.failed_dir(name)}.\n")
        assert list(lab.failed_dir(name).rglob("*"))
        assert remains(name) == []
    finally:
        removed = nfqlb_lab("down", "--name", name)
    assert removed.stdout == f"There is no lab '{name}'; what a failed one has left is removed.\n"
    assert not lab.failed_dir(name).exists()
