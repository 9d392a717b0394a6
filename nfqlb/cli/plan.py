"""`nfqlb plan`: what a changed configuration would do, before it does it.

Finds nothing itself: `nfqlb.offline.whatif`, `config.diff` and `gateway.netfilter.ruleset` do. Knows how their findings
are told, and which of them are reasons to say no.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nfqlb.cli import _screen as screen
from nfqlb.cli._common import UserError, config_option, echo_json, json_option, load_settled
from nfqlb.cli.completion import files

if TYPE_CHECKING:
    from nfqlb.balance.states import Standings
    from nfqlb.config.model import Config
    from nfqlb.offline.whatif import Elsewhere
    from nfqlb.proxy.setup import Setup

LISTED = 40
"""Messages that a person is shown; --json has all."""


def _part(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """`5%` or `5`, a part of a hundred, as 0..1."""
    if value is None:
        return None
    try:
        number = float(value.removesuffix("%"))
    except ValueError:
        number = -1.0
    if not 0 <= number <= 100:
        raise click.BadParameter(f"{value!r} is no percentage; write 5%, or 0.5%.", ctx, param)
    return number / 100


@click.command()
@click.argument("new_path", metavar="NEW.toml", type=click.Path(path_type=Path))
@config_option
@click.option(
    "--pcap",
    metavar="FILE",
    shell_complete=files,
    help="Also send this capture through both, and list what would go elsewhere.",
)
@click.option("--fail-if-moves", "limit", callback=_part, metavar="PERCENT", help="Exit 1 when more than that moves.")
@json_option
def command(new_path: Path, config_path: Path, pcap: str | None, limit: float | None, as_json: bool) -> None:
    """What a changed configuration would do, before it does it.

    Compares NEW.toml with the configuration in force (-c): what is other in it, which part of each pool's keys would
    go to another backend, which iptables rules and sysctls would change, and how it would come into force. Where the
    gateway runs, its backends count in the states that they are in now; else all are taken to be up. Changes nothing.

    A key is what a pool hashes on, say a Call-ID. What has begun stays where it is; a call follows its route. Between
    pools, route rules decide, and how many requests they move only a capture can tell: --pcap FILE runs it through
    both.

    With --json one object: ok, refused[], warnings[], changes[], pools[] (pool, version, share, at_most),
    routes_change, rules[], how, restarts[],
    states, pcap (messages, requests, moved, share, elsewhere[] with before and after: rows of `nfqlb replay --json`),
    exceeded[].

    Exit status: 0 when it can come into force, 1 when it would be refused or more moves than --fail-if-moves says.

    \b
    Example:
      nfqlb plan new.toml --pcap yesterday.pcap --fail-if-moves 5%
    """
    from nfqlb.config.build import load
    from nfqlb.config.problems import ConfigError
    from nfqlb.config.resolve import at_hand

    if new_path.exists() and config_path.exists() and new_path.samefile(config_path):
        raise UserError(f"{new_path} is the configuration in force itself: change a copy, and plan with that.")
    old = load_settled(config_path)
    try:
        new = at_hand(load(new_path))
        setups = old.setup(), new.setup()
    except ConfigError as error:
        if as_json:
            echo_json({"ok": False, "refused": [str(each) for each in error.problems if each.severity == "error"]})
            raise SystemExit(1) from None
        raise UserError(f"It would be refused:\n{error}") from None
    found = _found(old, new, setups, pcap)
    found["exceeded"] = [] if limit is None else list(_exceeded(found, limit))
    found["ok"] = not found["refused"] and not found["exceeded"]
    if as_json:
        echo_json(found)
    else:
        _show(old, new, found, pcap, limit)
    raise SystemExit(0 if found["ok"] else 1)


def _found(old: Config, new: Config, setups: tuple[Setup, Setup], pcap: str | None) -> dict[str, Any]:
    """Everything, as --json shows it."""
    from nfqlb.config.diff import differences, key_differences
    from nfqlb.offline.whatif import moved

    standings, states, queues = _now(old)
    restarts = []
    if old.gateway.run_dir != new.gateway.run_dir:
        restarts.append("[gateway] run_dir cannot change while the gateway runs: stop it, then start it again")
    rules, unknown = _rules(old, new, queues)
    changes = [*differences(old, new), *key_differences(*setups)]
    return {
        "ok": True,
        "refused": list(restarts),
        "warnings": [*map(str, new.warnings), *([unknown] if unknown else []), *_pair(old, new)],
        "states": states,
        "changes": changes,
        "pools": [each._asdict() for each in moved(*setups, standings)],
        "routes_change": old.routes != new.routes,
        "rules": rules,
        "how": _how(old, new) if changes else "not at all: a reload does nothing when nothing has changed",
        "restarts": restarts,
        "pcap": None if pcap is None else _compared(setups, standings, pcap),
    }


def _now(old: Config) -> tuple[Standings, str, range]:
    """The standings of the backends, where they are from, and the queues that packets go to."""
    from nfqlb.balance.states import Standing, State
    from nfqlb.errors import NotRunning
    from nfqlb.gateway.runtime import control_socket

    def ask(what: str) -> dict[str, Any]:
        request = {"do": what, "config": str(old.path.absolute())}
        answer = control_socket.ask(old.gateway.run_dir, request, timeout=10)
        if not answer["ok"]:
            raise control_socket.ControlError(" ".join(map(str, answer.get("errors", ["It gives no reason."]))))
        return answer

    try:
        status, backends = ask("status"), ask("backends")["backends"]
    except NotRunning:
        return {}, "no gateway runs here, so all backends are taken to be up", old.workers.queues
    except control_socket.ControlError as error:
        return {}, f"all backends are taken to be up: {str(error).removesuffix('.')}", old.workers.queues
    standings = {
        (each["pool"], each["name"]): Standing(State[each["state"].upper()], round(each["warming"] * 10))
        for each in backends
    }
    first = min(status["queues"])
    return (
        standings,
        f"backends are as the gateway knows them (pid {status['pid']})",
        range(first, first + len(status["queues"])),
    )


def _rules(old: Config, new: Config, queues: range) -> tuple[list[dict[str, str]], str]:
    """Rules and sysctls that would change, and what keeps us from knowing."""
    from nfqlb.errors import HostError
    from nfqlb.gateway.netfilter import ruleset

    try:
        return [each._asdict() for each in ruleset.foreseen(old, new, queues)], ""
    except HostError as error:
        return [], f"rules and sysctls cannot be foreseen: {error}"


def _pair(old: Config, new: Config) -> list[str]:
    """What has to be done besides, where keepalived's part would change."""
    from nfqlb.gateway.ha import keepalived

    before, after = (keepalived.render(config) if config.ha else "" for config in (old, new))
    if not after or keepalived.effective(before) == keepalived.effective(after):
        return []
    then = "nfqlb ha render --write && systemctl reload-or-restart keepalived"
    return [f"keepalived.conf would change, too; after the reload: {then}"]


