"""The kinds of value that tables are made of: how each is read, how it is written back, what an editor is told of it.

The readers are those of `fields`. What is written back reads as the same value. What JSON Schema says of a value is
never narrower than its reader, which alone knows all that can be wrong.
"""

from ipaddress import IPv4Address, IPv6Address
from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

from nfqlb.config.schema.base import Listed, Some
from nfqlb.config.schema.types import (
    INTERFACE,
    KEYS,
    NAME,
    TOKEN,
    UNITS,
    read_accepted,
    read_address,
    read_backend,
    read_directory,
    read_domain,
    read_hash_on,
    read_header,
    read_host,
    read_interface,
    read_method,
    read_name,
    read_network,
    read_path,
    read_pattern,
    read_piece,
    read_probe_method,
    read_probe_uri,
    read_server,
    read_size,
    read_socket,
    read_user_prefix,
    written_hash_on,
    written_size,
)
from nfqlb.config.status_codes import CODES, FINAL, written_codes
from nfqlb.names.target import Target
from nfqlb.net.endpoint import Endpoint
from nfqlb.proxy.setup import HashOn, Network

AS_TEXT = PlainSerializer(str, return_type=str)
"""Of values that Python writes as the file does."""


def looks_like(title: str, pattern: str | None = None, **schema: Any) -> WithJsonSchema:
    """What the JSON Schema says of such a value: `title` is its kind, in a word or two; text unless `schema` says
    otherwise.
    """
    return WithJsonSchema(
        {"title": title, **(schema or {"type": "string"}), **({} if pattern is None else {"pattern": f"^{pattern}$"})}
    )


_IPV4 = r"[0-9]{1,3}(\.[0-9]{1,3}){3}"
_PORT = r"(:[0-9]+)?"
_SOCKET = rf"({_IPV4}|\[[0-9A-Fa-f:.]+\]){_PORT}"
_IP = r"[0-9A-Fa-f:.]+"
_WITH_SPACES = {"type": "string", "minLength": 1}

Socket = Annotated[Endpoint, PlainValidator(read_socket), AS_TEXT, looks_like("address and port", _SOCKET)]
BackendAddress = Annotated[
    Endpoint | Target,
    PlainValidator(read_backend),
    AS_TEXT,
    looks_like("address and port, or name", rf"({_SOCKET}|[A-Za-z0-9_.-]+{_PORT})"),
]
Server = Annotated[
    Endpoint, PlainValidator(read_server), AS_TEXT, looks_like("address", rf"({_IP}|{_IPV4}{_PORT}|\[{_IP}\]{_PORT})")
]
NetworkField = Annotated[
    Network,
    PlainValidator(read_network),
    AS_TEXT,
    looks_like("network", rf"{_IP}(%[^/]+)?(/[0-9.]+)?"),
]
Address = Annotated[
    IPv4Address | IPv6Address, PlainValidator(read_address), AS_TEXT, looks_like("address", rf"{_IP}(%.+)?")
]
Host = Annotated[str, PlainValidator(read_host), looks_like("host", r"[A-Za-z0-9_.:\[\]-]+")]
Domain = Annotated[str, PlainValidator(read_domain), looks_like("host", r"[A-Za-z0-9_.:\[\]-]+")]
Name = Annotated[str, PlainValidator(read_name), looks_like("name", NAME.pattern)]
NameOfOther = Annotated[str, looks_like("name")]
"""Of a table elsewhere in the file, whose own name is looked at there."""
NamesOfOthers = Annotated[tuple[NameOfOther, ...], Listed, Some]
Method = Annotated[str, PlainValidator(read_method), looks_like("SIP method", TOKEN.pattern)]
ProbeMethod = Annotated[str, PlainValidator(read_probe_method), looks_like("SIP method", TOKEN.pattern)]
ProbeUri = Annotated[str, PlainValidator(read_probe_uri), looks_like("SIP URI", r"[!-~]+")]
Codes = Annotated[
    frozenset[int],
    PlainValidator(read_accepted),
    PlainSerializer(written_codes, return_type=list[str]),
    looks_like(
        "list of status codes and classes",
        type="array",
        minItems=1,
        items={
            "anyOf": [
                {"type": "integer", "minimum": FINAL.start, "maximum": FINAL.stop - 1},
                {"type": "string", "pattern": f"^{CODES.pattern}$"},
            ]
        },
    ),
]
Piece = Annotated[str, PlainValidator(read_piece), looks_like("text", **_WITH_SPACES)]
UserPrefix = Annotated[str, PlainValidator(read_user_prefix), looks_like("text", **_WITH_SPACES)]
Header = Annotated[str, PlainValidator(read_header), looks_like("header", TOKEN.pattern)]
Regex = Annotated[str, PlainValidator(read_pattern), looks_like("regular expression", **_WITH_SPACES)]
Keys = Annotated[
    tuple[HashOn, ...],
    PlainValidator(read_hash_on),
    PlainSerializer(written_hash_on, return_type=str | list[str]),
    looks_like(
        "key, or list of keys",
        anyOf=[
            {"enum": list(KEYS)},
            {"type": "array", "items": {"enum": list(KEYS)}, "minItems": 1, "uniqueItems": True},
        ],
    ),
]
Size = Annotated[
    int,
    PlainValidator(read_size),
    PlainSerializer(written_size, return_type=int | str),
    looks_like(
        "size in bytes",
        anyOf=[{"type": "integer"}, {"type": "string", "pattern": rf"^[0-9]{{1,12}}\s*({'|'.join(UNITS)})$"}],
    ),
]
FilePath = Annotated[str, PlainValidator(read_path), looks_like("file", **_WITH_SPACES)]
Interface = Annotated[str, PlainValidator(read_interface), looks_like("network interface", INTERFACE.pattern)]
Directory = Annotated[str, PlainValidator(read_directory), looks_like("directory", "/.*")]
