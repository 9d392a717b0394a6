"""Whole dialogs through the gateway: a phone or a B2BUA calls another one, and every request of the dialog arrives.

A small network in this file, with its own reading of SIP (lines and commas, nothing of ours): phones with or without
a NAT, registrars that record-route or do not, B2BUAs. Every combination is tried, so that the route sets are the ones
that really come back (P15–P18, P26), and so are the branches of CANCEL and ACK (P24).
"""

import itertools
import re
from dataclasses import dataclass, field
from functools import cache
from typing import Self
from zlib import crc32

import pytest
from sipcase import KEY, endpoint

from nfqlb.engine import Engine
from nfqlb.net import datagram
from nfqlb.net.endpoint import Endpoint
from nfqlb.proxy.setup import Backend, Listener, Pool, RouteRule, Setup
from nfqlb.proxy.verdict import Action


@dataclass
class Text:
    """A SIP message as lines."""

    start: str
    rows: list[tuple[str, str]]

    @classmethod
    def of(cls, raw: bytes) -> Self:
        start, *lines = raw.decode().partition("\r\n\r\n")[0].split("\r\n")
        return cls(start, [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)])

    def bytes(self) -> bytes:
        return "\r\n".join([self.start, *(f"{name}: {value}" for name, value in self.rows), "", ""]).encode()

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.rows if key == name]

    def one(self, name: str) -> str:
        (value,) = self.all(name)
        return value

    def without(self, *names: str) -> list[tuple[str, str]]:
        return [row for row in self.rows if row[0] not in names]

    @property
    def method(self) -> str:
        return self.start.split()[0]

    @property
    def uri(self) -> str:
        return self.start.split()[1]

    @property
    def is_request(self) -> bool:
        return not self.start.startswith("SIP/2.0 ")


def hostport(text: str) -> str:
    """Where a URI or a Via sent-by points: `address:port`."""
    found = re.search(r"(?:@|sip:|UDP )(\[[^\]]+\]|[0-9.]+)(:\d+)?(?=[;>]|$)", text)
    assert found, text
    return f"{found[1]}{found[2] or ':5060'}"


def response_target(via: str) -> str:
    """[RFC 3261 18.2.2, RFC 3581 4] of a Via value."""
    received, rport = re.search(r";received=([^;]+)", via), re.search(r";rport=(\d+)", via)
    host, _, port = hostport(via).rpartition(":")
    if received:
        host = f"[{received[1]}]" if ":" in received[1] else received[1]
    return f"{host}:{rport[1] if rport else port}"


class World:
    """Hosts by address, and the gateway between them."""

    def __init__(self, setup: Setup, engine: Engine) -> None:
        self.engine = engine
        self.hosts: dict[str, Host] = {}
        self.doors = {str(listener.external): str(listener.visible) for listener in setup.listeners}
        """The visible socket of each external one: they differ behind a 1:1 NAT."""
        self.sockets = {str(listener.visible): str(listener.external) for listener in setup.listeners}
        self.sockets |= {str(listener.internal): str(listener.internal) for listener in setup.listeners}

    def send(self, src: str, dst: str, text: Text) -> None:
        if dst in self.sockets:
            packet = datagram.build(endpoint(src), endpoint(self.sockets[dst]), text.bytes())
            verdict = self.engine.process(packet)
            assert verdict.action is Action.FORWARD, (verdict.reason, text)
            src, dst = str(verdict.src), str(verdict.dst)
            if not isinstance(self.hosts.get(dst), Inside):
                src = self.doors[src]
            text = Text.of(datagram.parse(verdict.packet).payload)
        assert dst in self.hosts, f"nobody is at {dst}: {text}"
        self.hosts[dst].receive(text, src)


@dataclass
class Host:
    """Somebody with one address."""

    world: World
    address: str
    """Where packets to it arrive, and where its own seem to come from."""

    def __post_init__(self) -> None:
        self.world.hosts[self.address] = self

    def receive(self, text: Text, src: str) -> None:
        raise NotImplementedError


class Inside:
    """Marks what stands behind the gateway."""


