"""A farm that can be harmed: real Kamailio behind the gateway, numbered registrations and SIPp calls in front of it.

    generator, SIPp callers ── gateway ──┬── reg1 (Kamailio) ──┐
                                         └── reg2 (Kamailio) ──┴── SIPp callee

Receivers would count as well, but what a process that is dead, stopped or just started does to a socket, and to its
calls, is real only with a real one. Counting is left to captures: what reached each backend's link, answered or not.
Knows programs and where they run. Does not know what is done to a backend when.
"""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar

from devtools.chaos.arena import PORT, Arena
from devtools.chaos.calls import NO_END, statistics, tcpdump, wait_listening
from devtools.chaos.counted import CountedArena
from nfqlb.errors import NotRunning
from nfqlb.gateway.host import procfs
from nfqlb.gateway.runtime.control_socket import ControlError, ask
from nfqlb.lab import LabError, kamailio, namespaces
from nfqlb.lab.lab import tail
from nfqlb.lab.ping import wait_answer
from nfqlb.lab.scenario import Manner
from nfqlb.lab.sipp import Dialogue
from nfqlb.lab.topology import Node, Plan

CALLEE = "proxy1"
"""The role of the node where calls end."""

SNAP = 1200
"""Bytes of each packet that are captured: all headers that are read."""

LINGER = 1.0
"""Seconds that a side of a call answers repetitions after its end."""

LOG = re.compile(r"backend (\S+) is (down|up)\b")


