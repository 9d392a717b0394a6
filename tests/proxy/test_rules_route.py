"""Part C of the rules: Route, and where a request goes (P15–P21)."""

from collections.abc import Callable

import pytest
from sipcase import (
    EXT,
    INT,
    OTHER,
    PHONE,
    PROXY1,
    REG1,
    REG2,
    Gateway,
    Result,
    endpoint,
    one_armed,
    request,
    setup,
    standing,
)

from nfqlb.balance.states import State
from nfqlb.proxy.setup import Backend, Listener, Pool, RouteRule
from nfqlb.proxy.verdict import Reason

E_HALF = "<sip:lb@203.0.113.5;lr;r2=on>"
ALICE, BOB = "172.31.23.177:5060", "198.51.100.77:40000"
"""Two phones as the gateway sees them; Bob is behind NAT, Alice is not."""


def path_of(gateway: Gateway, phone: str) -> str:
    return gateway.from_phone(request("REGISTER", "sip:example.org"), phone).header("Path")


def invite_from_alice(gateway: Gateway) -> Result:
    return gateway.from_phone(request(), ALICE)


def invite_to_bob(gateway: Gateway, *above: str, received: Result | None = None) -> Result:
    """The backend sends the INVITE on to Bob, by his Path; with the Record-Routes it came with, if any."""
    rows = [*above]
    if received is not None:
        rows += [f"Via: {value}" for value in received.headers("Via")]
        rows += [f"Record-Route: {value}" for value in received.headers("Record-Route")]
    return gateway.from_backend(
        request(
            "INVITE", "sip:bob@10.9.9.9:5060", f"Route: {path_of(gateway, BOB)}", *rows,
            Via="SIP/2.0/UDP 192.168.1.11;branch=z9hG4bKb1",
        )
    )  # fmt: skip


def in_dialog(method: str, uri: str, routes: list[str], via: str) -> str:
    rows = [f"Route: {route}" for route in routes]
    return request(method, uri, *rows, Via=via, To="<sip:bob@example.org>;tag=t1", CSeq=f"2 {method}")


VIA_ALICE = "SIP/2.0/UDP 172.31.23.177:5060;branch=z9hG4bK-2"
VIA_BOB = "SIP/2.0/UDP 10.9.9.9:5060;branch=z9hG4bK-3"
VIA_BACKEND = "SIP/2.0/UDP 192.168.1.21;branch=z9hG4bKb2"


# -- P15, P17: strict routers ----------------------------------------------------------------------------------------


def test_P15_strict_router_upstream() -> None:
    gateway = Gateway()
    rows = invite_from_alice(gateway).headers("Record-Route")  # I half above E half
    message = in_dialog(
        "BYE", "sip:lb@203.0.113.5;lr;r2=on", [rows[0], "<sip:192.168.1.21;lr>", "<sip:bob@10.9.9.9>"], VIA_ALICE
    )
    result = gateway.from_phone(message)
    assert result.lines[0] == "BYE sip:bob@10.9.9.9 SIP/2.0"
    assert result.headers("Route") == ["<sip:192.168.1.21;lr>"]
    assert result.dst == PROXY1


def test_P15_strict_router_from_inside_the_flow_was_in_the_request_uri() -> None:
    gateway = Gateway()
    rows = gateway.from_phone(request(Via="SIP/2.0/UDP 10.9.9.9;branch=z9hG4bK-1"), BOB).headers("Record-Route")
    message = in_dialog("BYE", rows[0].strip("<>"), [rows[1], "<sip:bob@10.9.9.9>"], VIA_BACKEND)
    result = gateway.from_backend(message, PROXY1)
    assert result.reason is Reason.REQUEST_LEAVING
    assert result.lines[0] == "BYE sip:bob@10.9.9.9 SIP/2.0"
    assert result.headers("Route") == []
    assert result.dst == BOB


