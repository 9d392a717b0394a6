"""`nfqlb bans`: who is banned, and an operator's word about it.

Asks and changes the kernel's sets (`nfqlb.gateway.netfilter.ipset`), so it works whether the gateway runs or not.
"""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

import click

from nfqlb.cli import _screen as screen
from nfqlb.cli import completion
from nfqlb.cli._common import Group, UserError, echo_json, json_option
from nfqlb.cli.backends import UNITS, duration, span
from nfqlb.layout import Shape, Table

if TYPE_CHECKING:
    from nfqlb.gateway.netfilter.ipset import Entry
    from nfqlb.proxy.setup import Network

BY = {"deny": "operator", "ban": "gateway"}

WORDS = {"flood": "too many requests a second", "junk": "junk: non-SIP bytes"}
"""What the kernel bans for by itself."""
BY_KERNEL = "junk or too many requests"
"""The same where nobody has noted which: the kernel was faster than the gateway, or there is none."""

BANS = Shape(
    "bans",
    ("Source", "By", "For", "Packets stopped", "Why"),
    drop=(("By",), ("Packets stopped",)),
    left=("By", "For"),
    prose="Why",
)

WIDEST = {4: 8, 6: 16}
"""Prefix lengths by IP version: a wider network is banned with --force only."""

TOLD = 5
"""Bans that an error names one by one."""


def ban_time(ctx: click.Context, param: click.Parameter, text: str | None) -> float | None:
    """A duration that the kernel can keep."""
    seconds = duration(ctx, param, text)
    if seconds is not None:
        from nfqlb.gateway.netfilter.ipset import LONGEST

        if seconds > LONGEST:
            raise click.BadParameter(
                f"{text} is too long: a ban that ends lasts {LONGEST:,} s ({LONGEST // UNITS['d']} days) at most, for "
                "the kernel. Say less, or leave --for out: then it stays until 'nfqlb bans remove'."
            )
    return seconds


