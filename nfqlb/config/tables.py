"""The tables of the file: their keys, the kind of value of each, the defaults.

Each class is one table; its field docs are the reference of the configuration. Whether tables fit together is
for `contradictions`; here each stands alone.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, Strict

from nfqlb.balance.health import Check
from nfqlb.balance.rules import ALL
from nfqlb.config import RUN_DIR, Log, LogFormat, LogLevel, RulesBackend
from nfqlb.config.fields import (
    Address,
    BackendAddress,
    Codes,
    Directory,
    Domain,
    FilePath,
    Header,
    Host,
    Interface,
    Keys,
    Method,
    Name,
    NetworkField,
    Piece,
    ProbeMethod,
    ProbeUri,
    Regex,
    Server,
    Size,
    Socket,
    UserPrefix,
)
from nfqlb.config.limits import Limits
from nfqlb.config.named import Dns, Named
from nfqlb.config.pair import KEEPALIVED_CONF, PRIORITY, ROUTER_ID
from nfqlb.names.target import Target
from nfqlb.net.endpoint import Endpoint
from nfqlb.proxy.setup import Backend, ForceRport, Listener, Panic, PathPolicy, RouteRule

ASKED = Check()
"""How backends are asked unless the file says otherwise."""

LIMITS = Limits()

LOG = Log()

Listed = Strict(False)
"""TOML's list, read into a tuple; what is in it is as strict as anywhere."""


class Table(BaseModel):
    """One table of the file; an unknown key or a value of another type is a mistake."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class GatewayTable(Table):
    name: Name = "lb"
    """User part of our Path and Record-Route URIs; the same on every node."""
    secret_file: FilePath = "/etc/nfqlb/secret"
    """Keys that sign what we write into headers. A relative name starts from this file's directory."""
    run_dir: Directory = RUN_DIR
    """Where the running gateway keeps its board."""
    state_dir: Directory = "/var/lib/nfqlb"
    """What outlives a restart of the host: which backends an operator has taken out."""


class ListenerTable(Table):
    name: Name
    external: Socket
    """The one visible address."""
    internal: Socket
    """Where backends find us; equal to `external` for a one-armed listener."""
    aliases: Annotated[tuple[Host, ...], Listed] = ()
    """Names by which phones address us."""
    advertise: Socket | None = None
    """The external address as the world sees it, behind a 1:1 NAT."""
    force_rport: ForceRport = "auto"
    """Whether to answer phones where they sent from although they do not ask for it."""
    external_interface: Interface | None = None
    """Packets to `external` that come in by another interface are dropped."""
    internal_interface: Interface | None = None
    """Packets to `internal` that come in by another interface are dropped, whoever they say they are from."""

    def value(self) -> Listener:
        return Listener(**dict(self))

    @property
    def sockets(self) -> dict[str, Endpoint]:
        """Key → socket of ours, without those that the listener repeats on purpose."""
        found = {"external": self.external}
        if self.internal != self.external:
            found["internal"] = self.internal
        if self.advertise is not None and self.advertise != self.external:
            found["advertise"] = self.advertise
        return found


class BackendTable(Table):
    name: Name
    address: BackendAddress
    """An address and a port, or a name that DNS knows: then each address that it says is a backend."""
    weight: Annotated[int, Field(ge=0, le=1000)] = 1
    """Share of the pool's new transactions, relative to the others; 0 takes none."""
    priority: Annotated[int, Field(ge=1, le=100)] = 1
    """Higher numbers are used only when no lower one is up."""

    @property
    def is_named(self) -> bool:
        return isinstance(self.address, Target)

    def value(self) -> Backend:
        """Of one that has an address."""
        return Backend(**dict(self))

    def named(self, pool: str) -> Named:
        """Of one that has a name."""
        return Named(pool=pool, **dict(self))


class PoolTable(Table):
    """A pool without its backends: those are tables of their own."""

    name: Name
    hash_on: Keys = ("call-id",)
    """What keeps together on one backend; of a list, the first that a request has."""
    min_up: Annotated[int, Field(ge=0, le=1000)] = 1
    """With fewer backends that take new requests, there is an alarm."""
    panic: Panic = "all"
    """When all backends are down: go on as if none were (all), or answer 503 (none)."""
    warmup: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)] = 0.0
    """Seconds in which the share of a backend grows that comes back; 0 gives it all at once."""


