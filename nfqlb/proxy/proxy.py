"""One message in, one outcome out: forward, reply or drop."""

from copy import copy

from nfqlb.balance import recent as memory
from nfqlb.balance.recent import Recent
from nfqlb.balance.tables import Tables
from nfqlb.net import stun
from nfqlb.net.endpoint import Endpoint
from nfqlb.proxy import added_headers, selection
from nfqlb.proxy import facts as fact
from nfqlb.proxy.choice import Choice, Note
from nfqlb.proxy.facts import Reject
from nfqlb.proxy.identity import Identity
from nfqlb.proxy.keys import Keyring
from nfqlb.proxy.names import Names
from nfqlb.proxy.request import Arrival, Outcome, RequestRules
from nfqlb.proxy.response import ResponseRules
from nfqlb.proxy.scanners import Scanners
from nfqlb.proxy.setup import Setup
from nfqlb.proxy.verdict import Action, Reason, Side
from nfqlb.sip import address, grammar, message, reply, via
from nfqlb.sip.message import Message, NotSip
from nfqlb.sip.via import Via

GROWTH = 200
"""Bytes that a reply may have beyond one and a half times its request: forging a source shall gain nothing."""

PATIENCE = range(5, 15)
"""Seconds after which a shed request may come again: not all at one time."""

_STUN = {stun.Answer.SUCCESS: Reason.STUN_ANSWERED, stun.Answer.REFUSAL: Reason.STUN_REFUSED}


