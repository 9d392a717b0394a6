"""From a configuration file to a plan that a worker pool can run.

Knows the configuration, the engine, the host and the rules, and brings them together. Does not know processes, queues
or the order in which plans come into force.

What takes long is done in children of the supervisor. They import the libraries for it themselves, where they need
them: what the supervisor has in memory, each worker has.
"""

import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from nfqlb.balance.pool import Backend
from nfqlb.balance.recent import Recent
from nfqlb.balance.tables import Tables
from nfqlb.config.build import load
from nfqlb.config.model import Config
from nfqlb.config.problems import ConfigError
from nfqlb.config.resolve import answers_for, unanswered, unused
from nfqlb.engine import Engine
from nfqlb.errors import BoardError, HostError
from nfqlb.gateway.backends import plan as backends_plan
from nfqlb.gateway.bans import plan as bans_plan
from nfqlb.gateway.dns import plan as dns_plan
from nfqlb.gateway.ha import plan as ha_plan
from nfqlb.gateway.plan.model import LINGER, Plan, Reading
from nfqlb.gateway.plan.tables import TableBuild
from nfqlb.gateway.runtime.job import Refused
from nfqlb.gateway.shm import board
from nfqlb.gateway.worker.shedding import Bounds, LoadShedder
from nfqlb.gateway.worker.worker import Process
from nfqlb.names.target import Answers
from nfqlb.net.endpoint import Endpoint
from nfqlb.proxy.names import Names
from nfqlb.proxy.setup import Setup
from nfqlb.proxy.triage import Triage

NOT_IN_PLACE = ("rules", "sysctls")
"""Places of problems that placing the rules puts right."""

RANGES = 8
"""Ranges of queues that are tried, one behind the other. Two are in use while one worker pool follows another."""

QUEUE_NUMBERS = 1 << 16


@dataclass(frozen=True)
class Source:
    """What a plan was made from."""

    config: Config
    """With addresses for its names."""
    setup: Setup
    answers: Answers
    """What DNS has said of the names."""
    left: Mapping[Endpoint, float] = field(default_factory=dict)
    """When (CLOCK_MONOTONIC) the names ceased to stand for addresses that `setup` still knows as leaving."""


@dataclass(frozen=True)
class Made:
    plan: Plan
    """Its `source` is a Source."""
    always: tuple[str, ...]
    """Warnings."""
    misplaced: tuple[str, ...]
    """Others, which putting the rules in place puts right."""

    def warnings(self, *, place: bool) -> tuple[str, ...]:
        """`place`: the rules will be put in place, so that they are not is no reason for a warning."""
        return self.always if place else (*self.always, *self.misplaced)


def make(path: Path, current: Plan | None = None) -> Made:
    """Read the configuration, look at the host, and build the engine with its tables. `current`: the plan in force, if
    there is one.

    Raises Refused.
    """
    source = settled(read(path), current)
    with TableBuild(source.setup.pools, tables_of(current)) as building:
        found = look_at_host(source.config)
        plan = build(source, found.ranges, found.placed, building)
    of_names = (*unanswered(source.answers), *unused(source.config, source.answers))
    fits = not found.misplaced
    return Made(replace(plan, fits=fits), (*of_names, *found.warnings), tuple(found.misplaced))


def settled(config: Config, current: Plan | None) -> Source:
    """With addresses, keys, and the backends that only finish what they have begun. Raises Refused."""
    try:
        answers = answers_for(config, known=None if current is None else _source(current).answers)
        config = config.with_addresses(answers)
        setup = config.setup()
    except ConfigError as error:
        raise Refused(*str(error).splitlines()) from None
    if current is None:
        setup = staying(setup, config.gateway.run_dir)
    else:
        setup = replace(setup, leaving=tuple(gone(_source(current).setup.known, setup)))
    return Source(config, setup, answers)


class Found(NamedTuple):
    """What a look at this host has brought."""

    ranges: tuple[range, ...]
    """Of queues, to try."""
    placed: range | None
    """The one that the rules lead to."""
    warnings: list[str]
    misplaced: list[str]
    """What is wrong with rules and sysctls, and what to do; empty: they are in place."""


