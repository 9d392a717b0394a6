"""Backends that die, hang, are drained and come back: real registrars, registrations all the while."""

import itertools
import json
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from livelab import fresh_name

from nfqlb.errors import NotRunning
from nfqlb.gateway.host import procfs
from nfqlb.gateway.runtime.control_socket import ControlError, ask
from nfqlb.lab import LabError, namespaces
from nfqlb.lab.lab import Lab
from nfqlb.lab.topology import Node, Plan

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

INTERVAL, TIMEOUT, FALL, RISE = 1.0, 0.5, 2, 2
HEALTH = f"\n[health]\ninterval = {INTERVAL}\ntimeout = {TIMEOUT}\nfall = {FALL}\nrise = {RISE}\n"
SILENT_FOR = INTERVAL * FALL + TIMEOUT
"""Seconds after which a backend that hangs is down at the latest."""
SLACK = 0.7
"""Seconds that a busy machine may take longer to do what is due."""
RATE = 150
"""Registrations per second."""

REGISTER = """\
REGISTER sip:example.org SIP/2.0
Via: SIP/2.0/UDP {here};rport;branch=z9hG4bK{number}x{port}
Max-Forwards: 70
From: <sip:u{user}@example.org>;tag={number}
To: <sip:u{user}@example.org>
Call-ID: {number}@{here}
CSeq: 1 REGISTER
Contact: <sip:u{user}@{here}>
Supported: path
Expires: 60
Content-Length: 0

""".replace("\n", "\r\n")


class Registrations(threading.Thread):
    """RATE of them a second, from one phone; what becomes of each."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(daemon=True)
        phone, to = lab.plan.phones[0], lab.plan.external
        family = socket.AF_INET6 if ":" in phone.ip else socket.AF_INET
        self._socket = namespaces.inside(
            lab.plan.namespace(phone.role), lambda: socket.socket(family, socket.SOCK_DGRAM)
        )
        self._socket.bind((phone.ip, 0))
        self._socket.connect((to.ip, 5060))
        self._socket.setblocking(False)
        self._port = self._socket.getsockname()[1]
        self._here = f"{phone.host}:{self._port}"
        self.sent: dict[int, float] = {}
        self.answered: dict[int, int] = {}
        """Number → status."""
        self._ending = False

    def __enter__(self) -> "Registrations":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    def run(self) -> None:
        start = time.time()
        for number in itertools.count():
            due = start + number / RATE
            while (pause := due - time.time()) > 0 or self._ending:
                if self._ending and pause < -1.0:
                    return
                self._listen(max(0.0, pause))
            text = REGISTER.format(here=self._here, number=number, port=self._port, user=number % 100)
            self.sent[number] = time.time()
            self._socket.send(text.encode())

    def _listen(self, seconds: float) -> None:
        if select.select([self._socket], [], [], seconds or 0.05)[0]:
            answer = self._socket.recv(65535)
            number = int(answer.partition(b"Call-ID: ")[2].partition(b"@")[0])
            self.answered.setdefault(number, int(answer[8:11]))

    def finish(self) -> None:
        """Send no more, and wait a second for the last answers."""
        self._ending = True
        self.join(10)
        self._socket.close()

    def failed(self) -> list[float]:
        """When those were sent that got no 200."""
        return [at for number, at in self.sent.items() if self.answered.get(number) != 200]


class Farm:
    """A lab, and what an operator sees of its backends."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        lab.config.write_text(lab.config.read_text() + HEALTH)
        self.nfqlb("reload")

    def nfqlb(self, *argv: str) -> str:
        return self.lab.nfqlb(*argv, "-c", str(self.lab.config))

    def listing(self) -> dict[str, Any]:
        try:
            text = self.nfqlb("backends", "--json")
        except LabError as error:  # exit status 1: a pool is in alarm
            raise AssertionError(error) from None
        return {row["name"]: row for row in json.loads(text)["backends"]}

    def state(self, name: str) -> str:
        return str(self.listing()[name]["state"])

    def signal(self, node: Node, number: signal.Signals) -> float:
        """Send one to all of a backend's processes; when."""
        for pid in namespaces.members([self.lab.plan.namespace(node.role)]):
            if procfs.process_name(pid) == "kamailio":
                os.kill(pid, number)
        return time.time()

    def restart(self, node: Node) -> None:
        """Start one again that was killed."""
        self.lab.restart_backend(node)

    def log(self) -> str:
        return (self.lab.dir / "gateway.log").read_text()


