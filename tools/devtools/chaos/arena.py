"""A lab with a gateway that can be harmed: configured anew, commanded, asked, killed.

Knows how a gateway is steered, as an administrator does it: by its file, its commands and its board. Does not know
which fault comes when, nor what load is on it: see `counted` and `calls`.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from nfqlb.errors import BoardError
from nfqlb.gateway.host import procfs
from nfqlb.gateway.stats import UP, Report, gather
from nfqlb.lab import LabError, namespaces
from nfqlb.lab.lab import SECRET, Lab, tail
from nfqlb.lab.topology import Plan, iptables

PORT = 5060

RUNNING = "running"


@dataclass(frozen=True)
class Settings:
    """What of the gateway's configuration differs from one moment to another."""

    weights: tuple[int, ...]
    """Of the backends in their order; a backend of weight 0, or beyond the last, is not in the configuration."""
    workers: int
    listeners: int = 1
    """Pairs of sockets, at ports from PORT on; the load uses the first."""


@dataclass(frozen=True)
class PoolPlan:
    """One pool of the configuration."""

    name: str
    port: int
    """Of its backends."""
    domain: str = ""
    """Of the requests that go to it; every one, when empty."""


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    name: str
    status: int
    output: str
    errors: str
    seconds: float

    @property
    def failure(self) -> str:
        """That it failed, and what it said; empty when it did not."""
        words = " ".join(f"{self.errors} {self.output}".split())
        return f"'nfqlb {self.name}' failed with status {self.status}: {words}" if self.status else ""


class Arena(Lab):
    """Use as a context manager, like any Lab."""

    programs: ClassVar[Mapping[str, str]] = {
        "ip": "iproute2",
        "iptables": "iptables",
        "iptables-restore": "iptables",
    }
    pools: ClassVar[tuple[PoolPlan, ...]] = (PoolPlan("farm", PORT),)
    more: str = ""
    """Tables that stand in the configuration besides."""

    def __init__(self, plan: Plan, settings: Settings, say: Callable[[str], None]) -> None:
        super().__init__(plan, workers=settings.workers, say=say)
        self.settings = settings

    @property
    def gateway_dir(self) -> Path:
        return self.dir / "gateway"

    def write_config(self) -> None:
        """As `settings` are."""
        secret = self.dir / "secret"
        if not secret.exists():
            secret.write_text(f"# For tests only.\n{SECRET}\n")
            secret.chmod(0o600)
        files = f'secret_file = "{secret}"\nrun_dir = "{self.gateway_dir}"\nstate_dir = "{self.dir}/state"'
        self.replace_config(render(self.plan, files, self.settings, self.pools) + self.more)

    def replace_config(self, text: str) -> None:
        """A reader finds the old file or the new one."""
        fresh = self.config.with_suffix(".new")
        fresh.write_text(text)
        fresh.rename(self.config)

    def command(self, *words: str, timeout: float = 30.0) -> Done:
        """Run an nfqlb command in the gateway's namespace with our configuration, however it ends."""
        name = " ".join(words)
        begun = time.monotonic()
        argv = ["ip", "netns", "exec", self.plan.namespace("gw"), sys.executable, "-m", "nfqlb", *words]
        try:
            done = subprocess.run(
                [*argv, "-c", str(self.config)],
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
                env=os.environ | {"PATH": namespaces.search_path()},
            )
        except subprocess.TimeoutExpired:
            raise LabError(f"'nfqlb {name}' did not end within {timeout:.0f} s.") from None
        return Done(name, done.returncode, done.stdout, done.stderr, round(time.monotonic() - begun, 3))

    def report(self) -> Report:
        """What `nfqlb stats` knows. LabError when no gateway runs."""
        try:
            return namespaces.inside(self.plan.namespace("gw"), lambda: gather(self.gateway_dir))
        except BoardError as error:
            raise LabError(f"{error} {self.log_tail}") from None

    def wait_report(self, wanted: Callable[[Report], bool], what: str, timeout: float = 10.0) -> float:
        """Until the gateway is as `wanted`; how many seconds that took. LabError when it does not get there."""
        begun = time.monotonic()
        while time.monotonic() - begun < timeout:
            try:
                if wanted(self.report()):
                    return round(time.monotonic() - begun, 3)
            except LabError:
                pass  # between two gateways there may be none
            time.sleep(0.01)
        raise LabError(f"{what} did not come within {timeout:.0f} s. {self.log_tail}")

    def kill(self, pid: int) -> None:
        """SIGKILL to a process of the gateway."""
        if pid not in namespaces.members([self.plan.namespace("gw")]):
            raise LabError(f"Process {pid} is not the gateway's, and was left alone.")
        os.kill(pid, signal.SIGKILL)
        process = self._processes["gw"]
        if process.pid == pid:
            process.wait(10)

    def wait_gone(self, pids: set[int], timeout: float) -> set[int]:
        """Until none of these processes lives any more; those that do after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while (left := {pid for pid in pids if procfs.alive(pid)}) and time.monotonic() < deadline:
            time.sleep(0.02)
        return left

    def rules(self) -> str:
        """All rules of the gateway's host, without the counters of packets."""
        text = namespaces.run(self.plan.namespace("gw"), [f"{iptables(self.plan.family)}-save"])
        return re.sub(r"^#.*\n| \[\d+:\d+\]$", "", text, flags=re.MULTILINE)

    @property
    def log_tail(self) -> str:
        return tail(self.dir / "gateway.log")


def up(report: Report) -> bool:
    """The gateway runs, with all its workers."""
    return report.state == RUNNING and all(worker.state == UP for worker in report.workers)


def render(plan: Plan, files: str, settings: Settings, pools: tuple[PoolPlan, ...]) -> str:
    """The gateway's nfqlb.toml; `files` are the lines that say where its files are."""
    listeners = "".join(
        f'\n[[listener]]\nname = "main{number or ""}"\nexternal = "{plan.external.host}:{PORT + number}"\n'
        f'internal = "{plan.internal.host}:{PORT + number}"\n'
        for number in range(settings.listeners)
    )
    routed = []
    for pool in pools:
        domains = f'domains = ["{pool.domain}"]\n' if pool.domain else ""
        backends = "".join(
            f'\n[[pool.backend]]\nname = "{node.role}-{pool.name}"\naddress = "{node.host}:{pool.port}"\n'
            f"weight = {weight}\n"
            for node, weight in zip(plan.backends, settings.weights, strict=False)
            if weight
        )
        routed.append(f'\n[[pool]]\nname = "{pool.name}"\n{backends}\n[[route]]\n{domains}pool = "{pool.name}"\n')
    return (
        f'[gateway]\nname = "lb"\n{files}\n{listeners}{"".join(routed)}'
        f"\n[workers]\ncount = {settings.workers}\n"
    )  # fmt: skip
