"""A lab with a pair of gateways: two nodes, keepalived on each, and ways to make one fail.

Knows how a node is started as an administrator would start it, where its files are, and which processes it has. Each
keepalived has its own files in the lab's directory; the machine's own, if there is one, is not touched.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from nfqlb.gateway.host import procfs
from nfqlb.gateway.host.network import is_here
from nfqlb.lab import LabError, namespaces, topology
from nfqlb.lab.lab import PROGRAMS, SECRET, Lab, _silent, gateway_config, nfqlb_command, tail
from nfqlb.lab.topology import INSIDE, OUTSIDE, Plan
from nfqlb.lab.wire import Tap

CHECK_PORT = 5059

SETTLED_WITHIN = 10.0
"""Seconds in which one of the two has all addresses."""


class Half:
    """One node."""

    def __init__(self, lab: "PairLab", role: str, priority: int) -> None:
        self.lab, self.role, self.priority = lab, role, priority
        self.namespace = lab.plan.namespace(role)
        self.config = lab.dir / f"{role}.toml"
        self.run_dir = lab.dir / role
        self.keepalived_conf = lab.dir / f"{role}.keepalived.conf"
        self.gateway: subprocess.Popen[bytes] | None = None
        self.keepalived: subprocess.Popen[bytes] | None = None
        self._killed: list[int] = []
        """Processes of keepalived that were killed."""

    @property
    def log(self) -> Path:
        return self.lab.dir / f"{self.role}.log"

    def nfqlb(self, *argv: str, room: int | None = None) -> str:
        """Run an nfqlb command there with its configuration; its output, for `room` columns. LabError when it fails."""
        done = self.command(*argv, room=room)
        if done.returncode:
            words = " ".join((done.stderr or done.stdout).split())
            raise LabError(f"'nfqlb {' '.join(argv)}' on {self.role} failed with status {done.returncode}: {words}")
        return done.stdout

    def command(self, *argv: str, room: int | None = None) -> subprocess.CompletedProcess[str]:
        """The same, however it ends."""
        return namespaces.attempt(self.namespace, [*nfqlb_command(room), *argv, "-c", str(self.config)], timeout=30)

    def status(self) -> dict[str, Any]:
        report: dict[str, Any] = json.loads(self.nfqlb("ha", "status", "--json"))
        return report

    # -- what runs there

    def start_gateway(self) -> None:
        argv = [*nfqlb_command(), "run", "-c", str(self.config)]
        self.gateway = namespaces.spawn(self.namespace, argv, self.log)

    def wait_gateway(self) -> None:
        """Until it runs: a standby answers nobody, so it is asked by its own command."""
        deadline = time.monotonic() + SETTLED_WITHIN
        while time.monotonic() < deadline:
            assert self.gateway is not None
            if self.gateway.poll():
                break
            if self.gateway.poll() is None and self.command("status").returncode == 0:
                return
        raise LabError(f"The gateway {self.role} does not come up. {tail(self.log)}")

    def start_keepalived(self) -> None:
        self.nfqlb("ha", "render", "--write")
        stem = self.lab.dir / f"{self.role}.keepalived"
        _wait_reaped(self._killed)
        argv = ["keepalived", "--dont-fork", "--log-console", "--log-detail", "--vrrp", "--use-file"]
        argv += [str(self.keepalived_conf), "--pid", f"{stem}.pid", "--vrrp_pid", f"{stem}-vrrp.pid"]
        argv += ["--checkers_pid", f"{stem}-checkers.pid"]
        self.keepalived = namespaces.spawn(self.namespace, argv, Path(f"{stem}.log"))

    def reload_keepalived(self) -> None:
        """As systemd does it."""
        assert self.keepalived is not None
        self.keepalived.send_signal(signal.SIGHUP)

    def members(self, *names: str) -> list[int]:
        """Its processes of these names (as ps shows them); keepalived and the gateway's have different ones."""
        return [pid for pid in namespaces.members([self.namespace]) if procfs.process_name(pid) in names]

    @property
    def gateway_pids(self) -> list[int]:
        """Supervisor, workers, prober, and whatever they have started."""
        return [pid for pid in namespaces.members([self.namespace]) if procfs.process_name(pid) != "keepalived"]

    # -- what may happen to it

    def kill_gateway(self) -> None:
        """SIGKILL to all processes of the gateway."""
        self._kill(self.gateway_pids)
        if self.gateway is not None:
            self.gateway.wait(10)

    def kill_keepalived(self) -> None:
        """SIGKILL to both processes of keepalived, with no chance to give the addresses back: each stands still before
        the first one dies, for the child of a dead parent cleans up, and a parent starts another child.
        """
        pids = self._killed = self.members("keepalived")
        for number in (signal.SIGSTOP, signal.SIGKILL):
            self._kill(pids, number)
        if self.keepalived is not None:
            self.keepalived.wait(10)

    def kill_keepalived_parent(self) -> None:
        """SIGKILL to the process that systemd knows, and to nothing else."""
        assert self.keepalived is not None
        self._killed = self.members("keepalived")
        self.keepalived.kill()
        self.keepalived.wait(10)

    def _kill(self, pids: list[int], number: signal.Signals = signal.SIGKILL) -> None:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def unplug(self) -> None:
        """As after a power failure: nothing comes or goes any more, and nobody says goodbye."""
        self._plug(dict.fromkeys(topology.ports(self.lab.plan, self.role), ""))

    def replug(self) -> None:
        self._plug(topology.ports(self.lab.plan, self.role))

    def _plug(self, ports: Mapping[str, str]) -> None:
        def work() -> None:
            for port, switch in ports.items():
                topology.plug(switch, port)

        namespaces.inside(self.lab.plan.namespace("lan"), work)

    def part(self) -> None:
        """The nodes do not hear each other any more, but everybody else."""
        self._firewall("-I")

    def reunite(self) -> None:
        self._firewall("-D")

    def _firewall(self, action: str) -> None:
        plan = self.lab.plan
        for half in self.lab.halves:
            for peer in {node.ip for other in self.lab.halves if other is not half for node in plan.own(other.role)}:
                rule = [topology.iptables(plan.family), "-w", action, "INPUT", "-s", peer, "-j", "DROP"]
                namespaces.run(half.namespace, rule)

    # -- addresses

    @property
    def addresses(self) -> tuple[str, ...]:
        plan = self.lab.plan
        return tuple(dict.fromkeys((plan.external.ip, plan.internal.ip)))

    @property
    def active(self) -> bool:
        """It has all floating addresses."""
        return namespaces.inside(self.namespace, lambda: all(map(is_here, self.addresses)))

    @property
    def standby(self) -> bool:
        """It has none of them."""
        return namespaces.inside(self.namespace, lambda: not any(map(is_here, self.addresses)))


