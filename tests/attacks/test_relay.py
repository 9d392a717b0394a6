"""An attacker outside wants the gateway to carry his packets to somebody who is no backend of ours (P16–P21).

Each test is one thing that he tries; all of them end with a refusal, or with the request at a backend, whose business
it then is. Who may speak to I, and who only says so, is for tests/gateway/netfilter/test_spoofed_live.py as well.
"""

import pytest
from sipcase import EXT, INT, KEY, OTHER, PHONE, PROXY1, REG1, REG2, Gateway, endpoint, one_armed, request, setup

from nfqlb.proxy.setup import Backend, Listener, Pool, RouteRule
from nfqlb.proxy.verdict import Action, Reason

BACKENDS = {REG1, REG2, PROXY1}
VICTIM = "192.0.2.66:5060"
E_HALF, I_HALF = "<sip:lb@203.0.113.5;lr;r2=on>", "<sip:lb@192.168.1.5;lr;r2=on>"
IN_DIALOG = {"To": "<sip:bob@example.org>;tag=t1"}


@pytest.fixture(scope="module", params=["two-armed", "one-armed"])
def gateway(request: pytest.FixtureRequest) -> Gateway:
    return Gateway(setup() if request.param == "two-armed" else one_armed())


def inner_half(gateway: Gateway) -> str:
    return E_HALF if gateway.setup.listeners[0].one_armed else I_HALF


PRELOADED = {
    "alone": ["<sip:192.0.2.66;lr>"],
    "behind our outer half": [E_HALF, "<sip:192.0.2.66;lr>"],
    "behind our outbound proxy form": ["<sip:203.0.113.5;lr>", "<sip:192.0.2.66;lr>"],
    "strict": [E_HALF, "<sip:192.0.2.66>"],
    "in one row": [f"{E_HALF}, <sip:192.0.2.66;lr>"],
    "behind a display name": ['"<sip:192.168.1.21;lr>" <sip:192.0.2.66;lr>'],
    "by maddr": ["<sip:192.168.1.21;maddr=192.0.2.66;lr>"],
    "by a name": ["<sip:victim.example.com;lr>"],
    "a backend's host, another port": ["<sip:192.168.1.21:6060;lr>"],
    "a backend as user": ["<sip:192.168.1.21@192.0.2.66;lr>"],
    "ourselves with another user": ["<sip:mallory@203.0.113.5;lr>"],
    "ourselves on another port": ["<sip:lb@203.0.113.5:6060;lr>"],
    "loopback": ["<sip:127.0.0.1;lr>"],
    "multicast": ["<sip:224.0.1.75;lr>"],
    "the other IP version": ["<sip:[::ffff:192.0.2.66];lr>"],
}


@pytest.mark.parametrize("method", ["INVITE", "MESSAGE", "OPTIONS", "BYE", "REGISTER", "CANCEL"])
@pytest.mark.parametrize("tried", PRELOADED)
def test_a_preloaded_route_to_a_third_party(gateway: Gateway, tried: str, method: str) -> None:
    rows = [f"Route: {value}" for value in PRELOADED[tried]]
    for fields in ({}, IN_DIALOG):
        result = gateway.from_phone(request(method, "sip:bob@example.org", *rows, **fields))
        assert (result.reason, result.dst) == (Reason.NOT_A_BACKEND, PHONE)
        assert result.lines[0] == "SIP/2.0 403 Forbidden"


@pytest.mark.parametrize("tried", PRELOADED)
def test_an_ack_with_a_preloaded_route_is_neither_relayed_nor_answered(gateway: Gateway, tried: str) -> None:
    rows = [f"Route: {value}" for value in PRELOADED[tried]]
    assert gateway.from_phone(request("ACK", "sip:bob@example.org", *rows)).reason is Reason.BROKEN_ACK


