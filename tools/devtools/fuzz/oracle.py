"""What a verdict must be like, judged with nothing of the engine's own: dpkt reads the packet, `naive` the message.

Each check raises Violation with the name of what does not hold. The input is judged as naively as the output, so these
hold for whatever bytes came.
"""

import re
from functools import cache
from ipaddress import IPv6Address, ip_address, ip_network
from urllib.parse import unquote_to_bytes

import dpkt

from devtools.fuzz import naive
from devtools.fuzz.invariants import broken
from devtools.fuzz.naive import Naive
from devtools.fuzz.world import NAMED, Way
from nfqlb.net.endpoint import Endpoint
from nfqlb.proxy.verdict import Action, Reason, Verdict
from nfqlb.sip import message
from nfqlb.sip.message import NotSip

OURS_TO_WRITE = frozenset((b"via", b"route", b"max-forwards", b"record-route", b"path"))
IN_REPLIES = frozenset(
    (b"via", b"from", b"to", b"call-id", b"cseq", b"content-length", b"warning", b"unsupported", b"require",
     b"retry-after", b"allow", b"accept", b"supported", b"server")
)  # fmt: skip
NEVER = [
    ip_network(text) for text in ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "::/96",
                                  "::ffff:0:0/96", "fe80::/10", "ff00::/8")
]  # fmt: skip
_BRANCH = re.compile(rb"z9hg4bknfq([0-9a-f]{16})")
_SIG = re.compile(rb"[0-9a-f]{20}")
_ROW = re.compile(rb"[ \t]|[A-Za-z0-9\-.!%*_+`'~]+[ \t]*:")
_HOST = re.compile(rb"[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+|\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)+")


def judge(way: Way, payload: bytes, tos: int, verdict: Verdict) -> None:
    """Everything that is to be said of one verdict on one datagram. Raises Violation."""
    if verdict.action is Action.DROP:
        if verdict.packet:
            broken("known-verdict", "a dropped packet has bytes")
        return
    if verdict.action not in (Action.FORWARD, Action.REPLY):
        broken("known-verdict", f"{verdict.reason.name} for a packet to a socket of ours")
    src, dst, written = sound(verdict.packet, tos)
    if (src, dst) != (verdict.src, verdict.dst):
        broken("sound-packet", f"says {src} to {dst}, the verdict {verdict.src} to {verdict.dst}")
    if src not in way.world.sockets:
        broken("own-source", f"{src} is none of our sockets")
    if any(dst.addr == each.addr for each in way.world.sockets) or is_nobody(dst):
        broken("permitted-destination", f"{dst} is ourselves, or nobody")
    if verdict.reason.name.startswith("STUN"):
        judge_stun(way, payload, verdict, written)
        return
    try:
        again = message.parse(written)
    except NotSip:
        broken("rereads", "what we wrote is no SIP")
    if again.fault is not None:
        broken("rereads", f"what we wrote has a fault: {again.fault.value}")
    if verdict.action is Action.REPLY:
        judge_reply(way, payload, verdict, written)
        return
    before, after = naive.read(payload), naive.read(written)
    if verdict.reason.name.startswith("REQUEST"):
        judge_destination(way, payload, before, verdict)
        judge_request(way, before, after)
    else:
        judge_response(way, payload, before, after, verdict)


def sound(packet: bytes, tos: int) -> tuple[Endpoint, Endpoint, bytes]:
    """Source, destination and payload as dpkt reads them; its checksums must come out right (P37)."""
    four = packet[0] >> 4 == 4
    ip = dpkt.ip.IP(packet) if four else dpkt.ip6.IP6(packet)
    udp = ip.data
    if not isinstance(udp, dpkt.udp.UDP):
        broken("sound-packet", "no UDP")
    start = 20 if four else 40
    length = len(packet) - start
    if udp.ulen != length or (ip.len if four else ip.plen + 40) != len(packet):
        broken("sound-packet", "a length is wrong")
    pseudo = packet[12:20] if four else packet[8:40]
    if not udp.sum or dpkt.in_cksum(pseudo + bytes((0, 17, length >> 8, length & 255)) + packet[start:]):
        broken("sound-packet", "the UDP checksum is wrong")
    if four and (dpkt.in_cksum(packet[:20]) or packet[6] | packet[7] or packet[8] != 64):
        broken("sound-packet", "IPv4 checksum, fragment field or TTL is wrong")
    if tos != (packet[1] if four else (packet[0] & 15) << 4 | packet[1] >> 4):
        broken("sound-packet", "TOS is not kept")
    return Endpoint(ip.src, udp.sport), Endpoint(ip.dst, udp.dport), packet[start + 8 :]


