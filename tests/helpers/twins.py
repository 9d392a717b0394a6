"""Helpers for tests of the fast path: gateways of every kind, what passes each of them, and two engines to compare."""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from ipaddress import ip_network
from typing import Any

from sipcase import (
    EXT,
    INT,
    KEY,
    OTHER,
    PHONE,
    PROXY1,
    REGISTER,
    Result,
    endpoint,
    one_armed,
    request,
    response_to,
    setup,
    wire,
)

from nfqlb.balance.recent import SIZE, Recent
from nfqlb.engine import Engine
from nfqlb.net import datagram
from nfqlb.net.endpoint import Endpoint
from nfqlb.proxy.setup import Backend, Listener, Pool, RouteRule, Setup
from nfqlb.proxy.verdict import Action, Verdict

Packet = tuple[str, str, bytes]
"""Source, destination, payload."""

SIX = {
    "203.0.113.5": "2001:db8::5", "198.51.100.7": "2001:db8::7", "192.168.1.5": "2001:db8:1::5",
    "192.168.1.11": "2001:db8:1::11", "192.168.1.12": "2001:db8:1::12", "192.168.1.21": "2001:db8:1:0:1::21",
    "192.168.1.99": "2001:db8:1::99", "172.31.23.177": "2001:db8:9::1", "198.51.100.77": "2001:db8:9::a:77",
    "10.1.1.9": "fd00::9", "10.9.9.9": "fd00::9:9", "224.0.0.1": "ff02::1", "203.0.113.6": "2001:db8::6",
}  # fmt: skip
"""What stands for each address where all is IPv6."""


def six(text: str) -> str:
    """With an IPv6 reference for each IPv4 address."""
    return re.sub(r"[0-9]+(?:\.[0-9]+){3}", lambda found: f"[{SIX[found[0]]}]", text)


def both_versions(with_setup: Setup, **changes: Any) -> Setup:
    """With a listener of IPv6 more, and backends of both versions."""
    pools = tuple(
        replace(
            pool, backends=pool.backends + tuple(Backend(b.name + "-six", six_of(b.address)) for b in pool.backends)
        )
        for pool in with_setup.pools
    )
    changes |= {"pools": pools, "listeners": (*with_setup.listeners, SIX_LISTENER)}
    return replace(with_setup, **changes)


def all_ipv6(with_setup: Setup) -> Setup:
    """The same gateway, where all is IPv6."""
    return replace(
        with_setup,
        pools=tuple(
            replace(pool, backends=tuple(Backend(b.name, six_of(b.address)) for b in pool.backends))
            for pool in with_setup.pools
        ),
        listeners=tuple(
            replace(each, external=six_of(each.external), internal=six_of(each.internal),
                    advertise=each.advertise and six_of(each.advertise))
            for each in with_setup.listeners
        ),
    )  # fmt: skip


def six_of(each: Endpoint) -> Endpoint:
    return endpoint(six(str(each)))