def _wait_reaped(pids: list[int], timeout: float = 10.0) -> None:
    """Until none of these exists: to keepalived, one that is dead and not reaped is one that runs, and init takes its
    time.
    """
    deadline = time.monotonic() + timeout
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)


class PairLab(Lab):
    """Use as a context manager, like any Lab. `halves` are the nodes."""

    programs: ClassVar[Mapping[str, str]] = {**PROGRAMS, "keepalived": "keepalived"}

    def __init__(
        self,
        plan: Plan,
        *,
        workers: int = 2,
        forward_drop: bool = False,
        masquerade: bool = False,
        priorities: tuple[int, int] = (250, 250),
        say: Callable[[str], None] = _silent,
    ) -> None:
        super().__init__(plan, workers=workers, forward_drop=forward_drop, masquerade=masquerade, say=say)
        self.halves = tuple(Half(self, role, each) for role, each in zip(plan.gateways, priorities, strict=True))
        self.config = self.halves[0].config

    def start_gateway(self) -> None:
        self.write_config()
        for half in self.halves:
            half.nfqlb("rules", "apply")
            half.start_gateway()
        for half in self.halves:
            half.wait_gateway()
        self._say("keepalived on both nodes: nfqlb ha render")
        for half in self.halves:
            half.start_keepalived()
        self.wait_settled()
        self.wait_gateway()

    def down(self) -> None:
        super().down()
        for half in self.halves:
            for process in (half.gateway, half.keepalived):
                if process is not None:
                    process.wait(10)

    def write_config(self) -> None:
        secret = self.dir / "secret"
        secret.write_text(f"# For tests only.\n{SECRET}\n")
        secret.chmod(0o600)
        for half in self.halves:
            files = f'secret_file = "{secret}"\nrun_dir = "{half.run_dir}"\nstate_dir = "{half.run_dir}-state"'
            half.config.write_text(gateway_config(self.plan, files, self.workers) + self.ha_table(half))

    def ha_table(self, half: Half) -> str:
        """[ha] of one node."""
        index = OUTSIDE if self.plan.one_armed else INSIDE
        _, own = self.plan.own(half.role)
        _, other = self.plan.own(next(role for role in self.plan.gateways if role != half.role))
        return (
            f'\n[ha]\naddress = "{own.ip}"\npeer = "{other.ip}"\ninterface = "{index}"\noutside = "{OUTSIDE}"\n'
            f'inside = "{index}"\npriority = {half.priority}\ncheck_port = {CHECK_PORT}\n'
            f'keepalived_conf = "{half.keepalived_conf}"\n'
        )

    @property
    def active(self) -> Half:
        """The node that has the addresses. LabError when there is none."""
        for half in self.halves:
            if half.active:
                return half
        raise LabError("No node has the addresses.")

    @property
    def standby(self) -> Half:
        """The other one."""
        active = self.active
        return next(half for half in self.halves if half is not active)

    def wait_settled(self, timeout: float = SETTLED_WITHIN) -> None:
        """Until one node has all addresses, and the other none of them."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            states = [(half.active, half.standby) for half in self.halves]
            if sorted(states) == [(False, True), (True, False)]:
                return
            time.sleep(0.02)
        logs = " ".join(tail(self.dir / f"{half.role}.keepalived.log", 300) for half in self.halves)
        raise LabError(f"After {timeout:.0f} s the addresses are not on one node, all on the same. {logs}")

    def taps(self) -> list[Tap]:
        """Record the links of both nodes."""
        links = (OUTSIDE,) if self.plan.one_armed else (OUTSIDE, INSIDE)
        return [Tap(half.namespace, links) for half in self.halves]
