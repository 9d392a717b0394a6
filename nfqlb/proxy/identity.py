"""Who we are and who the backends are: by content, never by memory.

"Ours" is a URI or a sent-by whose host and port are one of our sockets (or a listener's alias) and whose user part is
our name or absent. A backend is known as a next hop by address and port, and as a source by its address alone: a
B2BUA sends from more ports than it registers under.
"""

from collections.abc import Sequence
from enum import Enum
from ipaddress import ip_network
from typing import NamedTuple

from nfqlb.net.endpoint import SIP_PORT, Endpoint, host_text, pack_host
from nfqlb.net.networks import NetworkSet
from nfqlb.proxy.setup import Backend, Listener, Setup
from nfqlb.proxy.verdict import Side
from nfqlb.sip.uri import Uri


class Half(Enum):
    """Which socket of the pair."""

    EXTERNAL = "E"
    INTERNAL = "I"
    BOTH = "E=I"
    """The one socket of a one-armed listener, or the one way in which both are written."""


class Own(NamedTuple):
    listener: Listener
    half: Half

    @property
    def socket(self) -> Endpoint:
        """Where packets to it arrive."""
        return self.listener.internal if self.half is Half.INTERNAL else self.listener.external


NEVER_PEERS = NetworkSet(
    [
        ip_network(text)
        for text in (
            "0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3",  # this net, loopback, link, multicast and up
            "::/96", "::ffff:0:0/96", "fe80::/10", "ff00::/8",  # unspecified, loopback, IPv4 inside, link, multicast
        )
    ]
)  # fmt: skip
"""Addresses no peer of ours can have (P18): we neither honour them in a flow nor send to them (P20)."""


NEVER_SOURCES = NetworkSet([ip_network(text) for text in ("0.0.0.0/8", "224.0.0.0/3", "::/128", "ff00::/8")])
"""Addresses that a packet to us cannot come from: unspecified, multicast, broadcast. An answer there would be worse
than none. Loopback is not among them: tests and local monitors use it.
"""


class Identity:
    def __init__(self, setup: Setup) -> None:
        self._name = setup.name.encode()
        self.sockets: dict[Endpoint, Own] = {}
        """By the address that a packet arrives at."""
        self.hosts: dict[tuple[bytes, int], Own] = {}
        """By host (as `find_host` has it) and port that name it."""
        self.addresses: set[bytes] = set()
        """All that are ours."""
        for listener in setup.listeners:
            self.sockets[listener.external] = Own(listener, Half.BOTH if listener.one_armed else Half.EXTERNAL)
            if not listener.one_armed:
                self.sockets[listener.internal] = Own(listener, Half.INTERNAL)
            outer = Own(listener, Half.BOTH if listener.one_face else Half.EXTERNAL)
            self.hosts[_key(listener.external)] = self.hosts[_key(listener.visible)] = outer
            if not listener.one_face:
                self.hosts[_key(listener.internal)] = Own(listener, Half.INTERNAL)
            for alias in listener.aliases:
                host = alias.lower().encode()
                addr = pack_host(host)
                host = host if addr is None else host_text(addr)
                self.hosts[host, listener.visible.port] = outer
                self.hosts.setdefault((host, SIP_PORT), outer)
            self.addresses |= {listener.external.addr, listener.internal.addr, listener.visible.addr}
        self.backends: Sequence[Backend] = setup.known
        self.by_endpoint: dict[Endpoint, int] = {}
        self.by_address: dict[bytes, int] = {}
        for index, backend in enumerate(self.backends):
            self.by_endpoint.setdefault(backend.address, index)
            self.by_address.setdefault(backend.address.addr, index)

    def find_host(self, host: bytes, port: int | None) -> Own | None:
        """Is this sent-by or host:port ours? `host` in lower case, IPv6 in brackets; no port means 5060."""
        addr = pack_host(host)
        return self.hosts.get((host if addr is None else host_text(addr), SIP_PORT if port is None else port))

    def find_uri(self, uri: Uri) -> Own | None:
        """Is this URI ours? `maddr` naming us counts (P16)."""
        if uri.user is not None and uri.plain_user() != self._name:
            return None
        maddr = uri.params.get(b"maddr")
        own = self.find_host(maddr.lower(), uri.port) if maddr else None
        return own or self.find_host(uri.host, uri.port)

    def is_named(self, uri: Uri) -> bool:
        """Does it carry our name as user part, as what we write does?"""
        return uri.user is not None and uri.plain_user() == self._name

    def target(self, uri: Uri) -> Endpoint | None:
        """Where a URI wants its request sent: maddr, unless that is us, else host [RFC 3261 16.5, RFC 3263 4.1]."""
        maddr = uri.params.get(b"maddr")
        if maddr and self.find_host(maddr.lower(), uri.port) is None:
            addr = pack_host(maddr)
            return None if addr is None else Endpoint(addr, SIP_PORT if uri.port is None else uri.port)
        return uri.endpoint

    def named(self, uri: Uri) -> bytes:
        """The host that `target` is None for: maddr, unless that is us, else host; in lower case."""
        maddr = uri.params.get(b"maddr")
        return maddr.lower() if maddr and self.find_host(maddr.lower(), uri.port) is None else uri.host

    def may_be_peer(self, endpoint: Endpoint) -> bool:
        """Can somebody outside have this address (P18)?"""
        return endpoint.addr not in NEVER_PEERS and endpoint.addr not in self.addresses

    def backend_at(self, endpoint: Endpoint) -> int:
        """Index of the backend with that address and port, -1 for none."""
        return self.by_endpoint.get(endpoint, -1)

    def backend_from(self, source: Endpoint) -> int:
        """Index of the backend that sends from there, -1 for none."""
        index = self.by_endpoint.get(source, -1)
        return index if index >= 0 else self.by_address.get(source.addr, -1)

    def side(self, own: Own, source: Endpoint) -> Side:
        """The side a packet to that socket came from; with a one-armed listener the source decides."""
        if own.half is Half.INTERNAL:
            return Side.INSIDE
        if own.half is Half.BOTH and self.backend_from(source) >= 0:
            return Side.INSIDE
        return Side.OUTSIDE


def _key(endpoint: Endpoint) -> tuple[bytes, int]:
    return host_text(endpoint.addr), endpoint.port
