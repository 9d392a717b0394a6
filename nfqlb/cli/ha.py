"""`nfqlb ha`: the pair. Writes keepalived's configuration, compares the two nodes, tells roles, hands over.

Knows options and how results are shown; `nfqlb.ha` and the running gateway do the work.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nfqlb.cli import _screen as screen
from nfqlb.cli._common import Group, UserError, ask, config_option, echo_json, errors_in, json_option, load_config
from nfqlb.layout import Line, Page, Shape, Table

if TYPE_CHECKING:
    from nfqlb.config.model import Config
    from nfqlb.config.pair import Pair

GROUPS = Shape("groups", ("Group", "Role", "Since", "Addresses"), left=("Role", "Since"), prose="Addresses")
MOVES = Shape("moves", ("Last moves", "Group", "Role"), left=("Group", "Role"))


@click.group(cls=Group)
def command() -> None:
    """The pair: two gateways, whose addresses move from one to the other.

    keepalived moves them; these commands write its configuration, compare the nodes and tell who has the addresses.
    docs/pair.md leads from two bare machines to a pair.

    \b
    Example:
      nfqlb ha render --write
    """


@command.command()
@config_option
@click.option("-w", "--write", is_flag=True, help="Write it to where keepalived reads it: [ha] keepalived_conf.")
def render(config_path: Path, write: bool) -> None:
    """Print keepalived.conf for this node, or write it.

    Writing makes the run directory, too, where it is missing: keepalived watches it. A configuration with mistakes
    leaves what there is as it was.

    \b
    Example:
      nfqlb ha render --write && systemctl reload-or-restart keepalived
    """
    from nfqlb.gateway.ha import keepalived

    config = paired(config_path)
    if not write:
        click.echo(keepalived.render(config), nl=False)
        return
    file = pair_in(config).keepalived_conf
    try:
        changed = keepalived.write(config)
    except FileNotFoundError:
        raise UserError(
            f"There is no directory {file.parent}. Is keepalived installed? apt-get install keepalived"
        ) from None
    except OSError as error:
        raise UserError(f"{error.filename or file} cannot be written ({error.strerror}). Do this as root.") from None
    then = "written; for keepalived to read it: systemctl reload-or-restart keepalived"
    click.echo(f"{file}: {then if changed else 'as it should be'}")


@command.command()
@config_option
@json_option
def status(config_path: Path, as_json: bool) -> None:
    """Role of this node, since when, and the last moves; whether keepalived.conf is what 'nfqlb ha render' prints, and
    whether keepalived sees what the gateway tells it.

    Exit status: 0 when the gateway runs and thinks itself well, 1 otherwise.

    \b
    Example:
      nfqlb ha status
    """
    report = asked(config_path, "ha-status")
    report["keepalived_conf"], report["track_file"] = keepalived_problems(config_path)
    if as_json:
        echo_json(report)
    else:
        show(report)
        for text in filter(None, (report["keepalived_conf"], report["track_file"])):
            screen.tell(text, hang=2)
    if report["unwell"]:
        raise UserError(f"This node is unwell: {'; '.join(report['unwell'])}.")


@command.command()
@config_option
@json_option
@click.option(
    "--peer",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="What 'nfqlb ha digest' printed on the peer, instead of asking it by [ha] check_port.",
)
@click.option(
    "--keepalived",
    "installed",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="What keepalived runs with, instead of [ha] keepalived_conf.",
)
def check(config_path: Path, as_json: bool, peer: Path | None, installed: Path | None) -> None:
    """Whether the two nodes can stand in for each other.

    Compares keys, listeners, pools, routes, limits, tables and code of both, by digests that tell nothing of a key.
    Looks whether keepalived runs on both, by what 'nfqlb ha render' prints here, whether it sees here what the gateway
    tells it, whether the interfaces of both are up, and whether each address is on one node, and only one.

    Exit status: 0 when they can, 1 when something is wrong, or the other node cannot be asked.

    \b
    Example:
      nfqlb ha check
    """
    from nfqlb.gateway.ha import compare, keepalived, watch

    config = paired(config_path)
    pair = pair_in(config)
    if peer is None and not pair.check_port:
        raise UserError("[ha] has no check_port to ask the peer at: set one on both nodes, or name a file with --peer.")
    own = report_of(config, config_path)
    text = keepalived.outdated(config, installed) or watch.unwatched(config.gateway.run_dir)
    found = [text] if text else []
    try:
        found += compare.problems(own, compare.read_report(peer) if peer else compare.ask_peer(pair))
    except compare.PeerError as error:
        found.append(str(error))
    if as_json:
        echo_json({"ok": not found, "problems": found})
    elif not found:
        click.echo(f"{pair.address} and {pair.peer} can stand in for each other.")
    else:
        for text in found:
            screen.tell(text, hang=2)
    if found:
        raise click.exceptions.Exit(1)


@command.command()
@config_option
def digest(config_path: Path) -> None:
    """Print what 'nfqlb ha check --peer FILE' of the other node needs to know of this one.

    \b
    Example:
      nfqlb ha digest > /tmp/node1.json
    """
    echo_json(report_of(paired(config_path), config_path))


@command.command("yield")
@config_option
@json_option
def yield_(config_path: Path, as_json: bool) -> None:
    """Hand the addresses over to the other node, for maintenance.

    From then on this node takes them only if the other one is unwell or dead, until 'nfqlb ha resume'. Refused where
    the other node does not take them.

    \b
    Example:
      nfqlb ha yield
    """
    report = asked(config_path, "ha-yield")
    if as_json:
        echo_json(report)
    else:
        click.echo(f"{report['peer']} has the addresses. When this node may have them again: nfqlb ha resume")


@command.command()
@config_option
@json_option
def resume(config_path: Path, as_json: bool) -> None:
    """Be a candidate for the addresses again, after 'nfqlb ha yield'.

    With equal priorities on both nodes this moves nothing.

    \b
    Example:
      nfqlb ha resume
    """
    report = asked(config_path, "ha-resume")
    if as_json:
        echo_json(report)
    else:
        show(report)


def paired(config_path: Path) -> Config:
    config = load_config(config_path)
    pair_in(config)
    return config


def pair_in(config: Config) -> Pair:
    if config.ha is None:
        raise UserError(f"{config.path} has no [ha]: this node stands alone. docs/pair.md tells what to write there.")
    return config.ha


def keepalived_problems(config_path: Path) -> tuple[str, str]:
    """What is wrong with keepalived.conf, by the file as it is now; and whether keepalived watches what the gateway
    writes. Empty where nothing is.
    """
    from nfqlb.config.build import load
    from nfqlb.config.problems import ConfigError
    from nfqlb.gateway.ha import keepalived, watch

    try:
        config = load(config_path)
    except ConfigError:
        text = f"{config_path} has mistakes, so nobody knows whether keepalived.conf fits: nfqlb check -c {config_path}"
        return text, ""
    if config.ha is None:
        return "", ""
    return keepalived.outdated(config), watch.unwatched(config.gateway.run_dir)


def asked(config_path: Path, what: str) -> dict[str, Any]:
    """The answer of the gateway that runs. Raises UserError."""
    answer = ask(config_path, {"do": what})
    if not answer["ok"]:
        raise UserError(errors_in(answer))
    return {key: value for key, value in answer.items() if key != "ok"}


def report_of(config: Config, config_path: Path) -> dict[str, Any]:
    """What this node says of itself: its gateway or, when none runs, the configuration."""
    from nfqlb.config.problems import ConfigError
    from nfqlb.errors import NotRunning
    from nfqlb.gateway.ha.compare import told_by_file
    from nfqlb.gateway.runtime import control_socket

    try:
        answer = control_socket.ask(config.gateway.run_dir, {"do": "ha-status", "config": str(config_path.absolute())})
    except NotRunning:
        try:
            return told_by_file(config)
        except ConfigError as error:
            raise UserError(str(error)) from None
    except control_socket.ControlError as error:
        raise UserError(str(error)) from None
    if not answer["ok"]:
        raise UserError(errors_in(answer))
    return {key: value for key, value in answer.items() if key != "ok"}


def show(report: dict[str, Any]) -> None:
    screen.show(shown(report))


def shown(report: dict[str, Any]) -> Page:
    groups, moves = Table(GROUPS), Table(MOVES)
    for group in report["groups"]:
        groups.add(group["name"], group["role"], moment(group["since"]), ", ".join(group["addresses"]))
    for each in report["transitions"][-5:]:
        moves.add(moment(each["at"]), each["group"], each["role"])
    told = [f"this node {report['address']}, the other {report['peer']}; weight {report['weight']}"]
    if report["yielding"]:
        told.append("this node yields; to end that: nfqlb ha resume")
    if report.get("keepalived") is False:  # a gateway of an earlier version does not say
        told.append("keepalived does not run here, so nothing moves the addresses: systemctl restart keepalived")
    for name in report.get("interfaces_down", ()):
        told.append(f"{name} is down or has no cable: as long as that is so, this node takes no addresses")
    if not report["lifeline"]:
        told.append("no lifeline: if all processes of this gateway are killed, nobody takes over")
    return [groups, Line(""), *map(Line, told), moves]


def moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(" ", "milliseconds")
