"""A request: the checks of section B in their order, the way it goes, the backend, and what is written (P8–P32)."""

from copy import copy
from typing import NamedTuple

from nfqlb.balance.recent import Recent
from nfqlb.balance.tables import Tables
from nfqlb.net.endpoint import Endpoint
from nfqlb.net.networks import NetworkSet
from nfqlb.proxy import added_headers, route
from nfqlb.proxy import facts as fact
from nfqlb.proxy.choice import Choice, Note
from nfqlb.proxy.facts import Facts, Reject
from nfqlb.proxy.identity import Identity, Own
from nfqlb.proxy.keys import Keyring
from nfqlb.proxy.names import Missing, Names
from nfqlb.proxy.route import Passage, Way
from nfqlb.proxy.setup import Listener, Setup
from nfqlb.proxy.verdict import Reason, Side
from nfqlb.sip import address, edit, grammar, uri
from nfqlb.sip.edit import Edit
from nfqlb.sip.message import Message

SCHEMES = frozenset((b"sip", b"sips", b"tel"))
MAX_FORWARDS = 70
"""[RFC 3261 16.6(3)]."""


class Outcome(NamedTuple):
    """What becomes of a message: its new bytes, from which of our sockets, to whom."""

    reason: Reason
    payload: bytes = b""
    out: Endpoint | None = None
    dst: Endpoint | None = None
    backend: int = -1


class Arrival(NamedTuple):
    """How a message came."""

    own: Own
    side: Side
    src: Endpoint