def test_P15_moves_the_last_value_out_of_a_list() -> None:
    message = in_dialog(
        "BYE", "sip:lb@203.0.113.5;lr", ["<sip:192.168.1.21;lr>, <sip:bob@10.9.9.9;x=y>;p=1"], VIA_ALICE
    )
    result = Gateway().from_phone(message)
    assert result.lines[0] == "BYE sip:bob@10.9.9.9;x=y SIP/2.0"
    assert result.headers("Route") == ["<sip:192.168.1.21;lr>"]


@pytest.mark.parametrize("uri", ["sip:203.0.113.5;lr", "sip:lb@203.0.113.5", "sip:bob@203.0.113.5;lr"])
def test_P15_only_in_the_form_that_we_record_route(uri: str) -> None:
    result = Gateway().from_phone(in_dialog("BYE", uri, ["<sip:192.168.1.21;lr>"], VIA_ALICE))
    assert result.lines[0] == f"BYE {uri} SIP/2.0"
    assert result.headers("Route") == ["<sip:192.168.1.21;lr>"]


def test_P17_strict_router_downstream() -> None:
    routes = [E_HALF, "<sip:192.168.1.21>", "<sip:192.168.1.12;lr>"]
    result = Gateway().from_phone(in_dialog("BYE", "sip:bob@10.9.9.9", routes, VIA_ALICE))
    assert result.lines[0] == "BYE sip:192.168.1.21 SIP/2.0"
    assert result.headers("Route") == ["<sip:192.168.1.12;lr>", "<sip:bob@10.9.9.9>"]
    assert result.dst == PROXY1


@pytest.mark.parametrize("sign", ["\x00", "\x01", "\x1f", "\x7f"])
@pytest.mark.parametrize("route", ["<sip:x{}@192.168.1.21>", "<sip:192.168.1.21;a{}>", "<sip:192.168.1.21?a={}>"])
def test_P17_a_control_character_in_a_route_never_reaches_the_request_line(sign: str, route: str) -> None:
    for own in ([E_HALF], []):
        for lr in ("", ";lr"):
            value = route.format(sign).replace(">", lr + ">")
            result = Gateway().from_phone(in_dialog("BYE", "sip:bob@10.9.9.9", [*own, value], VIA_ALICE))
            assert result.reason in (Reason.BAD_HEADER, Reason.BAD_HEADER_BLOCK)
    strict = in_dialog("BYE", "sip:lb@203.0.113.5;lr;r2=on", [route.format(sign)], VIA_ALICE)
    assert Gateway().from_phone(strict).reason in (Reason.BAD_HEADER, Reason.BAD_HEADER_BLOCK)


# -- P16: own values -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "route",
    [
        "<sip:203.0.113.5;lr>", "<sip:lb@203.0.113.5:5060;lr>", "<sip:sbc.example.org;lr>",
        "<sip:other.example.com;maddr=203.0.113.5;lr>", "<sips:LB@203.0.113.5;lr>".replace("LB", "lb"),
    ],
)  # fmt: skip
def test_P16_own_values_are_known_by_content(route: str) -> None:
    listener = Listener("main", endpoint(EXT), endpoint(INT), aliases=("sbc.example.org",))
    result = Gateway(setup(listeners=(listener,))).from_phone(request("INVITE", "sip:bob@x", f"Route: {route}"))
    assert result.reason is Reason.REQUEST_ENTERING
    assert result.headers("Route") == []


@pytest.mark.parametrize("route", ["<sip:bob@203.0.113.5;lr>", "<sip:203.0.113.5:5070;lr>", "<sip:sbc.example.net;lr>"])
def test_P16_other_values_are_not_ours(route: str) -> None:
    result = Gateway().from_phone(request("INVITE", "sip:bob@x", f"Route: {route}"))
    assert result.reason is Reason.NOT_A_BACKEND


def test_P16_never_a_later_value() -> None:
    routes = [E_HALF, "<sip:192.168.1.21;lr>", E_HALF]
    result = Gateway().from_phone(in_dialog("BYE", "sip:bob@10.9.9.9", routes, VIA_ALICE))
    assert result.headers("Route") == ["<sip:192.168.1.21;lr>", E_HALF]