class RouteTable(Table):
    methods: Annotated[tuple[Method, ...], Listed, Field(min_length=1)] | None = None
    listeners: Annotated[tuple[str, ...], Listed, Field(min_length=1)] | None = None
    domains: Annotated[tuple[Domain, ...], Listed, Field(min_length=1)] | None = None
    """Hosts of the Request-URI."""
    user_prefixes: Annotated[tuple[UserPrefix, ...], Listed, Field(min_length=1)] | None = None
    """How the user part of the Request-URI begins, or the number of a tel URI."""
    user_regex: Regex | None = None
    """Found anywhere in the user part."""
    from_domains: Annotated[tuple[Domain, ...], Listed, Field(min_length=1)] | None = None
    to_domains: Annotated[tuple[Domain, ...], Listed, Field(min_length=1)] | None = None
    sources: Annotated[tuple[NetworkField, ...], Listed, Field(min_length=1)] | None = None
    """Networks of the outside peer."""
    user_agents: Annotated[tuple[Piece, ...], Listed, Field(min_length=1)] | None = None
    """Part of the User-Agent, in whatever case; not for INVITE."""
    user_agent_regex: Regex | None = None
    headers: Annotated[tuple[Header, ...], Listed, Field(min_length=1)] | None = None
    """Headers of which one has to be there; not for INVITE."""
    percent: Annotated[float, Field(ge=0, le=100)] = ALL
    """This part of what the pool hashes on, always the same: a canary."""
    pool: str

    def value(self) -> RouteRule:
        return RouteRule(
            pool=self.pool,
            methods=frozenset(self.methods or ()),
            listeners=frozenset(self.listeners or ()),
            domains=frozenset(self.domains or ()),
            user_prefixes=frozenset(self.user_prefixes or ()),
            user_regex=self.user_regex,
            from_domains=frozenset(self.from_domains or ()),
            to_domains=frozenset(self.to_domains or ()),
            sources=self.sources or (),
            user_agents=frozenset(self.user_agents or ()),
            user_agent_regex=self.user_agent_regex,
            headers=frozenset(self.headers or ()),
            percent=self.percent,
        )


class HealthTable(Table):
    """How backends are asked whether they live; also as `[pool.health]`, where it replaces keys for one pool."""

    enabled: bool = ASKED.enabled
    """Ask at all; without it every backend is always taken to be up."""
    interval: Annotated[float, Field(ge=0.2, le=3600, allow_inf_nan=False)] = ASKED.interval
    """Seconds from one probe to the next."""
    timeout: Annotated[float, Field(ge=0.05, le=60, allow_inf_nan=False)] = ASKED.timeout
    """Seconds that an answer may take; at most `interval`."""
    jitter: Annotated[float, Field(ge=0, le=0.9)] = ASKED.jitter
    """Each interval is shorter by up to this part of it."""
    rise: Annotated[int, Field(ge=1, le=100)] = ASKED.rise
    """Good answers in a row that bring a backend back."""
    fall: Annotated[int, Field(ge=1, le=100)] = ASKED.fall
    """Bad or missing ones in a row that make it down."""
    accept: Codes = ASKED.accept
    """Good answers: status codes, and classes of them such as 4xx."""
    method: ProbeMethod = ASKED.method
    uri: ProbeUri = ASKED.uri
    """The Request-URI; {address} stands for the backend's address and port."""

    def value(self) -> Check:
        return Check(**dict(self))

    @property
    def told(self) -> dict[str, Any]:
        """What the file says, without defaults."""
        return {key: getattr(self, key) for key in self.model_fields_set}


class PathTable(Table):
    policy: PathPolicy = "always"
    """Whether a REGISTER gets our Path value when the phone does not say that it supports Path."""
    accept_unsigned: bool = False
    """Honour Paths that another load balancer wrote before the migration."""


class WorkersTable(Table):
    count: Annotated[int, Field(ge=0, le=256)] = 0
    """Worker processes; 0 means one for each core."""
    queue: Annotated[int, Field(ge=0, le=65535)] = 5060
    """The first NFQUEUE number; each worker has one."""
    queue_length: Annotated[int, Field(ge=64, le=1 << 20)] = 8192
    """Packets that may wait in the kernel for one worker."""
    socket_buffer: Annotated[Size, Field(ge=1 << 16, le=1 << 30)] = 8 << 20
    """Bytes that may wait in one worker's netlink socket."""
    pin: bool = True
    """Give each worker a core of its own, when there are enough."""


class EgressTable(Table):
    networks: Annotated[tuple[NetworkField, ...], Listed] | None = None
    """Networks that backends may reach without a signed flow; all of them unless given."""
    names: bool = True
    """Whether they may say where to by a name, which is then looked up; without it such a request gets 503."""


class DnsTable(Table):
    """How names are looked up: of backends, and those that backends send to."""

    servers: Annotated[tuple[Server, ...], Listed, Field(min_length=1, max_length=8)] | None = None
    """Those of /etc/resolv.conf unless given."""
    timeout: Annotated[float, Field(ge=0.1, le=5, allow_inf_nan=False)] = 2.0
    """Seconds that an answer may take."""
    min_ttl: Annotated[int, Field(ge=1, le=3600)] = 5
    """Seconds that an answer is used at least, whatever it says itself."""
    max_ttl: Annotated[int, Field(ge=1, le=86400)] = 3600
    """And at most, before DNS is asked again."""

    def value(self) -> Dns:
        return Dns(self.servers or (), self.timeout, self.min_ttl, self.max_ttl)