@dataclass
class Agent(Host):
    """A user agent: one dialog, as caller or as callee."""

    user: str = ""
    local: str = ""
    """Its address as it knows it: what it writes into Via and Contact."""
    proxy: str = ""
    """The visible socket that it sends to."""
    habit: str = "plain"
    answer: str = "200 OK"
    seen: list[Text] = field(default_factory=list)
    route_set: list[str] = field(default_factory=list)
    target: str = ""
    to: str = ""
    sender: str = ""
    count: int = 0

    def request(self, method: str, uri: str, *, routes: list[str], number: int, rport: bool = True) -> Text:
        self.count += 1
        via = f"SIP/2.0/UDP {self.local};branch=z9hG4bK-{self.user}{self.count}" + (";rport" if rport else "")
        return Text(
            f"{method} {uri} SIP/2.0",
            [
                ("Via", via),
                *(("Route", route) for route in routes),
                ("Max-Forwards", "70"),
                ("From", self.sender or f"<sip:{self.user}@example.org>;tag={self.user}"),
                ("To", self.to),
                ("Call-ID", "call-1"),
                ("CSeq", f"{number} {method}"),
                ("Contact", f"<sip:{self.user}@{self.local}>"),
            ],
        )

    def register(self) -> Text:
        self.to = f"<sip:{self.user}@example.org>"
        return self.request("REGISTER", "sip:example.org", routes=[], number=1)

    def outbound_proxy(self) -> list[str]:
        return [f"<sip:{self.proxy};lr>"] if self.habit in ("prepends", "replaces") else []

    def invite(self, uri: str, routes: list[str], **how: bool) -> Text:
        self.to = f"<{uri}>"
        sent = self.request("INVITE", uri, routes=self.outbound_proxy() + routes, number=10, **how)
        self.world.send(self.address, self.next_hop(sent), sent)
        return sent

    def again(self, earlier: Text, method: str) -> Text:
        """CANCEL or non-2xx ACK of an INVITE: its top Via, Request-URI and Route [RFC 3261 9.1, 17.1.1.3]."""
        sent = Text(f"{method} {earlier.uri} SIP/2.0", list(earlier.rows))
        sent.rows = [(name, value.replace("INVITE", method) if name == "CSeq" else value) for name, value in sent.rows]
        if method == "ACK":
            sent.rows = [(name, self.to if name == "To" else value) for name, value in sent.rows]
        self.world.send(self.address, self.next_hop(sent), sent)
        return sent

    def in_dialog(self, method: str, number: int) -> None:
        uri, routes = self.target, list(self.route_set)
        if self.habit == "prepends":
            routes = self.outbound_proxy() + routes
        elif self.habit == "replaces" and routes:
            routes = self.outbound_proxy() + routes[1:]
        elif self.habit == "strict" and routes:
            uri, routes = routes[0].strip("<>"), [*routes[1:], f"<{uri}>"]
        sent = self.request(method, uri, routes=routes, number=number)
        self.world.send(self.address, self.next_hop(sent), sent)

    def next_hop(self, sent: Text) -> str:  # noqa: ARG002 - a phone sends everything to its proxy
        return self.proxy

    def receive(self, text: Text, src: str) -> None:
        assert isinstance(self, Inside) or src == self.proxy, "a NAT lets in only whom the phone has sent to"
        self.seen.append(text)
        if not text.is_request:
            if text.one("CSeq") == "10 INVITE":  # later answers leave the route set alone [RFC 3261 12.2.1.2]
                self.to = text.one("To")
                if text.all("Contact"):
                    self.target = text.one("Contact").strip("<>")
                    self.route_set = text.all("Record-Route")[::-1]
            return
        if text.method == "ACK":
            return
        rows = [row for row in text.rows if row[0] in ("Via", "From", "Call-ID", "CSeq")]
        to = text.one("To")
        answer = "200 OK"
        if text.method == "INVITE":
            answer = self.answer
            if "tag=" not in to:
                to += f";tag={self.user}"
                self.sender, self.to = to, text.one("From")
                self.target, self.route_set = text.one("Contact").strip("<>"), text.all("Record-Route")
            if answer.startswith("2"):
                rows += [("Record-Route", value) for value in text.all("Record-Route")]
                rows.append(("Contact", f"<sip:{self.user}@{self.local}>"))
        top = response_target(text.all("Via")[0])
        assert top == src, "the answer would go elsewhere than the request came from"
        self.world.send(self.address, top, Text(f"SIP/2.0 {answer}", [*rows, ("To", to)]))


class B2bua(Agent, Inside):
    """A user agent behind the gateway."""

    def next_hop(self, sent: Text) -> str:
        routes = sent.all("Route")
        return hostport(routes[0] if routes else sent.uri)


