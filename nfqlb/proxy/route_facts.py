"""What the route rules ask of a request, read when they ask (balance.routes.RouteFacts).

Knows where in a message each answer stands. Does not know the rules.
"""

from collections.abc import Collection, Mapping

from nfqlb.balance.pool import HashOn
from nfqlb.net.endpoint import Endpoint
from nfqlb.proxy import selection
from nfqlb.proxy.facts import Facts
from nfqlb.sip import uri
from nfqlb.sip.message import Message
from nfqlb.sip.uri import Uri

_FOLLOWERS = (b"ACK", b"CANCEL")
_SEPARATORS = b"-.()"
"""They mean nothing in a telephone number [RFC 3966 5.1.1]."""


class RouteFacts:
    """One request."""

    __slots__ = (
        "_facts", "_from_domain", "_hash_on", "_message", "_request_uri", "_source", "_to_domain",
        "domain", "listener", "method", "source",
    )  # fmt: skip

    def __init__(
        self,
        message: Message,
        facts: Facts,
        request_uri: Uri | None,
        listener: str,
        source: Endpoint,
        hash_on: Mapping[str, tuple[HashOn, ...]],
    ) -> None:
        """`request_uri`: None for a tel URI. `hash_on` of each pool by its name."""
        self._message, self._facts, self._request_uri = message, facts, request_uri
        self._source, self._hash_on = source, hash_on
        self._from_domain: bytes | None = None
        self._to_domain: bytes | None = None
        self.method = b"INVITE" if message.method in _FOLLOWERS else message.method
        self.listener = listener
        self.source = source.addr
        self.domain = b"" if request_uri is None else request_uri.host

    @property
    def from_domain(self) -> bytes:
        if self._from_domain is None:
            self._from_domain = _host(self._facts.from_uri)
        return self._from_domain

    @property
    def to_domain(self) -> bytes:
        if self._to_domain is None:
            self._to_domain = _host(self._facts.to_uri)
        return self._to_domain

    @property
    def user(self) -> bytes:
        user = selection.request_user(self._message, self._request_uri)
        return user if self._request_uri is not None else user.translate(None, _SEPARATORS)

    @property
    def user_agent(self) -> bytes:
        return self._message.value(b"user-agent") or b""

    @property
    def headers(self) -> Collection[bytes]:
        return self._message.rows.keys()

    def key(self, pool: str) -> bytes:
        return selection.key(self._hash_on[pool], self._message, self._facts, self._request_uri, self._source)


def _host(text: bytes) -> bytes:
    parsed = uri.parse(text)
    return parsed.host if parsed else b""