def test_P16_entering_with_a_record_routing_backend() -> None:
    gateway = Gateway()
    route_set = invite_from_alice(gateway).headers("Record-Route")[::-1]  # the caller reverses
    assert [("r2=on" in value, "received" in value) for value in route_set] == [(True, False), (True, True)]
    result = gateway.from_phone(in_dialog("BYE", "sip:bob@10.9.9.9", [*route_set, "<sip:192.168.1.21;lr>"], VIA_ALICE))
    assert result.reason is Reason.REQUEST_ENTERING
    assert result.headers("Route") == ["<sip:192.168.1.21;lr>"]


def test_P16_a_phone_that_puts_its_outbound_proxy_above_or_in_place_of_the_first_value() -> None:
    gateway = Gateway()
    outer, inner = invite_from_alice(gateway).headers("Record-Route")[::-1]
    for routes in (["<sip:203.0.113.5;lr>", outer, inner], ["<sip:203.0.113.5;lr>", inner], [inner]):
        result = gateway.from_phone(in_dialog("BYE", "sip:b@10.9.9.9", [*routes, "<sip:192.168.1.21;lr>"], VIA_ALICE))
        assert (result.reason, result.dst) == (Reason.REQUEST_ENTERING, PROXY1), routes


@pytest.mark.parametrize("make", [Gateway, lambda: Gateway(one_armed())])
def test_P16_hairpin_between_two_phones_when_no_backend_record_routes(make: type[Gateway]) -> None:
    gateway = make()
    inside = EXT if gateway.setup.listeners[0].one_armed else INT
    caller_leg = gateway.send(ALICE, EXT, request())
    path = gateway.send(BOB, EXT, request("REGISTER", "sip:example.org")).header("Path")
    rows = [f"Record-Route: {value}" for value in caller_leg.headers("Record-Route")]
    callee_leg = gateway.send(
        REG1, inside,
        request("INVITE", "sip:bob@10.9.9.9", f"Route: {path}", *rows, Via="SIP/2.0/UDP 192.168.1.11;branch=z9hG4bKb"),
    )  # fmt: skip
    assert (callee_leg.reason, callee_leg.dst) == (Reason.REQUEST_LEAVING, BOB)
    recorded = callee_leg.headers("Record-Route")
    assert len(recorded) == (2 if inside == EXT else 4)
    from_callee = gateway.send(BOB, EXT, in_dialog("BYE", "sip:alice@172.31.23.177", recorded, VIA_BOB))
    assert (from_callee.reason, from_callee.src, from_callee.dst) == (Reason.REQUEST_HAIRPIN, EXT, ALICE)
    assert from_callee.headers("Route") == []
    assert from_callee.headers("Record-Route") == []
    from_caller = gateway.send(ALICE, EXT, in_dialog("INVITE", "sip:bob@10.9.9.9", recorded[::-1], VIA_ALICE))
    assert (from_caller.reason, from_caller.src, from_caller.dst) == (Reason.REQUEST_HAIRPIN, EXT, BOB)
    assert from_caller.headers("Record-Route") == []


def test_P16_hairpin_across_listeners_leaves_by_the_receivers_listener() -> None:
    ext2, int2 = "203.0.113.6:5060", "192.168.1.6:5060"
    two = setup(
        listeners=(
            Listener("one", endpoint(EXT), endpoint(INT)),
            Listener("two", endpoint(ext2), endpoint(int2)),
        )
    )
    gateway = Gateway(two)
    caller = gateway.send(ALICE, EXT, request())
    path = gateway.send(BOB, ext2, request("REGISTER", "sip:example.org")).header("Path")
    rows = [f"Record-Route: {value}" for value in caller.headers("Record-Route")]
    callee = gateway.send(REG1, int2, request("INVITE", "sip:bob@10.9.9.9", f"Route: {path}", *rows))
    assert (callee.src, callee.dst) == (ext2, BOB)
    bye = gateway.send(BOB, ext2, in_dialog("BYE", "sip:alice@172.31.23.177", callee.headers("Record-Route"), VIA_BOB))
    assert (bye.reason, bye.src, bye.dst) == (Reason.REQUEST_HAIRPIN, EXT, ALICE)
    answer = bye.text.replace("BYE sip:alice@172.31.23.177 SIP/2.0", "SIP/2.0 200 OK", 1)
    back = gateway.send(ALICE, EXT, answer.encode())
    assert (back.reason, back.src, back.dst) == (Reason.RESPONSE_HAIRPIN, ext2, BOB)