@dataclass
class Registrar(Host, Inside):
    """A stateless proxy that knows where users are, and record-routes or not."""

    record_routes: bool
    places: dict[str, tuple[str, list[str]]] = field(default_factory=dict)

    def receive(self, text: Text, src: str) -> None:  # noqa: ARG002
        top, *below = text.all("Via")
        if not text.is_request:
            assert hostport(top) == self.address
            text.rows = [*(("Via", value) for value in below), *text.without("Via")]
            self.world.send(self.address, response_target(below[0]), text)
            return
        if text.method == "REGISTER":
            user = re.search(r"sip:(\w+)@", text.one("To"))
            assert user
            self.places[user[1]] = text.one("Contact").strip("<>"), text.all("Path")
            return
        routes, uri = text.all("Route"), text.uri
        if routes and hostport(routes[0]) == self.address:
            routes.pop(0)
        elif "tag=" not in text.one("To") or (text.method in ("ACK", "CANCEL") and "example.org" in uri):
            uri, routes = self.places[uri.removeprefix("sip:").partition("@")[0]]
        target = hostport(routes[0] if routes else uri)
        rows = [("Via", f"SIP/2.0/UDP {self.address};branch=z9hG4bK-k{crc32(top.encode())}"), ("Via", top)]
        rows += [("Via", value) for value in below]
        rows += [("Route", route) for route in routes]
        if self.record_routes and text.method == "INVITE":
            rows.append(("Record-Route", f"<sip:{self.address};lr>"))
        self.world.send(self.address, target, Text(f"{text.method} {uri} SIP/2.0", rows + text.without("Via", "Route")))


# external, internal, advertise of the listener; and of another one, where the callee is elsewhere
SHAPES: dict[str, list[tuple[str, str, str | None]]] = {
    "two-armed": [("203.0.113.5:5060", "192.168.1.5:5060", None)],
    "other ports": [("203.0.113.5:5070", "192.168.1.5:5080", None)],
    "one-armed": [("203.0.113.5:5060", "203.0.113.5:5060", None)],
    "behind 1:1 NAT": [("10.0.0.5:5060", "192.168.1.5:5060", "203.0.113.5:5060")],
    "one-armed behind 1:1 NAT": [("10.0.0.5:5060", "10.0.0.5:5060", "203.0.113.5:5060")],
    "IPv6": [("[2001:db8::5]:5060", "[2001:db8:1::5]:5060", None)],
    "IPv6 one-armed": [("[2001:db8::5]:5060", "[2001:db8::5]:5060", None)],
    "two listeners": [
        ("203.0.113.5:5060", "192.168.1.5:5060", None),
        ("203.0.113.6:5060", "192.168.1.6:5060", None),
    ],
    "one address, two ports": [
        ("203.0.113.5:5060", "192.168.1.5:5060", None),
        ("203.0.113.5:5070", "192.168.1.5:5070", None),
    ],
}
HABITS = ("plain", "prepends", "replaces", "strict")


def optional(text: str | None) -> Endpoint | None:
    return None if text is None else endpoint(text)


@cache
def engine_of(shape: str) -> tuple[Setup, Engine]:
    """A gateway with two backends: a registrar and a B2BUA."""
    v6 = "IPv6" in shape
    setup = Setup(
        name="lb",
        keys=(KEY,),
        listeners=tuple(
            Listener(f"listener{number}", endpoint(external), endpoint(internal), advertise=optional(advertise))
            for number, (external, internal, advertise) in enumerate(SHAPES[shape])
        ),
        pools=(
            Pool("registrars", (Backend("reg", endpoint("[2001:db8:1::11]:5060" if v6 else "192.168.1.11:5060")),)),
            Pool("others", (Backend("b2bua", endpoint("[2001:db8:1::21]:5080" if v6 else "192.168.1.21:5080")),)),
        ),
        routes=(RouteRule("registrars"),),
    )
    return setup, Engine(setup)


def world_of(shape: str, *, record_routes: bool) -> tuple[World, Registrar, str]:
    """The registrar stands; the address for a B2BUA is returned."""
    setup, engine = engine_of(shape)
    world = World(setup, engine)
    registrar, b2bua = (str(backend.address) for backend in setup.backends)
    return world, Registrar(world, registrar, record_routes), b2bua


def phone(world: World, user: str, *, nat: bool, habit: str = "plain") -> Agent:
    """alice is at the first listener, bob at the last."""
    number = {"alice": 1, "bob": 2}[user]
    door = list(world.doors.values())[0 if user == "alice" else -1]
    v6 = door.startswith("[")
    public = endpoint(f"[2001:db8:9::{number}]:5060" if v6 else f"198.51.100.{number}:5060")
    private = f"[fd00::{number}]:5060" if v6 else f"10.1.1.{number}:5060"
    if nat:
        return Agent(world, str(public._replace(port=40000 + number)), user, private, door, habit)
    return Agent(world, str(public), user, str(public), door, habit)


