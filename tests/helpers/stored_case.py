"""A configuration and a capture for the tests of the commands on stored packets."""

from collections.abc import Callable

from click.testing import Result
from scapy.layers.inet import IP
from scapy.layers.inet import fragment as fragment4
from sipcase import EXT, INT, PHONE, REGISTER, Gateway, endpoint, request, response_to, wire

from nfqlb.net import datagram

Nfqlb = Callable[..., Result]
"""Runs `nfqlb COMMAND -c nfqlb.toml ARGUMENTS…` in the directory of the fixture `place`."""

CONFIG = """
[gateway]
name = "lb"
secret_file = "secret"

[[listener]]
name = "main"
external = "203.0.113.5:5060"
internal = "192.168.1.5:5060"

[[pool]]
name = "registrars"
backend = [{ name = "reg1", address = "192.168.1.11:5060" }, { name = "reg2", address = "192.168.1.12:5060" }]

[[pool]]
name = "proxies"
backend = [{ name = "proxy1", address = "192.168.1.21:5060" }]

[[route]]
methods = ["REGISTER"]
pool = "registrars"

[[route]]
pool = "proxies"
"""
"""The same as sipcase.setup()."""


def packet(src: str, dst: str, message: str | bytes) -> bytes:
    payload = wire(message) if isinstance(message, str) else message
    return datagram.build(endpoint(src), endpoint(dst), payload)


def packets() -> list[bytes]:
    """REGISTER, its 200, an OPTIONS ping, a keepalive, somebody else's packet, a fragmented INVITE (frames 6 to 8)."""
    register = Gateway().from_phone(REGISTER)
    large = packet(PHONE, EXT, wire(request("INVITE", Content_Length="3000")) + b"x" * 3000)
    return [
        packet(PHONE, EXT, REGISTER),
        packet(register.dst, INT, response_to(register)),
        packet(PHONE, EXT, request("OPTIONS", "sip:203.0.113.5")),
        packet(PHONE, EXT, b"\r\n\r\n"),
        packet(PHONE, "198.51.100.1:5060", REGISTER),
        *(bytes(piece) for piece in fragment4(IP(large), fragsize=1400)),
    ]