# -- P18: flows ------------------------------------------------------------------------------------------------------


def test_P18_a_path_always_decides() -> None:
    result = invite_to_bob(Gateway())
    assert (result.reason, result.src, result.dst) == (Reason.REQUEST_LEAVING, EXT, BOB)
    assert result.headers("Route") == []


def test_P18_a_record_route_decides_when_marked_nat() -> None:
    gateway = Gateway()
    natted = gateway.from_phone(request(Via="SIP/2.0/UDP 10.9.9.9;branch=z9hG4bK-1"), BOB).headers("Record-Route")
    assert "nat=yes" in natted[0]
    result = gateway.from_backend(in_dialog("BYE", "sip:alice@10.9.9.9", natted, VIA_BACKEND), PROXY1)
    assert result.dst == BOB
    plain = invite_from_alice(gateway).headers("Record-Route")
    assert "nat=yes" not in plain[0]
    moved = gateway.from_backend(in_dialog("BYE", "sip:alice@172.31.23.200:5062", plain, VIA_BACKEND), PROXY1)
    assert moved.dst == "172.31.23.200:5062"


def test_P18_where_a_request_enters_received_means_nothing() -> None:
    gateway = Gateway()
    outer, inner = invite_from_alice(gateway).headers("Record-Route")[::-1]
    forged = inner.replace("172.31.23.177", "9.9.9.9")
    routes = [outer, forged, "<sip:192.168.1.21;lr>"]
    assert gateway.from_phone(in_dialog("BYE", "sip:b@10.9.9.9", routes, VIA_ALICE)).dst == PROXY1


def spoil(value: str) -> str:
    """The same value with another signature."""
    head, _, sig = value.partition("sig=")
    return f"{head}sig={'0' if sig[0] != '0' else '1'}{sig[1:]}"


@pytest.mark.parametrize(
    "change",
    [
        spoil,
        lambda path: path.replace("198.51.100.77", "198.51.100.78"),
        lambda path: path.partition(";sig")[0] + ">",
        lambda path: path.replace("sip:198", "http:198"),
    ],
)
def test_P18_a_path_that_we_did_not_sign_gets_403(change: Callable[[str], str]) -> None:
    gateway = Gateway()
    path = change(path_of(gateway, BOB))
    result = gateway.from_backend(request("INVITE", "sip:bob@10.9.9.9", f"Route: {path}"))
    assert result.reason is Reason.BAD_FLOW
    assert result.lines[0] == "SIP/2.0 403 Forbidden"
    assert (result.src, result.dst) == (INT, REG1)


@pytest.mark.parametrize(
    "flow",
    ["224.0.0.1:5060", "0.0.0.0:5060", "127.0.0.1:5060", "203.0.113.5:5060", "192.168.1.5:9", "255.255.255.255:1"],
)
def test_P18_flows_that_nobody_can_have_are_refused_though_unsigned_is_allowed(flow: str) -> None:
    gateway = Gateway(setup(accept_unsigned=True))
    route = f"Route: <sip:lb@192.168.1.5;lr;received=sip:{flow}>"
    assert gateway.from_backend(request("INVITE", "sip:bob@10.9.9.9", route)).reason is Reason.BAD_FLOW


def test_P18_unsigned_paths_for_a_migration() -> None:
    route = "Route: <sip:lb@192.168.1.5;lr;received=sip:198.51.100.77:40000>"
    message = request("INVITE", "sip:bob@10.9.9.9", route)
    assert Gateway().from_backend(message).reason is Reason.BAD_FLOW
    allowed = Gateway(setup(accept_unsigned=True))
    assert allowed.from_backend(message).dst == BOB
    assert allowed.from_phone(message).reason is Reason.BAD_FLOW  # it is for backends only
    wrong = message.replace("40000>", "40000;sig=00>")
    assert allowed.from_backend(wrong).reason is Reason.BAD_FLOW