def carry_on(caller: Agent, callee: Agent) -> None:
    """Requests of the dialog in both directions; each arrives, with the peer's Contact and without a Route."""
    for sender, receiver, method, number in (
        (caller, callee, "ACK", 10),
        (caller, callee, "INVITE", 11),
        (callee, caller, "INVITE", 5),
        (callee, caller, "UPDATE", 6),
        (caller, callee, "NOTIFY", 12),
        (callee, caller, "BYE", 7),
        (caller, callee, "BYE", 13),
    ):
        sender.in_dialog(method, number)
        got = receiver.seen[-1]
        assert got.method == method
        assert got.uri == f"sip:{receiver.user}@{receiver.local}", "P28: the Request-URI is the Contact"
        assert got.all("Route") == []
        if method != "ACK":
            assert sender.seen[-1].start == "SIP/2.0 200 OK"
            assert len(sender.seen[-1].all("Via")) == 1, "P34: the answer comes with the sender's Via alone"


def forgets_a_flow(shape: str, record_routes: bool, habits: tuple[str, str]) -> bool:
    """One Record-Route value says all on a one-armed listener, so whoever replaces it takes the way in for the way out.

    The hairpin has nothing else to go by: this habit needs a record-routing backend there.
    """
    return shape in ("one-armed", "IPv6 one-armed") and not record_routes and "replaces" in habits


@pytest.mark.slow
@pytest.mark.parametrize("record_routes", [True, False], ids=["record-routing", "hairpin"])
@pytest.mark.parametrize("shape", SHAPES)
def test_P16_P18_P26_phone_calls_phone(shape: str, record_routes: bool) -> None:
    for caller_nat, callee_nat in itertools.product((False, True), repeat=2):
        for habits in itertools.product(HABITS, HABITS):
            if forgets_a_flow(shape, record_routes, habits):
                continue
            world, _, _ = world_of(shape, record_routes=record_routes)
            alice = phone(world, "alice", nat=caller_nat, habit=habits[0])
            bob = phone(world, "bob", nat=callee_nat, habit=habits[1])
            world.send(bob.address, bob.proxy, bob.register())
            alice.invite("sip:bob@example.org", [])
            assert alice.seen[-1].start == "SIP/2.0 200 OK"
            carry_on(alice, bob)


@pytest.mark.parametrize("shape", SHAPES)
def test_P18_P19_phone_and_b2bua_call_each_other(shape: str) -> None:
    for nat, habit, phone_calls in itertools.product((False, True), HABITS, (False, True)):
        world, registrar, address = world_of(shape, record_routes=True)
        alice = phone(world, "alice", nat=nat, habit=habit)
        b2bua = B2bua(world, address, "sbc", address)
        if phone_calls:
            registrar.record_routes = False
            registrar.places["sbc"] = f"sip:sbc@{address}", []
            alice.invite("sip:sbc@example.org", [])
            carry_on(alice, b2bua)
        else:
            world.send(alice.address, alice.proxy, alice.register())
            contact, path = registrar.places["alice"]
            b2bua.invite(contact, path)
            carry_on(b2bua, alice)


@pytest.mark.parametrize("record_routes", [True, False], ids=["record-routing", "hairpin"])
@pytest.mark.parametrize("shape", SHAPES)
def test_P24_P27_cancel_and_ack_of_a_refusal_follow_their_invite(shape: str, record_routes: bool) -> None:
    for caller_nat, callee_nat, habit in itertools.product((False, True), (False, True), ("plain", "prepends")):
        for rport in (False, True):
            world, _, _ = world_of(shape, record_routes=record_routes)
            alice = phone(world, "alice", nat=caller_nat, habit=habit)
            bob = phone(world, "bob", nat=callee_nat)
            bob.answer = "486 Busy Here"
            world.send(bob.address, bob.proxy, bob.register())
            invite = alice.invite("sip:bob@example.org", [], rport=rport)
            assert alice.seen[-1].start == "SIP/2.0 486 Busy Here"
            alice.again(invite, "ACK")
            alice.to = "<sip:bob@example.org>"
            alice.again(invite, "CANCEL")
            methods = [text.method for text in bob.seen]
            assert methods == ["INVITE", "ACK", "CANCEL"]
            assert len({text.all("Via")[0] for text in bob.seen}) == 1, "P24: one branch for all three"
            assert len({text.uri for text in bob.seen}) == 1