@cache
def is_nobody(endpoint: Endpoint) -> bool:
    address = ip_address(endpoint.addr)
    return not endpoint.port or any(address in network for network in NEVER if network.version == address.version)


# -- replies ----------------------------------------------------------------------------------------------------------


def is_sound(payload: bytes) -> bool:
    """Is the header block made of rows (P5)? Else a reply echoes what could be read."""
    head, blank, _ = payload.lstrip(b"\r\n").partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")[1:]
    bare = head.replace(b"\r\n", b"")
    if not blank or not lines or lines[0][:1] in (b" ", b"\t") or any(each in bare for each in (b"\r", b"\n", b"\0")):
        return False
    return all(_ROW.match(line) for line in lines)


def judge_reply(way: Way, payload: bytes, verdict: Verdict, written: bytes) -> None:
    asked, reply = naive.read(payload), naive.read(written)
    if verdict.dst is None or verdict.dst.addr != way.src.addr:
        broken("reply-to-asker", f"{way.src} asked, {verdict.dst} is told")
    method = asked.start.strip(b" \t").partition(b" ")[0].partition(b"\t")[0]
    if method == b"ACK" or method.upper().startswith(b"SIP/"):
        broken("reply-to-asker", f"{verdict.reason.name} to {method!r}")
    if verdict.src != way.dst:
        broken("own-source", f"asked was {way.dst}, {verdict.src} answers")
    if not reply.start.startswith(b"SIP/2.0 %d " % verdict.reason.status):
        broken("rereads", f"{reply.start!r} for {verdict.reason.name}")
    if 2 * len(written) > 3 * len(payload) + 400:
        broken("reply-size", f"{len(written)} bytes to {len(payload)}")
    strange = {name for name, _ in reply.rows} - IN_REPLIES
    if strange:
        broken("untouched", f"rows {strange} in a reply")
    if is_sound(payload):
        for name in (b"call-id", b"cseq", b"from"):
            if reply.value(name) != asked.value(name):
                broken("untouched", f"{name!r} is not echoed")
        if not reply.value(b"to").startswith(asked.value(b"to")):
            broken("untouched", "To is not echoed")
        check_vias(way, asked.named(b"via"), reply.named(b"via"), forwarded=False)


def judge_stun(way: Way, payload: bytes, verdict: Verdict, written: bytes) -> None:
    """A binding response or error, which tells the asker its own address [RFC 5389 6, 15.2]."""
    if verdict.dst != way.src or verdict.src != way.dst:
        broken("reply-to-asker", f"{way.src} asked, {verdict.dst} is told by {verdict.src}")
    if 2 * len(written) > 3 * len(payload) + 400:
        broken("reply-size", f"{len(written)} bytes to {len(payload)}")
    if written[4:20] != payload[4:20] or int.from_bytes(written[2:4], "big") != len(written) - 20 or len(written) % 4:
        broken("rereads", "no STUN, or of another transaction")
    if written[:2] != (b"\1\1" if verdict.reason.name == "STUN_ANSWERED" else b"\1\x11"):
        broken("rereads", f"a STUN message of type {written[:2].hex()}")
    if written[:2] == b"\1\1":
        four = len(way.src.addr) == 4
        masked = bytes(a ^ b for a, b in zip(way.src.addr, payload[4:20], strict=False))
        port = (way.src.port ^ 0x2112).to_bytes(2, "big")
        if b"\0\x20\0" + (b"\x08\0\1" if four else b"\x14\0\2") + port + masked not in written:
            broken("rereads", "no XOR-MAPPED-ADDRESS of the asker")