def _how(old: Config, new: Config) -> str:
    """How a reload would bring it into force."""
    from nfqlb.gateway.netfilter import ruleset

    def needs(config: Config) -> tuple[object, ...]:
        return ruleset.fingerprint(replace(config, pools=())), replace(config.workers, pin=False), config.listeners

    if needs(old) == needs(new):
        return "by reload: workers are replaced on their queues"
    return "by reload: new workers on other queues, to which one change of the rules leads"


def _compared(setups: tuple[Setup, Setup], standings: Standings, pcap: str) -> dict[str, Any]:
    from nfqlb.cli._stored import packets_in
    from nfqlb.offline.whatif import Comparison

    comparison = Comparison(*setups, standings)
    with packets_in(pcap) as reader:
        elsewhere = [_as_dict(each) for each in comparison.run(reader)]
    return {
        "file": pcap,
        "messages": comparison.messages,
        "requests": comparison.requests,
        "moved": comparison.moved,
        "share": comparison.share,
        "elsewhere": elsewhere,
    }


def _as_dict(each: Elsewhere) -> dict[str, Any]:
    return {"before": each.before._asdict(), "after": each.after._asdict()}


def _exceeded(found: dict[str, Any], limit: float) -> list[str]:
    texts = [
        f"{_percent(each['share'])} of the keys of pool {each['pool']} (IPv{each['version']})"
        for each in found["pools"]
        if each["share"] > limit
    ]
    if found["pcap"] and found["pcap"]["share"] > limit:
        texts.append(f"{_percent(found['pcap']['share'])} of the requests in {found['pcap']['file']}")
    return [f"{text} would move; the limit is {_percent(limit)}" for text in texts]


def _show(old: Config, new: Config, found: dict[str, Any], pcap: str | None, limit: float | None) -> None:
    from nfqlb.cli._stored import prepare_output
    from nfqlb.gateway.netfilter.ruleset import Difference
    from nfqlb.offline.header_diff import printable

    prepare_output()

    def section(title: str, lines: list[str], nothing: str) -> None:
        click.echo()
        screen.tell(title, hang=2)
        for line in lines or [nothing]:
            screen.tell(line, indent=2, hang=6)

    screen.tell(f"{new.path}, compared with {old.path}; {found['states']}.", hang=2)
    section("What is other", found["changes"], "nothing")
    pools = [
        f"pool {each['pool']}, IPv{each['version']}: {'at most ' * each['at_most']}{_percent(each['share'])}"
        for each in found["pools"]
    ]
    section("Keys that would go to another backend", pools, "no pool is in both")
    section("Rules and sysctls that would change", [str(Difference(**each)) for each in found["rules"]], "none")
    section("How it would come into force", found["restarts"] or [found["how"]], "")
    if found["pcap"]:
        told = found["pcap"]
        lines = [printable(_line(each["before"], each["after"])) for each in told["elsewhere"][:LISTED]]
        if len(told["elsewhere"]) > LISTED:
            lines.append(f"… and {len(told['elsewhere']) - LISTED} more; --json lists them all")
        counted = f"{told['moved']} of {told['requests']} requests from outside, {_percent(told['share'])}"
        section(f"Messages in {pcap} that would go elsewhere ({counted})", lines, "none")
    for text in found["warnings"]:
        screen.tell(f"Warning: {text}", hang=2, err=True, fg="yellow")
    if limit is not None and found["routes_change"] and pcap is None:
        text = "route rules change, and what they move between pools does not show here; --pcap FILE tells"
        screen.tell(f"Warning: {text}", hang=2, err=True, fg="yellow")
    for text in [*found["refused"], *found["exceeded"]]:
        screen.tell(f"Error: {text}.", hang=2, err=True, fg="red")


def _line(before: dict[str, Any], after: dict[str, Any]) -> str:
    what = before["method"] or f"response {before['status']}"
    return f"frame {before['frame']}: {what} {before['call_id'] or ''}: {_end(before)} → {_end(after)}"


def _end(row: dict[str, Any]) -> str:
    if row["verdict"] != "forward":
        return f"{row['verdict']} ({row['reason']})"
    backend = f"{row['backend']} " if row["backend"] else ""
    return f"{backend}{row['out_dst']}"


def _percent(share: float) -> str:
    return f"{share * 100:.1f} %"
