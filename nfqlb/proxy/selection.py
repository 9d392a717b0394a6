"""The key by which a new request chooses its backend: a function of the message alone (P29)."""

from nfqlb.balance.pool import HashOn
from nfqlb.net.endpoint import Endpoint
from nfqlb.proxy.facts import Facts
from nfqlb.sip import uri
from nfqlb.sip.message import Message
from nfqlb.sip.uri import Uri

_CREDENTIALS = (b"authorization", b"proxy-authorization")
_INVITE_FAMILY = frozenset((b"INVITE", b"ACK", b"CANCEL"))


def key(hash_on: HashOn, message: Message, facts: Facts, request_uri: Uri | None, source: Endpoint) -> bytes:
    """The bytes that the pool's table is asked with. Never empty of meaning: what is missing falls back to From."""
    if hash_on == "call-id":
        return facts.call_id
    if hash_on == "from-uri":
        return _identity(facts.from_uri)
    if hash_on == "to-uri":
        return _identity(facts.to_uri)
    if hash_on == "source-ip":
        return source.addr
    if hash_on == "request-user":
        user = request_uri.plain_user() if request_uri else message.uri.partition(b":")[2].partition(b";")[0]
        return user or _identity(facts.to_uri)
    # auth-user. A CANCEL carries no credentials and an INVITE may, so the INVITE and what belongs to it always go by
    # the From user, which is the same name on every platform where this key makes sense.
    if message.method not in _INVITE_FAMILY:
        for name in _CREDENTIALS:
            username = _username(message.value(name))
            if username:
                return username
    sender = uri.parse(facts.from_uri)
    return (sender.plain_user() if sender else b"") or facts.from_uri


def _identity(text: bytes) -> bytes:
    """user@host without scheme, port and parameters, so that one subscriber has one key however it is written."""
    parsed = uri.parse(text)
    if parsed is None:  # tel and others: all of it but the parameters
        return text.partition(b";")[0].lower()
    return b"%b@%b" % (parsed.plain_user(), parsed.host)


def _username(value: bytes | None) -> bytes | None:
    """username of a Digest Authorization value [RFC 3261 25.1 digest-uri]; None when there is none to read."""
    if value is None:
        return None
    _, found, rest = value.partition(b"username=")
    if not found:
        return None
    if rest.startswith(b'"'):
        return rest[1:].partition(b'"')[0]
    return rest.partition(b",")[0].strip()