SIX_LISTENER = Listener("six", endpoint(six(EXT)), endpoint(six(INT)), aliases=("six.example", "2001:DB8::7"))
BASE = setup()
SETUPS: dict[str, Setup] = {
    "two-armed": BASE,
    "one-armed": one_armed(),
    "1:1 NAT": setup(listeners=(Listener("main", endpoint(EXT), endpoint(INT), endpoint("198.51.100.7:5060")),)),
    "one-armed, 1:1 NAT": setup(
        listeners=(Listener("main", endpoint(EXT), endpoint(EXT), endpoint("198.51.100.7:5060")),)
    ),
    "other ports": setup(
        listeners=(Listener("main", endpoint(EXT), endpoint(INT), aliases=("sbc.example.org",), force_rport="never"),),
        pools=(Pool("proxies", (Backend("proxy1", endpoint(PROXY1)),), hash_on=("from-uri",)),),
        routes=(RouteRule("proxies"),),
        scanners=("friendly-scanner",),
    ),
    "two listeners": setup(
        listeners=(
            Listener("main", endpoint(EXT), endpoint(INT), force_rport="always"),
            Listener("more", endpoint("203.0.113.6:5070"), endpoint("192.168.1.5:5080")),
            Listener("six", endpoint("[2001:db8::5]:5060"), endpoint("[2001:db8:1::5]:5060"), aliases=("six.example",)),
        ),
        keys=(KEY, b"k" * 16),
        egress=(ip_network("172.16.0.0/12"),),
    ),
    "to-uri, rules": setup(
        pools=tuple(replace(pool, hash_on=("to-uri",)) for pool in BASE.pools),
        routes=(
            RouteRule("proxies", listeners=frozenset(("other",))),
            RouteRule("registrars", methods=frozenset(("REGISTER", "INVITE"))),
            RouteRule("proxies", domains=frozenset(("example.org",))),
        ),
    ),
    "rules that ask more": setup(
        pools=(
            Pool("registrars", BASE.pools[0].backends, hash_on=("request-user", "auth-user", "to-uri")),
            Pool("proxies", BASE.pools[1].backends, hash_on=("auth-user",)),
        ),
        routes=(
            RouteRule("registrars", from_domains=frozenset(("example.com",))),
            RouteRule("proxies", user_agents=frozenset(("phone",)), methods=frozenset(("REGISTER", "BYE"))),
            RouteRule("registrars", user_prefixes=frozenset(("bob",)), percent=50.0),
            RouteRule("registrars", to_domains=frozenset(("example.net",)), sources=(ip_network("198.51.100.0/24"),)),
            RouteRule("proxies", domains=frozenset(("example.org", "192.168.1.21"))),
            RouteRule("registrars", headers=frozenset(("subject",))),
            RouteRule("proxies"),
        ),
    ),
    "source-ip, no paths": setup(
        pools=tuple(replace(pool, hash_on=("source-ip",)) for pool in BASE.pools), path_policy="if-supported"
    ),
}
SETUPS |= {f"{name}, IPv6": all_ipv6(SETUPS[name]) for name in (
    "two-armed", "one-armed", "1:1 NAT", "one-armed, 1:1 NAT", "other ports", "to-uri, rules", "source-ip, no paths"
)}  # fmt: skip
SETUPS |= {
    "both versions": both_versions(BASE),
    "both versions, rules": both_versions(SETUPS["rules that ask more"], egress=(ip_network("2001:db8::/32"),)),
}


class Twins:
    """Two engines, one of them without a fast path, each with a memory of its own."""

    def __init__(self, with_setup: Setup) -> None:
        self.setup = with_setup
        self.memories = []
        for _ in range(2):
            cells = memoryview(bytearray(SIZE)).cast("Q")
            Recent.format(cells)
            self.memories.append(Recent(cells))
            self.memories[-1].now = 2**24 - 5
        self.swift = Engine(with_setup, recent=self.memories[0])
        self.slow = Engine(with_setup, recent=self.memories[1], slow=True)
        assert (self.swift.path, self.slow.path) == ("compiled", "pure")

    def process(self, src: str, dst: str, payload: bytes) -> Verdict:
        packet = datagram.build(endpoint(src), endpoint(dst), payload, tos=0xB8)
        return self.packet(packet)

    def packet(self, packet: bytes) -> Verdict:
        verdict = self.swift.process(packet)
        assert verdict == self.slow.process(packet)
        assert type(verdict) is Verdict
        return verdict

    def check_memory(self) -> None:
        swift, slow = ((each.stored, each.kept, each.misses, each.evicted) for each in self.memories)
        assert swift == slow
        assert self.memories[0].cells == self.memories[1].cells

    def answers(self, src: str, dst: str, payload: bytes) -> bool:
        """Whether the fast path has a verdict of its own."""
        path = Engine(self.setup).fast
        assert path is not None
        return path.process(datagram.build(endpoint(src), endpoint(dst), payload)) is not None


SDP = "v=0\no=- 1 1 IN IP4 host.example\ns=-\nc=IN IP4 host.example\nt=0 0\nm=audio 4000 RTP/AVP 8"
LENGTH = str(len(SDP) + SDP.count("\n"))
FIELDS = {
    "From": '"Alice \u260e, A." <sip:alice@example.org;user=phone>;tag=f1',
    "To": "<sip:bob@example.org>",
    "Contact": '<sip:alice@10.1.1.9:5060>;+sip.instance="<urn:uuid:1>"',
    "User-Agent": "Phone/1.0",
    "Authorization": 'Digest realm="example.org", username="alice-1", uri="sip:example.org"',
}


