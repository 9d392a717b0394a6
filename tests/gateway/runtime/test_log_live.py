"""The log of a gateway that runs: what each of its processes writes, and that a reload and an upgrade take it over."""

import json
import os
import re
import signal
import subprocess

import pytest
from livegateway import Gateway
from livehost import CONFIG, Host, request
from livenet import PHONE, Net, until

pytestmark = pytest.mark.root

LOG = '\n[log]\nlevel = "{}"\nformat = "{}"\n'
TEXT = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d (\S+)\[(\d+)\] (debug|info|warning|error|critical): .*"
)
JUNK = b"\1 nothing that SIP would be, nor what the kernel drops by itself"


@pytest.fixture
def host(net: Net) -> Host:
    return Host(net)


def objects(lines: list[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in lines]


def be_banned(gateway: Gateway) -> None:
    phone = gateway.net.phone_socket(4)
    for _ in range(150):
        phone.send(JUNK)
    phone.close()


def let_a_worker_complain(gateway: Gateway) -> None:
    """A large request has no way to its IPv6 backend."""
    subprocess.run(["ip", "-n", gateway.net.gateway, "-6", "route", "del", "2001:db8:2::/64", "dev", "in"], check=True)
    phone = gateway.net.phone_socket(6)
    phone.send(request(phone, "large", "MESSAGE", bytes(3000)))
    phone.close()


def test_all_processes_write_json_when_told_and_a_death_is_an_object_too(host: Host) -> None:
    host.write(CONFIG.replace("[health]\nenabled = false", "[health]\ninterval = 1") + LOG.format("debug", "json"))
    gateway = Gateway(host)
    victim = gateway.workers()[1]
    os.kill(victim, signal.SIGKILL)
    assert until(lambda: "died" in host.net.log, 10), host.net.log
    be_banned(gateway)
    assert until(lambda: f"{PHONE[4]} banned" in host.net.log, 10), host.net.log
    assert until(lambda: "backend all4/reg4 is down" in host.net.log, 15), host.net.log
    told = objects(host.net.log.splitlines())
    assert all({"time", "level", "process", "pid", "message"} <= set(each) for each in told)
    (died,) = (each for each in told if "died" in str(each["message"]))
    assert (died["worker"], died["worker_pid"], died["reason"]) == (1, victim, "killed by SIGKILL")
    (ban,) = (each for each in told if "banned" in str(each["message"]))
    assert (ban["process"], ban["pid"]) == ("nfqlb-guard", gateway.status()["guard"])
    assert (ban["source"], ban["reason"], ban["by"], ban["seconds"]) == (PHONE[4], "not-sip", "gateway", 600)
    (down,) = (each for each in told if str(each["message"]).startswith("backend all4/reg4 is down: "))
    assert (down["pool"], down["backend"], down["state"], down["level"]) == ("all4", "reg4", "down", "error")
    assert {each["level"] for each in told} >= {"debug", "info", "warning", "error"}
    gateway.upgrade()
    gateway.stop()
    pids = {each["pid"] for each in objects(host.net.log.splitlines())}  # of the new code, too, from its first line on
    assert len(pids) >= 3


def test_a_reload_takes_the_log_over_in_all_processes(host: Host) -> None:
    gateway = Gateway(host)
    assert all(TEXT.fullmatch(line) for line in host.net.log.splitlines()), host.net.log
    before, guard = len(host.net.log), gateway.status()["guard"]
    host.write(CONFIG + LOG.format("warning", "json"))
    told = gateway.reload().stdout
    assert "log.level: info → warning" in told
    assert "log.format: text → json" in told
    assert until(lambda: gateway.status()["guard"] not in (0, guard), 10)
    let_a_worker_complain(gateway)
    assert until(lambda: "is not sent" in host.net.log, 10), host.net.log
    os.kill(gateway.workers()[0], signal.SIGKILL)
    assert until(lambda: "died" in host.net.log, 10), host.net.log
    be_banned(gateway)
    assert until(lambda: f"{PHONE[4]} banned" in host.net.log, 10), host.net.log
    after = objects(host.net.log[before:].splitlines())
    (unsent,) = (each for each in after if "is not sent" in str(each["message"]))
    assert re.fullmatch(r"nfqlb-\d", str(unsent["process"]))
    assert unsent["reason"] == "send-failed"
    assert {each["process"] for each in after} == {"nfqlb", "nfqlb-guard", unsent["process"]}
    assert {each["level"] for each in after} == {"warning", "error"}  # the reload itself is less
    gateway.stop()


def test_a_refused_reload_leaves_the_log_as_it_is(host: Host) -> None:
    gateway = Gateway(host)
    host.write(CONFIG.replace("[workers]", "[worker]") + LOG.format("debug", "json"))
    gateway.reload(ok=False)
    assert all(TEXT.fullmatch(line) for line in host.net.log.splitlines()), host.net.log
    assert " error: the reload is refused" in host.net.log
    gateway.stop()


def test_the_command_line_wins_and_a_reload_says_so(host: Host) -> None:
    gateway = Gateway(host)
    gateway.stop()
    host.start("--apply-rules", "--log-level", "error")
    before = len(host.net.log)
    host.write(CONFIG + LOG.format("debug", "json"))
    told = gateway.reload().stdout
    assert "log.level: error goes on, as the command line says --log-level error" in told
    assert "--log-format" not in told
    assert host.net.log[before:] == ""
    gateway.stop()
