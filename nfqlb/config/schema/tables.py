"""The tables of the file: their keys, the kind of value of each, the defaults.

Each class is one table. Its docstring and those below its fields are the reference of the configuration: `reference`
takes them from here for the example, the JSON Schema and nfqlb.toml(5). So each is a sentence or two that stand alone,
with the unit; where TOML cannot write the default, it says what holds "unless given".

Whether tables fit together is for `config.checks`; here each stands alone. Those of a pair are in `ha`.
"""

from typing import Annotated, Any

from pydantic import Field

from nfqlb import RUN_DIR
from nfqlb.balance.health import Check
from nfqlb.balance.routes import ALL
from nfqlb.config.dns_backends import Dns, Named
from nfqlb.config.limits import Limits
from nfqlb.config.model import Log, LogFormat, LogLevel, RulesBackend
from nfqlb.config.schema.base import Listed, Some, Table
from nfqlb.config.schema.ha import HaGroupTable, HaTable
from nfqlb.config.schema.kinds import (
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
    NameOfOther,
    NamesOfOthers,
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
from nfqlb.names.target import Target
from nfqlb.net.endpoint import Endpoint
from nfqlb.proxy.setup import Backend, ForceRport, Listener, Panic, PathPolicy, RouteRule

ASKED = Check()
"""How backends are asked unless the file says otherwise."""

LIMITS = Limits()

LOG = Log()


class GatewayTable(Table):
    """Names and places of this gateway."""

    name: Name = "lb"
    """User part of the Path and Record-Route URIs that the gateway writes; the same on every node of a pair."""
    secret_file: FilePath = "/etc/nfqlb/secret"
    """File with the keys that sign what the gateway writes into headers, made by `nfqlb secret new`; the same on every
    node. A relative name starts from the directory of the configuration file."""
    run_dir: Directory = RUN_DIR
    """Directory where the running gateway keeps its control socket and its counters."""
    state_dir: Directory = "/var/lib/nfqlb"
    """Directory for what outlives a restart of the host: which backends an operator has drained or disabled."""


class ListenerTable(Table):
    """A listener is a pair of sockets: phones and carriers see the external one, backends the internal one. Both the
    same: a one-armed gateway. A packet keeps its IP version on the way through, so IPv6 needs a listener of its own.
    """

    name: Name
    """Name of the listener in route rules, groups of a pair and messages; no two listeners have the same."""
    external: Socket = Field(examples=["203.0.113.5:5060"])
    """The one visible address and port, which phones and carriers send to; the port may be left out when it is 5060."""
    internal: Socket = Field(examples=["192.168.1.5:5060"])
    """Address and port where backends find the gateway; equal to `external` for a one-armed gateway."""
    aliases: Annotated[tuple[Host, ...], Listed] = Field((), examples=[["sbc.example.org"]])
    """Host names by which phones address the gateway, where they have it as outbound proxy. Unless given, none."""
    advertise: Socket | None = Field(None, examples=["198.51.100.7:5060"])
    """External address and port as the world sees them, behind a 1:1 NAT. Unless given, `external`."""
    force_rport: ForceRport = "auto"
    """Whether phones are answered where they sent from although they do not ask for it (RFC 3581): "auto" when that
    differs from what they wrote into Via, "always" or "never"."""
    external_interface: Interface | None = Field(None, examples=["eth0"])
    """Network interface of the external side: packets to `external` that come in by another one are dropped. Unless
    given, any will do."""
    internal_interface: Interface | None = Field(None, examples=["eth1"])
    """Network interface of the internal side: packets to `internal` that come in by another one are dropped, so that
    nobody outside can pass for a backend. Unless given, any will do."""

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
    """A backend is one SIP server of its pool: a registrar, a proxy, a carrier's gateway. A dual-stack server is two
    backends, unless it has a name that DNS knows.
    """

    name: Name
    """Name of the backend in commands and messages; no two backends have the same, in whatever pool."""
    address: BackendAddress = Field(examples=["192.168.1.11:5060"])
    """Address and port of the backend, or a name that DNS knows, of which each address is a backend; the port may be
    left out when it is 5060."""
    weight: Annotated[int, Field(ge=0, le=1000)] = 1
    """Share of the pool's new requests, relative to the other backends; with 0 it gets none, but keeps the calls it
    has."""
    priority: Annotated[int, Field(ge=1, le=100)] = 1
    """Rank of the backend in its pool: those with a higher number are used only when none with a lower one is up."""

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
    """A pool is a set of backends that can stand in for each other; they follow as `[[pool.backend]]`."""

    name: Name
    """Name of the pool in route rules, commands and messages; no two pools have the same."""
    hash_on: Keys = ("call-id",)
    """What stays together on one backend: "call-id", "from-uri", "to-uri", "request-user", "auth-user" or "source-ip";
    or a list of them, of which the first counts that a request has, such as ["auth-user", "call-id"]."""
    min_up: Annotated[int, Field(ge=0, le=1000)] = 1
    """Number of backends that have to take new requests: with fewer there is an alarm; 0 for none."""
    panic: Panic = "all"
    """What happens when probes find all backends down: "all" goes on as if none were, so that an error of the probes
    harms nobody; "none" answers 503."""
    warmup: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)] = 0.0
    """Seconds in which a backend that comes back gets its share, in ten steps; 0 gives it all at once."""


