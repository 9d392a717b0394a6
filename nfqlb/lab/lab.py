"""One lab: its network, its backends, its gateway, its phones, and the way down again.

Knows which program runs in which namespace and with what configuration, and waits until each answers. All files are in
one run directory. What the gateway does is started by the commands an administrator would use, in the gateway's
namespace; the namespaces are the only thing of the machine that is touched.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from nfqlb.lab import LabError, kamailio, namespaces, topology
from nfqlb.lab.baresip import Baresip
from nfqlb.lab.ping import wait_answer
from nfqlb.lab.sipp import Phone
from nfqlb.lab.topology import INSIDE, OUTSIDE, Node, Plan
from nfqlb.lab.wire import Tap
from nfqlb.lab.words import LIMIT, last_words

SECRET = "nfqlb-lab-key-for-tests-only-not-a-secret"
"""The key of every lab and of the stored captures: known to all the world, for tests only."""

PROGRAMS = {
    "ip": "iproute2",
    "iptables": "iptables",
    "iptables-restore": "iptables",
    "kamailio": "kamailio",
    "sipp": "sip-tester",
    "baresip": "baresip-core",
}
"""Programs that the lab needs → the Debian package that has them."""


def run_dir(name: str) -> Path:
    return Path(f"/run/nfqlb-lab-{name}")


def failed_dir(name: str) -> Path:
    """Where the files of a lab are after it has failed, until it is made or removed again."""
    return Path(f"/run/nfqlb-lab-{name}.failed")


LOG_MAX = 1 << 20
"""Bytes of a file that is kept: /run is memory."""


def check_host(programs: Mapping[str, str] = PROGRAMS) -> None:
    """LabError with what to do when this host cannot run a lab."""
    if os.geteuid() != 0:
        raise LabError("The lab makes network namespaces and needs root: run it with sudo.")
    path = namespaces.search_path()
    missing = sorted({package for program, package in programs.items() if not shutil.which(program, path=path)})
    if missing:
        raise LabError(
            f"The lab needs the Debian package(s) {' '.join(missing)}: install them, or run 'sudo tools/demo', "
            "which does."
        )


def _silent(text: str) -> None:
    pass


class Lab:
    """Use as a context manager: up on entry, down on exit, whatever happens in between.

    A subclass may put other programs in place of the backends and of the gateway.
    """

    programs: ClassVar[Mapping[str, str]] = PROGRAMS
    """What must be installed: program → Debian package."""

    def __init__(
        self,
        plan: Plan,
        *,
        workers: int = 2,
        forward_drop: bool = False,
        masquerade: bool = False,
        probes: bool = True,
        say: Callable[[str], None] = _silent,
    ) -> None:
        """`probes`: whether the gateway asks its backends by itself. Without, what passes it is all there is on its
        links.
        """
        if not re.fullmatch(r"[a-z0-9]{1,16}", plan.name):
            raise LabError(f"{plan.name!r} is not a name for a lab: use 1 to 16 small letters and digits.")
        self.plan, self.workers, self.forward_drop, self.masquerade = plan, workers, forward_drop, masquerade
        self.dir = run_dir(plan.name)
        self.config = self.dir / "nfqlb.toml"
        self._say, self._probes, self._keep_logs = say, probes, False
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._down_after(error)

    def up(self) -> None:
        """Make everything and wait until it answers. On any error everything is taken down again."""
        check_host(self.programs)
        if self.dir.exists() or names(self.plan.name):
            raise LabError(
                f"There is a lab {self.plan.name!r} already: 'nfqlb lab down --name {self.plan.name}' removes it."
            )
        try:
            self.dir.mkdir(mode=0o755)
            settings = {"family": self.plan.family, "one_armed": self.plan.one_armed}
            (self.dir / "lab.json").write_text(json.dumps(settings))
            self._say("namespaces, links, addresses, a NAT router")
            topology.build(self.plan)
            self._say(f"backends: {', '.join(node.role for node in self.plan.backends)}")
            for node in self.plan.backends:
                self.start_backend(node)
            self._gateway_host()
            for node in self.plan.backends:
                self.wait_backend(node)
            self._say("the gateway: nfqlb rules apply, nfqlb run")
            self.start_gateway()
        except BaseException as error:
            self._down_after(error)
            raise

    def _down_after(self, error: BaseException | None) -> None:
        """What the programs have said by then tells why it went wrong; to be interrupted is nothing wrong."""
        self._keep_logs = isinstance(error, Exception)
        self.down()
        if isinstance(error, LabError):
            error.logs = logs_of(self.plan.name)

    def down(self) -> None:
        """Take everything down. Fine when only some of it is there."""
        down(self.plan.name, keep_logs=self._keep_logs)
        for process in self._processes.values():
            process.wait(10)  # ended above; this only takes the zombie away
        self._processes.clear()

    def tap(self) -> Tap:
        """Records the gateway's links."""
        return Tap(self.plan.namespace("gw"), (OUTSIDE,) if self.plan.one_armed else (OUTSIDE, INSIDE))

    def phone(self, user: str, at: Node, *, port: int = 5060, contact: str = "") -> Phone:
        """A SIPp phone at one of the plan's addresses (`plan.home`, `plan.phones`)."""
        calls = self.dir / "phones"
        calls.mkdir(exist_ok=True)
        return Phone(
            user, self.plan.namespace(at.role), at.host, f"{self.plan.external.host}:5060", calls, port, contact
        )

    def softphone(self, user: str, at: Node) -> Baresip:
        """A baresip phone at one of the plan's addresses; only one in a namespace."""
        return Baresip(
            user, self.plan.namespace(at.role), at.host, f"{self.plan.external.host}:5060", self.dir / f"baresip-{user}"
        )

    # backends

    def start_backend(self, node: Node) -> None:
        directory = self.dir / node.role
        directory.mkdir(exist_ok=True)
        config = directory / "kamailio.cfg"
        config.write_text(kamailio.render(self.plan, node))
        self._processes[node.role] = namespaces.spawn(
            self.plan.namespace(node.role), kamailio.command(config, directory), directory / "log"
        )

    def restart_backend(self, node: Node) -> None:
        """Start one again that was killed."""
        self._processes[node.role].wait(10)
        self.start_backend(node)

    def wait_backend(self, node: Node) -> None:
        what, process = f"Kamailio {node.role}", self._processes[node.role]
        try:
            wait_answer(self.plan.namespace(node.role), (node.ip, 5060), node.ip, what, process)
        except LabError as error:
            raise LabError(f"{error} {tail(self.dir / node.role / 'log')}") from None

    # the gateway

    def _gateway_host(self) -> None:
        """What the administrator of a gateway may have set up before us."""
        iptables = topology.iptables(self.plan.family)
        for gw in map(self.plan.namespace, self.plan.gateways):
            if self.forward_drop:
                namespaces.run(gw, [iptables, "-w", "-P", "FORWARD", "DROP"])
            if self.masquerade:
                rule = ["-w", "-t", "nat", "-A", "POSTROUTING", "-o", OUTSIDE, "-j", "MASQUERADE"]
                namespaces.run(gw, [iptables, *rule])

    def start_gateway(self) -> None:
        """`nfqlb rules apply` and `nfqlb run`; ready when it answers OPTIONS at E."""
        self.write_config()
        self.nfqlb("rules", "apply", "-c", str(self.config))
        self.run_gateway()
        self.wait_gateway()

    def write_config(self) -> None:
        secret = self.dir / "secret"
        secret.write_text(f"# For tests only.\n{SECRET}\n")
        secret.chmod(0o600)
        gateway = f'secret_file = "{secret}"\nrun_dir = "{self.dir}/gateway"\nstate_dir = "{self.dir}/state"'
        silence = "" if self._probes else "\n[health]\nenabled = false\n"
        self.config.write_text(gateway_config(self.plan, gateway, self.workers) + silence)

    def run_gateway(self) -> None:
        argv = [*nfqlb_command(), "run", "-c", str(self.config)]
        self._processes["gw"] = namespaces.spawn(self.plan.namespace("gw"), argv, self.dir / "gateway.log")

    def restart_gateway(self) -> None:
        """Start one again that has ended, however: by an upgrade it may be another process than we started."""
        self._processes["gw"].wait(10)
        self.run_gateway()

    def wait_gateway(self) -> None:
        here, process = self.plan.phones[0], self._processes.get("gw")
        try:
            wait_answer(self.plan.namespace(here.role), (self.plan.external.ip, 5060), here.ip, "The gateway", process)
        except LabError as error:
            raise LabError(f"{error} {tail(self.dir / 'gateway.log')}") from None

    def nfqlb(self, *argv: str, room: int | None = None) -> str:
        """Run an nfqlb command in the gateway's namespace; its output, for `room` columns. LabError when it fails."""
        try:
            return namespaces.run(self.plan.namespace("gw"), [*nfqlb_command(room), *argv], timeout=30)
        except namespaces.Failed as error:
            raise LabError(f"'nfqlb {' '.join(argv)}' {error.how}: {error.said}") from None

    def stats(self) -> dict[str, Any]:
        """`nfqlb stats --json` of the running gateway."""
        result: dict[str, Any] = json.loads(self.nfqlb("stats", "-c", str(self.config), "--json"))
        return result


