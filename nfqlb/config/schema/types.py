"""How each kind of value in the file is read: sockets, networks, hosts, names, sizes.

Each kind turns the file's text into the value that the gateway works with, or raises `Expected` with a
sentence that says what is expected. `kinds` has the types that tables are made of. Whether values fit together is not
known here.
"""

import re
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import get_args

from nfqlb.balance.pattern import Pattern, PatternError
from nfqlb.config.problems import listed
from nfqlb.config.status_codes import read_codes
from nfqlb.names.target import SERVICE, Target
from nfqlb.net.endpoint import SIP_PORT, Endpoint, pack_host
from nfqlb.proxy.setup import HashOn, Network
from nfqlb.sip import uri
from nfqlb.sip.message import COMPACT
from nfqlb.spelling import nearest

SOCKET = "expected an IP address and a port from 1 to 65535, such as 192.0.2.1:5060 or [2001:db8::1]:5060"

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
"""Names of ours: safe as the user part of a SIP URI [RFC 3261 25.1], on a command line and in a log."""

TOKEN = re.compile(r"[A-Za-z0-9\-.!%*_+`'~]+")
"""RFC 3261 25.1 token: what a method is made of."""

HOST = re.compile(r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?)*")
"""RFC 3261 25.1 hostname, with the underscore that people use anyway."""

METHODS = (
    *("INVITE", "REGISTER", "SUBSCRIBE", "NOTIFY", "MESSAGE", "OPTIONS", "PUBLISH", "REFER", "INFO"),
    *("UPDATE", "PRACK", "BYE", "ACK", "CANCEL"),
)

INTERFACE = re.compile(r"[^\s/:]{1,15}")
"""What Linux takes as the name of a network interface, but for "." and ".."."""

KEYS: tuple[HashOn, ...] = get_args(HashOn)
ALWAYS_THERE: tuple[HashOn, ...] = ("call-id", "source-ip")
"""Keys that every request has."""

DNS_PORT = 53

UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


class Expected(ValueError):
    """A value of the wrong form; `meant` is the one that was probably meant, where that can be told."""

    def __init__(self, text: str, meant: str | None = None) -> None:
        super().__init__(text)
        self.meant = meant


def text_of(value: object, expected: str) -> str:
    if not isinstance(value, str):
        raise Expected(expected)
    return value


def read_socket(value: object) -> Endpoint:
    """An address that a packet may carry, and a port (5060 when absent)."""
    text = text_of(value, f"{SOCKET}, in quotes")
    if text.count(":") > 1 and pack_host(text.encode()) is not None and not text.startswith("["):
        raise Expected("an IPv6 address is written in brackets", f"[{text}]:{SIP_PORT}")
    try:
        endpoint = Endpoint.parse(text, SIP_PORT)
    except ValueError:
        host = text.rpartition(":")[0] or text
        is_name = HOST.fullmatch(host.lower()) and not re.fullmatch(r"[\d.]+", host)
        raise Expected(f"{SOCKET}; host names are not looked up" if is_name else SOCKET) from None
    if wrong := unusable(endpoint):
        raise Expected(wrong, meant_address(endpoint))
    return endpoint


def read_backend(value: object) -> Endpoint | Target:
    """An address and a port; or a name to look up, of a host (port 5060 when absent) or of SRV records."""
    text = text_of(value, f"{SOCKET}, or a name that DNS knows, in quotes").lower()
    host, colon, port = text.partition(":")
    if ":" in port or not HOST.fullmatch(host) or re.fullmatch(r"[\d.]+", host):
        return read_socket(value)
    if "." not in host:
        raise Expected(f"{SOCKET}, or a full name, such as reg1.example.org:5060: there is no domain to search in")
    if host.startswith("_"):
        if not host.startswith(SERVICE):
            raise Expected(f"expected {SERVICE} and a domain: SRV records are looked up for SIP over UDP only")
        if colon:
            raise Expected("SRV records tell ports of their own", host)
        return Target(host)
    if colon and not (port.isascii() and port.isdigit() and len(port) < 6 and 0 < int(port) < 65536):
        raise Expected("expected a port from 1 to 65535 behind the name")
    return Target(host, int(port) if colon else SIP_PORT)