def test_P18_a_record_route_of_another_dialog_is_refused() -> None:
    gateway = Gateway()
    natted = gateway.from_phone(request(Via="SIP/2.0/UDP 10.9.9.9;branch=z9hG4bK-1"), BOB).headers("Record-Route")
    message = in_dialog("BYE", "sip:alice@10.9.9.9", natted, VIA_BACKEND).replace("call-1@", "call-2@")
    assert gateway.from_backend(message, PROXY1).reason is Reason.BAD_FLOW


def test_P18_on_a_hairpin_only_a_signature_of_this_dialog_counts() -> None:
    gateway = Gateway()
    caller = invite_from_alice(gateway)
    recorded = invite_to_bob(gateway, received=caller).headers("Record-Route")
    good = in_dialog("BYE", "sip:alice@172.31.23.177", recorded, VIA_BOB)
    assert gateway.from_phone(good, BOB).dst == ALICE
    assert gateway.from_phone(good.replace("call-1@", "call-2@"), BOB).reason is Reason.BAD_FLOW
    forged = [*recorded[:2], spoil(recorded[2]), recorded[3]]
    assert gateway.from_phone(in_dialog("BYE", "sip:a@b", forged, VIA_BOB), BOB).reason is Reason.BAD_FLOW


def test_P18_a_stranger_cannot_use_a_path_as_a_route() -> None:
    gateway = Gateway()
    path = path_of(gateway, BOB)
    for routes in ([E_HALF, path], ["<sip:203.0.113.5;lr>", path]):
        rows = [f"Route: {route}" for route in routes]
        result = gateway.from_phone(request("INVITE", "sip:bob@10.9.9.9", *rows), OTHER)
        assert result.reason is Reason.BAD_FLOW
    alone = gateway.from_phone(request("INVITE", "sip:bob@10.9.9.9", f"Route: {path}"), OTHER)
    assert alone.reason is not Reason.REQUEST_HAIRPIN


def test_P18_rotated_keys_still_verify_and_retired_ones_do_not() -> None:
    old, new = b"o" * 32, b"n" * 32
    path = path_of(Gateway(setup(keys=(old,))), BOB)
    message = request("INVITE", "sip:bob@10.9.9.9", f"Route: {path}")
    assert Gateway(setup(keys=(new, old))).from_backend(message).dst == BOB
    assert Gateway(setup(keys=(new,))).from_backend(message).reason is Reason.BAD_FLOW


# -- P19: entering ---------------------------------------------------------------------------------------------------


def test_P19_next_route_is_a_backend_also_when_it_is_thought_down() -> None:
    message = in_dialog("BYE", "sip:bob@10.9.9.9", [E_HALF, f"<sip:{REG2};lr>"], VIA_ALICE)
    down = Gateway(
        setup(), standings=standing(dict.fromkeys((("registrars", "reg1"), ("registrars", "reg2")), State.DOWN))
    )
    assert down.send_only(PHONE, EXT, message).dst == REG2


@pytest.mark.parametrize("route", ["<sip:9.9.9.9;lr>", "<sip:evil.example.com;lr>", "<sip:192.168.1.11:5099;lr>"])
def test_P19_no_open_relay(route: str) -> None:
    result = Gateway().from_phone(request("INVITE", "sip:bob@example.org", f"Route: {route}"))
    assert result.reason is Reason.NOT_A_BACKEND
    assert result.lines[0] == "SIP/2.0 403 Forbidden"


def test_P19_in_a_dialog_without_route_the_request_uri_may_be_a_backend() -> None:
    gateway = Gateway()
    assert gateway.from_phone(in_dialog("BYE", f"sip:x@{REG2}", [], VIA_ALICE)).dst == REG2
    # a new request to the same URI is selected by rule
    assert gateway.from_phone(request("INVITE", f"sip:x@{REG2}")).dst == PROXY1