class Proxy:
    """The rules for one Setup. Holds no state of calls, dialogs or registrations: the packet carries that.

    What `recent` remembers changes no header, only the choice of a backend, and that only after a table has changed.
    """

    def __init__(self, setup: Setup, tables: Tables, recent: Recent | None) -> None:
        self.identity = Identity(setup)
        self._keys = Keyring(setup.keys)
        self._requests = RequestRules(setup, self.identity, self._keys, tables, recent)
        self._responses = ResponseRules(self.identity, self._keys)
        self._scanners = Scanners(setup.scanners)
        self._recent = recent

    def sibling(self, recent: Recent | None, names: Names | None) -> "Proxy":
        """The same rules and tables, shared with this one, and another view of what was chosen and what names mean."""
        other = copy(self)
        other._requests = self._requests.sibling(recent, names)
        other._recent = recent
        return other

    @property
    def choice(self) -> Choice:
        return self._requests.choice

    def decide(self, payload: bytes, arrival: Arrival, note: Note | None = None) -> Outcome:
        """What becomes of one datagram's payload."""
        if arrival.side is Side.INSIDE and self.identity.backend_from(arrival.src) < 0:
            return _dropped(Reason.NOT_FROM_BACKEND, note)
        if message.is_keepalive(payload):
            return _dropped(Reason.KEEPALIVE, note)
        if stun.is_stun(payload):
            return self._stun(payload, arrival, note)
        try:
            read = message.parse(payload)
        except NotSip:
            return _dropped(Reason.NOT_SIP, note)
        if read.is_request and arrival.side is Side.OUTSIDE and self._is_scan(read):
            return _dropped(Reason.SCANNER, note)
        try:
            if read.is_request:
                return self._requests.forward(read, arrival, note)
            return self._responses.forward(read, arrival, note)
        except Reject as reject:
            return self._reject(read, arrival, reject, note)

    def too_large(self, payload: bytes, arrival: Arrival, note: Note | None = None) -> Outcome:
        """The answer to a request that our additions would make longer than a datagram can be (P7)."""
        return self._reject(message.parse(payload), arrival, Reject(Reason.MESSAGE_TOO_LARGE), note)

    def refuse(self, payload: bytes, arrival: Arrival) -> Outcome | None:
        """503 to a new request, for which there is no time now. None when this is something else, which shall have its
        decision: a response, a request of a dialog, an ACK or CANCEL, what comes again of a transaction that has begun,
        and what gets another answer or none.
        """
        try:
            read = message.parse(payload)
            if not read.is_request or read.fault is not None or read.method in (b"ACK", b"CANCEL"):
                return None
            facts = fact.read(read)
        except (NotSip, Reject):
            return None
        key = memory.key(selection.transaction(facts))
        known = self._recent is not None and self._recent.find(key) != memory.NOTHING
        if known or facts.to_tag is not None or self._is_scan(read):
            return None
        seconds = PATIENCE[key[0] % len(PATIENCE)]
        return self._reject(read, arrival, Reject(Reason.OVERLOADED, b"Retry-After: %d" % seconds), None)

    def _is_scan(self, read: Message) -> bool:
        agent = read.value(b"user-agent")
        return agent is not None and self._scanners.matches(agent)

    def _stun(self, payload: bytes, arrival: Arrival, note: Note | None) -> Outcome:
        """A phone's keepalive gets its answer [RFC 5626 8]. Backends have no NAT before them."""
        kind, answer = (stun.Answer.NONE, b"")
        if arrival.side is Side.OUTSIDE:
            kind, answer = stun.answer(payload, arrival.src)
        reason = _STUN.get(kind)
        if reason is None:
            return _dropped(Reason.STUN, note)
        if note:
            note("P3", f"STUN binding request, answered with {kind.value}")
        return Outcome(reason, answer, arrival.own.socket, arrival.src)

    def _reject(self, read: Message, arrival: Arrival, reject: Reject, note: Note | None) -> Outcome:
        reason = reject.reason
        if reason.action is not Action.REPLY:
            return _dropped(reason, note, reject.detail)
        if read.method == b"ACK":
            return _dropped(Reason.BROKEN_ACK, note, reject.detail)
        top = _usable_via(read)
        if top is None:
            return _dropped(Reason.UNANSWERABLE, note, reject.detail)
        payload, dst = self._reply(read, top, arrival, reject)
        if _gains(payload, read):
            return _dropped(Reason.REPLY_TOO_LARGE, note)
        if note:
            note(reason.rule, f"{reason.status} {reply.PHRASES[reason.status].decode()}: {reject.detail}")
            note("P14", f"answered from {arrival.own.socket} to {dst}")
        return Outcome(reason, payload, arrival.own.socket, dst, self._backend(arrival))

    def _reply(self, read: Message, top: Via, arrival: Arrival, reject: Reject) -> tuple[bytes, Endpoint]:
        """A local reply, the same for every retransmission (P14, P39), and where it goes: back to the asker's
        address, at the port its Via wants [RFC 3261 18.2.2]; never to anybody else's address.
        """
        headers = list(reject.headers)
        if reject.reason.status != 200 and not any(row.startswith(b"Warning:") for row in headers):
            headers.append(self._requests.warning(reject.detail))
        filled, edits = added_headers.fill_via(top, arrival.src, arrival.own.listener.force_rport)
        wanted = filled.destination()
        to_tag = None if _has_to_tag(read) else self._keys.to_tag(_transaction(read))
        status = reject.reason.status
        payload = reply.build(read, status, to_tag=to_tag, via_edits=edits, headers=headers)
        if _gains(payload, read):  # then without the sentence for people
            payload = reply.build(read, status, to_tag=to_tag, via_edits=edits, headers=list(reject.headers))
        return payload, wanted if wanted is not None and wanted.addr == arrival.src.addr else arrival.src

    def _backend(self, arrival: Arrival) -> int:
        return self.identity.backend_from(arrival.src) if arrival.side is Side.INSIDE else -1


def _dropped(reason: Reason, note: Note | None, detail: str = "") -> Outcome:
    if note:
        note(reason.rule, f"dropped: {detail or reason.doc}")
    return Outcome(reason)


def _gains(payload: bytes, read: Message) -> bool:
    """Is this reply so much larger than its request that to ask us in another's name would pay?"""
    return 2 * len(payload) > 3 * len(read.raw) + 2 * GROWTH


def _usable_via(read: Message) -> Via | None:
    try:
        spans = read.values(b"via", enough=1)
    except grammar.QuotingError:
        return None
    if not spans:
        return None
    return via.parse(read.raw, *spans[0]) or via.parse_head(read.raw, *spans[0])


def _has_to_tag(read: Message) -> bool:
    try:
        row = read.rows[b"to"][0]
        to = address.parse(read.raw, row.value, row.value_end)
    except (KeyError, grammar.QuotingError):
        return False
    return to is not None and b"tag" in to.params


def _transaction(read: Message) -> tuple[bytes, ...]:
    """What the To-tag of a reply is made of: Facts.transaction where the message can be read, else what is there."""
    try:
        return fact.read(read).transaction()
    except Reject:
        return tuple(read.value(name) or b"" for name in (b"call-id", b"from", b"cseq"))