def until(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


@pytest.fixture(
    scope="module",
    params=[(4, False), (4, True), (6, False), (6, True)],
    ids=["IPv4-two-armed", "IPv4-one-armed", "IPv6-two-armed", "IPv6-one-armed"],
)
def farm(request: pytest.FixtureRequest) -> Iterator[Farm]:
    family, one_armed = request.param
    with Lab(Plan(fresh_name(), family=family, one_armed=one_armed)) as lab:
        yield Farm(lab)


def all_up(farm: Farm) -> bool:
    return {row["state"] for row in farm.listing().values()} == {"up"}


def test_one_that_is_killed_is_out_within_a_second_and_comes_back_once(farm: Farm) -> None:
    assert until(lambda: all_up(farm), 10)
    node = farm.lab.plan.registrar_nodes[1]
    with Registrations(farm.lab) as phone:
        time.sleep(1.0)
        killed = farm.signal(node, signal.SIGKILL)
        time.sleep(2.0)
        row = farm.listing()[node.role]
        farm.restart(node)
        assert until(lambda: all_up(farm), 10 + RISE * INTERVAL)
        time.sleep(1.0)
    assert (row["state"], row["share"]) == ("down", 0)
    assert row["error"].startswith("ICMP:")
    assert row["since"] - killed < 1.0
    assert max(phone.failed(), default=killed) - killed < 1.0
    assert farm.log().count(f"backend registrars/{node.role} is down") == 1, "it flaps"
    assert len(phone.failed()) < RATE // 2


def test_one_that_hangs_is_out_after_its_probes_and_comes_back_once(farm: Farm) -> None:
    assert until(lambda: all_up(farm), 10)
    node = farm.lab.plan.registrar_nodes[0]
    downs = farm.log().count(f"backend registrars/{node.role} is down")
    with Registrations(farm.lab) as phone:
        time.sleep(1.0)
        frozen = farm.signal(node, signal.SIGSTOP)
        try:
            assert until(lambda: farm.state(node.role) == "down", SILENT_FOR + 5)
            row = farm.listing()[node.role]
            time.sleep(1.0)
        finally:
            thawed = farm.signal(node, signal.SIGCONT)
        assert until(lambda: all_up(farm), RISE * INTERVAL + 5)
        time.sleep(1.0)
    assert row["error"] == "no answer to OPTIONS"
    assert row["since"] - frozen < SILENT_FOR + SLACK
    late = [at for at in phone.failed() if at > row["since"] + SLACK and at < thawed]
    assert late == []
    assert farm.log().count(f"backend registrars/{node.role} is down") == downs + 1, "it flaps"


def test_one_that_is_drained_gets_nothing_new_and_loses_nothing(farm: Farm) -> None:
    assert until(lambda: all_up(farm), 10)
    name = farm.lab.plan.registrar_nodes[0].role
    with Registrations(farm.lab) as phone:
        time.sleep(1.0)
        assert farm.nfqlb("backends", "drain", name) == f"registrars/{name} gets nothing new\n"
        time.sleep(0.2)
        first = farm.listing()[name]
        time.sleep(1.0)
        second = farm.listing()[name]
        farm.nfqlb("backends", "enable", f"registrars/{name}")
        time.sleep(1.0)
        third = farm.listing()[name]
    assert (second["state"], second["health"], second["share"]) == ("draining", "up", 0)
    assert second["counts"]["requests_to"] == first["counts"]["requests_to"]
    assert third["counts"]["requests_to"] > second["counts"]["requests_to"]
    assert third["counts"]["responses_2xx"] > second["counts"]["responses_2xx"]
    assert third["state"] == "up"
    assert phone.failed() == []


def test_a_prober_that_dies_is_replaced_and_what_is_known_stands(farm: Farm) -> None:
    assert until(lambda: all_up(farm), 10)
    first = prober(farm)
    os.kill(first, signal.SIGKILL)
    assert {row["state"] for row in rows_of(farm).values()} == {"up"}
    assert until(lambda: prober(farm) not in (0, first), 5)
    node = farm.lab.plan.registrar_nodes[1]
    farm.signal(node, signal.SIGKILL)
    assert until(lambda: farm.state(node.role) == "down", SILENT_FOR + 5), "the new one asks"
    farm.restart(node)
    assert until(lambda: all_up(farm), 15)


def prober(farm: Farm) -> int:
    return int(ask(farm.lab.dir / "gateway", {"do": "status"}, timeout=5)["prober"])


def test_what_is_known_and_said_goes_on_over_reload_upgrade_take_over_and_restart(farm: Farm) -> None:
    assert until(lambda: all_up(farm), 10)
    reg1, reg2 = (node.role for node in farm.lab.plan.registrar_nodes)
    node = farm.lab.plan.registrar_nodes[1]
    farm.nfqlb("backends", "disable", f"registrars/{reg1}", "--for", "1h")
    farm.nfqlb("backends", "enable", reg1)
    farm.signal(node, signal.SIGKILL)
    assert until(lambda: farm.state(reg2) == "down", SILENT_FOR + 5)
    farm.nfqlb("backends", "drain", "proxy1", "--for", "1h")
    with pytest.raises(LabError, match=r"status 1"):  # nobody is left in that pool
        farm.nfqlb("backends")
    since = down_since(farm, reg2)

    def same() -> bool:
        rows = rows_of(farm)
        return (rows[reg2]["state"], rows[reg2]["since"], rows["proxy1"]["state"]) == ("down", since, "draining")

    farm.nfqlb("reload", "--force")
    assert same()
    farm.nfqlb("upgrade")
    assert same()
    end(farm, signal.SIGKILL)
    assert same()
    end(farm, signal.SIGTERM)
    rows = rows_of(farm)
    assert rows["proxy1"]["state"] == "draining", "what was said is kept"
    assert rows[reg2]["since"] != since, "what was known is found out again"
    farm.nfqlb("backends", "enable", "proxy1")
    farm.restart(node)
    assert until(lambda: all_up(farm), 15)


def rows_of(farm: Farm) -> dict[str, Any]:
    answer = ask(farm.lab.dir / "gateway", {"do": "backends"}, timeout=10)
    return {row["name"]: row for row in answer["backends"]}


def down_since(farm: Farm, name: str) -> float:
    return float(rows_of(farm)[name]["since"])


def end(farm: Farm, number: signal.Signals) -> None:
    """End the gateway by that signal, and start it again."""
    pid = int((farm.lab.dir / "gateway" / "pid").read_text())
    os.kill(pid, number)
    assert until(lambda: not procfs.alive(pid), 10)
    farm.lab.restart_gateway()
    assert until(lambda: running(farm), 10)


def running(farm: Farm) -> bool:
    """One runs, and answers."""
    try:
        return bool(ask(farm.lab.dir / "gateway", {"do": "status"}, timeout=5)["state"] == "running")
    except (NotRunning, ControlError):
        return False
