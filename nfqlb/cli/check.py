"""`nfqlb check`: the configuration, its keys and, with --live, this host, before anything acts on them.

Finds nothing itself: `nfqlb.config` and two modules of `nfqlb.gateway` do. Knows how a configuration is summed up for a
person and for a script.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nfqlb.cli.common import config_option, console, echo_json, json_option

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nfqlb.config import Config, Problem
    from nfqlb.config.named import Named
    from nfqlb.config.pair import Pair
    from nfqlb.names.target import Answers
    from nfqlb.proxy.setup import Backend, Pool


@click.command()
@config_option
@click.option(
    "--live",
    is_flag=True,
    help="Also check this host: addresses, sysctls, kernel, privileges, rules, names in DNS; and ask the backends.",
)
@json_option
def command(config_path: Path, live: bool, as_json: bool) -> None:
    """Check the configuration; with --live also this host.

    With --live each backend is asked once, as [health] says, from the internal address; who does not answer gets a
    warning. It may be said beside a gateway that runs.

    Prints what the configuration amounts to, or all its mistakes at once. Changes nothing.

    Exit status: 0 when nothing is wrong (warnings are not), 1 otherwise.

    \b
    Example:
      nfqlb check -c /etc/nfqlb/nfqlb.toml --live
    """
    config, problems = examine(config_path, live)
    wrong = any(problem.severity == "error" for problem in problems)
    if as_json:
        echo_json(
            {
                "file": str(config_path),
                "ok": not wrong,
                "problems": [problem.as_dict() for problem in problems],
                "config": None if config is None else summary(config),
            }
        )
    elif wrong or config is None:
        report(config_path, problems)
    else:
        show(config)
        report(config_path, problems)
    raise SystemExit(1 if wrong else 0)


def examine(path: Path, live: bool) -> tuple[Config | None, list[Problem]]:
    """The configuration unless it is wrong, and all there is to say of it, its keys and (`live`) the host."""
    from nfqlb.config import ConfigError, load
    from nfqlb.config.secret import read_keys

    try:
        config = load(path)
    except ConfigError as error:
        return None, list(error.problems)
    problems = [*config.notes, *config.warnings, *read_keys(config.gateway.secret_file)[1]]
    if live:
        from nfqlb.config.problems import errors_in
        from nfqlb.gateway import host, rollcall
        from nfqlb.names.settle import answers_for

        answers = answers_for(config)
        problems += names(config, answers)
        settled = config.with_addresses(answers)
        found = host.problems(settled)
        problems += found
        if not errors_in(found):  # else nobody can be asked, or for nothing
            problems += rollcall.problems(settled)
    return config, problems


def names(config: Config, answers: Answers) -> Iterator[Problem]:
    """What DNS says of the backends that have names."""
    from nfqlb.config import Problem
    from nfqlb.config.named import dismissed

    for named in config.names:
        place, known = f"pool {named.pool}, backend {named.name}", answers[named.address]
        if known.addresses:
            found = ", ".join(str(each.endpoint) for each in known.addresses)
            yield Problem(place, f"{named.address} is {found}", "note")
        if known.error:
            stands = "the last good answer stands" if known.addresses else "without an address nothing is sent there"
            yield Problem(place, f"{known.error}; {stands}", "warning", value=str(named.address))
    for name, why in dismissed(config.names, config.listeners, answers):
        yield Problem(f"backend {name}", why, "warning")


def report(path: Path, problems: list[Problem]) -> None:
    """All problems on stderr, the errors last, where the eye is."""
    kinds = (("note", "note", None), ("warning", "warning", "yellow"), ("error", "mistake", "red"))
    for severity, title, colour in kinds:
        found = [problem for problem in problems if problem.severity == severity]
        if found:
            click.echo(f"{path}: {len(found)} {title}{'s' if len(found) > 1 else ''}", err=True)
        for problem in found:
            click.secho(f"  {problem}", err=True, fg=colour)


def summary(config: Config) -> dict[str, Any]:
    """The configuration as it takes effect, defaults filled in, for JSON. Never the keys."""
    return {
        "gateway": {
            "name": config.gateway.name,
            "secret_file": str(config.gateway.secret_file),
            "run_dir": str(config.gateway.run_dir),
        },
        "listeners": [
            {
                "name": listener.name,
                "external": str(listener.external),
                "internal": str(listener.internal),
                "advertise": str(listener.visible),
                "aliases": list(listener.aliases),
                "force_rport": listener.force_rport,
                "one_armed": listener.one_armed,
                "external_interface": listener.external_interface,
                "internal_interface": listener.internal_interface,
            }
            for listener in config.listeners
        ],
        "pools": [
            {
                "name": pool.name,
                "hash_on": pool.hash_on,
                "backends": [
                    {
                        "name": backend.name,
                        "address": str(backend.address),
                        "weight": backend.weight,
                        "priority": backend.priority,
                    }
                    for backend in backends_of(config, pool)
                ],
            }
            for pool in config.pools
        ],
        "routes": [
            {
                "methods": sorted(rule.methods),
                "listeners": sorted(rule.listeners),
                "domains": sorted(rule.domains),
                "user_prefixes": sorted(rule.user_prefixes),
                "user_regex": rule.user_regex,
                "from_domains": sorted(rule.from_domains),
                "to_domains": sorted(rule.to_domains),
                "sources": [str(network) for network in rule.sources],
                "user_agents": sorted(rule.user_agents),
                "user_agent_regex": rule.user_agent_regex,
                "headers": sorted(rule.headers),
                "percent": rule.percent,
                "pool": rule.pool,
            }
            for rule in config.routes
        ],
        "path": {"policy": config.path_policy, "accept_unsigned": config.accept_unsigned},
        "workers": {
            "count": config.workers.count,
            "queue": config.workers.queue,
            "queue_length": config.workers.queue_length,
            "socket_buffer": config.workers.socket_buffer,
            "pin": config.workers.pin,
        },
        "rules": {
            "backend": config.rules.backend,
            "interfaces": None if config.rules.interfaces is None else list(config.rules.interfaces),
            "forward": config.rules.forward,
        },
        "dns": {
            "servers": [str(each) for each in config.dns.servers],
            "timeout": config.dns.timeout,
            "min_ttl": config.dns.min_ttl,
            "max_ttl": config.dns.max_ttl,
        },
        "egress_names": config.egress_names,
        "egress": None if config.egress is None else [str(network) for network in config.egress],
        "ha": None if config.ha is None else paired(config.ha),
    }


def paired(pair: Pair) -> dict[str, Any]:
    return {
        "address": str(pair.address),
        "peer": str(pair.peer),
        "interface": pair.interface,
        "outside": pair.outside,
        "inside": pair.inside,
        "networks": [str(network) for network in pair.networks],
        "interval": pair.interval,
        "check_port": pair.check_port,
        "keepalived_conf": str(pair.keepalived_conf),
        "groups": [
            {
                "name": group.name,
                "listeners": list(group.listeners),
                "router_id": group.router_id,
                "priority": group.priority,
            }
            for group in pair.groups
        ],
    }


def backends_of(config: Config, pool: Pool) -> list[Backend | Named]:
    """Those with an address, then those with a name."""
    return [*pool.backends, *(each for each in config.names if each.pool == pool.name)]


def show(config: Config) -> None:
    """What the configuration amounts to, on stdout."""
    from rich.table import Table

    from nfqlb.balance.rules import conditions

    def table(*columns: str) -> Table:
        made = Table(*columns, box=None, padding=(0, 2, 0, 0), header_style="bold")
        for column in made.columns:
            column.overflow = "fold"
        return made

    listeners = table("listener", "outside", "seen as", "inside", "names")
    for listener in config.listeners:
        inside = "the same (one-armed)" if listener.one_armed else str(listener.internal)
        listeners.add_row(
            *(listener.name, str(listener.external), str(listener.advertise or ""), inside),
            " ".join(listener.aliases),
        )
    pools = table("pool", "backend", "address", "weight", "priority", "hash on")
    for pool in config.pools:
        for index, backend in enumerate(backends_of(config, pool)):
            pools.add_row(
                *("" if index else pool.name, backend.name, str(backend.address)),
                *(str(backend.weight), str(backend.priority), "" if index else ", ".join(pool.hash_on)),
            )
    routes = table("route", "requests", "pool")
    for index, rule in enumerate(config.routes):
        routes.add_row(str(index), ", ".join(conditions(rule)) or "all", rule.pool)
    queues = config.workers.queues
    span = f"queue {queues[0]}" if len(queues) == 1 else f"queues {queues[0]} to {queues[-1]}"
    out = console()
    out.print(f"{config.path} is fine.\n", soft_wrap=True)
    for each in (listeners, pools, routes):
        out.print(each)
        out.print()
    if config.ha is not None:
        pair = config.ha
        groups = table("group", "listeners", "interfaces", "router_id", "priority")
        for group in pair.groups:
            groups.add_row(
                *(group.name, ", ".join(group.listeners), ", ".join(pair.interfaces)),
                *(str(group.router_id), str(group.priority)),
            )
        out.print(groups)
        out.print(f"\nPair: this node {pair.address}, the other {pair.peer}.")
    out.print(f"Path: {config.path_policy}. Workers: {config.workers.count}, {span}.", soft_wrap=True)
