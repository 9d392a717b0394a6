"""`nfqlb bans`: who is banned, and an operator's word about it.

Asks and changes the kernel's sets (`nfqlb.gateway.sets`), so it works whether the gateway runs or not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

import click

from nfqlb.cli import completing
from nfqlb.cli.backends import duration, span
from nfqlb.cli.common import UserError, console, echo_json, json_option

if TYPE_CHECKING:
    from nfqlb.gateway.sets import Entry
    from nfqlb.proxy.setup import Network

BY = {"deny": "operator", "ban": "gateway"}

FLOOD = "too many requests a second"
"""What the kernel bans for; it cannot write that down itself."""


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Who is banned; ban a source, or let it go.

    Without a word it is 'list'. A banned source reaches no listener from outside; the kernel drops what it sends. Whom
    [limits] allow names, backends and the other node are never banned. Bans outlive a reload, an upgrade and a restart
    of the gateway, not one of the host.

    \b
    Example:
      nfqlb bans add 203.0.113.77 --for 2h
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_, as_json=as_json)
    elif as_json:
        raise click.UsageError(f"--json goes behind {ctx.invoked_subcommand}.")


@command.command("list")
@json_option
def list_(as_json: bool) -> None:
    """Who is banned, by whom, for how long and why, and how many packets that has stopped.

    With --json a list of objects: source, by (operator or gateway), seconds (that are left; null: for ever), packets,
    bytes (with IP headers) and why.

    \b
    Example:
      nfqlb bans list --json | jq length
    """
    from nfqlb.gateway import sets

    with told():
        found = sets.entries()
    if as_json:
        echo_json([plain(entry) for entry in found])
        return
    from nfqlb.cli.stats import grid

    if not found:
        click.echo("Nobody is banned.")
        return
    table = grid("Source", "By", "For", "Packets stopped", "Why", last_left=True)
    for entry in sorted(found, key=lambda entry: -entry.packets):
        left = "ever" if entry.left is None else span(entry.left)
        table.add_row(entry.source, BY[entry.kind], left, str(entry.packets), reason(entry))
    console().print(table)


@command.command()
@click.option(
    "--for",
    "seconds",
    callback=duration,
    metavar="TIME",
    shell_complete=completing.durations,
    help="90s, 10m, 2h, 1d; for ever unless given.",
)
@click.option("--why", default="", metavar="TEXT", help="For those who look at the list later.")
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
def add(seconds: float | None, why: str, sources: tuple[str, ...]) -> None:
    """Ban sources: addresses, or networks such as 203.0.113.0/24.

    One that is banned by an operator already gets the new time.

    \b
    Example:
      nfqlb bans add 203.0.113.0/24 2001:db8:7::/48 --for 1d --why "scans every night"
    """
    from nfqlb.gateway import sets

    wanted = [network(each) for each in sources]
    with told():
        allowed = [entry.network for entry in sets.entries(["allow"])]
        for each in wanted:
            over = next((one for one in allowed if covers(one, each)), None)
            if over is not None:
                raise UserError(
                    f"{each} cannot be banned: {over} is a backend, a node of the pair, or in [limits] allow."
                )
        for each in wanted:
            sets.ban(each, int(seconds or 0), why)
    click.echo(f"{', '.join(sources)} banned {'for ever' if seconds is None else f'for {span(seconds)}'}.")


@command.command()
@click.option("--all", "everybody", is_flag=True, help="Everybody who is banned.")
@click.argument("sources", metavar="SOURCE...", nargs=-1, shell_complete=completing.banned)
def remove(everybody: bool, sources: tuple[str, ...]) -> None:
    """Let sources go: each ban that stops such an address, or that is such a network.

    A source that goes on as before is banned again.

    \b
    Example:
      nfqlb bans remove 203.0.113.77
    """
    from nfqlb.gateway import sets

    if everybody == bool(sources):
        raise click.UsageError("Say whom to let go, or --all.")
    with told():
        found = sets.entries()
        chosen = found if everybody else []
        for text in sources:
            matching = [entry for entry in found if covers(entry.network, network(text))]
            if not matching:
                raise UserError(f"{text} is not banned; 'nfqlb bans list' tells who is.")
            chosen += [entry for entry in matching if entry not in chosen]
        for entry in chosen:
            sets.unban(entry)
    click.echo(f"{', '.join(entry.source for entry in chosen) or 'Nobody'} let go.")


def covers(one: Network, other: Network) -> bool:
    return one.version == other.version and other.subnet_of(one)  # type: ignore[arg-type]


def network(text: str) -> Network:
    try:
        return ip_network(text)
    except ValueError:
        pass
    try:
        ip_address(text.partition("/")[0])
        meant = ip_network(text, strict=False)
    except ValueError:
        raise UserError(f"{text!r} is no address or network, such as 203.0.113.77 or 203.0.113.0/24.") from None
    raise UserError(f"{text} is an address within {meant}: say which of them you mean.")


def plain(entry: Entry) -> dict[str, object]:
    return {
        "source": entry.source,
        "by": BY[entry.kind],
        "seconds": entry.left,
        "packets": entry.packets,
        "bytes": entry.bytes,
        "why": reason(entry),
    }


def reason(entry: Entry) -> str:
    return entry.why or (FLOOD if entry.kind == "ban" else "")


@contextmanager
def told() -> Iterator[None]:
    """What goes wrong with the host is told in a sentence."""
    from nfqlb.gateway.errors import HostError

    try:
        yield
    except HostError as error:
        raise UserError(str(error)) from None
