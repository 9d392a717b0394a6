"""`nfqlb run`: the gateway, in the foreground.

Knows in what order a gateway comes up and what keeps it from coming up; each step is somebody else's. The order:
privilege, configuration and host (checked in a process of their own), then the supervisor, then the rules.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from nfqlb.cli._common import UserError, config_option

if TYPE_CHECKING:
    from nfqlb.config.model import LogFormat, LogLevel
    from nfqlb.gateway.plan.build import Made
    from nfqlb.gateway.plan.model import Plan
    from nfqlb.gateway.supervisor.upgrade import Predecessor

T = TypeVar("T")

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("text", "json")
"""As in [log]; said again, as the configuration takes longer to load than the help to print."""

logger = logging.getLogger("nfqlb")


@click.command()
@config_option
@click.option(
    "--apply-rules",
    is_flag=True,
    help="Put the iptables rules in place when the workers are ready, and take them out at the end.",
)
@click.option(
    "--log-level",
    type=click.Choice(LEVELS),
    help="The least of what is logged; as [log] level says, or info, unless given.",
)
@click.option(
    "--log-format",
    type=click.Choice(FORMATS),
    help="Lines for people, or one JSON object a line; as [log] format says, or text, unless given.",
)
def command(config_path: Path, apply_rules: bool, log_level: LogLevel | None, log_format: LogFormat | None) -> None:
    """The gateway, in the foreground (systemd starts it).

    Starts one worker for each core, or as [workers] says, and says 'nfqlb is ready' when they take packets. SIGTERM or
    Ctrl-C stops it after the packets that wait.

    The log goes to stderr, each line with its time; in the journal of systemd it has priorities instead. 'nfqlb is
    ready' goes to stdout, too, unless that is the same file.

    Without --apply-rules the rules are expected in place ('nfqlb rules apply'); they then stay at the end, and drop SIP
    packets until the next start.

    \b
    Example:
      nfqlb run -c /etc/nfqlb/nfqlb.toml --apply-rules
    """
    from nfqlb.gateway.runtime import log as runtime_log
    from nfqlb.gateway.supervisor.upgrade import Predecessor

    predecessor = Predecessor.from_environment()
    runtime_log.begin(log_level, log_format, runtime_log.STDERR if predecessor is None else predecessor.stderr)
    try:
        check_privilege()
        made = run_in_child(lambda: make(config_path))
        runtime_log.apply(made.plan.log)
        for line in made.warnings(place=apply_rules or made.plan.misled):
            logger.warning("%s", line)
        run(made.plan, config_path, apply_rules, predecessor)
    except UserError as error:
        if predecessor is not None:
            predecessor.lines.say(f"failed {error.message}")
        if runtime_log.to_terminal():
            raise
        logger.error("%s", error.message)
        raise SystemExit(error.exit_code) from None


def make(config_path: Path) -> Made:
    """Read the configuration, look at the host, build the tables. Raises Refused."""
    from nfqlb.gateway.plan import build as plan_build

    return plan_build.make(config_path)


def run(plan: Plan, config_path: Path, apply_rules: bool, predecessor: Predecessor | None) -> None:
    """Run until a signal, or until a successor has taken over. Raises UserError."""
    from nfqlb.errors import NfqlbError
    from nfqlb.gateway.plan.build import FromFile
    from nfqlb.gateway.supervisor.rollover import span
    from nfqlb.gateway.supervisor.supervisor import Supervisor

    def ready() -> None:
        workers = "1 worker" if plan.workers == 1 else f"{plan.workers} workers"
        where = "queue" if plan.workers == 1 else "queues"
        line = f"nfqlb is ready: {workers} on {where} {span(supervisor.queues)}; {plan.summary}"
        logger.info("%s", line)
        with suppress(OSError):  # nobody reads it any more, which is no reason to end
            if not os.path.sameopenfile(1, 2):
                click.echo(line)

    if predecessor is not None:
        predecessor.take_stderr()
    try:
        with Supervisor(plan, FromFile(config_path), place=apply_rules, predecessor=predecessor) as supervisor:
            try:
                supervisor.run(ready)
            finally:
                if apply_rules and supervisor.in_force:
                    logger.info("the rules are removed (%d changes)", run_in_child(supervisor.plan.displace))
    except NfqlbError as error:
        raise UserError(str(error)) from None


def check_privilege() -> None:
    from nfqlb.gateway.host.procfs import CAP_NET_ADMIN, has_capability

    if not has_capability(CAP_NET_ADMIN):
        raise UserError(
            "The gateway needs the capability CAP_NET_ADMIN: start it as root, or with "
            "AmbientCapabilities=CAP_NET_ADMIN in its systemd unit."
        )


def run_in_child(work: Callable[[], T]) -> T:
    """Do `work` in a child process and return what it returns. Raises UserError for the Refused that it raises."""
    from nfqlb.gateway.runtime.job import Job, Refused

    try:
        return Job(work).result()
    except Refused as error:
        raise UserError(str(error)) from None
