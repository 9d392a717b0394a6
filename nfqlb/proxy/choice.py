"""The backend for a request from outside that no Route sends anywhere (P19, P29–P32).

Two answers to one question. The stateless one, a function of the message and the tables, is what every worker and every
node would say. The remembered one is where the same transaction was sent before the tables changed; it counts while
that backend lives. What was remembered, and for how long, is `Recent`'s; without one there is only the first answer.
"""

from collections.abc import Callable
from copy import copy
from ipaddress import ip_address

from nfqlb.balance import recent as memory
from nfqlb.balance.pool import Backend
from nfqlb.balance.recent import Recent
from nfqlb.balance.routes import Routes, conditions
from nfqlb.balance.tables import Tables
from nfqlb.net.endpoint import Endpoint
from nfqlb.proxy import selection
from nfqlb.proxy.facts import Facts, Reject
from nfqlb.proxy.identity import Identity
from nfqlb.proxy.route_facts import RouteFacts
from nfqlb.proxy.setup import Listener, Setup
from nfqlb.proxy.verdict import Reason
from nfqlb.sip.message import Message
from nfqlb.sip.uri import Uri

RETRY_AFTER = b"Retry-After: 5"
"""Seconds. Long enough for a backend to come back, short enough for a phone's patience."""

Note = Callable[[str, str], None]
"""Told each rule that decided, and what it did."""

Chosen = tuple[Endpoint, int]
"""Address and number of a backend."""


class Choice:
    """The route rules, and the tables of all pools."""

    def __init__(self, setup: Setup, identity: Identity, tables: Tables, recent: Recent | None) -> None:
        self._identity = identity
        self.rules = Routes(setup.routes)
        self._routes = setup.routes
        self.tables = tables
        self.hash_on = {pool.name: pool.hash_on for pool in setup.pools}
        self.tokens = [_token(backend) for backend in setup.known]
        self.owners = {version: _owners(setup, self.tokens, version) for version in (4, 6)}
        self._recent = recent

    def sibling(self, recent: Recent | None) -> "Choice":
        """The same rules and tables, shared with this one, and another view of what was chosen."""
        other = copy(self)
        other._recent = recent
        return other

    def choose(
        self,
        message: Message,
        facts: Facts,
        request_uri: Uri | None,
        listener: Listener,
        source: Endpoint,
        note: Note | None,
    ) -> Chosen:
        """The backend. Raises Reject."""
        recent = self._recent
        if recent is None:
            return self._stateless(message, facts, request_uri, listener, source, note)
        key = memory.key(selection.transaction(facts))
        before = -1
        for number in self.owners[listener.internal.version].get(recent.find(key), ()):
            if self.tables.alive(number):
                before = number
                break
        if before < 0:
            chosen = self._stateless(message, facts, request_uri, listener, source, note)
            method = message.method
            recent.misses += method == b"CANCEL"
            if method != b"ACK":  # it begins nothing; and stored, that of a 2xx would fill the table twice as fast
                invite = method in (b"INVITE", b"CANCEL")
                recent.store(key, self.tokens[chosen[1]], memory.INVITE_LIFETIME if invite else memory.LIFETIME)
            return chosen
        backend = self._identity.backends[before]
        try:
            # Asked all the same: nearly always it says the same, and else the operator is told how often it does not.
            chosen = self._stateless(message, facts, request_uri, listener, source, note)
        except Reject:
            pass
        else:
            if chosen[0] == backend.address:
                return chosen
        recent.kept += 1
        if note:
            note("P31", f"stays where its transaction began: {backend.name} {backend.address}")
        return backend.address, before

    def _stateless(
        self,
        message: Message,
        facts: Facts,
        request_uri: Uri | None,
        listener: Listener,
        source: Endpoint,
        note: Note | None,
    ) -> Chosen:
        """By Request-URI in a dialog, else by rule and table. Raises Reject."""
        identity = self._identity
        if facts.to_tag is not None and request_uri is not None:
            target = identity.target(request_uri)
            number = -1 if target is None else identity.backend_at(target)
            if target is not None and number >= 0:
                if note:
                    note("P19", f"in a dialog, Request-URI is backend {identity.backends[number].name}")
                return target, number
        rule = 0
        if not self.rules.ask_nothing:
            rule = self.rules.first(RouteFacts(message, facts, request_uri, listener.name, source, self.hash_on))
            if rule < 0:
                raise Reject(Reason.NO_BACKEND, RETRY_AFTER, detail="no route rule matches")
        if note:
            note("P29", f"route[{rule}] holds: {', '.join(conditions(self._routes[rule])) or 'everything'}")
        pool = self.rules.pool(rule)
        hash_on = self.hash_on[pool]
        key = selection.key(hash_on, message, facts, request_uri, source)
        number = self.tables.choose(pool, listener.internal.version, key)
        if number < 0:
            raise Reject(Reason.NO_BACKEND, RETRY_AFTER, detail=f"pool {pool} has no backend to choose from")
        backend = identity.backends[number]
        if note:
            by = selection.used(hash_on, message, facts, request_uri)
            shown = str(ip_address(key)) if by == "source-ip" else key.decode("latin-1")
            note("P29", f"pool {pool} by {by} {shown}: {backend.name} {backend.address}")
        return backend.address, number


def _token(backend: Backend) -> int:
    return memory.token(backend.address.addr + backend.address.port.to_bytes(2, "big"))


def _owners(setup: Setup, tokens: list[int], version: int) -> dict[int, tuple[int, ...]]:
    """The numbers, by token, of the backends of that IP version at which a transaction may stay while they live.

    An address that stands in two pools has one token and two numbers. Two addresses with one token (one pair in 2**40)
    have none: better to forget than to mistake.
    """
    owners: dict[int, set[Endpoint]] = {}
    for token, backend in zip(tokens, setup.known, strict=True):
        owners.setdefault(token, set()).add(backend.address)
    found: dict[int, tuple[int, ...]] = {}
    for number, (token, backend) in enumerate(zip(tokens, setup.known, strict=True)):
        if backend.address.version == version and len(owners[token]) == 1:
            found[token] = (*found.get(token, ()), number)
    return found