class LimitsTable(Table):
    """What a source may send, and what it takes to be banned. The defaults and their reasons: docs/limits.md."""

    enabled: bool = LIMITS.enabled
    """Limit and ban at all."""
    requests: Annotated[int, Field(ge=10, le=500_000)] = LIMITS.requests
    """A second that pass from one source: an IPv4 address, or a /64 of IPv6."""
    burst: Annotated[int, Field(ge=10, le=500_000)] = LIMITS.burst
    """Requests that may come at once."""
    ban_above: Annotated[int, Field(ge=10, le=1_000_000)] = LIMITS.ban_above
    """Requests a second above which a source is banned."""
    ban_for: Annotated[int, Field(ge=1, le=604_800)] = LIMITS.ban_for
    """Seconds that a ban lasts."""
    offences: Annotated[int, Field(ge=20, le=1_000_000)] = LIMITS.offences
    """Points a minute above which a source is banned."""
    allow: Annotated[tuple[NetworkField, ...], Listed] = LIMITS.allow
    """Networks never limited and never banned: peers, carriers, monitors. Backends and the other node are, anyway."""
    replies: Annotated[int, Field(ge=10, le=10_000_000)] = LIMITS.replies
    """Replies of our own (503, 483, OPTIONS …) that leave in a second."""
    replies_per_network: Annotated[int, Field(ge=10, le=10_000_000)] = LIMITS.replies_per_network
    """And those to one network: an IPv4 /24, or a /56 of IPv6."""
    shed_at: Annotated[float, Field(ge=1, le=100)] = LIMITS.shed_at
    """Percent of a queue; fuller ones get no new requests, to leave room for those who have calls. 100: never."""
    shed_age: Annotated[float, Field(ge=0.05, le=60, allow_inf_nan=False)] = LIMITS.shed_age
    """Seconds that packets wait in a queue, with the same effect."""
    scanners: Annotated[tuple[Piece, ...], Listed] = LIMITS.scanners
    """Parts of User-Agents, in whatever case, whose requests get no answer."""

    def value(self) -> Limits:
        return Limits(**dict(self))


class RulesTable(Table):
    backend: RulesBackend = "auto"
    """Which iptables commands: the plain ones (auto), `iptables-nft-…` or `iptables-legacy-…`."""
    interfaces: Annotated[tuple[Interface, ...], Listed, Field(min_length=1)] | None = None
    """Interfaces that SIP packets come in by; found from addresses and routes unless given."""
    forward: bool = True
    """Let our packets, and only ours, pass the FORWARD chain; false leaves the filter table alone."""


class LogTable(Table):
    """What `nfqlb run` logs, and how; its options --log-level and --log-format win."""

    level: LogLevel = LOG.level
    """The least of what is logged."""
    format: LogFormat = LOG.format
    """Lines for people, or JSON: one object a line."""

    def value(self) -> Log:
        return Log(**dict(self))


RouterId = Annotated[int, Field(ge=1, le=255)]
Priority = Annotated[int, Field(ge=205, le=254)]
"""What is taken off it where something is wrong must leave something: see nfqlb.ha."""


class HaTable(Table):
    """The pair that this node is one half of. Without the table it stands alone."""

    address: Address
    """This node's own address, from which it talks to the other."""
    peer: Address
    """The other node's."""
    interface: Interface
    """Where the two talk."""
    outside: Interface | None = None
    """Interface of the external addresses; `interface` unless given."""
    inside: Interface | None = None
    """Interface of the internal addresses; `interface` unless given."""
    networks: Annotated[tuple[NetworkField, ...], Listed] = ()
    """A floating address gets the prefix length of its network in this list, or else /32 (IPv6: /128)."""
    router_id: RouterId = ROUTER_ID
    """VRRP's number of the pair: the same on both nodes, and nobody else's in that network."""
    priority: Priority = PRIORITY
    """With equal ones the addresses stay where they are; else they go back to the higher one."""
    interval: Annotated[float, Field(ge=0.02, le=10, allow_inf_nan=False)] = 0.1
    """Seconds between two VRRP advertisements; after three without one the other node takes over."""
    check_port: Annotated[int, Field(ge=0, le=65535)] = 0
    """TCP port at `address` where `nfqlb ha check` of the peer may compare the two nodes; 0 for none."""
    keepalived_conf: FilePath = KEEPALIVED_CONF
    """What keepalived on this node reads, looked at only: is it what `nfqlb ha render` prints? A relative name starts
    from this file's directory."""


class HaGroupTable(Table):
    """Listeners that move together, apart from others. Without any, all move together."""

    name: Name
    listeners: Annotated[tuple[str, ...], Listed, Field(min_length=1)]
    router_id: RouterId
    priority: Priority = PRIORITY


SINGLE: dict[str, type[Table]] = {
    "gateway": GatewayTable,
    "path": PathTable,
    "workers": WorkersTable,
    "health": HealthTable,
    "egress": EgressTable,
    "dns": DnsTable,
    "limits": LimitsTable,
    "rules": RulesTable,
    "log": LogTable,
    "ha": HaTable,
}
"""Tables that stand once, as `[name]`; each may be left out."""

REPEATED: dict[str, type[Table]] = {"listener": ListenerTable, "pool": PoolTable, "route": RouteTable}
"""Tables that stand as often as needed, as `[[name]]`."""
