"""An address and a UDP port, and the text forms of both that SIP uses.

Knows the packed form (what stands in a packet) and the written forms (what stands in a header). Does not know
names: a host that is not an IP literal is `None` here, and the caller decides what that means.
"""

from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import NamedTuple

SIP_PORT = 5060
"""The port that a SIP URI or a Via without one means [RFC 3261 19.1.2, 18.2.2]."""


class Endpoint(NamedTuple):
    """One end of a UDP flow."""

    addr: bytes
    """The packed address, 4 (IPv4) or 16 (IPv6) bytes."""
    port: int

    @property
    def version(self) -> int:
        """4 or 6."""
        return 4 if len(self.addr) == 4 else 6

    @property
    def host(self) -> str:
        """The address alone, IPv6 without brackets: `192.0.2.1`, `2001:db8::5`."""
        return host_text(self.addr).decode()

    @property
    def uri_host(self) -> bytes:
        """The address as a URI or a Via sent-by writes it, IPv6 in brackets [RFC 3261 25.1 IPv6reference]."""
        text = host_text(self.addr)
        return text if len(self.addr) == 4 else b"[%b]" % text

    @property
    def hostport(self) -> bytes:
        """`host` or `host:port`, without the port when it is 5060 (P25)."""
        return self.uri_host if self.port == SIP_PORT else b"%b:%d" % (self.uri_host, self.port)

    def __str__(self) -> str:
        return f"{self.uri_host.decode()}:{self.port}"

    @classmethod
    def parse(cls, text: str, default_port: int | None = None) -> "Endpoint":
        """Read `192.0.2.1:5060` or `[2001:db8::5]:5060`; without a port take `default_port`.

        Raises ValueError, with a sentence for a person, when the text is neither.
        """
        host, port_text = text, ""
        if text.startswith("["):
            host, bracket, rest = text[1:].partition("]")
            if not bracket or (rest and not rest.startswith(":")):
                raise ValueError("expected [IPv6 address]:port")
            port_text = rest[1:]
            addr = pack_host(host.encode()) if ":" in host else None
        else:
            if text.count(":") > 1:
                raise ValueError("an IPv6 address with a port is written [address]:port")
            host, _, port_text = text.partition(":")
            addr = pack_host(host.encode())
        if addr is None:
            raise ValueError(f"{host!r} is not an IP address")
        if not port_text and default_port is not None and not text.endswith(":"):
            return cls(addr, default_port)
        if not (port_text.isascii() and port_text.isdigit() and 0 < int(port_text) < 65536):
            raise ValueError("expected address:port with a port from 1 to 65535")
        return cls(addr, int(port_text))


@lru_cache(maxsize=8192)
def host_text(addr: bytes) -> bytes:
    """The canonical text of a packed address, without brackets [RFC 5952]."""
    if len(addr) == 4:
        return b"%d.%d.%d.%d" % tuple(addr)
    return str(IPv6Address(addr)).encode()


def pack_host(text: bytes) -> bytes | None:
    """The packed address that `text` writes (IPv6 with or without brackets), or None for a name or nonsense."""
    return _pack_host(text) if len(text) <= _LONGEST_HOST else None


_LONGEST_HOST = 47
"""`[ffff:…:255.255.255.255]`. What is longer is not looked up either: the cache shall not hold strangers' texts."""


@lru_cache(maxsize=8192)
def _pack_host(text: bytes) -> bytes | None:
    if text[:1] == b"[" and text[-1:] == b"]":
        text = text[1:-1]
        if b":" not in text:
            return None
    try:
        if b":" in text:
            if b"%" in text:  # a zone means nothing to another host
                return None
            return IPv6Address(text.decode("ascii")).packed
        return IPv4Address(text.decode("ascii")).packed
    except (AddressValueError, UnicodeDecodeError):
        return None
