"""Workers without privileges: what is left to them, that it is enough for their work, and that nothing else works."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import confined
import pytest
from hostnet import BACKEND, EXTERNAL, INTERNAL, PHONE, QUEUE, Host, heard

from nfqlb.gateway.runtime import privileges
from nfqlb.lab import namespaces

pytestmark = pytest.mark.root

ONLY_NET_ADMIN = f"{1 << 12:016x}"
NOTHING = f"{0:016x}"


def start(host: Host, *how: str) -> "subprocess.Popen[bytes]":
    argv = [sys.executable, confined.__file__, str(QUEUE), BACKEND[4], INTERNAL[4], *how]
    process = namespaces.spawn(host.gateway, argv, host.folder / "confined.log", pipe=True)
    host.adopt(process)
    return process


def told(process: "subprocess.Popen[bytes]", host: Host) -> str:
    assert process.stdout is not None
    line = process.stdout.readline().decode().strip()
    assert line, (host.folder / "confined.log").read_text()
    return line


def status(pid: str) -> dict[str, list[str]]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.split() for name, _, value in (line.partition(":") for line in lines)}


@pytest.mark.parametrize("how", [(), ("again",)], ids=["root", "nobody"])
def test_a_worker_does_its_work_and_can_do_nothing_else(host: Host, how: tuple[str, ...]) -> None:
    host.apply(host.config(workers=1))
    process = start(host, *how)
    pid = told(process, host)
    has = status(pid)
    assert has["Uid"] == has["Gid"] == [str(privileges.NOBODY)] * 4
    assert has["Groups"] == []
    assert (has["CapPrm"], has["CapEff"]) == ([ONLY_NET_ADMIN], [ONLY_NET_ADMIN])
    assert [has[name] for name in ("CapInh", "CapBnd", "CapAmb")] == [[NOTHING]] * 3
    assert has["NoNewPrivs"] == ["1"]
    limits = Path(f"/proc/{pid}/limits").read_text()
    assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE)
    assert os.stat(f"/proc/{pid}/mem").st_uid == 0  # the mark of a process that may not be debugged

    phone, farm = host.udp(host.phone, PHONE[4]), host.udp(host.farm, BACKEND[4], 5060)
    for _ in range(2):
        phone.sendto(b"what can you do, SIP/2.0?", (EXTERNAL[4], 5060))
        content, source, port = heard(farm) or (b"{}", "", 0)
        assert (source, port) == (INTERNAL[4], 5060)
        assert json.loads(content) == {"could": [], "cores": [min(os.sched_getaffinity(0))], "umask": 0o077}


def test_the_supervisor_can_still_end_it(host: Host) -> None:
    process = start(host)
    told(process, host)
    process.terminate()
    assert told(process, host) == "-15 -15"


TRY = """
import os, sys
sys.path.insert(0, sys.argv[2])
import confined
own = os.getpid()
for attempt in confined.attempts(int(sys.argv[1])).values():
    attempt()
    if os.getpid() != own:
        os._exit(0)
"""


def test_the_attempts_are_such_as_could_succeed(host: Host) -> None:
    """With all privileges each of them does, or the test above would prove nothing."""
    with subprocess.Popen(["sleep", "60"]) as other:
        try:
            host.run(sys.executable, "-c", TRY, str(other.pid), str(Path(confined.__file__).parent))
        finally:
            other.kill()


DROP = """
from nfqlb.gateway.runtime import privileges
try:
    privileges.drop()
except privileges.PrivilegeError as error:
    print(error)
"""


def refusal(host: Host, *few: str) -> str:
    """What a worker says that was started with less than it needs."""
    return host.run("setpriv", *few, sys.executable, "-c", DROP)


def test_who_cannot_drop_says_what_lacks(host: Host) -> None:
    few = "--bounding-set=-all,+net_admin"
    assert "let the gateway have CAP_SETUID and CAP_SETGID" in refusal(host, few)
    assert refusal(host, "--bounding-set=-all,+setuid,+setgid,+setpcap") == (
        "A worker cannot keep just CAP_NET_ADMIN (Operation not permitted): start the gateway with it.\n"
    )
    assert refusal(host, "--bounding-set=-all,+net_admin,+setuid,+setgid") == ""  # not to empty it is no failure


def test_a_core_for_each_only_where_there_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[list[int]] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {7, 2, 5})
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, cores: pinned.append(cores))
    for seat in range(3):
        privileges.pin(seat, 3)
    assert pinned == [[2], [5], [7]]
    privileges.pin(0, 4)
    assert len(pinned) == 3
