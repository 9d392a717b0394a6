"""The pieces we write into headers: Via, Record-Route, Path, and received and rport of the Via below (P22–P26)."""

from ipaddress import ip_network

from nfqlb.net.endpoint import Endpoint, host_text
from nfqlb.net.networks import NetworkSet
from nfqlb.proxy.keys import Keyring
from nfqlb.proxy.setup import ForceRport, Listener
from nfqlb.sip import address, grammar, uri
from nfqlb.sip.edit import Edit
from nfqlb.sip.message import Message
from nfqlb.sip.via import Via

RECORD_ROUTED_NEVER = frozenset(
    (b"REGISTER", b"ACK", b"CANCEL", b"BYE", b"PRACK", b"OPTIONS", b"MESSAGE", b"INFO", b"PUBLISH")
)
"""Methods without Record-Route (P26); INVITE, SUBSCRIBE, NOTIFY, REFER, UPDATE and unknown ones get it."""

PRIVATE = NetworkSet(
    [
        ip_network(text)
        for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16",
                     "fc00::/7", "fe80::/10")
    ]
)  # fmt: skip
"""Addresses that mean something else where the phone is: RFC 1918, 6598 (carrier NAT), 3927, 4193, 4291."""


def flow_text(endpoint: Endpoint) -> bytes:
    """The canonical form of a flow, in `received=` and under its signature: `sip:172.31.23.177:5060`."""
    return b"sip:%b:%d" % (endpoint.uri_host, endpoint.port)


def socket_text(endpoint: Endpoint) -> bytes:
    """The canonical form of one of our sockets, as input of keyed hashes."""
    return b"%b:%d" % (endpoint.uri_host, endpoint.port)


def fill_via(via: Via, source: Endpoint, force_rport: ForceRport) -> tuple[Via, list[Edit]]:
    """The top Via as it goes on, with the edits that make it so (P22) [RFC 3261 18.2.1, RFC 3581 4].

    A `received` or `rport` value that the sender wrote itself is overwritten, and a `maddr` outranked by ours:
    otherwise a stranger could say where our answers go.
    """
    asked = via.rport is not None
    differs = via.sent_by != source
    with_rport = asked or force_rport == "always" or (differs and force_rport == "auto")
    with_received = asked or differs or force_rport == "always" or bool(via.received is not None or via.maddr)
    edits: list[Edit] = []
    end = via.span[1]
    if with_received:
        received = host_text(source.addr)
        edits += _set(via.received_span, via.received, received, b";received=%b" % received, end)
        via = via._replace(received=received)
    if with_rport:
        rport = b"%d" % source.port
        edits += _set(via.rport_span, via.rport, rport, b";rport=%b" % rport, end)
        via = via._replace(rport=rport)
    return via, edits


def _set(span: grammar.Span | None, old: bytes | None, new: bytes, text: bytes, end: int) -> list[Edit]:
    if span is None:
        return [(end, end, text)]
    return [] if old == new else [(span[0], span[1], text)]


def via_row(sent_by: Endpoint, branch: bytes) -> bytes:
    """Our Via: sent-by is the socket the answer shall come to (P23)."""
    return b"Via: SIP/2.0/UDP %b;branch=%b\r\n" % (sent_by.hostport, branch)


def path_row(name: bytes, listener: Listener, source: Endpoint, keys: Keyring) -> bytes:
    """Our Path, the client's address inside (P25) [RFC 3327]."""
    flow = flow_text(source)
    return b"Path: <sip:%b@%b;lr;received=%b;sig=%b>\r\n" % (
        name,
        listener.internal.hostport,
        uri.escape_param(flow),
        keys.sign_path(flow, socket_text(listener.internal)),
    )


def record_route_rows(
    name: bytes,
    listener: Listener,
    peer: Endpoint,
    call_id: bytes,
    keys: Keyring,
    *,
    nat: bool,
    entering: bool,
) -> bytes:
    """Our Record-Route: one value, or two of which the top one faces the next hop (P26) [RFC 5658]."""
    flow = flow_text(peer)
    tail = b";received=%b;sig=%b%b>\r\n" % (
        uri.escape_param(flow),
        keys.sign_route(flow, socket_text(listener.internal), call_id),
        b";nat=yes" if nat else b"",
    )
    if listener.one_face:
        return b"Record-Route: <sip:%b@%b;lr%b" % (name, listener.visible.hostport, tail)
    inner = b"Record-Route: <sip:%b@%b;lr;r2=on%b" % (name, listener.internal.hostport, tail)
    outer = b"Record-Route: <sip:%b@%b;lr;r2=on>\r\n" % (name, listener.visible.hostport)
    return inner + outer if entering else outer + inner


def is_behind_nat(message: Message, via: Via, source: Endpoint) -> bool:
    """Can the sender not be reached at its Contact? Then its top Via differs from its source, or its Contact has a
    private address that is not its source (P26). A broken Contact tells nothing (P6).
    """
    if via.sent_by != source:
        return True
    for row in message.rows.get(b"contact", ()):
        try:
            span = grammar.first_value(message.raw, row.value, row.value_end)
            contact = address.parse(message.raw, *span) if span else None
        except grammar.QuotingError:
            return False
        parsed = None if contact is None else uri.parse(contact.uri)
        if parsed is None:
            return False
        endpoint = parsed.endpoint
        return endpoint is not None and endpoint.addr != source.addr and endpoint.addr in PRIVATE
    return False
