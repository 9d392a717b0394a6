"""`nfqlb rules`: the iptables rules and sysctls of the packet path, shown, put in place, compared, taken out.

Does nothing itself: `nfqlb.gateway.netfilter.ruleset` does. Knows how its findings are told.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nfqlb.cli import _screen as screen
from nfqlb.cli._common import Group, UserError, config_option, echo_json, json_option, load_settled

if TYPE_CHECKING:
    from nfqlb.config.model import Config
    from nfqlb.gateway.netfilter.iptables import Family
    from nfqlb.gateway.netfilter.ruleset import Difference


PARTS = {
    "sets": "1. Sets of addresses; by hand: nfqlb rules show --sets | ipset restore",
    "sysctls": "2. Sysctls; by hand: nfqlb rules show --sysctls | sysctl -p -",
    "rules": "3. Rules; by hand: nfqlb rules show --rules -4 | iptables-restore --noflush",
}
"""What is put in place, in that order → what is written above it."""


@click.group(cls=Group)
def command() -> None:
    """Show, apply, remove or compare the iptables rules.

    The rules live in chains of their own, NFQLB-…; those of others are left alone. The sysctls that the packet path
    needs go with them.

    \b
    Example:
      nfqlb rules show -c /etc/nfqlb/nfqlb.toml
    """


@command.command()
@config_option
@click.option("-4", "family", flag_value="4", help="IPv4 only.")
@click.option("-6", "family", flag_value="6", help="IPv6 only.")
@click.option("--sets", "sets", is_flag=True, help="Only the sets, for: ipset restore.")
@click.option("--sysctls", "sysctls", is_flag=True, help="Only the sysctls, for: sysctl -p -.")
@click.option("--rules", "rules", is_flag=True, help="Only the rules, for: iptables-restore --noflush.")
@json_option
def show(config_path: Path, family: str | None, as_json: bool, **only: bool) -> None:
    """Print what `apply` would put in place on an untouched host, in that order, with comments.

    First the sets of addresses that the rules look into, then the sysctls of this host's interfaces, then the rules.
    With --json one object: sets and rules (IP version → text), and sysctls (key → value; null where this host does not
    have the interfaces).

    Needs no privilege but to read the secret, from which the seed of the spreading is made.

    \b
    Example:
      nfqlb rules show -4
      nfqlb rules show -4 --rules | iptables-restore --noflush --test
    """
    from nfqlb.gateway.netfilter import ruleset, sysctl

    parts = [part for part in PARTS if only[part]] or [*PARTS]
    shown: dict[str, dict[str, str] | None] = {}
    config = load_settled(config_path)
    if "sets" in parts:
        shown["sets"] = of_family(ruleset.render_sets(config), family)
    if "sysctls" in parts:
        shown["sysctls"] = sysctls_here(config, family, must=len(parts) == 1)
    if "rules" in parts:
        shown["rules"] = of_family(ruleset.render(config, ruleset.live_queues(config)), family)
    if as_json:
        echo_json(shown)
        return
    texts: list[str] = []
    for part, values in shown.items():
        texts += [f"# {PARTS[part]}\n"] if len(parts) > 1 else []
        texts += [sysctl.written(values)] if part == "sysctls" and values else (values or {}).values()
    click.echo("\n".join(texts), nl=False)


def of_family(rendered: Mapping[Family, str], family: str | None) -> dict[str, str]:
    return {str(version): text for version, text in rendered.items() if family in (None, str(version))}


def sysctls_here(config: Config, family: str | None, *, must: bool) -> dict[str, str] | None:
    """Where these interfaces are not this host's, they `must` be, or there is a warning."""
    from nfqlb.errors import HostError
    from nfqlb.gateway.netfilter import ruleset

    try:
        values = ruleset.wanted_sysctls(config)
    except HostError as error:
        if must:
            raise
        warn(f"The sysctls cannot be told here. {error}")
        return None
    return {key: value for key, value in values.items() if family is None or key.startswith(f"net/ipv{family}/")}