class RouteTable(Table):
    """A route rule says which pool a new request goes to. The first rule whose conditions all hold wins; one without
    conditions takes everything. In a list one item that holds is enough. What belongs to a call follows the route that
    the call was set up with, not these rules.
    """

    methods: Annotated[tuple[Method, ...], Listed, Some] | None = Field(None, examples=[["REGISTER"]])
    """Condition: the method of the request; ACK and CANCEL count as the INVITE they belong to. Unless given, any."""
    listeners: NamesOfOthers | None = Field(None, examples=[["main"]])
    """Condition: the name of the listener that the request came to. Unless given, any."""
    domains: Annotated[tuple[Domain, ...], Listed, Some] | None = Field(None, examples=[["example.org"]])
    """Condition: the host of the Request-URI. Unless given, any."""
    user_prefixes: Annotated[tuple[UserPrefix, ...], Listed, Some] | None = Field(None, examples=[["+49", "0049"]])
    """Condition: how the user part of the Request-URI begins, or the number of a tel URI. Unless given, any."""
    user_regex: Regex | None = Field(None, examples=["^0[1-9]"])
    """Condition: a regular expression (RE2) that is found in the user part of the Request-URI. Unless given, any."""
    from_domains: Annotated[tuple[Domain, ...], Listed, Some] | None = Field(None, examples=[["example.org"]])
    """Condition: the host of the URI in From. Unless given, any."""
    to_domains: Annotated[tuple[Domain, ...], Listed, Some] | None = Field(None, examples=[["example.org"]])
    """Condition: the host of the URI in To. Unless given, any."""
    sources: Annotated[tuple[NetworkField, ...], Listed, Some] | None = Field(None, examples=[["198.51.100.0/24"]])
    """Condition: the network of the sender's address. Unless given, any."""
    user_agents: Annotated[tuple[Piece, ...], Listed, Some] | None = Field(None, examples=[["Acme"]])
    """Condition: a part of the User-Agent, in whatever case; it holds for no INVITE. Unless given, any."""
    user_agent_regex: Regex | None = Field(None, examples=["^Acme/[12]\\."])
    """Condition: a regular expression (RE2) that is found in the User-Agent; it holds for no INVITE. Unless given,
    any."""
    headers: Annotated[tuple[Header, ...], Listed, Some] | None = Field(None, examples=[["Event"]])
    """Condition: names of headers, of which the request has one; it holds for no INVITE. Unless given, any."""
    percent: Annotated[float, Field(ge=0, le=100)] = ALL
    """Condition: this part, in percent, of the keys that the pool hashes on, always the same ones: a canary."""
    pool: NameOfOther = Field(examples=["registrars"])
    """Name of the pool that the request goes to."""

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
    """How backends are asked whether they live. As `[pool.health]` it holds for one pool, with the keys that are other
    there.
    """

    enabled: bool = ASKED.enabled
    """Whether backends are asked at all; with false each is always taken to be up."""
    interval: Annotated[float, Field(ge=0.2, le=3600, allow_inf_nan=False)] = ASKED.interval
    """Seconds from one probe of a backend to the next."""
    timeout: Annotated[float, Field(ge=0.05, le=60, allow_inf_nan=False)] = ASKED.timeout
    """Seconds that the answer to a probe may take; at most `interval`."""
    jitter: Annotated[float, Field(ge=0, le=0.9)] = ASKED.jitter
    """Part of `interval` by which one may be shorter, so that probes do not come all at once; 0.2 is a fifth."""
    rise: Annotated[int, Field(ge=1, le=100)] = ASKED.rise
    """Number of good answers in a row that bring back a backend which was down."""
    fall: Annotated[int, Field(ge=1, le=100)] = ASKED.fall
    """Number of bad or missing answers in a row that make a backend down; an ICMP error is quicker."""
    accept: Codes = ASKED.accept
    """Status codes of good answers, and classes of them; what stands behind "not" is taken out."""
    method: ProbeMethod = ASKED.method
    """Method of the probe."""
    uri: ProbeUri = ASKED.uri
    """Request-URI of the probe; {address} stands for the backend's address and port."""

    def value(self) -> Check:
        return Check(**dict(self))

    @property
    def told(self) -> dict[str, Any]:
        """What the file says, without defaults."""
        return {key: getattr(self, key) for key in self.model_fields_set}


