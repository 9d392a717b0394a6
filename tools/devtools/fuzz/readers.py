"""The readers of SIP as targets: each against a second opinion, or against itself after writing."""

from collections.abc import Hashable, Sequence
from functools import cached_property
from random import Random

from devtools.fuzz import mutate, naive, stored
from devtools.fuzz.invariants import broken
from devtools.fuzz.target import Target
from devtools.fuzz.world import World, build_all
from nfqlb.net import stun
from nfqlb.net.endpoint import Endpoint
from nfqlb.proxy import added_headers, facts
from nfqlb.proxy.facts import Reject
from nfqlb.sip import address, edit, grammar, message, uri, via
from nfqlb.sip.message import Message, NotSip


def all_messages() -> list[bytes]:
    found = [payload for world in build_all() for _, _, payload in world.seeds] + [*stored.messages()]
    return list(dict.fromkeys(found))


def rows_of(*names: bytes) -> list[bytes]:
    """The different values of rows of those names, in all seeds."""
    found: dict[bytes, None] = {}
    for payload in all_messages():
        read = naive.read(payload)
        for name in names:
            found.update((naive.value(row), None) for row in read.named(name))
    return [*found, *(row.partition(b":")[2] for row in mutate.ROWS if b":" in row)]


class MessageTarget(Target):
    name = "message"
    about = "the reader of messages, its facts, and edits of its lists"

    def seeds(self) -> list[bytes]:
        return all_messages()

    def mutate(self, data: bytes, others: Sequence[bytes], chance: Random) -> bytes:
        return mutate.message(data, others, chance)

    def run(self, data: bytes) -> Hashable:
        message.is_keepalive(data)
        stun.is_stun(data)
        message.glance(data)
        try:
            read = message.parse(data)
        except NotSip:
            return NotSip
        check_frame(read)
        try:
            found = facts.read(read)
            told: Hashable = (found.cseq_method, found.to_tag is None)
            facts.max_forwards(read)
        except Reject as reject:
            told = reject.reason
        facts.marked_vias(read)
        if read.fault is None:
            check_rows(read)
            for name in (b"via", b"route", b"record-route"):
                check_removal(read, name)
        return read.fault, read.is_request, told


def check_frame(read: Message) -> None:
    """Everything lies inside the message, rows in order and apart."""
    if not 0 <= read.start <= read.first_header <= read.body <= read.end <= len(read.raw):
        broken("inside", f"{read.start} {read.first_header} {read.body} {read.end} of {len(read.raw)}")
    position = read.first_header
    for row in sorted(row for rows in read.rows.values() for row in rows):
        if not position <= row.start < row.value <= row.value_end < row.end <= len(read.raw):
            broken("inside", f"{row} behind {position}")
        if read.raw[row.value_end : row.end] != b"\r\n":
            broken("inside", f"{row} does not end with CRLF")
        position = row.end


def check_rows(read: Message) -> None:
    expected = naive.read(read.raw)
    found = sorted((row, name) for name, rows in read.rows.items() for row in rows)
    if [(name, read.raw[row.start : row.end - 2]) for row, name in found] != expected.rows:
        broken("like-naive", f"rows {found} of {expected.rows}")
    if read.fault is None and read.raw[read.body : read.end] != expected.body:
        broken("like-naive", "another body")


def check_removal(read: Message, name: bytes) -> None:
    """P16, P34: taken from the front and the back, and all others stay."""
    try:
        spans = read.values(name)
    except grammar.QuotingError:
        return
    values = [read.raw[start:end] for start, end in spans]
    for first, last in ((1, 0), (len(values), 0), (0, 1), (1, 1)):
        if not values or first + last > len(values):
            continue
        edits = edit.remove_values(read, name, first, last)
        again = message.parse(edit.apply(read.raw, edits, 0, len(read.raw)))
        left = [again.raw[start:end] for start, end in again.values(name)]
        if left != values[first : len(values) - last] or again.fault is not read.fault:
            broken("round-trip", f"{values} without {first} and {last}: {left}, {again.fault}")