@command.command()
@config_option
@json_option
def apply(config_path: Path, as_json: bool) -> None:
    """Put rules and sysctls in place, all of them or none.

    What is right already is not touched. From then on SIP packets wait for `nfqlb run`; while it does not run, they are
    dropped rather than let through as they came.

    \b
    Example:
      nfqlb rules apply
    """
    from nfqlb.gateway.netfilter import ruleset

    changes = ruleset.apply_live(load_settled(config_path))
    report(changes, as_json, "Rules and sysctls were in place already.", "put right")


@command.command()
@config_option
@click.option("--yes", is_flag=True, help="Do not ask, whether a gateway runs or not.")
@json_option
def remove(config_path: Path, yes: bool, as_json: bool) -> None:
    """Take out our rules and sets, and put the sysctls back.

    A sysctl that somebody else has changed since is left as it is. While a gateway runs, which then gets no packets any
    more, you are asked first; where nobody can be asked, nothing is done without --yes. Where the configuration has
    mistakes or is gone, the rules are taken out all the same, with a warning.

    \b
    Example:
      nfqlb rules remove
    """
    from nfqlb.config.build import load, run_dir_in
    from nfqlb.config.problems import ConfigError
    from nfqlb.gateway.netfilter import ruleset
    from nfqlb.gateway.preflight import host

    try:
        config = load(config_path)
        run_dir, backend = config.gateway.run_dir, config.rules.backend
    except ConfigError as error:
        run_dir, backend = run_dir_in(config_path), "auto"
        warn(f"{error}\nThe rules are taken out all the same; what the sysctls were is looked up in {run_dir}.")
    if not yes and (pid := host.serving(run_dir)):
        make_sure(pid, config_path)
    changes = ruleset.take_out(run_dir, backend)
    report(changes, as_json, "There was nothing of ours.", "taken out or put back")
    if pid := host.serving(run_dir):
        warn(
            f"A gateway runs (pid {pid}) and gets no packets from now on. "
            f"Stop it, or give it packets again with: nfqlb rules apply -c {config_path}"
        )


def make_sure(pid: int, config_path: Path) -> None:
    """Ask whether the gateway shall be cut off. Raises UserError where it shall not, or nobody is there to answer."""
    text = (
        f"A gateway runs here (pid {pid}). Without its rules it gets no packets: calls and registrations fail until "
        "they are applied again, and who is banned is forgotten."
    )
    if not sys.stdin.isatty():
        raise UserError(f"{text} To do it all the same: nfqlb rules remove --yes -c {config_path}")
    try:
        if click.confirm(f"{text}\nTake them out?", err=True):
            return
    except click.Abort:
        click.echo(err=True)
    raise UserError("Nothing was changed.")


@command.command()
@config_option
@json_option
def diff(config_path: Path, as_json: bool) -> None:
    """Say what differs between the kernel and what `apply` would put in place.

    Exit status: 0 when all is in place, 1 when something differs.

    \b
    Example:
      nfqlb rules diff
    """
    from nfqlb.gateway.netfilter import ruleset

    config = load_settled(config_path)
    found = ruleset.differences(config, ruleset.live_queues(config))
    if as_json:
        echo_json([difference._asdict() for difference in found])
    for difference in () if as_json else found:
        screen.tell(str(difference), hang=4)
    if not found and not as_json:
        click.echo("Rules and sysctls are in place.")
    raise SystemExit(1 if found else 0)


def report(changes: list[Difference], as_json: bool, nothing: str, done: str) -> None:
    if as_json:
        echo_json([change._asdict() for change in changes])
        return
    for change in changes:
        screen.tell(str(change), hang=4)
    click.echo(f"{len(changes)} {done}." if changes else nothing)


def warn(text: str) -> None:
    screen.tell(f"Warning: {text}", hang=2, err=True, fg="yellow")
