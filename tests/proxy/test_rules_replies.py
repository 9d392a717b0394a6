"""Replies of our own gain nobody anything: their size, and the 503 for which there is a reason and a time (P14)."""

import pytest
from sipcase import EXT, INT, PHONE, REG1, Gateway, endpoint, request, setup, standing, wire

from nfqlb.balance.recent import SIZE, Recent
from nfqlb.engine import Engine
from nfqlb.net import datagram
from nfqlb.proxy.proxy import GROWTH, PATIENCE
from nfqlb.proxy.scanners import KNOWN
from nfqlb.proxy.setup import State
from nfqlb.proxy.triage import Triage
from nfqlb.proxy.verdict import Action, Reason, Verdict

BARE = b"%b SIP/2.0\r\nv:SIP/2.0/UDP a\r\n\r\n"
VIAS = b"".join(b"\r\nVia: SIP/2.0/UDP 10.0.0.%d;branch=z9hG4bK%d" % (number, number) for number in range(2, 71))
DOWN = standing({("registrars", "reg1"): State.DISABLED, ("registrars", "reg2"): State.DISABLED,
                 ("proxies", "proxy1"): State.DISABLED})  # fmt: skip

REFUSED: dict[str, tuple[Reason, str | bytes]] = {
    "ping": (Reason.PING, request("OPTIONS", "sip:203.0.113.5")),
    "hops-ping": (Reason.HOPS_PING, request("OPTIONS", Max_Forwards="0")),
    "start-line": (Reason.BAD_START_LINE, request().replace("INVITE sip:bob@", "INVITE  sip:bob@")),
    "header-block": (Reason.BAD_HEADER_BLOCK, wire(request("INVITE", "sip:bob@example.org", "Broken"))),
    "length": (Reason.BAD_LENGTH, request(Content_Length="10")),
    "duplicate": (Reason.DUPLICATE_HEADER, request("INVITE", "sip:bob@example.org", "CSeq: 1 INVITE")),
    "quoting": (Reason.BAD_QUOTING, request(From='"alice <sip:alice@example.org>;tag=1')),
    "missing": (Reason.MISSING_HEADER, request(CSeq=None)),
    "header": (Reason.BAD_HEADER, request(CSeq="x INVITE")),
    "method": (Reason.METHOD_MISMATCH, request(CSeq="1 BYE")),
    "hops": (Reason.BAD_MAX_FORWARDS, request(Max_Forwards="256")),
    "uri": (Reason.BAD_URI, request("INVITE", "sip:")),
    "version": (Reason.BAD_VERSION, request().replace(" SIP/2.0", " SIP/3.0", 1)),
    "scheme": (Reason.BAD_SCHEME, request("INVITE", "http://example.org")),
    "too-many-hops": (Reason.TOO_MANY_HOPS, request(Max_Forwards="0")),
    "extension": (Reason.BAD_EXTENSION, request("INVITE", "sip:b@example.org", "Proxy-Require: " + "a," * 5000 + "a")),
    "flow": (Reason.BAD_FLOW, request("INVITE", "sip:b@example.org",
             "Route: <sip:lb@203.0.113.5;lr>, <sip:lb@192.168.1.5;lr;received=sip:1.2.3.4:5;sig=00>")),
    "no-backend": (Reason.NOT_A_BACKEND, request("INVITE", "sip:b@example.org", "Route: <sip:9.9.9.9;lr>")),
    "path": (Reason.PATH_REQUIRED, request("REGISTER")),
    "nowhere": (Reason.NO_BACKEND, request()),
}  # fmt: skip
"""Every reply of ours to the outside, but for loops, and what is too large for a datagram."""

GATEWAY = Gateway(setup(path_policy="require"))
DEAD = Gateway(setup(), standings=DOWN)


@pytest.mark.parametrize("vias", [False, True], ids=["one Via", "70 Vias"])
@pytest.mark.parametrize("name", REFUSED)
def test_P14_no_reply_is_much_larger_than_its_request(name: str, vias: bool) -> None:
    reason, message = REFUSED[name]
    payload = wire(message) if isinstance(message, str) else message
    if vias:
        payload = payload.replace(b"\r\nMax-Forwards", VIAS + b"\r\nMax-Forwards")
    gateway = DEAD if reason is Reason.NO_BACKEND else GATEWAY
    result = gateway.send_only(PHONE, EXT, payload)
    assert result.reason is reason
    assert len(result.payload) <= 1.5 * len(payload) + GROWTH
    assert result.payload.count(b"\r\nVia:") == (70 if vias else 1)