def look_at_host(config: Config) -> Found:
    """Raises Refused when it cannot run that configuration."""
    from nfqlb.gateway.netfilter import ruleset
    from nfqlb.gateway.preflight import host

    try:
        problems = host.problems(config)
        placed = ruleset.queues_in_place(config)
    except (ConfigError, HostError) as error:
        raise Refused(*str(error).splitlines()) from None
    errors = [str(problem) for problem in problems if problem.severity == "error"]
    if errors:
        raise Refused("This host cannot run the gateway yet:", *(f"  {text}" for text in errors))
    ranges = candidates(config, placed)
    to_place = [problem for problem in problems if problem.place in NOT_IN_PLACE]
    warnings = [str(each) for each in (*config.warnings, *problems) if each not in to_place]
    misplaced = [str(each) for each in to_place]
    if to_place:
        misplaced.append(
            "THE RULES ARE NOT IN PLACE: packets do not reach the workers, or do not pass. "
            f"Put that right with: nfqlb rules apply -c {config.path}"
        )
    return Found(ranges, placed, warnings, misplaced)


def candidates(config: Config, placed: range | None) -> tuple[range, ...]:
    """The ranges of queues that the configuration allows; the one that the rules lead to already stands first."""
    first, count = config.workers.queue, config.workers.count
    starts = range(first, min(first + RANGES * count, QUEUE_NUMBERS - count + 1), count)
    ranges = [range(start, start + count) for start in starts]
    return tuple(sorted(ranges, key=lambda each: each != placed))


def read(path: Path) -> Config:
    try:
        return load(path)
    except ConfigError as error:
        raise Refused(*str(error).splitlines()) from None


def build(source: Source, ranges: tuple[range, ...], placed: range | None, building: TableBuild) -> Plan:
    """The plan, with an engine that all workers share, on tables that are being built. Raises Refused."""
    from nfqlb.gateway.netfilter import ruleset

    config, setup = source.config, source.setup
    try:
        fingerprint, reach = ruleset.fingerprint(replace(config, pools=())), ruleset.fingerprint(config)
    except ConfigError as error:
        raise Refused(*str(error).splitlines()) from None
    engine = Engine(setup, standings=building.standings, ready=building.finish())
    checks = {pool.name: config.check(pool.name) for pool in setup.pools}
    return Plan(
        gateway=config.gateway.name,
        backends=labels(setup),
        addresses=tuple(str(backend.address) for backend in setup.known),
        ranges=ranges,
        sources=tuple(socket for each in config.listeners for socket in (each.external, each.internal)),
        queue_length=config.workers.queue_length,
        socket_buffer=config.workers.socket_buffer,
        run_dir=config.gateway.run_dir,
        process=partial(worker_process, engine),
        shedder=partial(worker_shedder, engine, bounds(config), Triage(setup)) if config.limits.enabled else None,
        place=partial(place_rules, config),
        displace=partial(take_rules_out, config),
        summary=", ".join(f"{each.name} {each.external} / {each.internal}" for each in config.listeners),
        path=str(config.path.absolute()),
        source=source,
        fingerprint=fingerprint,
        reach=reach,
        placed=placed,
        leaving=len(setup.leaving),
        backends_plan=backends_plan.make(
            setup, engine.tables, checks, config.gateway.state_dir, ha_plan.own_sources(config)
        ),
        pair=ha_plan.make(config, setup),
        dns_plan=dns_plan.make(config, source.answers),
        bans_plan=bans_plan.make(config),
        log=config.log,
        pin=config.workers.pin,
    )


def again(source: Source, current: Plan) -> Plan:
    """A plan from another source on the same host. Raises Refused."""
    with TableBuild(source.setup.pools, tables_of(current)) as building:
        return build(source, current.ranges, current.placed, building)


def tables_of(plan: Plan | None) -> Tables | None:
    return None if plan is None or plan.backends_plan is None else plan.backends_plan.tables


def worker_process(engine: Engine, first_ident: int, recent: Recent, names: Names | None) -> Process:
    """What a worker asks about each packet: an engine of its own, with the tables of all."""
    return engine.sibling(first_ident, recent, names)


def worker_shedder(
    engine: Engine, bounds: Bounds, triage: Triage, first_ident: int, recent: Recent, workers: int
) -> LoadShedder:
    """What a worker has against floods: its part of the bounds, and an engine to refuse requests by."""
    return LoadShedder(bounds, workers, triage, engine.sibling(first_ident, recent).refuse)


def bounds(config: Config) -> Bounds:
    limits = config.limits
    shed_at = limits.shed_at / 100 if limits.shed_at < 100 else math.inf
    return Bounds(limits.replies, limits.replies_per_network, limits.allow, shed_at, limits.shed_age)


def place_rules(config: Config, queues: range) -> int:
    """Put rules and sysctls in place for these queues; the number of changes. Raises Refused."""
    from nfqlb.gateway.netfilter import ruleset

    try:
        return len(ruleset.apply(config, queues))
    except (HostError, ConfigError) as error:
        raise Refused(*str(error).splitlines()) from None