def judge_new(way: Way, payload: bytes, verdict: Verdict) -> None:
    """What overload may shed: nothing of a dialog, no response, nothing that a backend sends."""
    if way.src.addr in way.world.backend_addresses and way.world.setup.listeners[0].one_armed:
        broken("sheds-new-only", f"from backend {way.src}")
    if verdict.reason.name.startswith("RESPONSE") or verdict.reason in (
        Reason.REQUEST_LEAVING,
        Reason.REQUEST_HAIRPIN,
        Reason.OWN_ACK,
    ):
        broken("sheds-new-only", verdict.reason.name)
    if verdict.reason is Reason.REQUEST_ENTERING:
        read = naive.read(payload)
        parts = naive.split(naive.value(read.named(b"to")[0]), b";") or []
        # `;tag` without a value names no dialog, for the engine neither.
        if any(part.partition(b"=")[0].strip(naive.BLANK).lower() == b"tag" and b"=" in part for part in parts[1:]):
            broken("sheds-new-only", f"{read.start!r} with a To-tag")
        if read.start.partition(b" ")[0] in (b"ACK", b"BYE", b"CANCEL"):
            broken("sheds-new-only", repr(read.start))


# -- requests ---------------------------------------------------------------------------------------------------------


def judge_request(way: Way, before: Naive, after: Naive) -> None:
    """P1, P10, P16, P17, P22, P28."""
    check_rest(before, after)
    old, new = before.start.split(b" "), after.start.split(b" ")
    routes = before.values(b"route")
    if old[0] != new[0] or old[2:] != new[2:] or (old != new and not routes):
        broken("untouched", f"{before.start!r} becomes {after.start!r}")
    left = after.values(b"route")
    # P17 puts the Request-URI last: the one that came, or the one that P15 has taken from there.
    if left and not is_slice(left, routes) and (left[-1] == b"<%b>" % old[1] or left[-1].strip(b"<>") in routes[-1]):
        left = left[:-1]
    if not is_slice(left, routes):
        broken("untouched", f"Route {routes} becomes {after.values(b'route')}")
    for name in (b"record-route", b"path"):
        kept, found = before.named(name), after.named(name)
        if found[len(found) - len(kept) :] != kept:
            broken("untouched", f"{name!r} of others")
    hops, now = before.value(b"max-forwards"), after.value(b"max-forwards")
    if now != (b"%d" % (int(hops) - 1) if hops else b"70") or len(after.named(b"max-forwards")) != 1:
        broken("untouched", f"Max-Forwards {hops!r} becomes {now!r}")
    vias = after.named(b"via")
    if not vias or not vias[0].startswith(b"Via: SIP/2.0/UDP ") or b"z9hG4bKnfq" not in vias[0]:
        broken("untouched", "no Via of ours on top")
    check_vias(way, before.named(b"via"), vias[1:], forwarded=True)


def check_rest(before: Naive, after: Naive) -> None:
    """Rows that are nobody's to write, and the body, are as they came."""
    if before.body != after.body:
        broken("untouched", "the body")
    kept = [row for row in before.rows if row[0] not in OURS_TO_WRITE]
    found = [row for row in after.rows if row[0] not in OURS_TO_WRITE]
    if kept != found:
        broken("untouched", f"rows {[row for row in kept if row not in found]} become "
               f"{[row for row in found if row not in kept]}")  # fmt: skip


def is_slice(part: list[bytes], whole: list[bytes]) -> bool:
    return not part or any(
        whole[at] == part[0] and whole[at : at + len(part)] == part for at in range(len(whole) - len(part) + 1)
    )


def check_vias(way: Way, before: list[bytes], after: list[bytes], *, forwarded: bool) -> None:
    """The rows of the Vias below ours: in the first value received and rport may have been filled in (P22)."""
    if len(before) != len(after):
        broken("untouched", f"{len(before)} Via rows become {len(after)}")
    seen = False
    for old, new in zip(before, after, strict=True):
        old_values, new_values = naive.split(naive.value(old), b","), naive.split(naive.value(new), b",")
        if seen or old == new:
            seen = seen or bool(old_values)
            if (old if forwarded else naive.value(old)) != (new if forwarded else naive.value(new)):
                broken("untouched", f"Via {old!r} becomes {new!r}")
            continue
        if not old_values:
            if naive.value(old) != naive.value(new):
                broken("untouched", f"Via {old!r} becomes {new!r}")
            continue
        seen = True
        if not new_values or old_values[1:] != new_values[1:]:
            broken("untouched", f"Via {old!r} becomes {new!r}")
        names = (b"received", b"rport")
        if naive.without(old_values[0], *names) != naive.without(new_values[0], *names):
            broken("untouched", f"Via {old!r} becomes {new!r}")
        if not forwarded:
            continue  # an unreadable Via still gets its answer (P8), with ours behind what stands there
        received, rport = (naive.parameter(new_values[0], name) for name in names)
        if received is not None and received != way.src.host.encode():
            broken("untouched", f"received={received!r} for {way.src}")
        if rport and rport != naive.parameter(old_values[0], b"rport") and rport != b"%d" % way.src.port:
            broken("untouched", f"rport={rport!r} for {way.src}")


