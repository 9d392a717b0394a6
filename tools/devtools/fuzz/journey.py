"""What follows a request that we forwarded, played by plain peers: they echo and copy, as RFC 3261 has them do.

However strange the request was: the answer returns, the CANCEL follows, and who uses the Path or Record-Route that we
wrote gets to where it came from.
"""

from devtools.fuzz import naive, oracle
from devtools.fuzz.invariants import broken
from devtools.fuzz.world import Way, payload_of, request, response
from nfqlb.net import datagram
from nfqlb.net.endpoint import Endpoint
from nfqlb.proxy.verdict import Action, Reason, Verdict

LONGEST = 60_000
"""Bytes of what is still sent on: what peers add must fit, too."""


def check(way: Way, payload: bytes, written: bytes, verdict: Verdict) -> None:
    """Raises Violation."""
    before, after = naive.read(payload), naive.read(written)
    if len(written) > LONGEST or oracle.is_nobody(way.src):
        return
    assert verdict.src is not None
    assert verdict.dst is not None
    answer_returns(way, written, verdict.dst, verdict.src)
    if before.start.startswith(b"INVITE "):
        cancel_follows(way, before, written, verdict)
    if verdict.reason is not Reason.REQUEST_ENTERING:
        return
    added = [name for name, row in after.rows if name in (b"path", b"record-route")
             and len(after.named(name)) > len(before.named(name))]  # fmt: skip
    if added:
        values = after.values(added[0])
        own = values[: len(values) - len(before.values(added[0]))]
        invariant = "path-returns" if added[0] == b"path" else "record-route-returns"
        routes_return(way, invariant, own, after.value(b"call-id"), verdict.dst, verdict.src)


def answer_returns(way: Way, written: bytes, peer: Endpoint, own: Endpoint) -> None:
    answer = response(written, b"200 OK")
    verdict = way.world.engine.process(datagram.build(peer, own, answer))
    if verdict.action is not Action.FORWARD or verdict.dst is None:
        broken("response-returns", f"{verdict.reason.name}: {answer!r}")
    if verdict.dst.addr != way.src.addr or verdict.src != way.dst:
        broken("response-returns", f"the request came from {way.src} to {way.dst}, its answer leaves from "
               f"{verdict.src} to {verdict.dst}")  # fmt: skip
    returned, sent = naive.read(payload_of(verdict)), naive.read(answer)
    if returned.values(b"via") != sent.values(b"via")[1:]:
        broken("response-returns", f"Vias {sent.values(b'via')} become {returned.values(b'via')}")
    # A client that was not asked for its port gets the answer at the one that its Via names [RFC 3261 18.2.2].
    if (
        verdict.dst.port != way.src.port
        and naive.parameter(returned.values(b"via")[0], b"rport") is not None
        and way.world.setup.listeners[0].force_rport != "never"
    ):
        broken("response-returns", f"to port {verdict.dst.port}, rport is {way.src.port}")


def cancel_follows(way: Way, before: naive.Naive, written: bytes, verdict: Verdict) -> None:
    rows = [b"Route: " + value for value in before.values(b"route")]
    identity = [row for name in (b"from", b"to", b"call-id") for row in before.named(name)[:1]]
    cseq = before.value(b"cseq").split()[0]
    lines = [
        b"CANCEL " + before.start.partition(b" ")[2], b"Via: " + before.values(b"via")[0], *rows, *identity,
        b"CSeq: %b CANCEL" % cseq, b"Max-Forwards: 70", b"Content-Length: 0", b"", b"",
    ]  # fmt: skip
    cancel = b"\r\n".join(lines)
    other = way.world.engine.process(datagram.build(way.src, way.dst, cancel))
    if (other.action, other.dst) != (verdict.action, verdict.dst):
        broken("cancel-follows", f"{verdict.reason.name} to {verdict.dst}, CANCEL {other.reason.name} to {other.dst}")
    one, two = (naive.read(each).values(b"via")[0] for each in (written, payload_of(other)))
    if one != two:
        broken("cancel-follows", f"{one!r}, its CANCEL {two!r}")


def routes_return(way: Way, invariant: str, values: list[bytes], call: bytes, peer: Endpoint, own: Endpoint) -> None:
    """The backend sends a request back by the values that we wrote; they stand alone or in one row."""
    via = b"SIP/2.0/UDP %b;branch=z9hG4bKback" % peer.hostport
    uri = b"sip:x@" + way.src.hostport
    row = b"Route: " + b", ".join(values)
    verdict = way.world.engine.process(
        datagram.build(peer, own, request(b"MESSAGE", uri, via, row, call=call, to=b"<sip:x@y>;tag=1"))
    )
    if verdict.reason is not Reason.REQUEST_LEAVING or verdict.dst != way.src or verdict.src != way.dst:
        broken(invariant, f"{values} lead to {verdict.reason.name} {verdict.dst}, not to {way.src}")
