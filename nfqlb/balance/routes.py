"""Route rules: the pool for a new request; the first rule whose conditions all hold.

Knows conditions and how each is tested. Does not know how a request is read: it asks for what a condition needs
(RouteFacts), and only when a rule comes to that condition, so that nobody pays for a condition that no rule has.

INVITE, its CANCEL and its non-2xx ACK must match the same rule, statelessly (P29). They share the Request-URI, From,
To, Call-ID and the way they come; the method counts as INVITE for all three [RFC 3261 9.1, 17.1.1.3]. They need not
share User-Agent or any other header: those conditions hold for no INVITE, whatever it has (VOLATILE).
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import Protocol

from nfqlb.balance.pattern import Pattern
from nfqlb.net.networks import Network, NetworkSet

VOLATILE = ("user_agents", "user_agent_regex", "headers")
"""Conditions on what an INVITE need not share with its CANCEL and ACK."""

TEXT_MAX = 512
"""Bytes of a user part or a User-Agent that conditions look at: senders may write more than anybody needs."""

ALL = 100.0
"""Percent."""


@dataclass(frozen=True, slots=True)
class RouteRule:
    """A condition that is empty or None holds for everything; in a list, one that holds is enough."""

    pool: str
    methods: frozenset[str] = frozenset()
    """ACK and CANCEL count as the INVITE they belong to (P29)."""
    listeners: frozenset[str] = frozenset()
    domains: frozenset[str] = frozenset()
    """Lower-case hosts of the Request-URI, IPv6 in brackets."""
    user_prefixes: frozenset[str] = frozenset()
    """How the user part of the Request-URI begins, or the number of a tel URI."""
    user_regex: str | None = None
    """In RE2's syntax; found anywhere in the user part."""
    from_domains: frozenset[str] = frozenset()
    to_domains: frozenset[str] = frozenset()
    sources: tuple[Network, ...] = ()
    """Networks of the outside peer."""
    user_agents: frozenset[str] = frozenset()
    """Part of the User-Agent, in whatever case."""
    user_agent_regex: str | None = None
    headers: frozenset[str] = frozenset()
    """Long names, lower case, of headers that stand in the request."""
    percent: float = ALL
    """0..100: this part of the keys of `pool`, always the same ones (a canary)."""


class RouteFacts(Protocol):
    """What rules may ask of a request; bytes are as received unless told."""

    @property
    def method(self) -> bytes:
        """INVITE for its ACK and CANCEL."""

    @property
    def listener(self) -> str: ...

    @property
    def source(self) -> bytes:
        """Packed address of the outside peer."""

    @property
    def domain(self) -> bytes:
        """Lower-case host of the Request-URI; empty for a tel URI. So are those of From and To."""

    @property
    def from_domain(self) -> bytes: ...

    @property
    def to_domain(self) -> bytes: ...

    @property
    def user(self) -> bytes:
        """User part of the Request-URI without escapes, or the number of a tel URI without visual separators."""

    @property
    def user_agent(self) -> bytes: ...

    @property
    def headers(self) -> Collection[bytes]:
        """Long names, lower case."""

    def key(self, pool: str) -> bytes:
        """What the table of that pool would be asked with (P29)."""


Test = Callable[[RouteFacts], bool]


class Routes:
    """All rules, in order, made ready to be asked. Can be pickled."""

    def __init__(self, rules: Sequence[RouteRule]) -> None:
        self._rules = [(rule.pool, _tests(rule)) for rule in rules]
        self.ask_nothing = bool(self._rules) and not self._rules[0][1]
        """Does the first rule take everything?"""

    def first(self, asked: RouteFacts) -> int:
        """The index of the first rule that holds, -1 when none does."""
        for index, (_, tests) in enumerate(self._rules):
            for test in tests:
                if not test(asked):
                    break
            else:
                return index
        return -1

    def pool(self, index: int) -> str:
        return self._rules[index][0]

    def settled(self, method: bytes, listener: str) -> str | None:
        """The pool of all requests of that method at that listener, None where more than these two is asked, or no rule
        holds. An ACK and a CANCEL are asked as their INVITE is.
        """
        asked = b"INVITE" if method in (b"ACK", b"CANCEL") else method
        for pool, tests in self._rules:
            ours = [test for test in tests if isinstance(test, partial) and test.func in (_method, _listener)]
            if all((asked if test.func is _method else listener) in test.args[0] for test in ours):
                return pool if len(ours) == len(tests) else None
        return None