def take_rules_out(config: Config) -> int:
    """Take rules and sysctls out; the number of changes. Raises Refused."""
    from nfqlb.gateway.netfilter import ruleset

    try:
        return len(ruleset.take_out(config.gateway.run_dir, config.rules.backend))
    except HostError as error:
        raise Refused(*str(error).splitlines()) from None


def labels(setup: Setup) -> tuple[str, ...]:
    """A name for each of `setup.known`: its own, behind the pool's where two pools have one of that name."""
    count = Counter(backend.name for backend in setup.backends)
    named = [
        backend.name if count[backend.name] == 1 else f"{pool.name}/{backend.name}"
        for pool in setup.pools
        for backend in pool.backends
    ]
    leaving = [f"{each.name} {each.address}" if each.name in count else each.name for each in setup.leaving]
    return (*named, *leaving)


def staying(setup: Setup, run_dir: Path) -> Setup:
    """`setup`, with the backends that a gateway which is to be relieved knows and `setup` does not: they finish what
    they have begun. Nothing is added where none ran.
    """
    try:
        about = board.read(run_dir / board.FILE_NAME).about
    except BoardError:
        return setup
    places = zip(about.backends, about.addresses, strict=False)
    known = [Backend(name.split()[0], Endpoint.parse(address)) for name, address in places]
    return replace(setup, leaving=tuple(gone(known, setup)))


class FromFile:
    """The Operator of a gateway that runs from a configuration file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, current: Plan, queues: range, *, force: bool) -> Reading:
        """The file as it is now, and what is other in it. Raises Refused, with all mistakes."""
        made = make(self._path, current)
        plan, lines = made.plan, list(changes(current, made.plan))
        changed, leaving = bool(lines), _source(plan).setup.leaving
        replaced = changed or force
        if replaced and leaving:
            names = ", ".join(each.name for each in leaving)
            lines.append(f"removed backends finish what they have begun: {names}")
        place = replaced and (plan.reach != current.reach or not plan.keeps(queues, current))
        lines += [f"warning: {text}" for text in made.warnings(place=place)]
        return Reading(changed, plan if replaced else None, lines)

    def drop_removed(self, current: Plan) -> Plan:
        """`current` without the backends that an earlier reload removed. Reads no file."""
        source = _source(current)
        lighter = replace(source, setup=replace(source.setup, leaving=()), left={})
        return again(lighter, current)

    def rename(self, current: Plan, answers: Answers) -> Plan:
        """`current` with other addresses for its names. Those that they had finish what they have begun, for LINGER
        each: however often DNS changes its mind, they do not pile up. Reads no file.
        """
        source = _source(current)
        config, now = source.config.with_addresses(answers), time.monotonic()
        setup = replace(source.setup, pools=config.pools, leaving=())
        leaving = tuple(gone(source.setup.known, setup))
        left = {each.address: source.left.get(each.address, now) for each in leaving}
        recent = tuple(each for each in leaving if now - left[each.address] < LINGER)
        renamed = Source(config, replace(setup, leaving=recent), answers, left)
        return again(renamed, current)


def changes(old: Plan, new: Plan) -> Iterator[str]:
    """All that makes `new` another plan than `old`, a line each; nothing: it means the same.

    Besides the file these are the keys, what DNS says of names, and where this host's routes have probes leave from.
    """
    from nfqlb.config.diff import differences, key_differences

    before, after = _source(old), _source(new)
    lines = [*differences(before.config, after.config), *key_differences(before.setup, after.setup)]
    if not lines and _meaning(before) != _meaning(after):
        lines = ["the configuration means something else"]  # nothing shall be left out for want of a line
    yield from lines
    if old.backends_plan is not None and new.backends_plan is not None:
        at = {target.address: target.source for target in old.backends_plan.round.targets}
        for target in new.backends_plan.round.targets:
            if (source := at.get(target.address, target.source)) != target.source:
                yield f"backend {target.address}: probes leave from {source.host} → {target.source.host}"


def _meaning(source: Source) -> tuple[object, ...]:
    """What two sources have in common that mean the same."""
    return replace(source.config, path=Path(), warnings=(), notes=()), source.setup.keys


def gone(known: Iterable[Backend], new: Setup) -> Iterator[Backend]:
    """Those of the `known` backends whose address `new` does not have."""
    seen = {backend.address for backend in new.backends}
    for backend in known:
        if backend.address not in seen:
            seen.add(backend.address)
            yield backend


def _source(plan: Plan) -> Source:
    assert isinstance(plan.source, Source)
    return plan.source