@screen.wide_option(BANS)
@click.group(cls=Group, invoke_without_command=True)
@json_option
@click.pass_context
def command(ctx: click.Context, as_json: bool, wide: bool) -> None:
    """Who is banned; ban a source, or let it go.

    Without a word it is 'list'. A banned source reaches no listener from outside; the kernel drops what it sends. Whom
    [limits] allow names, backends and the other node are never banned. Bans outlive a reload, an upgrade and a restart
    of the gateway, not one of the host.

    \b
    Example:
      nfqlb bans add 203.0.113.77 --for 2h
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_, as_json=as_json, wide=wide)
    elif as_json or wide:
        raise click.UsageError(f"{'--json' if as_json else '--wide'} goes behind {ctx.invoked_subcommand}.")


@screen.wide_option(BANS)
@command.command("list")
@json_option
def list_(as_json: bool, wide: bool) -> None:
    """Who is banned, by whom, for how long and why, and how many packets that has stopped.

    With --json a list of objects: source, by (operator or gateway), seconds (that are left; null: for ever), packets,
    bytes (with IP headers) and why.

    \b
    Example:
      nfqlb bans list --json | jq length
    """
    from nfqlb.gateway.netfilter import ipset

    found = ipset.entries()
    if as_json:
        echo_json([plain(entry) for entry in found])
        return
    if not found:
        click.echo("Nobody is banned.")
        return
    table = Table(BANS)
    for entry in sorted(found, key=lambda entry: -entry.packets):
        left = "ever" if entry.left is None else span(entry.left)
        table.add(entry.source, BY[entry.kind], left, str(entry.packets), reason(entry))
    screen.show([table], wide=wide)


@command.command()
@click.option(
    "--for",
    "seconds",
    callback=ban_time,
    metavar="TIME",
    shell_complete=completion.durations,
    help="90s, 10m, 2h, 24d at most; for ever unless given.",
)
@click.option("--why", metavar="TEXT", help="For those who look at the list later.")
@click.option("--force", is_flag=True, help="Also a network wider than /8, or /16 of IPv6.")
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
def add(seconds: float | None, why: str | None, force: bool, sources: tuple[str, ...]) -> None:
    """Ban sources: addresses, or networks such as 203.0.113.0/24.

    One that is banned by an operator already gets the new time, and keeps its reason unless --why gives another.

    \b
    Example:
      nfqlb bans add 203.0.113.0/24 2001:db8:7::/48 --for 1d --why "scans"
    """
    from nfqlb.gateway.netfilter import ipset

    wanted = [network(each) for each in sources]
    for each in wanted:
        if each.prefixlen < WIDEST[each.version] and not force:
            raise UserError(too_wide(each))
    allowed = [entry.network for entry in ipset.entries(["allow"])]
    for each in wanted:
        over = next((one for one in allowed if covers(one, each)), None)
        if over is not None:
            raise UserError(f"{each} cannot be banned: {over} is a backend, a node of the pair, or in [limits] allow.")
    ipset.ban(wanted, int(seconds or 0), why)
    click.echo(f"{', '.join(sources)} banned {'for ever' if seconds is None else f'for {span(seconds)}'}.")


@command.command()
@click.option("--all", "everybody", is_flag=True, help="Everybody who is banned.")
@click.argument("sources", metavar="SOURCE...", nargs=-1, shell_complete=completion.banned)
def remove(everybody: bool, sources: tuple[str, ...]) -> None:
    """Let sources go, as 'nfqlb bans list' names them.

    An address of a banned network is not let go by itself: name the network, or put the address into [limits] allow.
    (Of IPv6, the gateway itself bans whole /64s; an address in one stands for it.) A source that goes on as before is
    banned again.

    Exit status: 0 when they are let go, 1 when one is not banned, or is still banned as part of a network.

    \b
    Example:
      nfqlb bans remove 203.0.113.77
    """
    from nfqlb.gateway.netfilter import ipset

    if everybody == bool(sources):
        raise click.UsageError("Name what to unban, or use --all.")
    found = ipset.entries()
    chosen = found if everybody else []
    for text in sources:
        exact = [entry for entry in found if is_ban_of(entry, network(text))]
        if not exact:
            raise UserError(not_banned(text, found))
        chosen += [entry for entry in exact if entry not in chosen]
    for entry in chosen:
        ipset.unban(entry)
    click.echo(f"{', '.join(entry.source for entry in chosen) or 'Nobody'} let go.")
    left = [entry for entry in found if entry not in chosen]
    if still := [not_banned(text, left) for text in sources if part_of(network(text), left)]:
        raise UserError("\n".join(still))


def too_wide(each: Network) -> str:
    """What a ban of so many would do."""
    share = f"one in {2**each.prefixlen} of all" if each.prefixlen else "all"
    return (
        f"{each} is {share} IPv{each.version} addresses: none of them could register or call any more, but backends "
        "and whom [limits] allow names. If that is what you want, add --force."
    )


def is_ban_of(entry: Entry, meant: Network) -> bool:
    """Whether a ban is that of this address or network. The gateway bans a /64 of IPv6 as one source."""
    from nfqlb.gateway.netfilter import ipset

    return entry.network in ipset.holdable(meant) or (entry.kind == "ban" and covers(entry.network, meant))


def part_of(meant: Network, found: list[Entry]) -> list[Entry]:
    """The bans of networks that it is a part of."""
    return [entry for entry in found if covers(entry.network, meant)]


def not_banned(text: str, found: list[Entry]) -> str:
    """Why there is no such ban among these, and what there is instead."""
    meant = network(text)
    if over := [entry.source for entry in part_of(meant, found)]:
        return (
            f"{text} is banned as part of {' and '.join(over)}. To lift all of it: nfqlb bans remove "
            f"{' '.join(over)}. To spare {text} alone, put it into [limits] allow."
        )
    if within := [entry.source for entry in found if covers(meant, entry.network)]:
        more = f" and {len(within) - TOLD} more" if len(within) > TOLD else ""
        return (
            f"{text} is not banned as a whole, but in it: {', '.join(within[:TOLD])}{more}. To let go of these: "
            f"nfqlb bans remove {' '.join(within[:TOLD])}"
        )
    return f"{text} is not banned; 'nfqlb bans list' tells who is."


def covers(one: Network, other: Network) -> bool:
    return one.version == other.version and other.subnet_of(one)  # type: ignore[arg-type]  # of one version, as asked


def network(text: str) -> Network:
    try:
        return ip_network(text)
    except ValueError:
        pass
    try:
        ip_address(text.partition("/")[0])
        meant = ip_network(text, strict=False)
    except ValueError:
        raise UserError(f"{text!r} is not an address or a network, such as 203.0.113.77 or 203.0.113.0/24.") from None
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
    return entry.why if entry.kind != "ban" else WORDS.get(entry.why, entry.why) or BY_KERNEL