def read_server(value: object) -> Endpoint:
    """A DNS server; often one on this very host."""
    expected = "expected the IP address of a DNS server, such as 192.0.2.53 or [2001:db8::53]:53"
    text = text_of(value, f"{expected}, in quotes")
    if ":" in text and not text.startswith("[") and pack_host(text.encode()) is not None:
        text = f"[{text}]"
    try:
        return Endpoint.parse(text, DNS_PORT)
    except ValueError:
        raise Expected(expected) from None


def unusable(endpoint: Endpoint) -> str | None:
    """Why no SIP peer of ours can have this address, or None when one can."""
    address = ip_address(endpoint.addr)
    if address.is_unspecified:
        return "the unspecified address is nobody's; name the very address"
    if address.is_multicast:
        return "a multicast address cannot be a SIP socket"
    if address.is_loopback:
        return "a loopback address never passes through the packet path"
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return "an IPv4 address in IPv6 clothing never stands in a packet"
        if address.is_link_local:
            return "a link-local address means nothing on another interface"
    elif address.is_reserved or address.packed[0] == 0:
        return "this address is reserved"
    return None


def meant_address(endpoint: Endpoint) -> str | None:
    address = ip_address(endpoint.addr)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return None if mapped is None else str(Endpoint(mapped.packed, endpoint.port))


def read_network(value: object) -> Network:
    """An IPv4 or IPv6 network; a bare address is a network of one."""
    expected = "expected a network such as 192.0.2.0/24 or 2001:db8::/32"
    text = text_of(value, f"{expected}, in quotes")
    try:
        return ip_network(text)
    except ValueError:
        pass
    try:
        wider = ip_network(text, strict=False)
    except ValueError:
        raise Expected(expected) from None
    raise Expected("the address has bits set beyond its prefix length", str(wider))


def read_address(value: object) -> IPv4Address | IPv6Address:
    """The address of a host, without a port."""
    expected = "expected an IP address such as 192.0.2.1 or 2001:db8::1"
    text = text_of(value, f"{expected}, in quotes")
    try:
        address = ip_address(text)
    except ValueError:
        raise Expected(f"{expected}, without a port or a prefix length") from None
    if wrong := unusable(Endpoint(address.packed, SIP_PORT)):
        raise Expected(wrong)
    return address


def read_host(value: object) -> str:
    """A host: a name in lower case, or the canonical text of an address (IPv6 without brackets)."""
    text = text_of(value, "expected a host name or an IP address, in quotes")
    packed = pack_host(text.encode())
    if packed is not None:
        return Endpoint(packed, SIP_PORT).host
    name = text.lower()
    if not HOST.fullmatch(name) or re.fullmatch(r"[\d.]+", name):
        wild = "; there are no wildcards" if "*" in text else ""
        port = "; without a port" if re.search(r":\d+$", text) else ""
        raise Expected(f"expected a host name such as sip.example.org, or an IP address{wild}{port}")
    return name


def read_domain(value: object) -> str:
    """The host of a Request-URI as it stands there: like any host, but IPv6 in brackets."""
    host = read_host(value)
    return f"[{host}]" if ":" in host else host


def read_name(value: object) -> str:
    text = text_of(value, "expected a name, in quotes")
    if not NAME.fullmatch(text):
        raise Expected('expected 1 to 64 letters, digits, "-", "_" or "."; the first a letter or digit')
    return text


def read_method(value: object) -> str:
    """A SIP method. Methods are case-sensitive [RFC 3261 7.1]; a known one in lower case is a slip."""
    text = text_of(value, "expected a SIP method such as REGISTER, in quotes")
    if text not in METHODS and text.upper() in METHODS:
        raise Expected("methods are written in capitals", text.upper())
    if not TOKEN.fullmatch(text):
        raise Expected("expected a SIP method such as REGISTER", nearest(text, METHODS))
    return text


def read_probe_method(value: object) -> str:
    text = read_method(value)
    if text in ("INVITE", "ACK", "CANCEL"):
        raise Expected("expected a method that makes no phone ring and is answered, such as OPTIONS")
    return text


def read_probe_uri(value: object) -> str:
    """A Request-URI in which {address} may stand for host and port."""
    expected = "expected a SIP URI such as sip:{address} or sip:ping@example.org"
    text = text_of(value, f"{expected}, in quotes")
    plain = text.replace("{address}", "192.0.2.1:5060")
    if re.search(r"[{}]", plain):
        raise Expected("{address} is the only placeholder there is")
    if not re.fullmatch(r"[!-~]+", plain) or re.search(r'[<>"]', plain) or uri.parse(plain.encode()) is None:
        raise Expected(expected)
    return text


