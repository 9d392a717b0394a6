"""STUN binding requests on the SIP port: what a phone asks to keep its NAT's hole open, and the answer [RFC 5626 8].

Knows RFC 8489 (which is RFC 5389 with more attributes) as far as a server goes that asks for no credentials: a request
is read, and answered with the address that it came from. Every answer is a function of the request and that address,
and shorter than one and a half times the request and 200 bytes. Does not know where requests come from or how many are
answered.
"""

import struct
from enum import Enum
from zlib import crc32

from nfqlb.net.endpoint import Endpoint

COOKIE = b"\x21\x12\xa4\x42"
LONGEST = 548
"""Bytes of a request that is answered: no longer ones without knowledge of the path [RFC 8489 6.1]. It bounds the
time that one may take."""
MOST_UNKNOWN = 16
"""Attributes that one refusal names."""

_HEADER = struct.Struct("!HH4s12s")
_ATTRIBUTE = struct.Struct("!HH")
_REQUEST, _SUCCESS, _ERROR = 0x0001, 0x0101, 0x0111
_ERROR_CODE, _UNKNOWN_ATTRIBUTES, _XOR_MAPPED_ADDRESS, _FINGERPRINT = 0x0009, 0x000A, 0x0020, 0x8028
_MESSAGE_INTEGRITY, _MESSAGE_INTEGRITY_SHA256 = 0x0008, 0x001C
_FINGERPRINT_XOR = 0x5354554E
_OPTIONAL = 0x8000
"""From here on an attribute that is not known is passed over [RFC 8489 14]."""

# Comprehension-required attributes that a server without credentials knows, and has no use for [RFC 8489 14]:
# MAPPED-ADDRESS, USERNAME, ERROR-CODE, UNKNOWN-ATTRIBUTES, REALM, NONCE, PASSWORD-ALGORITHM, USERHASH and its own.
_KNOWN = frozenset(
    (0x0001, 0x0006, _ERROR_CODE, _UNKNOWN_ATTRIBUTES, 0x0014, 0x0015, 0x001D, 0x001E,
     _XOR_MAPPED_ADDRESS, _MESSAGE_INTEGRITY, _MESSAGE_INTEGRITY_SHA256)
)  # fmt: skip


class Answer(Enum):
    """What becomes of a STUN message."""

    SUCCESS = "its source address"
    REFUSAL = "420, an attribute that we do not know"
    NONE = "nothing"


def is_stun(payload: bytes) -> bool:
    """Two zero bits, the magic cookie, and the length that the header says [RFC 8489 5]: no SIP message begins so."""
    return (
        payload[4:8] == COOKIE
        and len(payload) >= _HEADER.size
        and payload[0] < 0x40
        and int.from_bytes(payload[2:4], "big") == len(payload) - _HEADER.size
    )


def answer(payload: bytes, source: Endpoint) -> tuple[Answer, bytes]:
    """The answer to what `is_stun`, and its bytes; none (b"") to what is no binding request, or a broken one."""
    kind, length, _, transaction = _HEADER.unpack_from(payload)
    if kind != _REQUEST or length % 4 or len(payload) > LONGEST:
        return Answer.NONE, b""
    unknown: dict[int, None] = {}
    position, protected, fingerprint = _HEADER.size, False, False
    while position < len(payload):
        name, size = _ATTRIBUTE.unpack_from(payload, position)
        value, position = position + _ATTRIBUTE.size, position + _ATTRIBUTE.size + (size + 3 & ~3)
        if position > len(payload):
            return Answer.NONE, b""
        if name == _FINGERPRINT:
            # It is the last one, and a wrong one says that this is no STUN [RFC 8489 6.3, 14.7].
            found = int.from_bytes(payload[value : value + size], "big")
            if position != len(payload) or size != 4 or found != _fingerprint(payload[: value - _ATTRIBUTE.size]):
                return Answer.NONE, b""
            fingerprint = True
        elif not protected and name < _OPTIONAL and name not in _KNOWN:
            unknown[name] = None
        # What follows the integrity is not covered by it, and is ignored [RFC 8489 14.5].
        protected = protected or name in (_MESSAGE_INTEGRITY, _MESSAGE_INTEGRITY_SHA256)
    if not unknown:
        body = _attribute(_XOR_MAPPED_ADDRESS, _xored(source, transaction))
        return Answer.SUCCESS, _message(_SUCCESS, transaction, body, fingerprint)
    names = list(unknown)[:MOST_UNKNOWN]
    body = _attribute(_ERROR_CODE, b"\0\0\x04\x14Unknown Attribute")
    body += _attribute(_UNKNOWN_ATTRIBUTES, struct.pack(f"!{len(names)}H", *names))
    return Answer.REFUSAL, _message(_ERROR, transaction, body, fingerprint)


def _xored(source: Endpoint, transaction: bytes) -> bytes:
    """The value of XOR-MAPPED-ADDRESS [RFC 8489 14.2]: no NAT on the way rewrites an address that it does not see."""
    mask = int.from_bytes((COOKIE + transaction)[: len(source.addr)], "big")
    addr = int.from_bytes(source.addr, "big") ^ mask
    family = 1 if len(source.addr) == 4 else 2
    return struct.pack("!BBH", 0, family, source.port ^ 0x2112) + addr.to_bytes(len(source.addr), "big")


def _attribute(name: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(name, len(value)) + value + bytes(-len(value) % 4)


def _message(kind: int, transaction: bytes, body: bytes, fingerprint: bool) -> bytes:
    if not fingerprint:
        return _HEADER.pack(kind, len(body), COOKIE, transaction) + body
    head = _HEADER.pack(kind, len(body) + 8, COOKIE, transaction) + body
    return head + _attribute(_FINGERPRINT, _fingerprint(head).to_bytes(4, "big"))


def _fingerprint(before: bytes) -> int:
    """Of a message, from all that stands before the attribute; its length counts already [RFC 8489 14.7]."""
    return crc32(before) ^ _FINGERPRINT_XOR
