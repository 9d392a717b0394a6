"""A backend that is drained and waited for, and when it was last sent a request: with real packets and processes."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
from livegateway import Gateway
from livehost import CONFIG, NFQLB, Host, request
from livenet import Net, until

from nfqlb.gateway.backends import activity
from nfqlb.gateway.host.procfs import alive
from nfqlb.gateway.runtime.control_socket import ask
from nfqlb.lab import namespaces

pytestmark = pytest.mark.root

TWO = CONFIG.replace(
    'name = "reg4"\naddress = "10.9.0.2:5060"\n',
    'name = "reg4"\naddress = "10.9.0.2:5060"\n[[pool.backend]]\nname = "new4"\naddress = "10.9.0.3:5060"\n',
)


@pytest.fixture
def gateway(net: Net) -> Iterator[Gateway]:
    namespaces.run(net.farm, ["ip", "address", "add", "10.9.0.3/24", "dev", "eth"])
    host = Host(net)
    host.write(TWO)
    made = Gateway(host)
    yield made
    made.stop()


def row(gateway: Gateway, name: str = "reg4") -> dict[str, Any]:
    answer = ask(gateway.net.run_dir, {"do": "backends"}, timeout=10)
    (found,) = (row for row in answer["backends"] if row["name"] == name)
    return dict(found)


class Phone:
    """A registration with that backend, to be sent again and again: a transaction stays where it began."""

    def __init__(self, gateway: Gateway) -> None:
        self._phone, self._farm = gateway.net.phone_socket(4), gateway.net.receiver(4)
        for number in range(100):
            self._register = request(self._phone, f"reg{number}")
            self._phone.send(self._register)
            self._farm.settimeout(0.5)
            try:
                self._received = self._farm.recv(65535)
            except TimeoutError:  # it went to the other one
                continue
            return
        raise AssertionError("it gets nothing")

    def again(self) -> None:
        self._phone.send(self._register)
        self._farm.settimeout(5)
        assert self._farm.recv(65535).startswith(b"REGISTER ")

    def answered(self) -> None:
        self._farm.sendto(b"SIP/2.0 200 OK\r\n" + self._received.partition(b"\r\n")[2], ("10.9.0.1", 5060))
        self._phone.settimeout(5)
        assert self._phone.recv(65535).startswith(b"SIP/2.0 200 OK")


def test_the_last_request_is_told_and_goes_on_as_counters_do(gateway: Gateway) -> None:
    assert (row(gateway)["last_request"], row(gateway)["last_response"]) == (None, None)
    before = time.time()
    phone = Phone(gateway)
    assert until(lambda: row(gateway)["last_request"])
    first = row(gateway)
    assert before <= first["last_request"] <= time.time()
    assert first["last_response"] is None
    assert row(gateway, "reg6")["last_request"] is None
    phone.answered()
    assert until(lambda: row(gateway)["last_response"])
    assert until(lambda: row(gateway)["last_response"] >= first["last_request"])
    known = row(gateway)["last_request"], row(gateway)["last_response"]
    assert until(lambda: saved(gateway) == known, 10)

    def same() -> bool:
        found = row(gateway)
        return (found["last_request"], found["last_response"]) == known and found["counts"]["responses_from"] == 1

    gateway.reload("--force")
    assert same()
    gateway.change("upgrade")
    assert same()
    pid = gateway.status()["pid"]
    os.kill(pid, signal.SIGKILL)
    assert until(lambda: not alive(pid))
    assert gateway.start()
    assert until(same), row(gateway)
    phone.again()
    assert until(lambda: row(gateway)["last_request"] > known[0])
    assert row(gateway)["last_response"] == known[1]


def saved(gateway: Gateway) -> tuple[float, float]:
    seen = activity.load(gateway.net.run_dir)["reg4"]
    return seen.last_request, seen.last_response


def drain(gateway: Gateway, *argv: str) -> "subprocess.Popen[str]":
    words = [*NFQLB, "backends", "drain", "reg4", *argv, "-c", str(gateway.host.config)]
    command = ["ip", "netns", "exec", gateway.net.gateway, *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_wait_lasts_as_long_as_something_comes_and_a_little_longer(gateway: Gateway) -> None:
    phone = Phone(gateway)
    waiting = drain(gateway, "--wait", "--idle", "4s")
    assert until(lambda: row(gateway)["state"] == "draining", 20)
    for number in range(10):
        time.sleep(0.5)
        (phone.again if number % 2 else phone.answered)()
        assert waiting.poll() is None
    last = max(row(gateway)["last_request"], row(gateway)["last_response"])
    stdout, stderr = waiting.communicate(timeout=30)
    ended = time.time()
    assert waiting.returncode == 0, stderr
    assert stdout == (
        "all4/reg4 gets nothing new\nall4/reg4 is quiet: no request to it and no response from it for 4s\n"
    )
    assert stderr.startswith("all4/reg4: last request ")
    assert ended - last >= 4


def test_a_wait_goes_on_over_a_change_of_the_gateway(gateway: Gateway) -> None:
    waiting = drain(gateway, "--wait", "--json")
    assert until(lambda: row(gateway)["state"] == "draining", 20)
    gateway.change("reload")
    gateway.change("upgrade")
    assert row(gateway)["state"] == "draining"
    assert waiting.poll() is None
    assert gateway.host.call("backends", "enable", "reg4").returncode == 0
    stdout, stderr = waiting.communicate(timeout=60)
    assert waiting.returncode == 1, stderr
    told = json.loads(stdout)
    assert (told["ok"], told["quiet"], told["backends"]) == (True, False, ["all4/reg4"])
    assert "all4/reg4 takes requests again" in told["why"]


def test_ctrl_c_ends_the_wait_and_not_the_draining(gateway: Gateway) -> None:
    waiting = drain(gateway, "--wait")
    assert waiting.stderr is not None
    assert waiting.stderr.readline().startswith("all4/reg4: no request yet, no response yet; quiet after 3m")
    waiting.send_signal(signal.SIGINT)
    stdout, stderr = waiting.communicate(timeout=30)
    assert (waiting.returncode, stdout) == (130, "all4/reg4 gets nothing new\n")
    assert stderr.startswith(
        "all4/reg4 is not waited for any more. It stays drained; take that back with: nfqlb backends "
    )
    assert row(gateway)["state"] == "draining"
    words = stderr.strip().partition("nfqlb ")[2].split(" -c ")[0].split()
    assert gateway.host.call(*words).returncode == 0
    assert row(gateway)["state"] == "unknown"


def test_a_wait_that_runs_out_of_time(gateway: Gateway) -> None:
    done = drain(gateway, "--wait=2s")
    stdout, stderr = done.communicate(timeout=30)
    assert (done.returncode, stdout) == (1, "all4/reg4 gets nothing new\n")
    assert "Error: all4/reg4: not quiet after 2s (no request yet, no response yet). It stays drained" in stderr