@pytest.mark.parametrize(
    "uri",
    [
        "sip:victim@192.0.2.66", "sip:192.0.2.66;lr", "sip:victim@example.com;maddr=192.0.2.66",
        "sip:victim@192.168.1.21;maddr=192.0.2.66", "sip:victim@192.0.2.66?Route=%3Csip:192.0.2.66%3E",
        "sip:lb@203.0.113.5;maddr=192.0.2.66;lr", "tel:+4989123",
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["INVITE", "MESSAGE", "BYE", "ACK", "CANCEL", "REGISTER"])
def test_a_request_uri_of_a_third_party(gateway: Gateway, method: str, uri: str) -> None:
    """It is for a backend to say no: we only ever hand it to one, in a dialog or not, with our own Route or without."""
    for rows in ([], [f"Route: {E_HALF}"], [f"Route: {E_HALF}", f"Route: {inner_half(gateway)}"]):
        for fields in ({}, IN_DIALOG):
            result = gateway.from_phone(request(method, uri, *rows, **fields))
            assert result.verdict.action is Action.FORWARD
            assert (result.reason, result.dst in BACKENDS) == (Reason.REQUEST_ENTERING, True)


def test_our_own_record_route_in_the_request_uri_and_a_third_party_as_last_route(gateway: Gateway) -> None:
    """As a strict router upstream would send it (P15)."""
    rows = ["Route: <sip:192.0.2.66;lr>", "Route: <sip:victim@192.0.2.66>"]
    result = gateway.from_phone(request("BYE", "sip:lb@203.0.113.5;lr;r2=on", *rows, **IN_DIALOG))
    assert result.reason is Reason.NOT_A_BACKEND
    result = gateway.from_phone(request("BYE", "sip:lb@203.0.113.5;lr;r2=on", rows[1], **IN_DIALOG))
    assert result.dst in BACKENDS


@pytest.mark.parametrize("flow", [VICTIM, "224.0.1.75:5060", "127.0.0.1:5060", "192.168.1.11:22"])
def test_an_unsigned_way_out_of_his_own_making(gateway: Gateway, flow: str) -> None:
    """Path or Record-Route in our form, first or behind a way in; also where backends' unsigned Paths are honoured."""
    trusting = Gateway(setup(accept_unsigned=True))
    inner = EXT if gateway.setup.listeners[0].one_armed else INT
    for at, host in ((gateway, inner), (trusting, INT)):
        host = host.removesuffix(":5060")
        for more in ("", ";r2=on", ";r2=on;nat=yes", ";sig=", ";sig=00000000000000000000;nat=yes;r2=on"):
            made = f"<sip:lb@{host};lr;received=sip:{flow}{more}>"
            for before in ([], [E_HALF], [E_HALF, inner_half(at)], [made]):
                rows = [f"Route: {value}" for value in (*before, made)]
                for fields in ({}, IN_DIALOG):
                    result = at.from_phone(request("MESSAGE", f"sip:victim@{flow}", *rows, **fields))
                    assert result.dst in {*BACKENDS, PHONE}, (rows, result.trace)
                    assert result.reason in (Reason.REQUEST_ENTERING, Reason.BAD_FLOW)


def test_more_routes_hidden_in_a_telephone_number(gateway: Gateway) -> None:
    """The next hop is a strict router's, so the Request-URI becomes the last Route (P17)."""
    hidden = request("MESSAGE", "tel:1>,<sip:192.0.2.66;lr", f"Route: <sip:{PROXY1}>")
    assert gateway.from_phone(hidden).reason is Reason.BAD_URI
    plain = gateway.from_phone(request("MESSAGE", "tel:+4989123", f"Route: <sip:{PROXY1}>"))
    assert (plain.dst, plain.headers("Route")) == (PROXY1, ["<tel:+4989123>"])


def test_speaking_to_the_internal_socket() -> None:
    gateway = Gateway()
    for source in (PHONE, OTHER, VICTIM, "192.168.1.99:5060"):
        for payload in (
            request("INVITE", "sip:victim@192.0.2.66"),
            request("OPTIONS", "sip:192.168.1.5"),
            request("INVITE", "sip:x", Max_Forwards="0"),
            "SIP/2.0 200 OK\n\n",
            b"\x00\x01\x00\x00\x21\x12\xa4\x42" + bytes(12),
            b"\r\n\r\n",
            b"\xff" * 100,
        ):
            result = gateway.send(source, INT, payload)
            assert (result.reason, result.verdict.packet) == (Reason.NOT_FROM_BACKEND, b"")


def test_a_source_that_is_one_of_our_own_sockets(gateway: Gateway) -> None:
    """So that our answer would go to ourselves, round and round."""
    for source in {EXT, INT if not gateway.setup.listeners[0].one_armed else EXT}:
        result = gateway.send(source, EXT, request("OPTIONS", "sip:203.0.113.5"))
        assert result.reason in (Reason.BAD_SOURCE, Reason.NOT_OURS)


def test_a_via_that_sends_our_answers_to_a_third_party(gateway: Gateway) -> None:
    """received, rport, maddr and sent-by of his own writing: neither a reply of ours nor a backend's goes there."""
    for written in (
        "192.0.2.66:5060;branch=z9hG4bK-1",
        "192.0.2.66:5060;rport;branch=z9hG4bK-1",
        "10.1.1.1;received=192.0.2.66;rport=5060;branch=z9hG4bK-1",
        "172.31.23.177;received=192.0.2.66;branch=z9hG4bK-1",
        "172.31.23.177;maddr=192.0.2.66;branch=z9hG4bK-1",
        "172.31.23.177;maddr=224.0.1.75;ttl=255;rport=9;branch=z9hG4bK-1",
        "victim.example.com;branch=z9hG4bK-1",
    ):
        via = f"SIP/2.0/UDP {written}"
        refused = gateway.from_phone(request("MESSAGE", "sip:x", Via=via, Max_Forwards="0"))
        assert refused.dst.rpartition(":")[0] == PHONE.rpartition(":")[0]
        sent = gateway.from_phone(request("MESSAGE", "sip:bob@example.org", Via=via))
        head = sent.text.partition("\r\n")[2]
        back = gateway.send(sent.dst, sent.src, f"SIP/2.0 200 OK\r\n{head}".encode())
        assert back.dst.rpartition(":")[0] == PHONE.rpartition(":")[0]


def two_gateways() -> tuple[Gateway, Gateway]:
    """Each has the other's external socket as its only backend: a mistake, or two operators who route to each other."""

    def one(name: str, external: str, internal: str, other: str) -> Gateway:
        return Gateway(
            setup(
                name=name,
                keys=(KEY if name == "left" else KEY[::-1],),
                listeners=(Listener("main", endpoint(external), endpoint(internal)),),
                pools=(Pool("all", (Backend("other", endpoint(other)),)),),
                routes=(RouteRule("all"),),
            )
        )

    left, right = ("203.0.113.5:5060", "192.168.1.5:5060"), ("203.0.113.6:5060", "192.168.1.6:5060")
    return one("left", *left, right[0]), one("right", *right, left[0])


@pytest.mark.parametrize("method", ["INVITE", "REGISTER", "OPTIONS", "SUBSCRIBE"])
def test_two_gateways_that_send_to_each_other(method: str) -> None:
    """The first that sees its own Via again, for the same way, ends it (P12): no packet goes round a second time."""
    left, right = two_gateways()
    result = left.from_phone(request(method, "sip:bob@example.org"))
    passed = 1
    for at in (right, left, right):
        if result.reason is not Reason.REQUEST_ENTERING:
            break
        result = at.send(result.src, result.dst, result.payload)
        passed += 1
    assert result.reason is Reason.LOOP
    assert passed == 3


def test_two_gateways_of_one_secret_that_send_to_each_other_tell_their_vias_apart() -> None:
    left, right = two_gateways()
    right = Gateway(setup(**{name: getattr(right.setup, name) for name in ("listeners", "pools", "routes")}))
    left = Gateway(setup(**{name: getattr(left.setup, name) for name in ("listeners", "pools", "routes")}))
    first = left.from_phone(request("MESSAGE", "sip:bob@example.org"))
    second = right.send(first.src, first.dst, first.payload)
    assert second.reason is Reason.REQUEST_ENTERING
    assert left.send(second.src, second.dst, second.payload).reason is Reason.LOOP


def test_a_loop_whose_request_uri_changes_each_time_ends_by_max_forwards() -> None:
    """Somebody in the circle helps: no loop is seen (it is a spiral), but it has no more passes than hops."""
    left, right = two_gateways()
    result = left.from_phone(request("MESSAGE", "sip:bob@example.org", Max_Forwards="20"))
    for passed in range(100):
        if result.reason is not Reason.REQUEST_ENTERING:
            break
        changed = result.payload.replace(result.payload.split(b" ")[1], b"sip:n%d@example.org" % passed, 1)
        result = (right if passed % 2 == 0 else left).send(result.src, result.dst, changed)
    assert result.reason is Reason.TOO_MANY_HOPS
    assert passed == 20
