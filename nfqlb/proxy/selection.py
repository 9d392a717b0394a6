"""The keys by which a request chooses its backend and is known again: functions of the message alone (P29, P31)."""

from nfqlb.balance.pool import HashOn
from nfqlb.net.endpoint import Endpoint
from nfqlb.proxy.facts import Facts
from nfqlb.sip import uri
from nfqlb.sip.message import Message
from nfqlb.sip.uri import Uri

_CREDENTIALS = (b"authorization", b"proxy-authorization")
_COOKIE = b"z9hG4bK"
"""How a branch begins that belongs to one transaction only [RFC 3261 8.1.1.7]."""
_INVITE_FAMILY = frozenset((b"INVITE", b"ACK", b"CANCEL"))


def key(
    hash_on: tuple[HashOn, ...], message: Message, facts: Facts, request_uri: Uri | None, source: Endpoint
) -> bytes:
    """The bytes that the pool's table is asked with."""
    wanted = hash_on[0] if len(hash_on) == 1 else used(hash_on, message, facts, request_uri)
    return _of(wanted, message, facts, request_uri, source)


def used(hash_on: tuple[HashOn, ...], message: Message, facts: Facts, request_uri: Uri | None) -> HashOn:
    """The first of them that the request has, or else the last. The same for an INVITE, its CANCEL and its ACK (P29):
    the Request-URI, From and To stand in all of them, and so does nothing else that is looked at here.
    """
    for wanted in hash_on[:-1]:
        if _has(wanted, message, facts, request_uri):
            return wanted
    return hash_on[-1]


def _has(wanted: HashOn, message: Message, facts: Facts, request_uri: Uri | None) -> bool:
    """Whether the request has that to tell it from others. A URI without a user names a whole domain."""
    if wanted == "from-uri":
        return _names_one(facts.from_uri)
    if wanted == "to-uri":
        return _names_one(facts.to_uri)
    if wanted == "request-user":
        return bool(request_user(message, request_uri))
    if wanted == "auth-user":
        return bool(_auth_user(message) if message.method not in _INVITE_FAMILY else _sender(facts))
    return True


def _of(hash_on: HashOn, message: Message, facts: Facts, request_uri: Uri | None, source: Endpoint) -> bytes:
    """Never empty of meaning: what is missing falls back to From or To."""
    if hash_on == "call-id":
        return facts.call_id
    if hash_on == "from-uri":
        return _identity(facts.from_uri)
    if hash_on == "to-uri":
        return _identity(facts.to_uri)
    if hash_on == "source-ip":
        return source.addr
    if hash_on == "request-user":
        return request_user(message, request_uri) or _identity(facts.to_uri)
    # auth-user. A CANCEL carries no credentials and an INVITE may, so the INVITE and what belongs to it always go by
    # the From user, which is the same name on every platform where this key makes sense.
    if message.method not in _INVITE_FAMILY:
        username = _auth_user(message)
        if username:
            return username
    return _sender(facts) or facts.from_uri


def request_user(message: Message, request_uri: Uri | None) -> bytes:
    """User part of the Request-URI, or the number of a tel URI, as written; empty without one."""
    return request_uri.plain_user() if request_uri else message.uri.partition(b":")[2].partition(b";")[0]


def _auth_user(message: Message) -> bytes:
    for name in _CREDENTIALS:
        found = username(message.value(name))
        if found:
            return found
    return b""


def _sender(facts: Facts) -> bytes:
    sender = uri.parse(facts.from_uri)
    return sender.plain_user() if sender else b""


def transaction(facts: Facts) -> bytes:
    """What a request, its retransmissions, its CANCEL and its non-2xx ACK share, and no other request has (P31).

    A request that passes us again on its way, with another Via on top, is another one: another rule may match it. The
    branches of RFC 2543 need not differ, nor a CANCEL repeat them; what is left there is the sender [RFC 3261 17.2.3].
    """
    branch = facts.via.branch
    if branch is None or branch[: len(_COOKIE)] != _COOKIE:
        branch = b"%b:%d" % (facts.via.host, facts.via.sent_port)
    return b"%b\0%b\0%d\0%b" % (facts.call_id, facts.from_tag, facts.cseq, branch)


def _names_one(text: bytes) -> bool:
    parsed = uri.parse(text)
    return parsed is None or bool(parsed.user)


def _identity(text: bytes) -> bytes:
    """user@host without scheme, port and parameters, so that one subscriber has one key however it is written."""
    parsed = uri.parse(text)
    if parsed is None:  # tel and others: all of it but the parameters
        return text.partition(b";")[0].lower()
    return b"%b@%b" % (parsed.plain_user(), parsed.host)


def username(value: bytes | None) -> bytes | None:
    """username of a Digest Authorization value [RFC 3261 25.1 digest-uri]; None when there is none to read."""
    if value is None:
        return None
    _, found, rest = value.partition(b"username=")
    if not found:
        return None
    if rest.startswith(b'"'):
        return rest[1:].partition(b'"')[0]
    return rest.partition(b",")[0].strip()