class FarmArena(CountedArena):
    """Use as a context manager, like any Lab."""

    programs: ClassVar[Mapping[str, str]] = {
        **Arena.programs, "kamailio": "kamailio", "sipp": "sip-tester", "tcpdump": "tcpdump"
    }  # fmt: skip

    def __init__(
        self,
        name: str,
        *,
        family: int,
        workers: int,
        backends: int,
        hold: float,
        health: Mapping[str, float],
        say: Callable[[str], None],
    ) -> None:
        """`hold`: seconds that a call lasts. `health`: of the configuration."""
        plan = Plan(name, family=family, registrars=backends, proxies=1)
        super().__init__(name, family=family, workers=workers, say=say, plan=plan)
        self.hold = hold
        self.more = "\n[health]\n" + "".join(f"{key} = {value:g}\n" for key, value in health.items())
        self.callers: list[Dialogue] = []

    def down(self) -> None:
        super().down()
        for dialogue in self.callers:
            dialogue.process.wait(10)

    # inside

    def start_backend(self, node: Node) -> None:
        directory = self.dir / node.role
        directory.mkdir(exist_ok=True)
        if node.role == CALLEE:
            self._start_callee(node)
            return
        self._capture(node.role, node, f"udp and dst host {node.ip} and dst port {PORT}")
        callee = next(each for each in self.plan.backends if each.role == CALLEE)
        values = {"NAME": node.role, "HOST": node.host, "PORT": str(PORT), "CALLEE": f"{callee.host}:{PORT}"}
        text = files(__package__).joinpath("farm.cfg").read_text()
        for name, value in values.items():
            text = text.replace(f"@{name}@", value)
        (directory / "kamailio.cfg").write_text(text)
        self._start_kamailio(node)

    def _start_kamailio(self, node: Node) -> None:
        directory = self.dir / node.role
        argv = kamailio.command(directory / "kamailio.cfg", directory)
        self._processes[node.role] = namespaces.spawn(self.plan.namespace(node.role), argv, directory / "log")

    def _start_callee(self, node: Node) -> None:
        name = "callee"
        phone = self.phone(name, node)
        waits = str(round((self.hold + 30) * 1000))
        started = phone.start(
            "call",
            caller=False,
            calls=NO_END,
            name=name,
            timeout=100_000,
            manner=Manner(linger_ms=round(LINGER * 1000)),
            extra=(*statistics(phone.run_dir / name), "-recv_timeout", waits),
        )
        self._processes[node.role] = started.process

    def wait_backend(self, node: Node) -> None:
        if node.role == CALLEE:
            return
        process = self._processes[node.role]
        try:
            wait_answer(self.plan.namespace(node.role), (node.ip, PORT), node.ip, f"Kamailio {node.role}", process)
        except LabError as error:
            raise LabError(f"{error} {tail(self.dir / node.role / 'log')}") from None

    def signal_backend(self, node: Node, number: signal.Signals) -> None:
        """Send one to all processes of a Kamailio, at once."""
        for pid in namespaces.members([self.plan.namespace(node.role)]):
            if procfs.process_name(pid) == "kamailio":
                with suppress(ProcessLookupError):  # its main process ends the others, and may be faster
                    os.kill(pid, number)

    def restart_backend(self, node: Node) -> None:
        """Start one again that has been ended."""
        self._processes[node.role].wait(10)
        self._start_kamailio(node)
        self.wait_backend(node)

    # captures

    def _capture(self, name: str, node: Node, what: str) -> None:
        argv = tcpdump(self.capture(name), "-s", str(SNAP), *what.split())
        log = self.dir / f"{name}.tcpdump"
        process = namespaces.spawn(self.plan.namespace(node.role), argv, log)
        self._processes[f"capture {name}"] = process
        wait_listening(process, log)

    def capture(self, name: str) -> Path:
        """The file of what reached a backend, or `callers`."""
        return self.dir / f"{name}.pcap"

    def stop_captures(self) -> int:
        """So that their files are whole; how many packets they have missed."""
        captures = [(name, process) for name, process in self._processes.items() if name.startswith("capture ")]
        for _, process in captures:
            process.send_signal(signal.SIGINT)
        missed = 0
        for name, process in captures:
            process.wait(10)
            found = re.search(r"(\d+) packets? dropped by kernel", (self.dir / f"{name[8:]}.tcpdump").read_text())
            missed += int(found[1]) if found else 0
        return missed

    # outside

    def start_callers(self, rate: int) -> None:
        """Calls until `end_calls`: two callers, so that both workers have some."""
        first = self.plan.phones[0]
        ours = " or ".join(f"host {node.ip}" for node in self.plan.phones)
        self._capture("callers", first, f"udp and ( {ours} )")
        for half in range(2):
            name = f"caller{half}"
            phone = self.phone(name, self.plan.phones[half])
            each = rate // 2 + (half < rate % 2)
            if not each:
                continue
            self.callers.append(
                phone.start(
                    "call",
                    caller=True,
                    peer="callee",
                    calls=NO_END,
                    name=name,
                    timeout=100_000,
                    manner=Manner(hold_ms=round(self.hold * 1000), linger_ms=round(LINGER * 1000)),
                    extra=(*statistics(phone.run_dir / name), "-r", str(each)),
                )
            )

    def end_calls(self) -> None:
        """No new ones, and wait for the last to end, or to be given up."""
        for dialogue in self.callers:
            if dialogue.process.poll() is None:
                dialogue.process.send_signal(signal.SIGUSR1)
        for dialogue in self.callers:
            try:
                dialogue.process.wait(self.hold + 60)
            except subprocess.TimeoutExpired:
                raise LabError(f"SIPp ({dialogue.what}) does not end its calls.") from None

    # what the gateway says of its backends

    def row(self, node: Node) -> dict[str, Any]:
        """As `nfqlb backends` has it."""
        return self.rows()[f"{node.role}-{self.pools[0].name}"]

    def rows(self) -> dict[str, dict[str, Any]]:
        try:
            answer = ask(self.gateway_dir, {"do": "backends"}, timeout=5)
        except (NotRunning, ControlError) as error:
            raise LabError(f"{error} {self.log_tail}") from None
        return {row["name"]: row for row in answer["backends"]}

    def wait_state(self, node: Node, state: str, timeout: float) -> float:
        """Until the health of a backend is that; since when (seconds since 1970). LabError when it does not come."""
        deadline = time.monotonic() + timeout
        while (row := self.row(node))["health"] != state:
            if time.monotonic() > deadline:
                raise LabError(f"{node.role} is {row['health']}, and was not {state} within {timeout:.1f} s.")
            time.sleep(0.05)
        return float(row["since"])

    def transitions(self, after: int) -> dict[str, list[str]]:
        """By backend, what the gateway has logged since its log had so many characters: `down`, `up`."""
        found: dict[str, list[str]] = {}
        for name, state in LOG.findall(self.log()[after:]):
            found.setdefault(name, []).append(state)
        return found

    def log(self) -> str:
        return (self.dir / "gateway.log").read_text(errors="replace")
