"""Part D of the rules: what we write into a request (P22–P28)."""

from typing import Any

import pytest
from sipcase import (
    EXT,
    INT,
    KEY,
    OTHER,
    PHONE,
    REG1,
    REGISTER,
    Gateway,
    endpoint,
    one_armed,
    request,
    response_to,
    setup,
)  # fmt: skip

from nfqlb.proxy.setup import Listener
from nfqlb.proxy.verdict import Reason

NAT_VIA = "SIP/2.0/UDP 10.9.9.9:5062;branch=z9hG4bK-1"


def listener(**changes: Any) -> Listener:
    return Listener("main", endpoint(EXT), endpoint(INT), **changes)


def next_via(gateway: Gateway, via: str, src: str = OTHER) -> str:
    """The phone's Via as it goes on, below ours."""
    ours, theirs = gateway.from_phone(request(Via=via), src).headers("Via")
    assert ours.startswith("SIP/2.0/UDP 192.168.1.5;branch=z9hG4bKnfq")
    return theirs


@pytest.mark.parametrize(
    ("policy", "via", "after"),
    [
        ("auto", "h 198.51.100.77:40000;branch=a", ";branch=a"),
        ("auto", "h 10.9.9.9;branch=a", ";branch=a;received=198.51.100.77;rport=40000"),
        ("auto", "h phone.local;branch=a", ";branch=a;received=198.51.100.77;rport=40000"),
        ("auto", "h 198.51.100.77:40000;rport;branch=a", ";rport=40000;branch=a;received=198.51.100.77"),
        ("auto", "h 198.51.100.77;branch=a", ";branch=a;received=198.51.100.77;rport=40000"),
        ("never", "h 10.9.9.9;branch=a", ";branch=a;received=198.51.100.77"),
        ("never", "h 10.9.9.9;rport;branch=a", ";rport=40000;branch=a;received=198.51.100.77"),
        ("always", "h 198.51.100.77:40000;branch=a", ";branch=a;received=198.51.100.77;rport=40000"),
    ],
)
def test_P22_received_and_rport(policy: str, via: str, after: str) -> None:
    gateway = Gateway(setup(listeners=(listener(force_rport=policy),)))
    via = via.replace("h ", "SIP/2.0/UDP ")
    assert next_via(gateway, via) == via.partition(";")[0] + after


@pytest.mark.parametrize(
    ("via", "after"),
    [
        ("SIP/2.0/UDP 10.9.9.9;received=9.9.9.9;rport=9;branch=a", ";received=198.51.100.77;rport=40000;branch=a"),
        ("SIP/2.0/UDP 198.51.100.77:40000;received=9.9.9.9;branch=a", ";received=198.51.100.77;branch=a"),
        ("SIP/2.0/UDP 198.51.100.77:40000;branch=a;maddr=9.9.9.9", ";branch=a;maddr=9.9.9.9;received=198.51.100.77"),
    ],
)
def test_P22_what_the_sender_forged_is_overwritten(via: str, after: str) -> None:
    gateway = Gateway()
    assert next_via(gateway, via) == via.partition(";")[0] + after
    sent = gateway.from_phone(request(Via=via), OTHER)
    assert gateway.from_backend(response_to(sent), sent.dst).dst == OTHER


def test_P22_received_is_a_bare_ipv6() -> None:
    six = Listener("six", endpoint("[2001:db8::5]:5060"), endpoint("[2001:db8:1::5]:5060"))
    gateway = Gateway(setup(listeners=(six,)))
    result = gateway.send(
        "[2001:db8:9::7]:5066",
        "[2001:db8::5]:5060",
        request("OPTIONS", "sip:[2001:db8::5]", Via="SIP/2.0/UDP [fd00::1];rport;branch=a"),
    )
    assert result.headers("Via") == ["SIP/2.0/UDP [fd00::1];rport=5066;branch=a;received=2001:db8:9::7"]


def test_P23_sent_by_is_the_socket_that_the_answer_shall_come_to() -> None:
    gateway = Gateway()
    assert gateway.from_phone(request()).headers("Via")[0].startswith("SIP/2.0/UDP 192.168.1.5;")
    assert (
        gateway.from_backend(request("INVITE", "sip:b@198.51.100.9"))
        .headers("Via")[0]
        .startswith("SIP/2.0/UDP 203.0.113.5;")
    )


