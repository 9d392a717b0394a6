"""A configuration without mistakes: frozen values.

Knows the tables of the file and what the engine decides by: `Config.setup()` reads the keys, too. How a file is read
and checked is in `build`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from nfqlb.balance.health import Check
from nfqlb.config.dns_backends import Dns, Named, dismissed, expanded
from nfqlb.config.limits import Limits
from nfqlb.config.pair import Pair
from nfqlb.config.problems import ConfigError, Problem, errors_in
from nfqlb.config.secret import read_keys
from nfqlb.names.target import Answers
from nfqlb.proxy.setup import EVERYWHERE, Listener, Network, PathPolicy, Pool, RouteRule, Setup


@dataclass(frozen=True, slots=True)
class Gateway:
    name: str
    secret_file: Path
    run_dir: Path
    state_dir: Path


@dataclass(frozen=True, slots=True)
class Workers:
    count: int
    """At least 1: resolved to the cores this process may use when the file says 0 or nothing."""
    queue: int
    queue_length: int
    """Packets."""
    socket_buffer: int
    """Bytes."""
    pin: bool

    @property
    def queues(self) -> range:
        """One NFQUEUE number for each worker."""
        return range(self.queue, self.queue + self.count)


RulesBackend = Literal["auto", "nft", "legacy"]


@dataclass(frozen=True, slots=True)
class Rules:
    backend: RulesBackend
    interfaces: tuple[str, ...] | None
    """None: found from addresses and routes."""
    forward: bool


LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "json"]


@dataclass(frozen=True, slots=True)
class Log:
    level: LogLevel = "info"
    """The least of what is logged."""
    format: LogFormat = "text"


@dataclass(frozen=True, slots=True)
class Config:
    """One configuration file without mistakes."""

    path: Path
    gateway: Gateway
    listeners: tuple[Listener, ...]
    pools: tuple[Pool, ...]
    """With the backends that have an address; and, once `with_addresses` has been asked, those that names stand for."""
    names: tuple[Named, ...]
    """The backends that have a name instead of an address."""
    routes: tuple[RouteRule, ...]
    path_policy: PathPolicy
    accept_unsigned: bool
    workers: Workers
    egress: tuple[Network, ...] | None
    """None: everywhere."""
    egress_names: bool
    """Whether names that backends send to are looked up."""
    dns: Dns
    limits: Limits
    rules: Rules
    log: Log
    health: Check
    """How the backends of a pool are asked that says nothing else."""
    pool_health: Mapping[str, Check]
    """The same for those that do, by the name of the pool."""
    ha: Pair | None
    """None: this node stands alone."""
    warnings: tuple[Problem, ...]
    notes: tuple[Problem, ...]
    """What is right, and may not be what was meant."""

    @property
    def versions(self) -> frozenset[int]:
        """The IP versions that listeners speak: 4, 6, or both. Addresses of another one are of no use."""
        return frozenset(listener.external.version for listener in self.listeners)

    def check(self, pool: str) -> Check:
        """How the backends of that pool are asked whether they live."""
        return self.pool_health.get(pool, self.health)

    def with_addresses(self, answers: Answers) -> "Config":
        """The same with what DNS says of `names`; a backend whose name is not in `answers` has no address."""
        return replace(self, pools=expanded(self.pools, self.names, self.listeners, answers))

    def dismissed(self, answers: Answers) -> Iterator[tuple[Named, str]]:
        """Which address that DNS says of which of `names` is not used, and why: a text for people for each."""
        return dismissed(self.pools, self.names, self.listeners, answers)

    def setup(self, keys: tuple[bytes, ...] | None = None) -> Setup:
        """What the engine decides by. Without `keys`, those of the secret file, or ConfigError."""
        if keys is None:
            keys, problems = read_keys(self.gateway.secret_file)
            if errors_in(problems):
                raise ConfigError(self.path, problems)
        return Setup(
            name=self.gateway.name,
            keys=keys,
            listeners=self.listeners,
            pools=self.pools,
            routes=self.routes,
            path_policy=self.path_policy,
            accept_unsigned=self.accept_unsigned,
            egress=EVERYWHERE if self.egress is None else self.egress,
            scanners=self.limits.scanners if self.limits.enabled else (),
        )