def test_P19_a_broken_phone_without_route_in_a_dialog_gets_a_backend() -> None:
    assert Gateway().from_phone(in_dialog("BYE", "sip:x@10.1.1.1", [], VIA_ALICE)).dst == PROXY1


# -- P20, P21 --------------------------------------------------------------------------------------------------------


def test_P20_leaving_without_flow_goes_to_the_next_route_else_the_request_uri() -> None:
    gateway = Gateway()
    assert gateway.from_backend(request("INVITE", "sip:b@198.51.100.9:5070")).dst == "198.51.100.9:5070"
    routed = request("INVITE", "sip:b@198.51.100.9", "Route: <sip:198.51.100.20;lr>")
    result = gateway.from_backend(routed)
    assert result.dst == "198.51.100.20:5060"
    assert result.headers("Route") == ["<sip:198.51.100.20;lr>"]


@pytest.mark.parametrize("uri", ["sip:b@carrier.example.com", "tel:+4989123"])
def test_P20_names_get_503_with_a_warning(uri: str) -> None:
    result = Gateway().from_backend(request("INVITE", uri))
    assert result.reason is Reason.NO_EGRESS
    assert result.lines[0] == "SIP/2.0 503 Service Unavailable"
    if uri.startswith("sip"):
        assert "carrier.example.com" in result.header("Warning")


@pytest.mark.parametrize(
    "uri",
    ["sip:b@224.0.0.1", "sip:b@127.0.0.1", "sip:b@0.0.0.0", "sip:b@203.0.113.5:9", "sip:b@8.8.8.8;maddr=239.1.1.1"],
)
def test_P20_addresses_that_are_no_peers_get_503(uri: str) -> None:
    assert Gateway().from_backend(request("INVITE", uri)).reason is Reason.NO_EGRESS


def test_P20_only_permitted_networks() -> None:
    from ipaddress import ip_network

    gateway = Gateway(setup(egress=(ip_network("198.51.100.0/24"),)))
    assert gateway.from_backend(request("INVITE", "sip:b@198.51.100.1")).dst == "198.51.100.1:5060"
    assert gateway.from_backend(request("INVITE", "sip:b@198.51.101.1")).reason is Reason.NO_EGRESS


def test_P21_only_backends_may_speak_to_the_internal_socket() -> None:
    gateway = Gateway()
    for payload in (request(), "SIP/2.0 200 OK\n\n", "\r\n"):
        assert gateway.send(PHONE, INT, payload).reason is Reason.NOT_FROM_BACKEND
    assert gateway.send("192.168.1.11:5099", INT, request("INVITE", "sip:b@198.51.100.1")).reason.name.startswith(
        "REQUEST"
    )


def test_P19_several_pools_and_ip_versions_do_not_mix() -> None:
    six = Backend("six", endpoint("[2001:db8:1::11]:5060"))
    gateway = Gateway(setup(pools=(Pool("all", (six, Backend("four", endpoint(REG1)))),), routes=(RouteRule("all"),)))
    for number in range(20):
        result = gateway.from_phone(request(Call_ID=f"c{number}"))
        assert result.dst == REG1
    routed = in_dialog("BYE", "sip:b@x", [E_HALF, "<sip:[2001:db8:1::11];lr>"], VIA_ALICE)
    assert gateway.from_phone(routed).reason is Reason.NO_EGRESS


# -- found by attacking it -------------------------------------------------------------------------------------------


def test_P18_a_new_call_cannot_take_an_old_dialogs_hairpin() -> None:
    gateway = Gateway()
    recorded = invite_to_bob(gateway, received=invite_from_alice(gateway)).headers("Record-Route")
    routes = [f"Route: {value}" for value in recorded[::-1]]
    assert gateway.from_phone(request("INVITE", "sip:bob@10.9.9.9", *routes), ALICE).reason is Reason.BAD_FLOW