@cache
def passed(name: str) -> list[tuple[str, Packet]]:
    """What makes a registration and calls in all directions, by what it is: all are plain messages. In each IP version
    that the gateway has a listener and backends for.
    """
    with_setup = SETUPS[name]
    found: list[tuple[str, Packet]] = []
    for version, spelled in ((4, str), (6, six)):
        listener = next((each for each in with_setup.listeners if each.external.version == version), None)
        if listener is not None and any(each.address.version == version for each in with_setup.backends):
            found += played(Engine(with_setup, slow=True), listener, spelled)
    return found


def played(engine: Engine, listener: Listener, spelled: Callable[[str], str]) -> list[tuple[str, Packet]]:
    outside, inside = str(listener.external), str(listener.internal)
    found: list[tuple[str, Packet]] = []

    def send(kind: str, src: str, dst: str, text: str) -> Result:
        payload = wire(spelled(text))
        found.append((kind, (src, dst, payload)))
        verdict = engine.process(datagram.build(endpoint(src), endpoint(dst), payload))
        assert verdict.action is Action.FORWARD, (kind, verdict.reason)
        return Result(verdict, [])

    behind, phone, proxy, other = map(spelled, ("172.31.23.177:40001", PHONE, PROXY1, OTHER))
    answered = send("register", behind, outside, REGISTER)
    send("register-200", str(answered.verdict.dst), inside, response_to(answered))
    path = answered.headers("Path")
    for src, via in ((phone, "172.31.23.177"), (behind, "10.1.1.9:5060;rport")):
        fields = {**FIELDS, "Via": f"SIP/2.0/UDP {via};branch=z9hG4bKa"}
        invite = send("invite", src, outside, request(**fields, Content_Length=LENGTH) + SDP)
        backend = str(invite.verdict.dst)
        for status in ("100 Trying", "180 Ringing", "200 OK", "487"):
            send("response-leaving", backend, inside, response_to(invite, status))
        send("cancel", src, outside, request("CANCEL", **fields))
        send("ack", src, outside, request("ACK", **fields | {"To": "<sip:bob@example.org>;tag=t1"}))
        recorded = invite.headers("Record-Route")
        routes = [f"Route: {value}" for value in recorded[::-1]]
        fields["To"] = "<sip:bob@example.org>;tag=t1"
        for method in ("ACK", "UPDATE", "FOO", "BYE"):
            bye = send("entering", src, outside, request(method, f"sip:b2bua@{backend}", *routes, **fields))
        send("response-leaving", backend, inside, response_to(bye))
        joined = f"Route: {', '.join(value for value in recorded[::-1])}, <sip:{backend};lr>"
        send("entering", src, outside, request("BYE", "sip:bob@example.net", joined, **fields))
        back = {**FIELDS, "Via": f"SIP/2.0/UDP {backend};branch=z9hG4bKk", "From": "<sip:b@b>;tag=t"}
        back["To"] = "<sip:alice@example.org>;tag=f1"
        routes = [f"Route: {value}" for value in recorded]
        for method in ("BYE", "NOTIFY"):
            bye = send("leaving", backend, inside, request(method, f"sip:alice@{src}", *routes, **back))
        send("response-entering", str(bye.verdict.dst), outside, response_to(bye))
    if path:
        below = "Via: SIP/2.0/UDP 172.31.23.177;branch=z9hG4bKa"
        via = f"SIP/2.0/UDP {proxy};branch=z9hG4bKb;i=7"
        text = request("INVITE", "sip:alice@10.1.1.9:5060", below, f"Route: {path[0]}", Via=via)
        towards = send("leaving", proxy, inside, text)
        ringing = send("response-entering", behind, outside, response_to(towards, "180 Ringing"))
        assert ringing.dst == proxy
        both = [f"Route: {value}" for value in towards.headers("Record-Route") + recorded]
        hairpin = request("BYE", "sip:alice@10.1.1.9", *both, To="<sip:a@b>;tag=t", Via=f"SIP/2.0/UDP {other}")
        payload = wire(spelled(hairpin.replace(other, f"{other};branch=z9hG4bKh")))
        engine_says = engine.process(datagram.build(endpoint(other), endpoint(outside), payload))
        found.append((f"hairpin {engine_says.reason.name}", (other, outside, payload)))
    return found


@cache
def twin_of(name: str) -> Twins:
    return Twins(SETUPS[name])


def of_kind(kind: str, name: str) -> Packet:
    """The first of its kind."""
    return next(packet for each, packet in passed(name) if each == kind)