def test_P23_behind_a_one_to_one_nat_the_advertised_address_stands_there() -> None:
    gateway = Gateway(setup(listeners=(listener(advertise=endpoint("192.0.2.80:5080")),)))
    leaving = gateway.from_backend(request("INVITE", "sip:b@198.51.100.9"))
    assert leaving.src == EXT
    assert leaving.headers("Via")[0].startswith("SIP/2.0/UDP 192.0.2.80:5080;")
    assert leaving.headers("Record-Route")[0] == "<sip:lb@192.0.2.80:5080;lr;r2=on>"
    back = gateway.send("198.51.100.9:5060", EXT, response_to(leaving))
    assert (back.reason, back.dst) == (Reason.RESPONSE_ENTERING, REG1)
    routed = request("BYE", "sip:x@y", "Route: <sip:lb@192.0.2.80:5080;lr;r2=on>", f"Route: <sip:{REG1};lr>")
    assert gateway.from_phone(routed).dst == REG1


def branch_of(gateway: Gateway, message: str, src: str = PHONE) -> str:
    return gateway.from_phone(message, src).headers("Via")[0].partition("branch=")[2]


def test_P24_a_retransmission_its_cancel_and_its_ack_have_one_branch() -> None:
    gateway, twin = Gateway(), Gateway()
    branch = branch_of(gateway, request())
    assert branch.startswith("z9hG4bKnfq")
    assert branch_of(twin, request()) == branch
    assert branch_of(twin, request("CANCEL")) == branch
    assert branch_of(twin, request("ACK", To="<sip:bob@example.org>;tag=t9")) == branch


def test_P24_another_transaction_has_another_branch() -> None:
    gateway = Gateway()
    branch = branch_of(gateway, request())
    others = [
        request(Via="SIP/2.0/UDP 172.31.23.177:5060;branch=z9hG4bK-2"),
        request(Call_ID="call-2@172.31.23.177"),
        request(From="<sip:alice@example.org>;tag=f2"),
        request(CSeq="2 INVITE"),
    ]
    assert branch not in [branch_of(gateway, other) for other in others]
    assert branch_of(gateway, request(), OTHER) != branch
    assert branch_of(Gateway(setup(keys=(b"x" * 32,))), request()) != branch


def test_P24_the_uri_and_route_show_in_the_loop_part_only() -> None:
    gateway = Gateway()
    transaction, _, loop = branch_of(gateway, request()).partition(".")
    other = branch_of(gateway, request("INVITE", "sip:carol@example.org")).partition(".")
    assert (other[0], other[2] != loop) == (transaction, True)


@pytest.mark.parametrize(
    "same",
    ["SIP / 2.0 / UDP 172.31.23.177 ; branch = z9hG4bK-1", "sip/2.0/udp 172.31.23.177:5060;branch=z9hG4bK-1;foo"],
)
def test_P24_the_hash_is_over_parsed_values(same: str) -> None:
    gateway = Gateway()
    transaction = branch_of(gateway, request()).partition(".")[0]
    assert branch_of(gateway, request(Via=same)).partition(".")[0] == transaction


def test_P24_an_rfc2543_request_without_branch_passes() -> None:
    result = Gateway().from_phone(request(Via="SIP/2.0/UDP 172.31.23.177", From="<sip:a@b>", Max_Forwards=None))
    assert result.reason is Reason.REQUEST_ENTERING


def test_P25_the_named_exchange() -> None:
    result = Gateway().from_phone(REGISTER)
    path = result.header("Path")
    assert path.startswith("<sip:lb@192.168.1.5;lr;received=sip:172.31.23.177:5060;sig=")
    assert path.endswith(">")
    assert result.src == INT