class PathTable(Table):
    """What becomes of Path (RFC 3327) in a REGISTER."""

    policy: PathPolicy = "always"
    """Whether a REGISTER gets the gateway's Path value: "always", "if-supported" by the phone, or "require", which
    answers 421 to a phone that does not support Path."""
    accept_unsigned: bool = False
    """Whether Paths without a signature are honoured, which another load balancer wrote before this gateway came."""


class WorkersTable(Table):
    """The processes that take packets, and what may wait for them."""

    count: Annotated[int, Field(ge=0, le=256)] = 0
    """Number of worker processes; 0 means one for each core."""
    queue: Annotated[int, Field(ge=0, le=65535)] = 5060
    """NFQUEUE number of the first worker; the others count up."""
    queue_length: Annotated[int, Field(ge=64, le=1 << 20)] = 8192
    """Number of packets that may wait in the kernel for one worker."""
    socket_buffer: Annotated[Size, Field(ge=1 << 16, le=1 << 30)] = 8 << 20
    """Bytes that may wait in the netlink socket of one worker: a number, or text with KiB, MiB or GiB."""
    pin: bool = True
    """Whether each worker gets a core of its own, when there are enough."""


class EgressTable(Table):
    """Where backends may send requests that follow no route of a phone: to carriers, to other domains."""

    networks: Annotated[tuple[NetworkField, ...], Listed] | None = Field(None, examples=[["0.0.0.0/0", "::/0"]])
    """Networks that backends may send to by themselves, without a phone's signed route. Unless given, all."""
    names: bool = True
    """Whether backends may say where to by a host name, which is then looked up; false answers 503 to that."""


class DnsTable(Table):
    """How names are looked up: those of backends, and those that backends send to."""

    servers: Annotated[tuple[Server, ...], Listed, Field(min_length=1, max_length=8)] | None = Field(
        None, examples=[["192.0.2.53"]]
    )
    """Addresses of the DNS servers that are asked. Unless given, those of /etc/resolv.conf."""
    timeout: Annotated[float, Field(ge=0.1, le=5, allow_inf_nan=False)] = 2.0
    """Seconds that the answer of a DNS server may take."""
    min_ttl: Annotated[int, Field(ge=1, le=3600)] = 5
    """Seconds that an answer is used at least, whatever its TTL says."""
    max_ttl: Annotated[int, Field(ge=1, le=86400)] = 3600
    """Seconds that an answer is used at most before DNS is asked again, whatever its TTL says."""

    def value(self) -> Dns:
        return Dns(self.servers or (), self.timeout, self.min_ttl, self.max_ttl)


