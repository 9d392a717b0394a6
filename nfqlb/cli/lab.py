"""`nfqlb lab`: the whole thing in network namespaces on one machine.

Knows options and how results are shown; `nfqlb.lab` does the work.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from nfqlb.cli.common import UserError, console, echo_json, json_option

if TYPE_CHECKING:
    from nfqlb.lab.demo import Shown
    from nfqlb.lab.lab import Lab
    from nfqlb.lab.topology import Plan

F = TypeVar("F", bound=Callable[..., Any])


@click.group()
def command() -> None:
    """The whole thing in network namespaces on one machine.

    Phones (SIPp, baresip), a NAT router, the gateway and real registrars (Kamailio), each in a network namespace of its
    own. Needs root; the machine's own network is not touched.

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
    """Remove a lab, also one whose maker was killed.

    \b
    Example:
      sudo nfqlb lab down
    """
    from nfqlb.lab import lab as module

    with told():
        module.check_host({})
        count = module.down(name)
    click.echo(f"Lab {name!r} is removed ({count} namespaces)." if count else f"There is no lab {name!r}.")


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

            story = pairdemo.play(lab, say)
            show_demo(story.shown, headers=not no_headers)
            for line in story.timeline:
                click.echo(line)
            return
        shown = module.play(lab, say)
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


def say(text: str) -> None:
    """Progress, on stderr: stdout is for results."""
    click.echo(f"· {text}", err=True)


@contextmanager
def told() -> Iterator[None]:
    """What goes wrong in the lab becomes an error of the command; SIGTERM cleans up as Ctrl-C does."""
    from nfqlb.lab import LabError

    def end(number: int, frame: object) -> NoReturn:  # noqa: ARG001  (the signal module's shape)
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    except LabError as error:
        raise UserError(str(error)) from None


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
    click.echo(f"Lab {plan.name!r} is up. Its files are in {lab.dir}. Namespaces:")
    for role, what in where:
        click.echo(f"  {plan.namespace(role):<24} {what}")
    click.echo("Look into the gateway, and remove the lab:")
    click.echo(f"  sudo ip netns exec {plan.namespace('gw')} {sys.executable} -m nfqlb stats -c {lab.config}")
    click.echo(f"  sudo {sys.executable} -m nfqlb lab down --name {plan.name}")


def show_demo(shown: Shown, *, headers: bool) -> None:
    from nfqlb.lab.ladder import draw

    screen = console()
    for line in draw(shown.passages, shown.inside.keys(), shown.names, headers=headers):
        screen.print(line, soft_wrap=True)
    click.echo()
    click.echo(shown.stats)