def test_P18_a_peer_with_a_name_in_its_contact_is_reached_by_the_dialogs_flow() -> None:
    gateway = Gateway()
    routes = invite_from_alice(gateway).headers("Record-Route")
    bye = in_dialog("BYE", "sip:trunk@sbc7.carrier.example", routes, VIA_BACKEND)
    assert gateway.from_backend(bye, PROXY1).dst == ALICE
    assert gateway.from_backend(bye.replace("call-1@", "call-2@"), PROXY1).reason is Reason.NO_EGRESS


def dual_stack() -> Gateway:
    return Gateway(
        setup(
            listeners=(
                Listener("four", endpoint(EXT), endpoint(INT)),
                Listener("six", endpoint("[2001:db8::5]:5060"), endpoint("[2001:db8:1::5]:5060")),
            ),
            pools=(Pool("p", (Backend("b4", endpoint(REG1)), Backend("b6", endpoint("[2001:db8:1::11]:5060")))),),
            routes=(RouteRule("p"),),
        )
    )


def test_P20_a_packet_cannot_change_its_ip_version() -> None:
    gateway = dual_stack()
    phone = "[2001:db8:9::9]:5060"
    path = gateway.send(phone, "[2001:db8::5]:5060", request("REGISTER", "sip:example.org")).header("Path")
    result = gateway.from_backend(request("INVITE", "sip:a@x", f"Route: {path}"))
    assert result.reason is Reason.NO_EGRESS
    over_six = gateway.send(
        "[2001:db8:1::11]:5060", "[2001:db8:1::5]:5060", request("INVITE", "sip:a@x", f"Route: {path}")
    )
    assert over_six.dst == phone


def test_P16_an_alias_may_be_an_address_in_any_spelling() -> None:
    six = Listener(
        "six", endpoint("[2001:db8::5]:5060"), endpoint("[2001:db8:1::5]:5060"), aliases=("[2001:0DB8::77]",)
    )
    gateway = Gateway(setup(listeners=(six,)))
    result = gateway.send(
        "[2001:db8:9::9]:5060", "[2001:db8::5]:5060", request("INVITE", "sip:x", "Route: <sip:[2001:db8:0::77];lr>")
    )
    assert result.reason is Reason.NO_BACKEND  # consumed, then no IPv6 backend; not refused as a foreign hop


@pytest.mark.parametrize("source", [EXT, INT, "224.0.0.5:5060", "255.255.255.255:9", "0.0.0.0:5060"])
def test_P14_sources_that_nobody_can_be_answered_at(source: str) -> None:
    assert Gateway().send(source, EXT, request("OPTIONS", "sip:203.0.113.5")).reason is Reason.BAD_SOURCE


def test_P20_narrow_egress_does_not_cut_off_the_peers_of_a_dialog() -> None:
    """A registered phone with a public address: its INVITE went by the Path, its BYE by Record-Route and R-URI."""
    from ipaddress import ip_network

    gateway = Gateway(setup(egress=(ip_network("192.0.2.0/24"),)))
    routes = invite_from_alice(gateway).headers("Record-Route")
    bye = in_dialog("BYE", "sip:alice@172.31.23.177:5062", routes, VIA_BACKEND)
    assert gateway.from_backend(bye, PROXY1).dst == "172.31.23.177:5062"
    elsewhere = in_dialog("BYE", "sip:alice@172.31.23.178", routes, VIA_BACKEND)
    assert gateway.from_backend(elsewhere, PROXY1).reason is Reason.NO_EGRESS
    assert gateway.from_backend(bye.replace("call-1@", "call-2@"), PROXY1).reason is Reason.NO_EGRESS


def test_two_pools_may_name_their_backends_alike() -> None:
    pools = (Pool("a", (Backend("one", endpoint(REG1)),)), Pool("b", (Backend("one", endpoint(REG2)),)))
    gateway = Gateway(setup(pools=pools, routes=(RouteRule("b"),)))
    result = gateway.from_phone(request())
    assert (result.dst, result.verdict.backend) == (REG2, 1)
