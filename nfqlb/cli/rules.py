"""`nfqlb rules`: the iptables rules and sysctls of the packet path, shown, put in place, compared, taken out.

Does nothing itself: `nfqlb.gateway.rules` does. Knows how its findings are told.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nfqlb.cli import screen
from nfqlb.cli.common import UserError, config_option, echo_json, json_option, load_settled

if TYPE_CHECKING:
    from nfqlb.gateway.rules import Difference


@click.group()
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
@click.option("-4", "families", flag_value="4", help="IPv4 only.")
@click.option("-6", "families", flag_value="6", help="IPv6 only.")
@click.option("--sets", is_flag=True, help="The sets of addresses that the rules look into, for ipset restore.")
@json_option
def show(config_path: Path, families: str | None, sets: bool, as_json: bool) -> None:
    """Print the rules that `apply` would put in place, with comments.

    Needs no privilege but to read the secret, from which the seed of the spreading is made.

    \b
    Example:
      nfqlb rules show -4
    """
    from nfqlb.gateway import rules

    with told():
        config = load_settled(config_path)
        rendered = rules.render_sets(config) if sets else rules.render(config, rules.live_queues(config))
    texts = {str(family): text for family, text in rendered.items() if families in (None, str(family))}
    if as_json:
        echo_json(texts)
    else:
        click.echo("\n".join(texts.values()), nl=False)


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
    from nfqlb.gateway import rules

    with told():
        changes = rules.apply_live(load_settled(config_path))
    report(changes, as_json, "Rules and sysctls were in place already.", "put right")


@command.command()
@config_option
@json_option
def remove(config_path: Path, as_json: bool) -> None:
    """Take out our rules and put the sysctls back.

    A sysctl that somebody else has changed since is left as it is. A gateway that runs goes on, but gets no packets.
    Where the configuration has mistakes or is gone, the rules are taken out all the same, with a warning.

    \b
    Example:
      nfqlb rules remove
    """
    from nfqlb.config import ConfigError, load, run_dir_in
    from nfqlb.gateway import host, rules

    try:
        config = load(config_path)
        run_dir, backend = config.gateway.run_dir, config.rules.backend
    except ConfigError as error:
        run_dir, backend = run_dir_in(config_path), "auto"
        warn(f"{error}\nThe rules are taken out all the same; what the sysctls were is looked up in {run_dir}.")
    with told():
        changes = rules.take_out(run_dir, backend)
    report(changes, as_json, "There was nothing of ours.", "taken out or put back")
    if pid := host.running(run_dir):
        warn(
            f"A gateway runs (pid {pid}) and gets no packets from now on. "
            f"Stop it, or give it packets again with: nfqlb rules apply -c {config_path}"
        )


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
    from nfqlb.gateway import rules

    with told():
        config = load_settled(config_path)
        found = rules.differences(config, rules.live_queues(config))
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


@contextmanager
def told() -> Iterator[None]:
    """What goes wrong with the host or the secret is told in a sentence."""
    from nfqlb.config import ConfigError
    from nfqlb.gateway.errors import HostError

    try:
        yield
    except (ConfigError, HostError) as error:
        raise UserError(str(error)) from None