class RequestRules:
    """Everything that is decided about requests; made once from a Setup."""

    def __init__(self, setup: Setup, identity: Identity, keys: Keyring, tables: Tables, recent: Recent | None) -> None:
        self._identity = identity
        self._keys = keys
        self.choice = Choice(setup, identity, tables, recent)
        self._egress = NetworkSet(setup.egress)
        self._name = setup.name.encode()
        self._path_policy = setup.path_policy
        self._accept_unsigned = setup.accept_unsigned
        self._names: Names | None = None

    def sibling(self, recent: Recent | None, names: Names | None) -> "RequestRules":
        other = copy(self)
        other.choice = self.choice.sibling(recent)
        other._names = names
        return other

    def forward(self, message: Message, arrival: Arrival, note: Note | None) -> Outcome:
        """The request as it goes on. Raises Reject."""
        if message.fault is not None:
            raise Reject(fact.FAULTS[message.fault])
        facts = fact.read(message)
        hops = self._check(message, facts)
        keys, identity = self._keys, self._identity
        if message.method == b"ACK" and keys.is_to_tag(facts.to_tag, facts.transaction()):
            raise Reject(Reason.OWN_ACK)
        passage = route.read(message, identity, arrival.side)
        loop = (arrival.side.value.encode(), message.uri, *passage.routes)
        self._check_loop(message, loop)
        if message.method == b"OPTIONS":
            self._check_ping(message)
        if note:
            _note_route(note, passage)

        flow, spare = self._flow(passage, facts, note)
        listener = arrival.own.listener if passage.exit is None else passage.exit.own.listener
        if passage.way is Way.ENTERING:
            dst, backend = self._enter(message, facts, passage, arrival, note)
            reason, out, face = Reason.REQUEST_ENTERING, listener.internal, listener.internal
        else:
            dst = flow or self._leave(passage, spare, arrival.src.version, note)
            backend = identity.backend_from(arrival.src)
            out, face = listener.external, listener.visible
            reason = Reason.REQUEST_LEAVING if passage.way is Way.LEAVING else Reason.REQUEST_HAIRPIN
        if not dst.version == out.version == arrival.src.version:
            # The kernel's IPv4 hook cannot let an IPv6 packet go, nor the other way round.
            raise Reject(Reason.NO_EGRESS, self.warning(f"{dst} is of another IP version than this request"))

        edits, new_uri = _route_edits(message, passage)
        if note and new_uri is not None:
            note("P17" if not passage.strict_in else "P15", f"Request-URI becomes {new_uri.decode('latin-1')}")
        below, via_edits = added_headers.fill_via(facts.via, arrival.src, arrival.own.listener.force_rport)
        edits += via_edits
        if note and via_edits:
            note("P22", f"top Via gets its true source {arrival.src}")
        branch = keys.branch(
            (below.identity(), *facts.transaction(), added_headers.socket_text(arrival.own.socket)), keys.loop(loop)
        )
        rows = [added_headers.via_row(face, branch)]
        if note:
            note("P23", f"our Via above, sent-by {face}")
            note("P24", f"branch {branch.decode()}")
        rows += self._own_rows(message, facts, passage, arrival, listener, dst, note)
        if hops is None:
            rows.append(b"Max-Forwards: %d\r\n" % MAX_FORWARDS)
        else:
            row = message.rows[b"max-forwards"][0]
            start, end = grammar.trim(message.raw, row.value, row.value_end)
            edits.append((start, end, b"%d" % (hops - 1)))
        if note:
            note(
                "P10",
                f"Max-Forwards {MAX_FORWARDS} added" if hops is None else f"Max-Forwards {hops} becomes {hops - 1}",
            )
            if message.end < len(message.raw):
                note("P4", f"{len(message.raw) - message.end} bytes beyond Content-Length are cut off")
        edits.insert(0, (message.first_header, message.first_header, b"".join(rows)))
        if new_uri is not None:
            edits.append((*message.uri_span, new_uri))
        payload = edit.apply(message.raw, edits, message.start, message.end)
        return Outcome(reason, payload, out, dst, backend)

    # -- checks, section B ------------------------------------------------------------------------------------------

    def _check(self, message: Message, facts: Facts) -> int | None:
        """P8 to P11, in order; returns Max-Forwards, None when absent. Raises Reject."""
        if facts.cseq_method != message.method:
            raise Reject(Reason.METHOD_MISMATCH)
        scheme = uri.scheme(message.uri)
        if scheme is None:
            raise Reject(Reason.BAD_URI)
        if scheme not in SCHEMES:
            raise Reject(Reason.BAD_SCHEME)
        if scheme != b"tel" and uri.parse(message.uri) is None:
            raise Reject(Reason.BAD_URI)
        if scheme == b"tel" and any(byte in message.uri for byte in b'<>"'):
            # P17 would write it between brackets, and there would stand more Routes than one.
            raise Reject(Reason.BAD_URI)
        hops = fact.max_forwards(message)
        if hops == 0:
            raise Reject(Reason.HOPS_PING if message.method == b"OPTIONS" else Reason.TOO_MANY_HOPS)
        # Proxy-Require means nothing in a CANCEL or ACK, which cannot be refused for it [RFC 3261 8.2.2.3].
        if b"proxy-require" in message.rows and message.method not in (b"CANCEL", b"ACK"):
            try:
                wanted = message.values(b"proxy-require")
            except grammar.QuotingError:
                raise Reject(Reason.BAD_QUOTING) from None
            if wanted:
                tags = b", ".join(message.raw[start:end] for start, end in wanted)
                raise Reject(Reason.BAD_EXTENSION, b"Unsupported: " + tags)
        return hops

    def _check_loop(self, message: Message, loop: tuple[bytes, ...]) -> None:
        """P12."""
        for below in fact.marked_vias(message):
            if self._identity.find_host(below.host, below.port) and self._keys.is_loop(below.branch or b"", loop):
                raise Reject(Reason.LOOP)

    def _check_ping(self, message: Message) -> None:
        """P13."""
        parsed = uri.parse(message.uri)
        if parsed is not None and parsed.user is None and self._identity.find_uri(parsed) is not None:
            raise Reject(Reason.PING)

    # -- where to ---------------------------------------------------------------------------------------------------

    def _flow(self, passage: Passage, facts: Facts, note: Note | None) -> tuple[Endpoint | None, Endpoint | None]:
        """(The signed flow that decides the destination, the one that is at hand if nothing else does), None where
        there is none (P18). Raises Reject.
        """
        exit_by = passage.exit
        if exit_by is None or exit_by.flow is None:
            return None, None
        flow = uri.flow_param(exit_by.flow)
        sig = exit_by.uri.params.get(b"sig")
        internal = added_headers.socket_text(exit_by.own.listener.internal)
        text = b"" if flow is None else added_headers.flow_text(flow)
        in_dialog = flow is not None and self._keys.is_route(sig, text, internal, facts.call_id)
        if passage.way is Way.HAIRPIN:
            # A new call does not go past the backends, though its caller knows an old dialog's values.
            good = in_dialog and facts.to_tag is not None
        elif in_dialog or exit_by.paired:
            if exit_by.uri.params.get(b"nat") != b"yes":
                return None, flow if in_dialog else None
            good = in_dialog
        else:
            good = flow is not None and (
                self._keys.is_path(sig, text, internal) or (sig is None and self._accept_unsigned)
            )
        if not good or flow is None:
            raise Reject(Reason.BAD_FLOW, detail="received is not signed by us, or not for this dialog")
        if not self._identity.may_be_peer(flow):
            raise Reject(Reason.BAD_FLOW, detail=f"received names {flow}, which is no peer's address")
        if note:
            note("P18", f"destination is the signed received {flow}")
        return flow, None

    def _enter(
        self, message: Message, facts: Facts, passage: Passage, arrival: Arrival, note: Note | None
    ) -> tuple[Endpoint, int]:
        """The backend that a request from outside goes to. Raises Reject."""
        if passage.next is None:
            request_uri = uri.parse(passage.uri)
            return self.choice.choose(message, facts, request_uri, arrival.own.listener, arrival.src, note)
        identity = self._identity
        target = identity.target(passage.next.uri)
        index = -1 if target is None else identity.backend_at(target)
        if target is None or index < 0:
            raise Reject(Reason.NOT_A_BACKEND)
        if note:
            note("P19", f"next Route is backend {identity.backends[index].name}")
        return target, index

    def _leave(self, passage: Passage, spare: Endpoint | None, version: int, note: Note | None) -> Endpoint:
        """The destination of a request from a backend that no flow decides (P20). Raises Reject. `version` of IP.

        A peer with a name in its Contact is reached by the dialog's signed flow: better than to lose its calls.
        """
        parsed = passage.next.uri if passage.next is not None else uri.parse(passage.uri)
        if parsed is None:
            raise Reject(Reason.NO_EGRESS, self.warning("the Request-URI names no host"))
        target = self._identity.target(parsed)
        if target is None and spare is not None and self._identity.may_be_peer(spare):
            if note:
                note("P18", f"{parsed.host.decode('ascii')} is a name; the dialog's signed received is {spare}")
            return spare
        if target is None:
            target = self._look_up(parsed, version, note)
        # A peer at the very address that the dialog's signed flow names has been let in already.
        permitted = target.addr in self._egress or (spare is not None and spare.addr == target.addr)
        if not permitted or not self._identity.may_be_peer(target):
            raise Reject(Reason.NO_EGRESS, self.warning(f"{target.host} is not in the permitted egress networks"))
        if note:
            note("P20", f"no received: to {target} of the {'next Route' if passage.next else 'Request-URI'}")
        return target

    def _look_up(self, parsed: uri.Uri, version: int, note: Note | None) -> Endpoint:
        """The address of a name (P20). Raises Reject."""
        host = self._identity.named(parsed)
        text = host.replace(b"\\", b"?").decode("latin-1")  # a Warning holds none
        if self._names is None:
            raise Reject(Reason.NO_EGRESS, self.warning(f"{text} is a name, not an address"))
        found = self._names.find(host, parsed.port, version)
        if found is Missing.YET:
            raise Reject(Reason.NAME_PENDING, detail=f"{text} is being looked up")
        if not isinstance(found, Endpoint):
            raise Reject(Reason.NO_EGRESS, self.warning(f"{text} has no IPv{version} address"))
        if note:
            note("P20", f"{text} is {found}")
        return found

    # -- what is written --------------------------------------------------------------------------------------------

    def _own_rows(
        self,
        message: Message,
        facts: Facts,
        passage: Passage,
        arrival: Arrival,
        listener: Listener,
        dst: Endpoint,
        note: Note | None,
    ) -> list[bytes]:
        """Path or Record-Route (P25, P26). Raises Reject (PATH_REQUIRED)."""
        method, entering = message.method, passage.way is Way.ENTERING
        if method == b"REGISTER" and entering:
            if b"path" in message.rows:
                self._check_paths(message)
            if not self._wants_path(message):
                return []
            row = added_headers.path_row(self._name, listener, arrival.src, self._keys)
            if note:
                note("P25", row.decode("latin-1").strip())
            return [row]
        if method in added_headers.RECORD_ROUTED_NEVER or passage.way is Way.HAIRPIN:
            return []
        if entering:
            peer, nat = arrival.src, added_headers.is_behind_nat(message, facts.via, arrival.src)
        else:
            parsed = uri.parse(passage.uri)
            peer, nat = dst, parsed is None or self._identity.target(parsed) != dst
        if note:
            note("P26", f"Record-Route with flow {peer}" + (", nat=yes" if nat else ""))
        return [
            added_headers.record_route_rows(
                self._name, listener, peer, facts.call_id, self._keys, nat=nat, entering=entering
            )
        ]

    def _check_paths(self, message: Message) -> None:
        """A phone that brings a Path in our form must have it from us: registrars keep it, and send calls along it
        (P18). Raises Reject.
        """
        try:
            found = [address.parse(message.raw, *span) for span in message.values(b"path")]
        except grammar.QuotingError:
            raise Reject(Reason.BAD_QUOTING) from None
        for value in found:
            parsed = None if value is None else uri.parse(value.uri)
            own = None if parsed is None else self._identity.find_uri(parsed)
            if parsed is None or own is None or b"received" not in parsed.params:
                continue
            flow = uri.flow_param(parsed.params[b"received"])
            internal = added_headers.socket_text(own.listener.internal)
            sig = parsed.params.get(b"sig")
            if flow is None or not self._keys.is_path(sig, added_headers.flow_text(flow), internal):
                raise Reject(Reason.BAD_FLOW, detail="Path in our form that is not signed by us")

    def _wants_path(self, message: Message) -> bool:
        if self._path_policy == "always":
            return True
        try:
            supported = b"path" in fact.options(message, b"supported")
        except grammar.QuotingError:
            raise Reject(Reason.BAD_QUOTING) from None
        if not supported and self._path_policy == "require":
            raise Reject(Reason.PATH_REQUIRED, b"Require: path")
        return supported

    def warning(self, text: str) -> bytes:
        """A Warning row; `text` holds no quote and no backslash [RFC 3261 20.43]."""
        return b'Warning: 399 %b "%b"' % (self._name, text.encode("latin-1", "replace"))


def _note_route(note: Note, passage: Passage) -> None:
    if passage.strict_in:
        note("P15", "the Request-URI was our Record-Route: a strict router upstream")
    if passage.consumed:
        note("P16", f"{passage.consumed} Route value(s) of ours consumed, {passage.way.value}")
    else:
        note("P16", f"no Route value of ours, {passage.way.value}")


def _route_edits(message: Message, passage: Passage) -> tuple[list[Edit], bytes | None]:
    """Edits of the Route rows, and the new Request-URI or None (P15, P16, P17)."""
    new_uri = passage.uri if passage.strict_in else None
    consumed, moved, append = passage.consumed, int(passage.strict_in), b""
    if passage.next is not None and b"lr" not in passage.next.uri.params:
        append = b"Route: <%b>\r\n" % passage.uri
        new_uri = passage.next.text
        consumed += 1
    edits = edit.remove_values(message, b"route", consumed, moved) if consumed or moved else []
    if append:
        end = message.rows[b"route"][-1].end
        edits.append((end, end, append))
    return edits, new_uri