def gateway_config(plan: Plan, files: str, workers: int) -> str:
    """The gateway's nfqlb.toml for a plan; `files` are the lines that say where its files are."""

    def pool(name: str, nodes: tuple[Node, ...]) -> str:
        backends = "".join(
            f'\n[[pool.backend]]\nname = "{node.role}"\naddress = "{node.host}:5060"\n' for node in nodes
        )
        return f'\n[[pool]]\nname = "{name}"\nhash_on = "call-id"\n{backends}'

    return (
        f'[gateway]\nname = "lb"\n{files}\n'
        f'\n[[listener]]\nname = "main"\nexternal = "{plan.external.host}:5060"\n'
        f'internal = "{plan.internal.host}:5060"\n'
        f"{pool('registrars', plan.registrar_nodes)}{pool('proxies', plan.proxy_nodes)}"
        '\n[[route]]\nmethods = ["REGISTER"]\npool = "registrars"\n'
        '\n[[route]]\npool = "proxies"\n'
        f"\n[workers]\ncount = {workers}\n"
    )


def names(lab: str) -> list[str]:
    """The namespaces there are of a lab."""
    prefix = f"nfqlb-{lab}-"
    directory = namespaces.NETNS_DIR
    return (
        sorted(path.name for path in directory.iterdir() if path.name.startswith(prefix)) if directory.exists() else []
    )


