"""A response: is its top Via ours, and where does the one below want it (P33–P36)?"""

from nfqlb.net.endpoint import Endpoint
from nfqlb.proxy import added_headers
from nfqlb.proxy.choice import Note
from nfqlb.proxy.facts import Facts, Reject
from nfqlb.proxy.facts import read as read_facts
from nfqlb.proxy.identity import Half, Identity, Own
from nfqlb.proxy.keys import Keyring
from nfqlb.proxy.request import Arrival, Outcome
from nfqlb.proxy.verdict import Reason, Side
from nfqlb.sip import edit, grammar, via
from nfqlb.sip.message import Message
from nfqlb.sip.via import Via


class ResponseRules:
    def __init__(self, identity: Identity, keys: Keyring) -> None:
        self._identity = identity
        self._keys = keys

    def forward(self, message: Message, arrival: Arrival, note: Note | None) -> Outcome:
        """The response as it goes on. Raises Reject with a reason to drop: a response is never answered (P14)."""
        if message.fault is not None:
            raise Reject(Reason.BROKEN_RESPONSE, detail=message.fault.value)
        try:
            spans = message.values(b"via", enough=2)
        except grammar.QuotingError:
            raise Reject(Reason.BROKEN_RESPONSE) from None
        top = via.parse(message.raw, *spans[0]) if spans else None
        if top is None:
            raise Reject(Reason.STRAY_RESPONSE, detail="no readable top Via")
        own = self._identity.find_host(top.host, top.port)
        if own is None or own.socket != arrival.own.socket:
            raise Reject(Reason.STRAY_RESPONSE, detail="top Via is not the socket it came to")
        if len(spans) == 1:
            raise Reject(Reason.FINAL_HERE)
        below = via.parse(message.raw, *spans[1])
        try:
            facts = read_facts(message, top)
        except Reject as reject:
            raise Reject(Reason.STRAY_RESPONSE, detail=reject.detail) from None
        if below is None:
            raise Reject(Reason.STRAY_RESPONSE, detail="unreadable Via below ours")
        entered = self._entered_at(arrival.own, top, below, facts)
        if entered is None:
            raise Reject(Reason.STRAY_RESPONSE, detail="the branch is not ours for the Via below")
        dst = below.destination()
        if dst is None or not dst.version == entered.socket.version == arrival.src.version:
            raise Reject(Reason.NO_RETURN)
        if not self._identity.may_be_peer(dst):
            raise Reject(Reason.NO_RETURN)
        if note:
            note("P33", f"top Via is ours and its branch {(top.branch or b'').decode('latin-1')} verifies")
            note("P34", "that value is removed")
            note("P35", f"to {dst}, from {entered.socket}, where the request came in")
        edits = edit.remove_values(message, b"via", 1)
        payload = edit.apply(message.raw, edits, message.start, message.end)
        reason, backend = self._direction(arrival, entered, dst)
        return Outcome(reason, payload, entered.socket, dst, backend)

    def _entered_at(self, own: Own, top: Via, below: Via, facts: Facts) -> Own | None:
        """The socket that the request came in by: the one for which the keyed hash holds. Our state is in the Via.

        Nearly always it is the other socket of this listener; a hairpin came in by this very socket, or by another
        listener's.
        """
        sockets = self._identity.sockets
        other = own.listener.external if own.half is Half.INTERNAL else own.listener.internal
        first = [other, own.socket]
        request = (below.identity(), *facts.transaction())
        for socket in first + [socket for socket in sockets if socket not in first]:
            if self._keys.is_branch(top.branch, (*request, added_headers.socket_text(socket))):
                return sockets[socket]
        return None

    def _direction(self, arrival: Arrival, entered: Own, dst: Endpoint) -> tuple[Reason, int]:
        identity = self._identity
        if arrival.side is Side.INSIDE:
            return Reason.RESPONSE_LEAVING, identity.backend_from(arrival.src)
        if identity.side(entered, dst) is Side.INSIDE:
            return Reason.RESPONSE_ENTERING, identity.backend_from(dst)
        return Reason.RESPONSE_HAIRPIN, -1