def test_P25_ports_and_ipv6_in_the_path() -> None:
    odd = Listener("odd", endpoint(EXT), endpoint("192.168.1.5:5062"))
    path = Gateway(setup(listeners=(odd,))).from_phone(REGISTER, "172.31.23.177:1024").header("Path")
    assert path.startswith("<sip:lb@192.168.1.5:5062;lr;received=sip:172.31.23.177:1024;sig=")
    six = Listener("six", endpoint("[2001:db8::5]:5060"), endpoint("[2001:db8:1::5]:5060"))
    gateway = Gateway(setup(listeners=(six,)))
    from nfqlb.proxy.setup import Backend, Pool, RouteRule

    gateway = Gateway(
        setup(
            listeners=(six,),
            pools=(Pool("all", (Backend("b", endpoint("[2001:db8:1::11]:5060")),)),),
            routes=(RouteRule("all"),),
        )
    )
    path = gateway.send("[2001:db8:9::7]:5066", "[2001:db8::5]:5060", REGISTER).header("Path")
    assert path.startswith("<sip:lb@[2001:db8:1::5];lr;received=sip:[2001:db8:9::7]:5066;sig=")


def test_P25_an_escaped_received_is_understood() -> None:
    gateway = Gateway()
    path = gateway.from_phone(REGISTER).header("Path")
    escaped = path.replace("received=sip:172", "received=sip%3A172")
    assert gateway.from_backend(request("INVITE", "sip:a@b", f"Route: {escaped}")).dst == PHONE


def test_P25_our_path_is_on_top_of_others() -> None:
    message = REGISTER.replace("Supported: path", "Path: <sip:edge.example.net;lr>")
    paths = Gateway().from_phone(message).headers("Path")
    assert [path.startswith("<sip:lb@") for path in paths] == [True, False]


def test_P25_policies() -> None:
    without = REGISTER.replace("Supported: path", "Supported: gruu")
    assert len(Gateway().from_phone(without).headers("Path")) == 1
    assert not Gateway(setup(path_policy="if-supported")).from_phone(without).headers("Path")
    strict = Gateway(setup(path_policy="require"))
    assert strict.from_phone(REGISTER).reason is Reason.REQUEST_ENTERING
    refused = strict.from_phone(without)
    assert refused.lines[0] == "SIP/2.0 421 Extension Required"
    assert refused.header("Require") == "path"


def test_P25_a_backend_that_registers_outside_gets_no_path() -> None:
    result = Gateway().from_backend(request("REGISTER", "sip:198.51.100.9"))
    assert result.reason is Reason.REQUEST_LEAVING
    assert not result.headers("Path")


@pytest.mark.parametrize("method", ["INVITE", "SUBSCRIBE", "NOTIFY", "REFER", "UPDATE", "FROBNICATE"])
def test_P26_methods_with_record_route(method: str) -> None:
    for tag in ("", ";tag=t1"):
        result = Gateway().from_phone(request(method, To=f"<sip:bob@example.org>{tag}"))
        inner, outer = result.headers("Record-Route")
        assert inner.startswith("<sip:lb@192.168.1.5;lr;r2=on;received=sip:172.31.23.177:5060;sig=")
        assert outer == "<sip:lb@203.0.113.5;lr;r2=on>"


@pytest.mark.parametrize(
    "method", ["REGISTER", "ACK", "CANCEL", "BYE", "PRACK", "OPTIONS", "MESSAGE", "INFO", "PUBLISH"]
)
def test_P26_methods_without(method: str) -> None:
    assert not Gateway().from_phone(request(method)).headers("Record-Route")


def test_P26_the_top_one_faces_the_next_hop() -> None:
    result = Gateway().from_backend(request("INVITE", "sip:b@198.51.100.9"))
    outer, inner = result.headers("Record-Route")
    assert outer == "<sip:lb@203.0.113.5;lr;r2=on>"
    assert "received=sip:198.51.100.9:5060" in inner
    assert "nat=yes" not in inner


def test_P26_ours_stand_above_what_is_there() -> None:
    result = Gateway().from_phone(request("INVITE", "sip:b@c", "Record-Route: <sip:edge.example.net;lr>"))
    assert result.headers("Record-Route")[2] == "<sip:edge.example.net;lr>"


