"""`nfqlb lab`: the whole thing in network namespaces on one machine.

Knows options and how results are shown; `nfqlb.lab` does the work.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from nfqlb.cli import _screen as screen
from nfqlb.cli._common import Group, UserError, console, echo_json, json_option
from nfqlb.cli._lab_steps import say, told

if TYPE_CHECKING:
    from nfqlb.lab.demo import Shown
    from nfqlb.lab.lab import Lab
    from nfqlb.lab.topology import Plan

F = TypeVar("F", bound=Callable[..., Any])


@click.group(cls=Group)
def command() -> None:
    """The whole thing in network namespaces on one machine.

    Phones (SIPp, baresip), a NAT router, the gateway and real registrars (Kamailio), each in a network namespace of its
    own. Needs root; the machine's own network is not touched. One that fails says at which step, in the words of the
    program that failed; its logs are then in /run/nfqlb-lab-NAME.failed until 'nfqlb lab down'.

    \b
    Example:
      sudo nfqlb lab demo
    """


def name_option(function: F) -> F:
    return click.option(
        "--name", default="lab", show_default=True, metavar="NAME", help="Which lab: several can be up."
    )(function)


def lab_options(function: F) -> F:
    """The options that decide what a lab looks like; the command receives them as `options`."""
    for option in reversed(
        (
            click.option("-6", "--ipv6", is_flag=True, help="IPv6 instead of IPv4."),
            click.option("--one-armed", is_flag=True, help="A gateway with one address instead of two."),
            click.option("--pair", is_flag=True, help="Two gateways, whose addresses move (keepalived)."),
            click.option(
                "--workers",
                default=2,
                show_default=True,
                type=click.IntRange(1, 64),
                metavar="COUNT",
                help="Of the gateway.",
            ),
            click.option("--forward-drop", is_flag=True, help="FORWARD policy DROP on the gateway, as Docker or ufw."),
            click.option("--masquerade", is_flag=True, help="A MASQUERADE on the gateway, for everything else."),
        )
    ):
        function = option(function)
    return name_option(function)


@command.command()
@lab_options
def up(**options: Any) -> None:
    """Build a lab and leave it running.

    \b
    Example:
      sudo nfqlb lab up --one-armed
    """
    with told():
        lab = make(options)
        lab.up()
        show_lab(lab)


@command.command()
@name_option
def down(name: str) -> None:
    """Remove a lab, also one whose maker was killed, and what one that failed has left.

    \b
    Example:
      sudo nfqlb lab down
    """
    from nfqlb.lab import lab as module

    with told():
        module.check_host({})
        failed = module.logs_of(name)
        count = module.down(name)
    if count:
        click.echo(f"Lab {name!r} is removed ({count} namespaces).")
    else:
        click.echo(f"There is no lab {name!r}{'; what a failed one has left is removed' if failed else ''}.")


@command.command()
@lab_options
@click.option("--no-headers", is_flag=True, help="The ladder without the header lines that were rewritten.")
def demo(no_headers: bool, **options: Any) -> None:
    """Register and call through the gateway, then show every message.

    Builds a lab, registers a phone behind NAT and one with a public address, calls in both directions, hangs up from
    each side, prints the ladder of messages with what was rewritten in each, and the statistics. Removes the lab at the
    end, whatever happens.

    With --pair the active one of two gateways is cut off in the middle of a call, which goes on through the other.

    Exit status: 0 when all of it worked, 1 otherwise.

    \b
    Example:
      sudo nfqlb lab demo
    """
    from nfqlb.lab import demo as module
    from nfqlb.lab.pair import PairLab

    with told(), make(options, probes=False) as lab:
        if isinstance(lab, PairLab):
            from nfqlb.lab import pairdemo

            story = pairdemo.play(lab, say, screen.room())
            show_demo(story.shown, headers=not no_headers)
            for line in story.timeline:
                screen.tell(line, hang=12)
            return
        shown = module.play(lab, say, screen.room())
        show_demo(shown, headers=not no_headers)
    say("Everything worked; the lab is removed.")


@command.command()
@lab_options
@click.option(
    "--rate", default=200, show_default=True, type=click.IntRange(1, 10_000), metavar="RATE", help="Calls per second."
)
@click.option(
    "--seconds", default=30, show_default=True, type=click.IntRange(1, 3600), metavar="SECONDS", help="How long."
)
@json_option
def load(rate: int, seconds: int, as_json: bool, **options: Any) -> None:
    """Call at a steady rate through the gateway and count what failed.

    Exit status: 0 when no call failed and no queue dropped a packet, 1 otherwise.

    \b
    Example:
      sudo nfqlb lab load --rate 200 --seconds 30 --json
    """
    from nfqlb.lab import load as module

    with told(), make(options) as lab:
        result = module.run(lab, rate, seconds, say)
    if as_json:
        echo_json(result.as_dict())
    else:
        for name, value in result.as_dict().items():
            click.echo(f"{name.replace('_', ' '):<20} {value}")
    if not result.ok:
        raise UserError(
            f"{result.failed} of {result.calls} calls failed, {result.queue_dropped} packets were dropped by a queue."
        )


def make(options: dict[str, Any], *, probes: bool = True) -> Lab:
    from nfqlb.lab.lab import Lab
    from nfqlb.lab.pair import PairLab
    from nfqlb.lab.topology import Plan

    family = 6 if options["ipv6"] else 4
    plan = Plan(options["name"], family=family, one_armed=options["one_armed"], pair=options["pair"])
    host = {name: options[name] for name in ("workers", "forward_drop", "masquerade")}
    return PairLab(plan, **host, say=say) if plan.pair else Lab(plan, **host, probes=probes, say=say)


def show_lab(lab: Lab) -> None:
    plan: Plan = lab.plan
    where = [
        ("home", f"phones behind NAT: {', '.join(node.ip for node in plan.home)}, seen as {plan.nat.ip}"),
        ("phones", f"phones with public addresses: {', '.join(node.ip for node in plan.phones)}"),
        *(
            (role, f"the gateway: {' and '.join(dict.fromkeys((plan.external.ip, plan.internal.ip)))}")
            for role in plan.gateways
        ),
        *((node.role, f"Kamailio: {node.ip}") for node in plan.backends),
    ]
    screen.tell(f"Lab {plan.name!r} is up. Its files are in {lab.dir}. Namespaces:", hang=2)
    for role, what in where:
        screen.tell(f"{plan.namespace(role):<24} {what}", indent=2, hang=27)
    click.echo("Look into the gateway, and remove the lab:")
    click.echo(f"  sudo ip netns exec {plan.namespace('gw')} {sys.executable} -m nfqlb stats -c {lab.config}")
    click.echo(f"  sudo {sys.executable} -m nfqlb lab down --name {plan.name}")


def show_demo(shown: Shown, *, headers: bool) -> None:
    from nfqlb.lab.ladder import draw

    ladder, room = console(), screen.room()
    for line in draw(shown.passages, shown.inside.keys(), shown.names, headers=headers, room=room):
        ladder.print(line, soft_wrap=True)
    click.echo()
    click.echo(shown.stats)