def read_accepted(value: object) -> frozenset[int]:
    """Status codes and classes of them."""
    expected = 'expected a list of status codes from 200 to 699 and classes of them, such as ["2xx", "4xx", "not 408"]'
    if not isinstance(value, list) or any(isinstance(item, bool) or not isinstance(item, int | str) for item in value):
        raise Expected(expected)
    try:
        codes = read_codes(str(item) for item in value)
    except ValueError:
        raise Expected(expected) from None
    if not codes:
        raise Expected("no answer would do: expected one code or class that is not taken out again")
    return codes


def read_hash_on(value: object) -> tuple[HashOn, ...]:
    """One key or a list of them, of which the first counts that a request has."""
    names = value if isinstance(value, list) and value else [value]
    found: list[HashOn] = []
    for name in names:
        known = next((key for key in KEYS if key == name), None)
        if known is None:
            expected = f"expected {listed(KEYS)}"
            raise Expected(
                expected if name is value else f"{expected} in the list",
                nearest(name, KEYS) if isinstance(name, str) and name is value else None,
            )
        if known in found:
            raise Expected(f"{known} stands in the list twice")
        if found and found[-1] in ALWAYS_THERE:
            raise Expected(f"every request has {found[-1]}, so what stands behind it is never looked at")
        found.append(known)
    return tuple(found)


def written_hash_on(keys: tuple[HashOn, ...]) -> str | list[str]:
    """The shortest that `read_hash_on` reads as these."""
    return list(keys) if len(keys) > 1 else keys[0]


def read_piece(value: object) -> str:
    """A piece of a header's text."""
    text = text_of(value, "expected text, in quotes")
    if not text or not text.isprintable():
        raise Expected("expected one printable character or more")
    return text


def read_user_prefix(value: object) -> str:
    text = read_piece(value)
    if any(character in text for character in '@:<>" '):
        raise Expected("expected how the user part of a SIP URI begins, such as +49, without sip: and without the host")
    return text


def read_header(value: object) -> str:
    """The name of a header, in lower case."""
    text = text_of(value, "expected the name of a header such as P-Asserted-Identity, in quotes")
    if not TOKEN.fullmatch(text):
        raise Expected("expected the name of a header such as P-Asserted-Identity")
    if text.lower().encode() in COMPACT:
        raise Expected("expected the long name", COMPACT[text.lower().encode()].decode())
    return text.lower()


def read_pattern(value: object) -> str:
    text = read_piece(value)
    try:
        Pattern(text)
    except PatternError as error:
        raise Expected(f"expected a regular expression in RE2's syntax: {error}") from None
    return text


def read_size(value: object) -> int:
    """Bytes: a whole number, or a number with KiB, MiB or GiB."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    expected = 'expected bytes, as a whole number or as "512 KiB", "8 MiB", "1 GiB"'
    found = re.fullmatch(r"(\d{1,12})\s*([A-Za-z]*)", text_of(value, expected), re.ASCII)
    if not found:
        raise Expected(expected)
    number, unit = found.groups()
    if unit not in UNITS:
        raise Expected(expected, f"{number} {unit[0].upper()}iB" if unit[:1] in tuple("kKmMgG") else None)
    return int(number) * UNITS[unit]


def written_size(size: int) -> int | str:
    """The shortest that `read_size` reads as this."""
    for unit, number in reversed(UNITS.items()):
        if size and size % number == 0:
            return f"{size // number} {unit}"
    return size


def read_path(value: object) -> str:
    text = text_of(value, "expected a file name, in quotes")
    if not text or "\0" in text:
        raise Expected("expected a file name")
    return text


def read_interface(value: object) -> str:
    expected = "expected the name of a network interface such as eth0"
    text = text_of(value, f"{expected}, in quotes")
    if not INTERFACE.fullmatch(text) or text in (".", ".."):
        raise Expected(expected)
    return text


def read_directory(value: object) -> str:
    text = read_path(value)
    if not text.startswith("/"):
        raise Expected("expected an absolute directory such as /run/nfqlb")
    return text