def down(name: str, *, keep_logs: bool = False) -> int:
    """Remove the lab of that name, also one whose makers died; how many namespaces it had. What a failed one of that
    name has left is removed, too; `keep_logs`: this one is to leave its logs.
    """
    found = names(name)
    namespaces.end_members(found)
    for namespace in found:
        namespaces.remove(namespace)
    shutil.rmtree(failed_dir(name), ignore_errors=True)
    if keep_logs and run_dir(name).exists():
        for file in run_dir(name).rglob("*"):
            if file.is_file() and file.stat().st_size > LOG_MAX:  # a capture
                file.unlink()
        run_dir(name).rename(failed_dir(name))
    shutil.rmtree(run_dir(name), ignore_errors=True)
    return len(found)


def logs_of(name: str) -> Path | None:
    """Where the logs are kept of a lab that failed."""
    return failed_dir(name) if failed_dir(name).exists() else None


def tail(log: Path, limit: int = LIMIT) -> str:
    """The end of a log in one line."""
    text = last_words(log.read_text(errors="replace"), limit) if log.exists() else ""
    return f"Its log ends: {text}" if text else "Its log is empty."


def nfqlb_command(room: int | None = None) -> list[str]:
    """`room`: columns of the terminal that will show its output."""
    return [*(["env", f"COLUMNS={room}"] if room else []), sys.executable, "-m", "nfqlb"]