@pytest.mark.parametrize(
    ("src", "fields", "nat"),
    [
        (PHONE, {}, False),
        (PHONE, {"Via": NAT_VIA}, True),
        (OTHER, {}, True),
        (PHONE, {"Contact": "<sip:alice@192.168.178.20:5060>"}, True),
        (PHONE, {"Contact": "<sip:alice@100.64.1.1>"}, True),
        (PHONE, {"Contact": "<sip:alice@198.51.100.1>"}, False),
        (PHONE, {"Contact": "<sip:alice@pc.example.org>"}, False),
        (PHONE, {"Contact": '"broken'}, False),
    ],
)
def test_P26_nat_is_marked_when_the_peer_cannot_be_reached_at_its_contact(
    src: str, fields: dict[str, str], nat: bool
) -> None:
    inner = Gateway().from_phone(request(**fields), src).headers("Record-Route")[0]
    assert inner.endswith(";nat=yes>") is nat


def test_P26_towards_a_peer_nat_is_marked_when_the_flow_is_not_the_request_uri() -> None:
    gateway = Gateway()
    path = gateway.from_phone(REGISTER, OTHER).header("Path")
    natted = gateway.from_backend(request("INVITE", "sip:a@10.1.1.9", f"Route: {path}"))
    assert natted.headers("Record-Route")[1].endswith(";nat=yes>")
    plain = gateway.from_backend(request("INVITE", f"sip:a@{OTHER}", f"Route: {path}"))
    assert not plain.headers("Record-Route")[1].endswith(";nat=yes>")


def test_P26_one_value_for_a_one_armed_listener() -> None:
    value = Gateway(one_armed()).from_phone(request()).header("Record-Route")
    assert value.startswith("<sip:lb@203.0.113.5;lr;received=sip:172.31.23.177:5060;sig=")
    assert "transport" not in value


def test_P26_a_one_armed_listener_behind_nat_is_written_in_two_ways() -> None:
    armed = Listener("main", endpoint(EXT), endpoint(EXT), advertise=endpoint("192.0.2.80:5060"))
    gateway = Gateway(one_armed(listeners=(armed,)))
    entering = gateway.from_phone(request())
    inner, outer = entering.headers("Record-Route")
    assert inner.startswith("<sip:lb@203.0.113.5;lr;r2=on;received=")
    assert outer == "<sip:lb@192.0.2.80;lr;r2=on>"
    assert entering.headers("Via")[0].startswith("SIP/2.0/UDP 203.0.113.5;")
    back = gateway.send(entering.dst, EXT, response_to(entering))
    assert (back.reason, back.dst) == (Reason.RESPONSE_LEAVING, PHONE)
    bye = request(
        "BYE", "sip:b@x", f"Route: {outer}", f"Route: {inner}", f"Route: <sip:{REG1};lr>", To="<sip:b@x>;tag=1"
    )
    assert gateway.from_phone(bye).dst == REG1


@pytest.mark.parametrize("method", ["CANCEL", "ACK"])
def test_P27_cancel_and_ack_are_treated_as_anything_else(method: str) -> None:
    gateway = Gateway()
    route = f"Route: <sip:lb@203.0.113.5;lr;r2=on>, <sip:{REG1};lr>"
    result = gateway.from_phone(request(method, "sip:bob@x", route, Via=NAT_VIA))
    assert result.dst == REG1
    assert result.header("Route") == f"<sip:{REG1};lr>"
    assert result.headers("Via")[1] == NAT_VIA + ";received=172.31.23.177;rport=5060"


@pytest.mark.parametrize(
    "uri", ["sip:bob@203.0.113.5", "sip:bob@example.org;maddr=203.0.113.5", "sip:%62ob@x?Subject=y"]
)
def test_P28_the_request_uri_stays(uri: str) -> None:
    result = Gateway().from_phone(request("INVITE", uri, "Route: <sip:203.0.113.5;lr>"))
    assert result.lines[0] == f"INVITE {uri} SIP/2.0"


def test_keys_are_as_long_as_the_configuration_demands() -> None:
    from nfqlb.proxy.keys import MAX_KEY, MIN_KEY

    assert MIN_KEY <= len(KEY) <= MAX_KEY
