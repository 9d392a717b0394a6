"""`nfqlb run` as an administrator starts it, with the real engine and the real rules."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import standin
from livehost import CONFIG, NFQLB, Host, request
from livenet import Net, until

from nfqlb.lab import namespaces
from nfqlb.proxy.verdict import Reason

pytestmark = pytest.mark.root

RSS_LIMIT = 40 << 10
"""kB that a worker may have resident."""


@pytest.fixture
def host(net: Net) -> Host:
    return Host(net)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("size", [0, 20_000, 60_000])
def test_a_request_and_its_response_of_any_size(host: Host, family: int, size: int) -> None:
    host.start("--apply-rules")
    phone, farm = host.net.phone_socket(family), host.net.receiver(family)
    body = os.urandom(size)
    phone.send(request(phone, "one", "MESSAGE", body))
    content, source = farm.recvfrom(65535)
    assert source[:2] == (standin.INTERNAL[family].host, 5060)
    assert content.endswith(b"\r\n\r\n" + body)
    assert content.count(b"\r\nVia:") == 2
    head = content.partition(b"\r\n\r\n")[0].split(b"\r\n")
    answer = [b"SIP/2.0 200 OK", *(line for line in head[1:] if not line.startswith(b"Content-Length"))]
    answer += [b"Content-Length: %d" % size, b"", body]
    farm.sendto(b"\r\n".join(answer), source)
    reply = phone.recv(65535)
    assert reply.startswith(b"SIP/2.0 200 OK\r\n")
    assert reply.endswith(b"\r\n\r\n" + body)
    assert reply.count(b"\r\nVia:") == 1
    assert namespaces.run(host.net.gateway, ["conntrack", "-C"]).strip() == "0"


def test_a_start_and_a_stop_leave_the_host_as_it_was(host: Host) -> None:
    before = host.state()
    process = host.start("--apply-rules")
    assert host.state() != before
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    assert host.state() == before
    assert not namespaces.members([host.net.gateway])
    assert not {"board", "pid"} & set(os.listdir(host.net.run_dir))
    assert "Traceback" not in host.net.log


def test_ctrl_c_while_it_starts_leaves_the_host_as_it_was(host: Host) -> None:
    """As in a terminal: the signal meets the whole process group, at whatever moment."""
    before = host.state()
    for moment in range(7):
        command = ["ip", "netns", "exec", host.net.gateway, *NFQLB, "run", "--apply-rules", "-c", str(host.config)]
        process = subprocess.Popen(command, stdout=-1, stderr=-1, text=True, start_new_session=True)
        try:
            wait_for_child(process.pid)  # it looks at the host: Python itself has started
            time.sleep(moment * 0.08)
            os.killpg(process.pid, signal.SIGINT)
            _, said = process.communicate(timeout=15)
        finally:
            process.kill()
        # It was ready (0), or not yet: 130, or death by the signal, to a shell the same. (Python sends the signal on to
        # itself at its end when it caught it inside an exec(), as dataclasses use it.)
        assert process.returncode in (0, 130, -signal.SIGINT), said
        assert "Traceback" not in said
        assert host.state() == before
        assert namespaces.members([host.net.gateway]) == []


def wait_for_child(pid: int) -> None:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    assert until(lambda: children.read_text() != "")


def test_without_rules_it_starts_and_says_loudly_what_lacks(host: Host) -> None:
    host.start()
    assert "THE RULES ARE NOT IN PLACE" in host.net.log
    assert f"nfqlb rules apply -c {host.config}" in host.net.log
    assert host.call("rules", "apply").returncode == 0
    phone, farm = host.net.phone_socket(4), host.net.receiver()
    phone.send(request(phone, "later"))
    assert farm.recv(65535).startswith(b"REGISTER ")


def test_workers_stay_small_and_count_what_they_do(host: Host) -> None:
    host.start("--apply-rules")
    farm = host.net.receiver()
    for index in range(30):
        phone = host.net.phone_socket(4)
        phone.send(request(phone, f"n{index}"))
        assert farm.recv(65535).startswith(b"REGISTER ")
        phone.send(b"\r\n\r\n")
    assert until(lambda: host.net.counted(Reason.KEEPALIVE) == 30)
    result = host.call("stats", "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["totals"]["forwards"] == report["totals"]["backends"]["reg4"]["requests_to"] == 30
    assert report["totals"]["reasons"]["keepalive"] == 30
    assert all(worker["counts"]["packets"] > 5 for worker in report["workers"])
    assert [(row["queue"], row["dropped"]) for row in report["queues"]] == [(300, 0), (301, 0)]
    for worker in report["workers"]:
        status = Path(f"/proc/{worker['pid']}/status").read_text()
        assert int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) < RSS_LIMIT


def refused(host: Host) -> str:
    result = host.call("run")
    assert result.returncode == 1
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return result.stderr


def test_a_missing_address_is_refused(host: Host) -> None:
    host.write(CONFIG.replace("198.51.100.1:5060", "198.51.100.99:5060"))
    assert "198.51.100.99" in refused(host)
    assert not host.net.run_dir.exists()


def test_a_taken_queue_is_refused(host: Host) -> None:
    holder = host.net.start(1, run_dir="other")
    said = refused(host)
    assert "Queue 300 is held by" in said
    assert f"(pid {holder.pid})" in said
    assert os.listdir(host.net.run_dir) == []


def test_a_second_instance_is_refused(host: Host) -> None:
    first = host.start("--apply-rules")
    said = refused(host)
    assert f"Another gateway runs here (pid {first.pid})" in said


def test_a_lacking_privilege_is_refused(host: Host) -> None:
    command = ["ip", "netns", "exec", host.net.gateway, "setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"]
    result = subprocess.run(
        [*command, *NFQLB, "run", "-c", str(host.config)], capture_output=True, text=True, timeout=30
    )
    assert result.returncode == 1
    assert re.search(r"^\S+ nfqlb\[\d+\] error: The gateway needs the capability CAP_NET_ADMIN", result.stderr)


def test_a_wrong_configuration_is_refused(host: Host) -> None:
    host.write(CONFIG.replace("[workers]", "[worker]"))
    assert 'did you mean "workers"?' in refused(host)
