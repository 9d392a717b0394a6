"""`nfqlb install-units`: the systemd units, written for this host.

Writes nothing itself: `nfqlb.units` does. Knows where nfqlb and its configuration are, and what to do next.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nfqlb.cli import _screen as screen
from nfqlb.cli._common import UserError, config_option, echo_json, json_option, load_config

if TYPE_CHECKING:
    from nfqlb.units import Change, Service

HOST = Path("/")

NEXT = """
Next, as root:
  systemd-sysusers nfqlb.conf
  systemd-tmpfiles --create nfqlb.conf
  systemctl daemon-reload
  systemctl enable --now nfqlb-rules nfqlb"""


@click.command()
@config_option
@click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False),
    default=HOST,
    metavar="DIR",
    help="Write below DIR instead of /.",
)
@click.option(
    "--as-root", is_flag=True, help="Run the supervisor as root, not as user nfqlb (iptables-legacy needs it)."
)
@click.option("--remove", "removing", is_flag=True, help="Take the files away again.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@json_option
def command(config_path: Path, root: Path, as_root: bool, removing: bool, dry_run: bool, as_json: bool) -> None:
    """Write the systemd units, for this host and this configuration.

    nfqlb.service is the gateway, as a user of its own with no privilege but CAP_NET_ADMIN; nfqlb-rules.service puts
    rules and sysctls in place before, as root. Beside them a line for systemd-sysusers (the user nfqlb) and one for
    systemd-tmpfiles. May be repeated: what is right already is not touched.

    \b
    Example:
      nfqlb install-units -c /etc/nfqlb/nfqlb.toml
    """
    from nfqlb import units

    try:
        if removing:
            changes = units.remove(root, act=not dry_run)
        else:
            service = this_host(config_path, as_root)
            if root == HOST and not as_root:
                enterable(service)
            if root == HOST and not as_json and not service.config.exists():
                text = f"there is no {service.config}, so the units go by the defaults. When it is there, repeat this."
                screen.tell(f"Warning: {text}", hang=2, err=True, fg="yellow")
            changes = units.install(service, root, act=not dry_run)
    except units.UnitError as error:
        raise UserError(str(error)) from None
    report(changes, dry_run, as_json)
    if not as_json and not dry_run and root == HOST:
        click.echo("\nNext, as root:\n  systemctl daemon-reload" if removing else NEXT)


def this_host(config_path: Path, as_root: bool) -> Service:
    """What the units depend on. Without a configuration yet, its defaults."""
    from nfqlb.config.schema.tables import GatewayTable
    from nfqlb.units import Service

    config_path = Path(os.path.abspath(config_path))
    default = GatewayTable()
    run_dir, state_dir, secret_file = Path(default.run_dir), Path(default.state_dir), Path(default.secret_file)
    pair = False
    if config_path.exists():
        config = load_config(config_path)
        gateway, pair = config.gateway, config.ha is not None
        run_dir, state_dir, secret_file = gateway.run_dir, gateway.state_dir, gateway.secret_file
    command = own_command()
    needed = tuple({Path(place) for place in (sys.prefix, sys.base_prefix)})
    return Service(command, config_path, run_dir, state_dir, secret_file, needed, as_root, pair)


def own_command() -> list[str]:
    """How to call this very nfqlb. Not where a link leads in the end: the link may soon lead to a newer one."""
    program = shutil.which(sys.argv[0])
    if program and Path(program).name == "nfqlb":
        return [os.path.abspath(program)]
    return [sys.executable, "-m", "nfqlb"]


def enterable(service: Service) -> None:
    """Raises UserError when the user of the service cannot get at the program."""
    from nfqlb import SERVICE_USER
    from nfqlb.units import closed_to_others

    for needed in (Path(service.command[0]), *(each / "bin" for each in service.needed)):
        if folder := closed_to_others(needed):
            raise UserError(
                f"User {SERVICE_USER} cannot run {needed}: {folder} is closed to others. "
                "Install nfqlb elsewhere, in /opt for instance, or use --as-root."
            )


def report(changes: list[Change], dry_run: bool, as_json: bool) -> None:
    if as_json:
        echo_json([{"file": str(change.path), "change": change.kind} for change in changes])
        return
    would = "would be " if dry_run else ""
    for change in changes:
        said = {
            "new": f"{would}written",
            "changed": f"{would}replaced",
            "unchanged": "as it should be",
            "removed": f"{would}removed",
        }
        click.echo(f"{change.path}: {said[change.kind]}")
    if not changes:
        click.echo("There is nothing of ours.")