class ListTarget(Target):
    name = "lists"
    about = "comma lists and name-addr values: Route, Contact, From, To"

    def seeds(self) -> list[bytes]:
        return rows_of(b"route", b"record-route", b"path", b"contact", b"from", b"to", b"via", b"supported")

    def run(self, data: bytes) -> Hashable:
        expected = naive.split(data, b",")
        try:
            spans: list[grammar.Span] | None = grammar.split_list(data, 0, len(data))
        except grammar.QuotingError:
            spans = None
        found = None if spans is None else [data[start:end] for start, end in spans]
        if found != expected:
            broken("like-naive", f"{found}, not {expected}")
        try:
            first = grammar.first_value(data, 0, len(data))
        except grammar.QuotingError:
            first = None
        else:
            if spans is not None and first != (spans[0] if spans else None):
                broken("like-naive", f"first {first} of {spans}")
        kinds = []
        for start, end in spans or [(0, len(data))]:
            try:
                read = address.parse(data, start, end)
            except grammar.QuotingError:
                kinds.append("quoting")
                continue
            if read is not None:
                low, high = read.uri_span
                if not start <= low < high <= end or data[low:high] != read.uri:
                    broken("inside", f"URI {read.uri!r} at {read.uri_span}")
                parsed = uri.parse(read.uri)
                kinds.append(f"{len(read.params)} {parsed is not None}")
        return found is None, tuple(kinds[:3])


class ViaTarget(Target):
    name = "via"
    about = "Via values: read, filled in, read again, and where their answer goes"
    source = Endpoint.parse("198.51.100.77:40000")

    def seeds(self) -> list[bytes]:
        return rows_of(b"via")

    def run(self, data: bytes) -> Hashable:
        read = via.parse(data, 0, len(data))
        head = via.parse_head(data, 0, len(data))
        if read is None:
            return head is None
        if head is None or (head.host, head.port) != (read.host, read.port):
            broken("like-naive", f"{head} is not the head of {read}")
        read.identity()
        kinds: list[Hashable] = []
        for force in ("auto", "always", "never"):
            filled, edits = added_headers.fill_via(read, self.source, force)
            written = edit.apply(data, edits, 0, len(data))
            again = via.parse(written, 0, len(written))
            if again is None or again.identity() != filled.identity():
                broken("round-trip", f"{written!r} is {again}, not {filled}")
            target = again.destination()
            if target is not None and force != "never" and target.addr != self.source.addr:
                broken("permitted-destination", f"the answer to {written!r} goes to {target}")
            kinds += [len(edits), target is None]
        return tuple(kinds)


class UriTarget(Target):
    name = "uri"
    about = "SIP URIs, flows in their parameters, hosts and addresses"

    @cached_property
    def world(self) -> World:
        return build_all()[4]

    def seeds(self) -> list[bytes]:
        values = rows_of(b"route", b"record-route", b"path", b"contact", b"from", b"to")
        found = {value.partition(b"<")[2].partition(b">")[0]: None for value in values if b"<" in value}
        found |= {payload.split(b" ")[1]: None for payload in all_messages() if payload.count(b" ") > 1}
        return [*found, b"sip:a:b@[2001:DB8::0:5]:5061;transport=udp;received=sip%3A192.0.2.1%3A9;lr?Subject=x"]

    def run(self, data: bytes) -> Hashable:
        scheme = uri.scheme(data)
        read = uri.parse(data)
        escaped = uri.escape_param(data)
        if any(each in escaped for each in b';?@<>" \t\r\n\0,'):
            broken("round-trip", f"{escaped!r} still splits something")
        flow = uri.flow_param(data)
        if flow is not None and uri.flow_param(uri.escape_param(added_headers.flow_text(flow))) != flow:
            broken("round-trip", f"flow {flow}")
        if read is None:
            return scheme in (b"sip", b"sips", b"tel"), scheme is None, flow is None
        if scheme not in (b"sip", b"sips"):
            broken("like-naive", f"scheme {scheme!r} of {read}")
        identity = self.world.engine._proxy.identity
        own, target = identity.find_uri(read), identity.target(read)
        identity.named(read)
        if target is not None and Endpoint.parse(str(target)) != target:
            broken("round-trip", f"{target}")
        return scheme, own is None, target is None, read.port is None, flow is None
