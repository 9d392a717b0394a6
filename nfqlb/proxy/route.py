"""Which way a request goes: Route, the strict routers' habits, and where `received` counts (P15–P18).

Theory. Each time a request that is record-routed passes us, we put a *pair* of values on top of Record-Route: the E
half and the I half, marked r2=on; or one value, on a one-armed listener. Later requests of the dialog bring the pair
back as Route, in the order in which they pass it:

    entering (from outside)     E half, I half            then the backend's own value, if it record-routes
    leaving  (from inside)      I half, E half            then what lies further out
    hairpin  (from outside)     E, I of the sender, then I, E of the receiver: in by the one, out by the other

A Path value is an I half without r2. A value without `received` is somebody's setting ("outbound proxy"): it is ours,
it is consumed, and it says nothing.
"""

from enum import Enum
from typing import NamedTuple

from nfqlb.proxy.facts import Reject
from nfqlb.proxy.identity import Half, Identity, Own
from nfqlb.proxy.verdict import Reason, Side
from nfqlb.sip import address, grammar, uri
from nfqlb.sip.message import Message
from nfqlb.sip.uri import Uri


class Way(Enum):
    ENTERING = "entering"
    LEAVING = "leaving"
    HAIRPIN = "hairpin"


class Hop(NamedTuple):
    """A Route value that is not ours: where the request goes next."""

    text: bytes
    """The URI as written."""
    uri: Uri


class Value(NamedTuple):
    """A Route value of ours."""

    own: Own
    uri: Uri

    @property
    def paired(self) -> bool:
        return self.uri.params.get(b"r2") == b"on"

    @property
    def flow(self) -> bytes | None:
        """The `received` parameter as written; None without one."""
        return self.uri.params.get(b"received")


class Passage(NamedTuple):
    """How a request passes us."""

    way: Way
    uri: bytes
    """The Request-URI once P15 is done."""
    strict_in: bool
    """P15 happened: the last Route value has become the Request-URI."""
    routes: tuple[bytes, ...]
    """All Route values as they came, without white space around them: input of the loop part (P24)."""
    consumed: int
    """Route values of ours taken from the top."""
    exit: Value | None
    """The own value by which it leaves (leaving, hairpin), if it came with one."""
    next: Hop | None
    """The topmost remaining Route value."""


def read(message: Message, identity: Identity, side: Side) -> Passage:
    """Read Route and Request-URI. Raises Reject."""
    try:
        spans = message.values(b"route")
    except grammar.QuotingError:
        raise Reject(Reason.BAD_QUOTING) from None
    raw = message.raw
    routes = tuple(raw[start:end] for start, end in spans)
    request_uri, values = message.uri, []
    strict_in = False
    if spans:
        # A strict router upstream has put our Record-Route value into the Request-URI (P15).
        parsed = uri.parse(request_uri)
        if parsed is not None and b"lr" in parsed.params and identity.is_named(parsed):
            own = identity.find_uri(parsed)
            if own is not None:
                strict_in = True
                values.append(Value(own, parsed))
                request_uri = _hop(raw, spans.pop()).text
    following = None
    for span in spans:
        hop = _hop(raw, span)
        own = identity.find_uri(hop.uri)
        if own is None:
            following = hop
            break
        values.append(Value(own, hop.uri))
    if side is Side.INSIDE:
        taken, exit_at = _leave(values, 0)
    else:
        entered = _enter(values)
        taken, exit_at = _leave(values, entered) if entered < len(values) else (entered, None)
    leaving_by = None if exit_at is None else values[exit_at]
    if taken < len(values):
        # What stays is ours too, but for a later pass: another hop will bring it back.
        following = _hop(raw, spans[taken - strict_in])
    from_outside = Way.ENTERING if leaving_by is None else Way.HAIRPIN
    way = Way.LEAVING if side is Side.INSIDE else from_outside
    return Passage(way, request_uri, strict_in, routes, taken - strict_in, leaving_by, following)


def _hop(raw: bytes, span: grammar.Span) -> Hop:
    try:
        value = address.parse(raw, *span)
    except grammar.QuotingError:
        raise Reject(Reason.BAD_QUOTING) from None
    parsed = None if value is None else uri.parse(value.uri)
    if value is None or parsed is None:
        raise Reject(Reason.BAD_HEADER, detail="unreadable Route")
    return Hop(value.uri, parsed)


def _enter(values: list[Value]) -> int:
    """How many own values at the top are the way in. What follows them, if anything, is a way out."""
    taken = 0
    while taken < len(values):
        value = values[taken]
        if value.own.half is Half.INTERNAL:
            # The inner half of the way in, also when the phone has put its own "outbound proxy" in the place of the
            # outer half, or dropped it. A second I half in a row is the way out, and so is a Path.
            if not value.paired or (taken and values[taken - 1].own.half is Half.INTERNAL):
                break
        elif value.own.half is Half.BOTH and value.flow is not None and _has_entered(values, taken):
            break
        taken += 1
    return taken


def _has_entered(values: list[Value], taken: int) -> bool:
    """One-armed: has a value with a flow, the sender's own, been passed already?"""
    return any(value.flow is not None for value in values[:taken])


def _leave(values: list[Value], start: int) -> tuple[int, int | None]:
    """(How many values are consumed in all, which of them names the way out)."""
    taken = start
    while taken < len(values) and values[taken].flow is None:
        taken += 1
    if taken == len(values):
        return taken, None
    exit_at = taken
    taken += 1
    if (
        values[exit_at].paired
        and taken < len(values)
        and values[taken].paired
        and values[taken].own.half is Half.EXTERNAL
    ):
        taken += 1
    return taken, exit_at