def test_P14_a_sentence_for_people_is_left_out_where_it_would_be_too_much() -> None:
    gateway = Gateway(setup(name="n" * 64))
    bare = BARE.replace(b"\r\n\r\n", b"\r\n" + b"v:a\r\n" * 140 + b"\r\n")
    long, short = (gateway.send_only(PHONE, EXT, bare % uri) for uri in (b"x sip:a" + b"a" * 150, b"x sip:a"))
    assert long.reason is short.reason is Reason.MISSING_HEADER
    assert b"\r\nWarning: " in long.payload
    assert b"\r\nWarning: " not in short.payload
    assert short.payload.startswith(b"SIP/2.0 400 ")


def test_P14_a_reply_that_would_be_too_large_all_the_same_is_none() -> None:
    message = (BARE % b"x sip:a").replace(b"\r\n\r\n", b"\r\n" + b"v:a\r\n" * 1000 + b"\r\n")
    assert GATEWAY.send_only(PHONE, EXT, message).verdict == Verdict(Reason.REPLY_TOO_LARGE, b"")


# -- the refusal under overload


def packet(message: str, src: str = PHONE, dst: str = EXT) -> bytes:
    return datagram.build(endpoint(src), endpoint(dst), wire(message))


def engine() -> Engine:
    cells = memoryview(bytearray(SIZE)).cast("Q")
    Recent.format(cells)
    return Engine(setup(scanners=KNOWN), recent=Recent(cells))


@pytest.mark.parametrize("method", ["INVITE", "REGISTER", "OPTIONS", "MESSAGE", "SUBSCRIBE"])
def test_P14_a_new_request_is_refused_for_a_while(method: str) -> None:
    verdict = engine().refuse(packet(request(method)))
    assert verdict is not None
    assert (verdict.reason, verdict.reason.action, str(verdict.dst)) == (Reason.OVERLOADED, Action.REPLY, PHONE)
    payload = datagram.parse(verdict.packet).payload
    assert payload.startswith(b"SIP/2.0 503 ")
    seconds = int(payload.partition(b"\r\nRetry-After: ")[2].partition(b"\r\n")[0])
    assert seconds in PATIENCE
    assert engine().refuse(packet(request(method))) == verdict  # the same on every worker


def test_P14_the_ack_of_a_refusal_is_absorbed() -> None:
    one = engine()
    verdict = one.refuse(packet(request()))
    assert verdict is not None
    tag = datagram.parse(verdict.packet).payload.partition(b";tag=")[2]
    to_tag = tag.partition(b"To: ")[2].partition(b";tag=")[2].partition(b"\r\n")[0].decode()
    ack = request("ACK", To=f"<sip:bob@example.org>;tag={to_tag}")
    assert one.process(packet(ack)).reason is Reason.OWN_ACK


def test_not_all_come_again_at_one_time() -> None:
    one = engine()
    verdicts = [one.refuse(packet(request(Call_ID=f"c{number}"))) for number in range(200)]
    seconds = {verdict.packet.partition(b"Retry-After: ")[2].partition(b"\r\n")[0] for verdict in verdicts if verdict}
    assert len(seconds) == len(PATIENCE)


@pytest.mark.parametrize(
    "message",
    [
        request("ACK"),
        request("CANCEL"),
        request("BYE", To="<sip:bob@example.org>;tag=t"),
        request("INVITE", To="<sip:bob@example.org>;tag=t"),
        request(CSeq="1 BYE").replace("Via", "Vio"),
        request(User_Agent="sipvicious"),
        "SIP/2.0 200 OK\n\n",
        "no SIP at all",
    ],
)
def test_what_is_no_new_request_is_not_refused(message: str) -> None:
    assert engine().refuse(packet(message)) is None


def test_P31_a_transaction_that_has_begun_is_not_refused() -> None:
    """A 503 to a retransmission would end a call that is just being set up."""
    one = engine()
    first = packet(request())
    assert one.refuse(first) is not None
    assert one.process(first).reason is Reason.REQUEST_ENTERING
    assert one.refuse(first) is None


def test_backends_and_strangers_are_not_refused() -> None:
    one = engine()
    assert one.refuse(packet(request(), REG1, INT)) is None
    assert one.refuse(packet(request(), PHONE, INT)) is None
    assert one.refuse(packet(request(), PHONE, "203.0.113.9:5060")) is None
    assert one.refuse(packet(request())[:30]) is None


@pytest.mark.parametrize(
    "message", [request(), request("REGISTER"), request("ACK"), request(To="<sip:bob@example.org>;tag=t1")]
)
def test_the_quick_look_and_the_careful_one_agree(message: str) -> None:
    assert Triage(setup()).is_new(packet(message)) is (engine().refuse(packet(message)) is not None)