def judge_destination(way: Way, payload: bytes, before: Naive, verdict: Verdict) -> None:
    """No open relay (P16, P18–P21)."""
    world, dst, reason = way.world, verdict.dst, verdict.reason
    assert dst is not None
    inside = verdict.src in {each.internal for each in world.setup.listeners}
    outside = verdict.src in {each.external for each in world.setup.listeners}
    if not (inside if reason is Reason.REQUEST_ENTERING else outside):
        broken("own-source", f"{reason.name} leaves from {verdict.src}")
    from_inside = way.src.addr in world.backend_addresses and (
        way.dst != world.outside or world.setup.listeners[0].one_armed
    )
    if from_inside is not (reason is Reason.REQUEST_LEAVING):
        broken("permitted-destination", f"{reason.name} for a packet from {way.src} to {way.dst}")
    if reason is Reason.REQUEST_ENTERING:
        if dst not in world.backends:
            broken("permitted-destination", f"{dst} is no backend")
        return
    call = before.value(b"call-id")
    lowered = payload.lower()
    for found in _SIG.findall(unquote_to_bytes(lowered) if b"%" in lowered else lowered):
        signed = world.signed.get(found)
        if signed and (not signed.call_id or signed.call_id == call):
            if signed.flow == dst:
                return
            # A name or another port at an address that a flow of this dialog has (P20).
            if signed.flow.addr == dst.addr and reason is Reason.REQUEST_LEAVING:
                return
    if reason is Reason.REQUEST_HAIRPIN:
        broken("permitted-destination", f"hairpin to {dst} by no signature that we gave to {call!r}")
    named = hosts(before.start + b"\n" + b"\n".join(before.named(b"route")))
    permitted = any(ip_address(dst.addr) in each for each in world.setup.egress if each.version == dst.version)
    if permitted and (dst.addr in named or any(Endpoint.parse(text) == dst for text in NAMED.values())):
        return
    if world.setup.accept_unsigned and dst.addr in named:
        return
    broken("permitted-destination", f"{dst} is no signed flow, nor permitted and asked for")


def hosts(text: bytes) -> set[bytes]:
    """The addresses that any part of it writes, escaped or not."""
    found = set()
    for each in _HOST.findall(text) + _HOST.findall(unquote_to_bytes(text)):
        try:
            found.add(ip_address(each.strip(b"[]").decode()).packed)
        except ValueError:
            continue
    return found | {IPv6Address(addr).packed for addr in found if len(addr) == 16}


# -- responses --------------------------------------------------------------------------------------------------------


def judge_response(way: Way, payload: bytes, before: Naive, after: Naive, verdict: Verdict) -> None:
    """P33 to P36."""
    if before.start != after.start:
        broken("untouched", f"{before.start!r} becomes {after.start!r}")
    check_rest(before, after)
    for name in OURS_TO_WRITE - {b"via"}:
        if before.named(name) != after.named(name):
            broken("untouched", f"{name!r} of a response")
    if before.values(b"via")[1:] != after.values(b"via"):
        broken("untouched", "more or less than the top Via was taken from a response")
    top = before.values(b"via")[0].lower()
    known = way.world.branches.get(found[1]) if (found := _BRANCH.search(top)) else None
    if known is None:
        broken("keyed", f"a response passed with a branch that we never made: {top!r}")
    if verdict.dst not in known:
        broken("keyed", f"a response goes to {verdict.dst}, its request came from {[*map(str, known)]}")
    if len(payload) < len(after.body):
        broken("untouched", "a response grew")
