"""Gateways to send hostile packets to, and what each has signed: real calls and registrations passed it first.

Knows, for each world, who its backends and peers are, and every signature and branch that it ever gave away: a packet
that gets further than these allow has forged one. Does not know what is done to packets.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote_to_bytes

from devtools.fuzz import naive
from devtools.fuzz.invariants import broken
from nfqlb.balance import recent
from nfqlb.balance.recent import Recent
from nfqlb.engine import Engine
from nfqlb.net import datagram
from nfqlb.net.endpoint import Endpoint
from nfqlb.proxy.names import Missing
from nfqlb.proxy.setup import Backend, Listener, Pool, RouteRule, Setup
from nfqlb.proxy.triage import Triage
from nfqlb.proxy.verdict import Action, Verdict

if TYPE_CHECKING:
    from nfqlb.fast.path import WorkerPath

NAMED = {b"peer.example.net": "198.51.100.9:5070", b"carrier.example": "192.0.2.33:5060"}
"""What a DNS would say, for the world whose backends send to names."""

_SIGNED = re.compile(rb"[;]received=([^;>]+);sig=([0-9a-f]+)")
_BRANCH = re.compile(rb"branch=z9hG4bKnfq([0-9a-f]{16})\.")


class Way(NamedTuple):
    """How a packet comes: to which gateway, from whom, to which of its sockets."""

    world: "World"
    src: Endpoint
    dst: Endpoint


class Signed(NamedTuple):
    flow: Endpoint
    call_id: bytes
    """Empty for a Path."""


class Directory:
    """Names, as the proxy asks for them (nfqlb.proxy.names.Names)."""

    def find(self, host: bytes, port: int | None, version: int) -> Endpoint | Missing:  # noqa: ARG002
        if host == b"slow.example":
            return Missing.YET
        found = Endpoint.parse(NAMED[host]) if host in NAMED else None
        return found if found is not None and found.version == version else Missing.AT_ALL


class World:
    """One gateway, two workers of it, and its past."""

    def __init__(self, name: str, setup: Setup, peers: tuple[str, str], *, remembers: bool = False) -> None:
        self.name, self.setup = name, setup
        self.peers = [Endpoint.parse(text) for text in peers]
        own = Engine(setup)
        self._memory: Recent | None = None
        if remembers:
            cells = memoryview(bytearray(recent.SIZE)).cast("Q")
            Recent.format(cells)
            self._memory = Recent(cells)
        self.engine = own.sibling(7, self._memory, Directory())
        self.twin = Engine(setup, slow=True).sibling(40_000, self._memory, Directory())
        self.triage = Triage(setup)
        self._worker_path = _worker_path(self.engine)
        listener = setup.listeners[0]
        self.outside, self.inside = listener.external, listener.internal
        self.sockets = {each.external for each in setup.listeners} | {each.internal for each in setup.listeners}
        self.backends = {each.address for each in setup.known}
        self.backend_addresses = {each.addr for each in self.backends}
        self.signed: dict[bytes, Signed] = {}
        self.branches: dict[bytes, set[Endpoint]] = {}
        """By the hash in it: where a response to that request may go."""
        self.seeds: list[tuple[Endpoint, Endpoint, bytes]] = []
        """Source, destination, payload of what passed."""
        self.values: list[bytes] = []
        """Route values that this gateway wrote."""
        self._live(self.engine)
        if len(setup.keys) > 1:
            # What was signed before the key was changed still counts.
            self._live(Engine(replace(setup, keys=setup.keys[1:])))

    def is_new(self, packet: bytes) -> bool:
        """Whether overload may shed it; both who tell that must say the same."""
        told = self.triage.is_new(packet)
        if self._worker_path is not None and self._worker_path.is_new(packet) is not told:
            broken("deterministic", f"new: {told}, in the compiled path {not told}")
        return told

    def forget(self) -> None:
        """Let what was remembered of recent choices run out, so that each input begins alike."""
        if self._memory is not None:
            self._memory.now += 1000

    # -- the past ---------------------------------------------------------------------------------------------------

    def _live(self, engine: Engine) -> None:
        """Registrations, calls in both directions and between phones, and their answers."""
        one_face = self.setup.listeners[0].one_face
        backend = next(each for each in self.setup.backends if each.address.version == self.outside.version).address
        for number, phone in enumerate(self.peers):
            call = b"call-%d" % number
            here, there = phone.hostport, backend.hostport
            uri = b"sip:alice@" + here
            via = b"SIP/2.0/UDP %b;branch=z9hG4bKp%d;rport" % (here, number)
            kvia = b"SIP/2.0/UDP %b;branch=z9hG4bKk%d;i=2" % (there, number)

            def out(
                method: bytes, target: bytes, *rows: bytes, via: bytes = via, phone: Endpoint = phone, **fields: bytes
            ) -> bytes:
                return self._pass(engine, phone, self.outside, request(method, target, via, *rows, **fields))

            def back(method: bytes, target: bytes, *rows: bytes, kvia: bytes = kvia, **fields: bytes) -> bytes:
                return self._pass(engine, backend, self.inside, request(method, target, kvia, *rows, **fields))

            registered = out(
                b"REGISTER",
                b"sip:example.org",
                b"Supported: path, outbound",
                b"Contact: <%b>" % uri,
                call=b"reg-" + call,
            )
            path = naive.read(registered).values(b"path")
            routes = [b"Route: " + value for value in path]
            sdp = b"v=0\r\no=- 1 1 IN IP4 10.0.0.1\r\ns=-\r\nm=audio 4000 RTP/AVP 0\r\n"
            invite = out(b"INVITE", b"sip:bob@example.org", b"Contact: <%b>" % uri, call=call, body=sdp)
            out(b"CANCEL", b"sip:bob@example.org", call=call)
            towards = back(b"INVITE", uri, *routes, b"Contact: <sip:b2b@%b>" % there, call=call, body=sdp)
            back(b"NOTIFY", uri, *routes, b"Event: presence", call=call, to=b"<sip:a@b>;tag=n")
            set_in = naive.read(invite).values(b"record-route")
            set_out = naive.read(towards).values(b"record-route")
            in_ = [b"Route: " + value for value in set_in]
            out_ = [b"Route: " + value for value in set_out]
            back(b"BYE", uri, *in_, call=call, to=b"<sip:a@b>;tag=t", cseq=b"2")
            out(b"ACK", b"sip:b2b@" + there, *out_, call=call, to=b"<sip:a@b>;tag=t")
            out(b"BYE", b"sip:b2b@" + there, *out_, call=call, to=b"<sip:a@b>;tag=t", cseq=b"2")
            # To the other phone and back without a backend in the route set; strict routers before and behind us.
            hairpin = [b"Route: " + b", ".join(set_out + set_in)]
            out(b"INFO", uri, *hairpin, call=call, to=b"<sip:a@b>;tag=t", cseq=b"3")
            if set_out and not one_face:
                strict = set_out[0].strip(b"<>")
                rest = [b"Route: " + value for value in [*set_out[1:], b"<sip:b2b@%b>" % there]]
                out(b"UPDATE", strict, *rest, call=call, to=b"<sip:a@b>;tag=t", cseq=b"4")
            self.values += [*path, *set_in, *set_out, b", ".join(set_out + set_in)]
        self._pass(engine, self.peers[0], self.outside, request(b"OPTIONS", b"sip:" + self.outside.hostport, via))
        self._pass(engine, self.peers[0], self.outside, request(b"MESSAGE", b"tel:+49-30", via, body=b"hello"))
        self._pass(engine, backend, self.inside, request(b"OPTIONS", b"sip:10.0.0.9", kvia, hops=b"0"))
        self._pass(engine, backend, self.inside, request(b"MESSAGE", b"sip:x@peer.example.net:5070", kvia))

    def _pass(self, engine: Engine, src: Endpoint, dst: Endpoint, payload: bytes) -> bytes:
        """What the gateway makes of it, empty when it goes no further; its answer passes, too."""
        self.seeds.append((src, dst, payload))
        verdict = engine.process(datagram.build(src, dst, payload))
        if verdict.action is not Action.FORWARD or verdict.src is None or verdict.dst is None:
            return b""
        written = payload_of(verdict)
        self._note(written)
        answer = response(written, b"200 OK")
        self.seeds.append((verdict.dst, verdict.src, answer))
        returned = engine.process(datagram.build(verdict.dst, verdict.src, answer))
        if not payload.startswith(b"ACK"):
            assert returned.action is Action.FORWARD, (self.name, payload, written, returned.reason)
            assert returned.dst is not None
            assert returned.dst.addr == src.addr
            branch = _BRANCH.search(written)
            assert branch is not None
            self.branches.setdefault(branch[1], set()).add(returned.dst)
        return written

    def _note(self, written: bytes) -> None:
        call = naive.read(written).value(b"call-id")
        for row in naive.read(written).rows:
            for found in _SIGNED.finditer(row[1]) if row[0] in (b"path", b"record-route") else ():
                flow = Endpoint.parse(unquote_to_bytes(found[1]).decode().removeprefix("sip:"))
                self.signed[found[2]] = Signed(flow, b"" if row[0] == b"path" else call)

    # -- whom packets come from -------------------------------------------------------------------------------------

    def ways(self) -> Iterator[Way]:
        """Each kind of sender, to each socket: phones, backends, strangers, liars."""
        backend = next(each for each in self.setup.backends if each.address.version == self.outside.version).address
        stranger = Endpoint.parse("192.0.2.250:9" if backend.version == 4 else "[2001:db8:ffff::9]:9")
        b2bua = Endpoint(backend.addr, 5099)
        for src in (*self.peers, backend, b2bua, stranger):
            for dst in dict.fromkeys((self.outside, self.inside)):
                yield Way(self, src, dst)
        for listener in self.setup.listeners[1:]:
            other = next((each.address for each in self.setup.backends
                          if each.address.version == listener.internal.version), None)  # fmt: skip
            if other is not None:
                yield Way(self, other, listener.internal)
                yield Way(self, Endpoint(bytes([*other.addr[:-1], 200]), 5060), listener.external)


def payload_of(verdict: Verdict) -> bytes:
    return verdict.packet[48 if verdict.packet[0] >> 4 == 6 else 28 :]


def request(
    method: bytes, uri: bytes, via: bytes, *rows: bytes, call: bytes = b"call-x", to: bytes = b"<sip:bob@example.org>",
    cseq: bytes = b"1", hops: bytes = b"70", body: bytes = b"",
) -> bytes:  # fmt: skip
    head = [
        b"%b %b SIP/2.0" % (method, uri), b"Via: " + via, *rows, b"Max-Forwards: " + hops,
        b"From: <sip:alice@example.org>;tag=f1", b"To: " + to, b"Call-ID: " + call, b"CSeq: %b %b" % (cseq, method),
        b"User-Agent: phone/1.0", b"Content-Length: %d" % len(body), b"", body,
    ]  # fmt: skip
    return b"\r\n".join(head)


def response(written: bytes, status: bytes) -> bytes:
    """What a plain peer answers: Vias and identifying rows echoed [RFC 3261 8.2.6]."""
    asked = naive.read(written)
    lines = [b"SIP/2.0 " + status, *asked.named(b"via")]
    for name in (b"from", b"to", b"call-id", b"cseq"):
        row = asked.named(name)[0]
        lines.append(row + (b";tag=peer" if name == b"to" and b"tag" not in row.lower() else b""))
    return b"\r\n".join([*lines, b"Content-Length: 0", b"", b""])


# -- the worlds -------------------------------------------------------------------------------------------------------


def _worker_path(engine: Engine) -> "WorkerPath | None":
    """A compiled path that is asked what is new, and nothing else."""
    if engine.fast is None:
        return None
    from nfqlb.fast.path import WorkerPath

    def nobody(*_: object) -> None:
        raise AssertionError

    slot, layout = memoryview(bytearray(8)).cast("Q"), (0, 0, 0, [-1] * 6, 0)
    return WorkerPath(engine.fast, slot, layout, (0, 0, 1), nobody, nobody, nobody)


def _keys(*names: str) -> tuple[bytes, ...]:
    """Each world has its own: what one signed is forged in the others."""
    return tuple(name.encode().ljust(32, b"k") for name in names)


def _pools(version: int) -> tuple[Pool, ...]:
    host = "192.168.1.%d" if version == 4 else "[2001:db8:1::%d]"
    at = [Endpoint.parse(f"{host % last}:5060") for last in (11, 12, 21)]
    return (
        Pool("registrars", (Backend("reg1", at[0]), Backend("reg2", at[1]))),
        Pool("proxies", (Backend("proxy1", at[2]),)),
    )


def _listener(external: str, internal: str, name: str = "main", **more: Any) -> Listener:
    return Listener(name, Endpoint.parse(external), Endpoint.parse(internal), **more)


_PLAIN_ROUTES = (RouteRule("registrars", methods=frozenset(("REGISTER",))), RouteRule("proxies"))
_E4, _I4 = "203.0.113.5:5060", "192.168.1.5:5060"
_E6, _I6 = "[2001:db8::5]:5060", "[2001:db8:1::5]:5060"
_PHONES4, _PHONES6 = ("172.31.23.177:5060", "198.51.100.77:40000"), ("[2001:db8:9::1]:5060", "[2001:db8:9::2]:40000")


def _two_armed() -> World:
    setup = Setup("lb", _keys("two-armed"), (_listener(_E4, _I4),), _pools(4), _PLAIN_ROUTES)
    return World("two-armed", setup, _PHONES4, remembers=True)


def _one_armed() -> World:
    setup = Setup("lb", _keys("one-armed"), (_listener(_E4, _E4),), _pools(4), _PLAIN_ROUTES)
    return World("one-armed", setup, _PHONES4)


def _two_armed_ipv6() -> World:
    setup = Setup("lb", _keys("two-armed-ipv6"), (_listener(_E6, _I6),), _pools(6), _PLAIN_ROUTES)
    return World("two-armed-ipv6", setup, _PHONES6)


def _one_armed_ipv6() -> World:
    setup = Setup("lb", _keys("one-armed-ipv6"), (_listener(_E6, _E6),), _pools(6), _PLAIN_ROUTES)
    return World("one-armed-ipv6", setup, _PHONES6)


def _strict() -> World:
    """Little egress, a key that was changed, a 1:1 NAT in front, rules with every condition, Path required."""
    listener = _listener(
        _E4, _I4, advertise=Endpoint.parse("198.51.100.7:5070"), aliases=("sbc.example.org",), force_rport="always"
    )
    routes = (
        RouteRule("registrars", methods=frozenset(("REGISTER",)), headers=frozenset(("expires",))),
        RouteRule("proxies", user_regex="^[0-9]{3}$", domains=frozenset(("example.org",))),
        RouteRule("proxies", user_agent_regex="(?i)phone", from_domains=frozenset(("example.org",))),
        RouteRule("registrars", sources=(ip_network("198.51.100.0/24"),), percent=30.0),
        RouteRule("proxies", user_prefixes=frozenset(("+49", "bob")), to_domains=frozenset(("b",))),
        RouteRule("registrars"),
    )
    pools = tuple(Pool(each.name, each.backends, ("auth-user", "request-user", "from-uri")) for each in _pools(4))
    keys, egress = _keys("new", "retired"), (ip_network("198.51.100.0/24"),)
    setup = Setup("lb", keys, (listener,), pools, routes, path_policy="require", egress=egress)
    return World("strict", setup, _PHONES4)


def _loose() -> World:
    """Both IP versions, unsigned Paths of backends honoured, rport never forced, a backend that leaves."""
    listeners = (_listener(_E4, _I4, force_rport="never"), _listener(_E6, _I6, "six", aliases=("six.example.org",)))
    four, six = _pools(4), _pools(6)
    pools = tuple(
        Pool(one.name, one.backends + tuple(Backend(each.name + "6", each.address) for each in two.backends),
             ("source-ip",)) for one, two in zip(four, six, strict=True)
    )  # fmt: skip
    leaving = (Backend("old", Endpoint.parse("192.168.1.77:5060")),)
    setup = Setup(
        "lb",
        _keys("loose"),
        listeners,
        pools,
        _PLAIN_ROUTES,
        path_policy="if-supported",
        accept_unsigned=True,
        leaving=leaving,
    )
    return World("loose", setup, _PHONES4)


def _both() -> World:
    """IPv6 by a 1:1 NAT, with IPv4 beside it; other ports, two keys, little egress, another hash."""
    listeners = (
        _listener("[2001:db8::5]:5070", "[2001:db8:1::5]:5080", advertise=Endpoint.parse("[2001:db8::7]:5060"),
                  aliases=("sbc.example.org", "2001:db8::77")),
        _listener(_E4, _I4, "four", force_rport="always"),
    )  # fmt: skip
    pools = tuple(
        Pool(one.name, (*(Backend(each.name + "6", each.address) for each in one.backends), *two.backends),
             ("request-user", "from-uri")) for one, two in zip(_pools(6), _pools(4), strict=True)
    )  # fmt: skip
    keys, egress = _keys("both", "before"), (ip_network("2001:db8:9::/64"), ip_network("172.16.0.0/12"))
    return World("both", Setup("lb", keys, listeners, pools, _PLAIN_ROUTES, egress=egress), _PHONES6, remembers=True)


WORLDS: tuple[Callable[[], World], ...] = (
    _two_armed, _one_armed, _two_armed_ipv6, _one_armed_ipv6, _strict, _loose, _both
)  # fmt: skip


def build_all() -> list[World]:
    """A second's work."""
    return [make() for make in WORLDS]