class LimitsTable(Table):
    """What one source may send, an IPv4 address or a /64 of IPv6, and what it takes to be banned."""

    enabled: bool = LIMITS.enabled
    """Whether anybody is limited or banned at all."""
    requests: Annotated[int, Field(ge=10, le=500_000)] = LIMITS.requests
    """Requests a second that pass from one source; the kernel drops what is above."""
    burst: Annotated[int, Field(ge=10, le=500_000)] = LIMITS.burst
    """Number of requests that may come from one source at once."""
    ban_above: Annotated[int, Field(ge=10, le=1_000_000)] = LIMITS.ban_above
    """Requests a second above which the kernel bans a source."""
    ban_for: Annotated[int, Field(ge=1, le=604_800)] = LIMITS.ban_for
    """Seconds that a ban lasts."""
    offences: Annotated[int, Field(ge=20, le=1_000_000)] = LIMITS.offences
    """Points a minute above which a source is banned; junk, scanners and attempts to relay give points."""
    allow: Annotated[tuple[NetworkField, ...], Listed] = Field(LIMITS.allow, examples=[["198.51.100.0/24"]])
    """Networks that are never limited and never banned: carriers, peers, monitors. Unless given, none;
    backends and the other node of a pair need no mention."""
    replies: Annotated[int, Field(ge=10, le=10_000_000)] = LIMITS.replies
    """Replies of the gateway's own (503, 483, those to OPTIONS) that leave in a second."""
    replies_per_network: Annotated[int, Field(ge=10, le=10_000_000)] = LIMITS.replies_per_network
    """Replies of the gateway's own that leave in a second for one network, an IPv4 /24 or a /56 of IPv6."""
    shed_at: Annotated[float, Field(ge=1, le=100)] = LIMITS.shed_at
    """Percent of a queue: fuller ones get no new requests, which leaves room for those of calls; 100 for never."""
    shed_age: Annotated[float, Field(ge=0.05, le=60, allow_inf_nan=False)] = LIMITS.shed_age
    """Seconds that packets wait in a queue: those where it is longer get no new requests, as with `shed_at`."""
    scanners: Annotated[tuple[Piece, ...], Listed] = LIMITS.scanners
    """Parts of User-Agents, in whatever case, whose requests get no answer."""

    def value(self) -> Limits:
        return Limits(**dict(self))


class RulesTable(Table):
    """The iptables rules that bring SIP packets to the gateway."""

    backend: RulesBackend = "auto"
    """Which iptables commands are used: "auto" (the plain ones, as the system has them), "nft" or "legacy"."""
    interfaces: Annotated[tuple[Interface, ...], Listed, Some] | None = Field(None, examples=[["eth0", "eth1"]])
    """Network interfaces that SIP packets come in by. Unless given, they are found from addresses and routes."""
    forward: bool = True
    """Whether the gateway's packets, and only these, are let through the FORWARD chain; false leaves the filter table
    alone."""


class LogTable(Table):
    """What `nfqlb run` logs, and in which form. Its options --log-level and --log-format win over this table."""

    level: LogLevel = LOG.level
    """Least level of what is logged: "debug", "info", "warning" or "error"."""
    format: LogFormat = LOG.format
    """Form of the log: "text" for lines that people read, or "json" for one object a line."""

    def value(self) -> Log:
        return Log(**dict(self))


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

WITHIN: dict[str, type[Table]] = {"pool.backend": BackendTable, "pool.health": HealthTable, "ha.group": HaGroupTable}
"""Tables within one of these; `[pool.health]` stands once in its pool, the others as often as needed."""
