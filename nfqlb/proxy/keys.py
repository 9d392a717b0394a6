"""What we sign, and how we know it again: branches, flow signatures, loop parts, To-tags.

All of them are keyed BLAKE2b over values, never over time, memory or chance, so that every worker and every node with
the same keys writes and accepts the same (P24, P39). Each purpose has its own `person`, so that a value made for one
never serves as another: a Path's signature cannot stand in for a Record-Route's. The first key makes; all verify,
which is how keys are rotated.
"""

from collections.abc import Callable, Sequence
from hashlib import blake2b
from hmac import compare_digest

MARKER = b"z9hG4bKnfq"
"""How every branch of ours begins: RFC 3261's cookie, then our mark."""
TAG_MARKER = b"nfq"
"""How every To-tag of ours begins."""

MIN_KEY, MAX_KEY = 16, 64
"""Bytes in a key: enough not to be guessed, and what BLAKE2b takes."""

BRANCH_BYTES = 8
"""64 bits: an attacker sends each guess past us, at packet rate, for one transaction's lifetime."""
LOOP_BYTES = 4
"""32 bits: protects nobody, only tells a spiral from a loop."""
SIG_BYTES = 10
"""80 bits: a Path lives for days and a guess opens a flow of the guesser's choice."""
TAG_BYTES = 8

# What sets the hashes of one purpose apart from those of all others.
BRANCH_PERSON = b"nfqlb-branch"
LOOP_PERSON = b"nfqlb-loop"
PATH_PERSON = b"nfqlb-path"
ROUTE_PERSON = b"nfqlb-route"
TAG_PERSON = b"nfqlb-to-tag"

_Mac = Callable[[bytes], str]


def _macs(keys: Sequence[bytes], purpose: bytes, size: int) -> list[_Mac]:
    def mac(key: bytes) -> _Mac:
        base = blake2b(key=key, digest_size=size, person=purpose)

        def digest(data: bytes) -> str:
            state = base.copy()
            state.update(data)
            return state.hexdigest()

        return digest

    return [mac(key) for key in keys]


class Keyring:
    """The secrets in the form the proxy uses. Parts are joined with NUL, which no header value may hold (P5)."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = tuple(keys)
        self._branch = _macs(keys, BRANCH_PERSON, BRANCH_BYTES)
        self._loop = _macs(keys, LOOP_PERSON, LOOP_BYTES)
        self._path = _macs(keys, PATH_PERSON, SIG_BYTES)
        self._route = _macs(keys, ROUTE_PERSON, SIG_BYTES)
        self._tag = _macs(keys, TAG_PERSON, TAG_BYTES)

    def __reduce__(self) -> tuple[type["Keyring"], tuple[tuple[bytes, ...]]]:
        """Pickled as the secrets alone: the states of the hash, made of them, cannot be."""
        return Keyring, (self._keys,)

    def branch(self, parts: Sequence[bytes], loop: bytes) -> bytes:
        """`z9hG4bKnfq<transaction>.<loop>` (P24)."""
        return b"%b%b.%b" % (MARKER, self._branch[0](b"\0".join(parts)).encode(), loop)

    def is_branch(self, branch: bytes | None, parts: Sequence[bytes]) -> bool:
        """Did one of our keys make this branch for those parts? The loop part is not looked at (P33)."""
        if branch is None or not branch.startswith(MARKER):
            return False
        written = branch[len(MARKER) :].partition(b".")[0]
        return _any(self._branch, b"\0".join(parts), written)

    def loop(self, parts: Sequence[bytes]) -> bytes:
        """The loop part (P24)."""
        return self._loop[0](b"\0".join(parts)).encode()

    def is_loop(self, branch: bytes, parts: Sequence[bytes]) -> bool:
        """Does the branch end in the loop part that one of our keys makes for those parts (P12)?"""
        return _any(self._loop, b"\0".join(parts), branch.rpartition(b".")[2])

    def sign_path(self, flow: bytes, internal: bytes) -> bytes:
        """`sig` of a Path: bound to the flow and to our socket that the Path names (P25)."""
        return self._path[0](b"\0".join((flow, internal))).encode()

    def is_path(self, sig: bytes | None, flow: bytes, internal: bytes) -> bool:
        return sig is not None and _any(self._path, b"\0".join((flow, internal)), sig)

    def sign_route(self, flow: bytes, internal: bytes, call_id: bytes) -> bytes:
        """`sig` of a Record-Route: bound to the Call-ID as well (P26)."""
        return self._route[0](b"\0".join((flow, internal, call_id))).encode()

    def is_route(self, sig: bytes | None, flow: bytes, internal: bytes, call_id: bytes) -> bool:
        return sig is not None and _any(self._route, b"\0".join((flow, internal, call_id)), sig)

    def to_tag(self, parts: Sequence[bytes]) -> bytes:
        """The To-tag of a reply of ours (P14)."""
        return TAG_MARKER + self._tag[0](b"\0".join(parts)).encode()

    def is_to_tag(self, tag: bytes | None, parts: Sequence[bytes]) -> bool:
        return (
            tag is not None
            and tag.startswith(TAG_MARKER)
            and _any(self._tag, b"\0".join(parts), tag[len(TAG_MARKER) :])
        )


def _any(macs: list[_Mac], data: bytes, written: bytes) -> bool:
    lowered = written.lower()  # tokens are compared without case [RFC 3261 7.3.1]
    return any(compare_digest(mac(data).encode(), lowered) for mac in macs)
