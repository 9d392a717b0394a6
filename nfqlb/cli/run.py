"""`nfqlb run`: the gateway in the foreground.

Knows in what order a gateway comes up and what keeps it from coming up; each step is somebody else's. The order:
privilege, configuration and host (checked in a process of their own), then the supervisor, then the rules.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

import click

from nfqlb.cli.common import UserError, config_option, load_config

if TYPE_CHECKING:
    from nfqlb.config import Config
    from nfqlb.gateway.supervisor import Plan
    from nfqlb.proxy.setup import Setup

T = TypeVar("T")

NOT_IN_PLACE = ("rules", "sysctls")
"""Places of problems that `nfqlb rules apply` puts right."""

logger = logging.getLogger("nfqlb")


@click.command()
@config_option
@click.option(
    "--apply-rules",
    is_flag=True,
    help="Put the iptables rules in place when the workers are ready, and take them out at the end.",
)
def command(config_path: Path, apply_rules: bool) -> None:
    """The gateway, in the foreground (systemd starts it).

    Starts one worker for each core, or as [workers] says, and prints a line when they take packets. Events go to
    stderr. SIGTERM or Ctrl-C stops it after the packets that wait.

    Without --apply-rules the rules are expected in place ('nfqlb rules apply'); they then stay at the end, and drop SIP
    packets until the next start.

    \b
    Example:
      nfqlb run -c /etc/nfqlb/nfqlb.toml --apply-rules
    """
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="nfqlb: %(levelname)s: %(message)s")
    check_privilege()
    found = apart(lambda: look(config_path, apply_rules))
    for line in found.warnings:
        logger.warning("%s", line)
    run(found.config, found.setup, apply_rules)


@dataclass(frozen=True)
class Findings:
    """What is known before anything is touched."""

    config: Config
    setup: Setup
    warnings: list[str]


def look(config_path: Path, apply_rules: bool) -> Findings:
    """Read the configuration and look at the host. Raises UserError when it cannot work."""
    from nfqlb.config import ConfigError
    from nfqlb.gateway import host
    from nfqlb.gateway.errors import HostError

    config = load_config(config_path)
    try:
        setup = config.setup()
        problems = host.problems(config)
    except (ConfigError, HostError) as error:
        raise UserError(str(error)) from None
    errors = [str(problem) for problem in problems if problem.severity == "error"]
    if errors:
        raise UserError("\n".join(["This host cannot run the gateway yet:", *(f"  {text}" for text in errors)]))
    to_apply = [problem for problem in problems if problem.place in NOT_IN_PLACE]
    warnings = [str(each) for each in (*config.warnings, *problems) if not (apply_rules and each in to_apply)]
    if to_apply and not apply_rules:
        warnings.append(
            "THE RULES ARE NOT IN PLACE: packets do not reach the workers, or do not pass. "
            f"Put that right with: nfqlb rules apply -c {config_path}"
        )
    return Findings(config, setup, warnings)


def run(config: Config, setup: Setup, apply_rules: bool) -> None:
    """Run until a signal. Raises UserError."""
    from nfqlb.gateway.instance import InstanceError
    from nfqlb.gateway.queue import QueueError
    from nfqlb.gateway.supervisor import CannotRun, Supervisor

    def ready() -> None:
        if apply_rules:
            apart(lambda: change_rules(config, "apply"))
        numbers = config.workers.queues
        queues = f"queue {numbers[0]}" if len(numbers) == 1 else f"queues {numbers[0]} to {numbers[-1]}"
        workers = "1 worker" if len(numbers) == 1 else f"{len(numbers)} workers"
        listeners = ", ".join(f"{each.name} {each.external} / {each.internal}" for each in config.listeners)
        click.echo(f"nfqlb is ready: {workers} on {queues}; {listeners}")

    try:
        with Supervisor(plan(config, setup)) as supervisor:
            try:
                supervisor.run(ready)
            finally:
                if apply_rules:
                    apart(lambda: change_rules(config, "remove"))
    except (InstanceError, QueueError, CannotRun) as error:
        raise UserError(str(error)) from None


def plan(config: Config, setup: Setup) -> Plan:
    """What the supervisor is to run. Builds the engine, with its tables, which all workers then share."""
    from nfqlb.engine import Engine
    from nfqlb.gateway.board import About
    from nfqlb.gateway.supervisor import Plan

    engine = Engine(setup)
    return Plan(
        about=About(config.gateway.name, tuple(config.workers.queues), labels(setup)),
        sources=[socket for each in config.listeners for socket in (each.external, each.internal)],
        queue_length=config.workers.queue_length,
        socket_buffer=config.workers.socket_buffer,
        run_dir=config.gateway.run_dir,
        process=lambda first_ident: engine.sibling(first_ident).process,
    )


def labels(setup: Setup) -> tuple[str, ...]:
    """A name for each of `setup.backends`: its own, behind the pool's where two pools have one of that name."""
    count = Counter(backend.name for backend in setup.backends)
    return tuple(
        backend.name if count[backend.name] == 1 else f"{pool.name}/{backend.name}"
        for pool in setup.pools
        for backend in pool.backends
    )


def check_privilege() -> None:
    from nfqlb.gateway.procfs import CAP_NET_ADMIN, has_capability

    if not has_capability(CAP_NET_ADMIN):
        raise UserError(
            "The gateway needs the capability CAP_NET_ADMIN: start it as root, or with "
            "AmbientCapabilities=CAP_NET_ADMIN in its systemd unit."
        )


def change_rules(config: Config, change: str) -> None:
    """Apply or remove the rules, in the child that `apart` makes."""
    from nfqlb.gateway import rules
    from nfqlb.gateway.errors import HostError

    os.setpgid(0, 0)  # Ctrl-C in a terminal shall not meet iptables halfway
    try:
        done = rules.apply(config) if change == "apply" else rules.remove(config)
    except HostError as error:
        raise UserError(str(error)) from None
    logger.info("rules %s: %d changes", {"apply": "applied", "remove": "removed"}[change], len(done))


def apart(work: Callable[[], T]) -> T:
    """Do `work` in a child process and return what it returns, or raise the UserError that it raises.

    What `work` imports would otherwise stay in memory, in each worker too: the libraries that read configurations
    and look at the host weigh more than a worker.
    """
    reading, writing = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        os.close(reading)
        _report(work, writing)
    os.close(writing)
    with open(reading, "rb") as pipe:
        content = pipe.read()
    os.waitpid(pid, 0)
    if not content:  # the child has told why
        raise SystemExit(1)
    result = pickle.loads(content)
    if isinstance(result, UserError):
        raise result
    return result  # type: ignore[no-any-return]  # it is what `work` returned


def _report(work: Callable[[], object], writing: int) -> NoReturn:
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C: the parent, who gets it too, has the last word
    try:
        try:
            result: object = work()
        except UserError as error:
            result = UserError(error.message)
        with open(writing, "wb") as pipe:
            pickle.dump(result, pipe)
    except BaseException:
        logger.exception("internal error")
    finally:
        os._exit(0)
