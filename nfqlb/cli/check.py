"""`nfqlb check`: the configuration, its keys and, with --live, this host, before anything acts on them.

Finds nothing itself: `nfqlb.config` and two modules of `nfqlb.gateway` do. Knows how a configuration is summed up for a
person and for a script.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nfqlb.cli import _screen as screen
from nfqlb.cli._common import config_option, echo_json, json_option
from nfqlb.layout import Line, Shape, Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nfqlb.config.dns_backends import Named
    from nfqlb.config.model import Config
    from nfqlb.config.pair import Pair
    from nfqlb.config.problems import Problem
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
    from nfqlb.config.build import load
    from nfqlb.config.problems import ConfigError
    from nfqlb.config.secret import read_keys

    try:
        config = load(path)
    except ConfigError as error:
        return None, list(error.problems)
    problems = [*config.notes, *config.warnings, *read_keys(config.gateway.secret_file)[1]]
    if live:
        from nfqlb.config.problems import errors_in
        from nfqlb.config.resolve import answers_for
        from nfqlb.gateway.preflight import backends as preflight_backends
        from nfqlb.gateway.preflight import host

        answers = answers_for(config)
        problems += names(config, answers)
        settled = config.with_addresses(answers)
        found = host.problems(settled)
        problems += found
        if not errors_in(found):  # else nobody can be asked, or for nothing
            problems += preflight_backends.problems(settled)
    return config, problems


def names(config: Config, answers: Answers) -> Iterator[Problem]:
    """What DNS says of the backends that have names."""
    from nfqlb.config.problems import Problem

    for named in config.names:
        place, known = f"pool {named.pool}, backend {named.name}", answers[named.address]
        if known.addresses:
            found = ", ".join(str(each.endpoint) for each in known.addresses)
            yield Problem(place, f"{named.address} is {found}", "note")
        if known.error:
            stands = "the last good answer stands" if known.addresses else "without an address nothing is sent there"
            yield Problem(place, f"{known.error}; {stands}", "warning", value=str(named.address))
    for named, why in config.dismissed(answers):
        yield Problem(f"pool {named.pool}, backend {named.name}", why, "warning")


def report(path: Path, problems: list[Problem]) -> None:
    """All problems on stderr, the errors last, where the eye is."""
    kinds = (("note", "note", None), ("warning", "warning", "yellow"), ("error", "mistake", "red"))
    for severity, title, colour in kinds:
        found = [problem for problem in problems if problem.severity == severity]
        if found:
            click.echo(f"{path}: {len(found)} {title}{'s' if len(found) > 1 else ''}", err=True)
        for problem in found:
            screen.tell(str(problem), indent=2, hang=4, err=True, fg=colour)


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
        "log": {"level": config.log.level, "format": config.log.format},
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


LISTENERS = Shape(
    "listeners",
    ("listener", "outside", "seen as", "inside", "names"),
    prose="names",
    left=("outside", "seen as", "inside"),
)
POOLS = Shape(
    "pools",
    ("pool", "backend", "address", "weight", "priority", "hash on"),
    left=("backend", "address"),
    prose="hash on",
)
ROUTES = Shape("routes", ("route", "pool", "requests"), left=("pool",), prose="requests")
GROUPS = Shape(
    "groups",
    ("group", "interfaces", "router_id", "priority", "listeners"),
    left=("interfaces",),
    prose="listeners",
)


def show(config: Config) -> None:
    """What the configuration amounts to, on stdout."""
    from nfqlb.balance.routes import conditions

    listeners, pools, routes, groups = map(Table, (LISTENERS, POOLS, ROUTES, GROUPS))
    for listener in config.listeners:
        inside = "the same (one-armed)" if listener.one_armed else str(listener.internal)
        listeners.add(
            *(listener.name, str(listener.external), str(listener.advertise or ""), inside),
            " ".join(listener.aliases),
        )
    for pool in config.pools:
        for index, backend in enumerate(backends_of(config, pool)):
            pools.add(
                *("" if index else pool.name, backend.name, str(backend.address)),
                *(str(backend.weight), str(backend.priority), "" if index else ", ".join(pool.hash_on)),
            )
    for index, rule in enumerate(config.routes):
        routes.add(str(index), rule.pool, ", ".join(conditions(rule)) or "all")
    page: list[Line | Table] = [Line(f"{config.path} is fine."), listeners, pools, routes]
    if config.ha is not None:
        pair = config.ha
        for group in pair.groups:
            groups.add(
                *(group.name, ", ".join(pair.interfaces), str(group.router_id)),
                *(str(group.priority), ", ".join(group.listeners)),
            )
        page += [groups, Line(""), Line(f"Pair: this node {pair.address}, the other {pair.peer}.")]
    queues = config.workers.queues
    span = f"queue {queues[0]}" if len(queues) == 1 else f"queues {queues[0]} to {queues[-1]}"
    page += [Line(""), Line(f"Path: {config.path_policy}. Workers: {config.workers.count}, {span}.")]
    screen.show(page)