def conditions(rule: RouteRule) -> list[str]:
    """Its conditions as people read them, in the order of their keys: `["INVITE", "to example.org"]`."""

    def either(before: str, values: Collection[object]) -> str:
        return f"{before}{' or '.join(map(str, values))}" if values else ""

    texts = [
        " ".join(sorted(rule.methods)),
        either("on ", sorted(rule.listeners)),
        either("to ", sorted(rule.domains)),
        either("user ", [f"{prefix}…" for prefix in sorted(rule.user_prefixes)]),
        "" if rule.user_regex is None else f"user like {rule.user_regex}",
        either("From ", sorted(rule.from_domains)),
        either("To ", sorted(rule.to_domains)),
        either("from ", rule.sources),
        either("User-Agent with ", sorted(rule.user_agents)),
        "" if rule.user_agent_regex is None else f"User-Agent like {rule.user_agent_regex}",
        either("with header ", sorted(rule.headers)),
        "" if rule.percent == ALL else f"{rule.percent:g} %",
    ]
    return [text for text in texts if text]


def _tests(rule: RouteRule) -> tuple[Test, ...]:
    """What has to hold, the cheap before the dear. Functions of modules, so that they can be pickled."""
    tests: list[Test] = []
    if rule.methods:
        tests.append(partial(_method, _encoded(rule.methods)))
    if rule.user_agents or rule.user_agent_regex is not None or rule.headers:
        tests.append(_no_invite)
    if rule.listeners:
        tests.append(partial(_listener, rule.listeners))
    if rule.domains:
        tests.append(partial(_domain, _encoded(rule.domains)))
    if rule.sources:
        tests.append(partial(_source, NetworkSet(rule.sources)))
    if rule.headers:
        tests.append(partial(_header, _encoded(rule.headers)))
    if rule.user_prefixes:
        tests.append(partial(_user_prefix, tuple(sorted(_encoded(rule.user_prefixes)))))
    if rule.user_regex is not None:
        tests.append(partial(_user_pattern, Pattern(rule.user_regex)))
    if rule.from_domains:
        tests.append(partial(_from_domain, _encoded(rule.from_domains)))
    if rule.to_domains:
        tests.append(partial(_to_domain, _encoded(rule.to_domains)))
    if rule.user_agents:
        tests.append(partial(_user_agent, tuple(sorted(text.lower() for text in _encoded(rule.user_agents)))))
    if rule.user_agent_regex is not None:
        tests.append(partial(_user_agent_pattern, Pattern(rule.user_agent_regex)))
    if rule.percent < ALL:
        salt = blake2b(rule.pool.encode(), digest_size=16).digest()
        tests.append(partial(_percent, rule.pool, salt, round(rule.percent * 2**64 / ALL)))
    return tuple(tests)


def _encoded(texts: Collection[str]) -> frozenset[bytes]:
    return frozenset(text.encode() for text in texts)


def _method(wanted: frozenset[bytes], asked: RouteFacts) -> bool:
    return asked.method in wanted


def _no_invite(asked: RouteFacts) -> bool:
    return asked.method != b"INVITE"


def _listener(wanted: frozenset[str], asked: RouteFacts) -> bool:
    return asked.listener in wanted


def _domain(wanted: frozenset[bytes], asked: RouteFacts) -> bool:
    return asked.domain in wanted


def _from_domain(wanted: frozenset[bytes], asked: RouteFacts) -> bool:
    return asked.from_domain in wanted


def _to_domain(wanted: frozenset[bytes], asked: RouteFacts) -> bool:
    return asked.to_domain in wanted


def _source(wanted: "NetworkSet", asked: RouteFacts) -> bool:
    return asked.source in wanted


def _header(wanted: frozenset[bytes], asked: RouteFacts) -> bool:
    headers = asked.headers
    return any(name in headers for name in wanted)


def _user_prefix(wanted: tuple[bytes, ...], asked: RouteFacts) -> bool:
    return asked.user.startswith(wanted)


def _user_pattern(wanted: Pattern, asked: RouteFacts) -> bool:
    return wanted.found(asked.user[:TEXT_MAX])


def _user_agent(wanted: tuple[bytes, ...], asked: RouteFacts) -> bool:
    text = asked.user_agent[:TEXT_MAX].lower()
    return any(part in text for part in wanted)


def _user_agent_pattern(wanted: Pattern, asked: RouteFacts) -> bool:
    return wanted.found(asked.user_agent[:TEXT_MAX])


def _percent(pool: str, salt: bytes, below: int, asked: RouteFacts) -> bool:
    """By a hash of its own for each pool: the second of two canaries must not get just the keys that the first took.

    The keys of 5 % are among those of 10 %.
    """
    digest = blake2b(asked.key(pool), digest_size=8, person=b"nfqlb-percent", salt=salt).digest()
    return int.from_bytes(digest, "big") < below
