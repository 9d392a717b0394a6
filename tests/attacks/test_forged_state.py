"""An attacker brings back state that he has copied, altered or made up: Path, Record-Route, Via, and responses (P18,
P24, P26, P33). The packet carries the state; the signatures say whose it is.

He may have what a party to a call sees: his own Path, the Record-Routes and Vias of his own calls. Of others' he has
what he could steal from them.
"""

import pytest
from sipcase import EXT, INT, KEY, OTHER, PHONE, PROXY1, REG1, Gateway, Result, request, response_to, setup

from nfqlb.proxy.verdict import Reason

ALICE, BOB, MALLORY = PHONE, OTHER, "192.0.2.66:5060"
VIA_BOB = "SIP/2.0/UDP 10.9.9.9:5060;branch=z9hG4bK-3"
VIA_MALLORY = "SIP/2.0/UDP 192.0.2.66:5060;branch=z9hG4bK-m"
VIA_BACKEND = "SIP/2.0/UDP 192.168.1.11;branch=z9hG4bKb1"
NEW_KEY = KEY[::-1]


@pytest.fixture(scope="module")
def gateway() -> Gateway:
    return Gateway()


def path_of(gateway: Gateway, phone: str) -> str:
    return gateway.from_phone(request("REGISTER", "sip:example.org"), phone).header("Path")


def call(gateway: Gateway, call_id: str, caller: str = BOB, via: str = VIA_BOB) -> Result:
    """An INVITE of a caller, behind NAT unless told otherwise, as the backend gets it."""
    return gateway.from_phone(request(Via=via, Call_ID=call_id), caller)


def by_route(value: str, call_id: str = "call-1", **fields: str) -> str:
    """A request of a backend along one Route value."""
    fields = {"Via": VIA_BACKEND, "Call_ID": call_id, "To": "<sip:bob@example.org>;tag=t1"} | fields
    return request("MESSAGE", "sip:bob@10.9.9.9", f"Route: {value}", **fields)


def altered(value: str) -> dict[str, str]:
    """One change each, of all that a signature is over, and of the signature."""
    sig = value.partition("sig=")[2][:20]
    other = "0" if sig[0] != "0" else "1"
    return {
        "address": value.replace("198.51.100.77", "192.0.2.66"),
        "port": value.replace(":40000", ":40001"),
        "no port": value.replace(":40000", ""),
        "first digit of the signature": value.replace(sig, other + sig[1:]),
        "last digit of the signature": value.replace(sig, sig[:-1] + ("0" if sig[-1] != "0" else "1")),
        "half of the signature": value.replace(sig, sig[:10]),
        "empty signature": value.replace(sig, ""),
        "no signature": value.replace(f";sig={sig}", ""),
        "more signature": value.replace(sig, sig + "00"),
        "two flows, ours second": value.replace(";received=", ";received=sip:192.0.2.66:5060;received="),
        "two signatures, ours second": value.replace(";sig=", ";sig=00000000000000000000;sig="),
        "a name": value.replace("sip:198.51.100.77", "sip:mallory.example.com"),
        "another scheme": value.replace("received=sip:", "received=http:"),
        "escaped into another": value.replace("198.51.100.77", "198.51.100.7%37%38"),
    }


@pytest.mark.parametrize("change", altered("x;received=sip:198.51.100.77:40000;sig=00112233445566778899"))
def test_an_altered_path(gateway: Gateway, change: str) -> None:
    path = path_of(gateway, BOB)
    assert gateway.from_backend(by_route(path)).dst == BOB
    made = altered(path)[change]
    assert made != path
    assert gateway.from_backend(by_route(made)).reason is Reason.BAD_FLOW


@pytest.mark.parametrize("change", altered("x;received=sip:198.51.100.77:40000;sig=00112233445566778899"))
def test_an_altered_record_route(gateway: Gateway, change: str) -> None:
    inner = call(gateway, "call-1").headers("Record-Route")[0]
    assert "nat=yes" in inner
    assert gateway.from_backend(by_route(inner)).dst == BOB
    made = altered(inner)[change]
    assert gateway.from_backend(by_route(made)).reason is Reason.BAD_FLOW


def test_a_record_route_of_another_dialog(gateway: Gateway) -> None:
    inner = call(gateway, "call-1").headers("Record-Route")[0]
    for call_id in ("call-2", "CALL-1", "call-1@", "call-", "call-10"):
        assert gateway.from_backend(by_route(inner, call_id)).reason is Reason.BAD_FLOW


def test_a_record_routes_signature_in_a_path_and_the_other_way_round(gateway: Gateway) -> None:
    """Each purpose has a key of its own (P24): a Path must not open a dialog, nor a dialog a lasting way."""
    path, inner = path_of(gateway, BOB), call(gateway, "call-1").headers("Record-Route")[0]
    lasting = inner.replace(";r2=on", "").replace(";nat=yes", "")
    assert gateway.from_backend(by_route(lasting, "call-2")).reason is Reason.BAD_FLOW
    opened = path.replace(";lr;", ";lr;r2=on;").replace(">", ";nat=yes>")
    assert gateway.from_backend(by_route(opened)).reason is Reason.BAD_FLOW


@pytest.mark.parametrize("keys", [(NEW_KEY,), (NEW_KEY, b"x" * 32)])
def test_what_a_retired_key_has_signed(keys: tuple[bytes, ...]) -> None:
    """A key that was taken out of the secret file, because it leaked, opens nothing any more."""
    old, new = Gateway(), Gateway(setup(keys=keys))
    path, leg = path_of(old, BOB), call(old, "call-1")
    assert new.from_backend(by_route(path)).reason is Reason.BAD_FLOW
    assert new.from_backend(by_route(leg.headers("Record-Route")[0])).reason is Reason.BAD_FLOW
    assert new.from_backend(response_to(leg), PROXY1).reason is Reason.STRAY_RESPONSE
    both = Gateway(setup(keys=(*keys, KEY)))
    assert both.from_backend(by_route(path)).dst == BOB
    assert both.from_backend(response_to(leg), PROXY1).dst == BOB


@pytest.mark.parametrize("before", [[], ["<sip:203.0.113.5;lr>"], ["<sip:lb@203.0.113.5;lr;r2=on>"]])
def test_a_copied_path_as_a_way_past_the_backends(gateway: Gateway, before: list[str]) -> None:
    """He has stolen Bob's Path, signed and sound. Only backends may use it; his own route ends at one."""
    for value in (path_of(gateway, BOB), path_of(gateway, MALLORY)):
        rows = [f"Route: {each}" for each in (*before, value)]
        for fields in ({}, {"To": "<sip:bob@example.org>;tag=t1"}):
            result = gateway.from_phone(
                request("INVITE", "sip:bob@10.9.9.9", *rows, Via=VIA_MALLORY, **fields), MALLORY
            )
            assert result.dst in (REG1, "192.168.1.12:5060", PROXY1, MALLORY)
            assert result.reason in (Reason.REQUEST_ENTERING, Reason.BAD_FLOW)


def hairpin(gateway: Gateway, call_id: str) -> list[str]:
    """The Record-Routes of a call from Mallory to Bob in which no backend stayed: the ways to both."""
    leg = gateway.from_phone(request(Via=VIA_MALLORY, Call_ID=call_id), MALLORY)
    rows = [f"Route: {path_of(gateway, BOB)}", *(f"Record-Route: {each}" for each in leg.headers("Record-Route"))]
    to_bob = gateway.from_backend(request("INVITE", "sip:bob@10.9.9.9", *rows, Via=VIA_BACKEND, Call_ID=call_id))
    assert to_bob.dst == BOB
    return to_bob.headers("Record-Route")


def test_a_way_to_a_phone_from_an_old_call_of_his_own(gateway: Gateway) -> None:
    """In that call he may go straight to Bob; with another Call-ID, or for a new call, he may not."""
    ways = [f"Route: {value}" for value in hairpin(gateway, "old")[::-1]]
    in_dialog = {"To": "<sip:bob@example.org>;tag=t1", "Via": VIA_MALLORY}
    assert gateway.from_phone(request("BYE", "sip:bob@10.9.9.9", *ways, Call_ID="old", **in_dialog), MALLORY).dst == BOB
    for method in ("INVITE", "MESSAGE", "BYE", "OPTIONS"):
        fresh = request(method, "sip:bob@10.9.9.9", *ways, Call_ID="new", **in_dialog)
        assert gateway.from_phone(fresh, MALLORY).reason is Reason.BAD_FLOW
        again = request(method, "sip:bob@10.9.9.9", *ways, Call_ID="old", Via=VIA_MALLORY)
        assert gateway.from_phone(again, MALLORY).reason is Reason.BAD_FLOW


def test_the_way_of_a_hairpin_turned_to_a_third_party(gateway: Gateway) -> None:
    ways = hairpin(gateway, "old")[::-1]
    for change in altered(ways[2]) if "198.51" in ways[2] else altered(ways[3]):
        made = [altered(value)[change] if "198.51.100.77" in value else value for value in ways]
        rows = [f"Route: {value}" for value in made]
        bye = request("BYE", "sip:bob@10.9.9.9", *rows, Call_ID="old", Via=VIA_MALLORY, To="<sip:b@x>;tag=t1")
        assert gateway.from_phone(bye, MALLORY).reason is Reason.BAD_FLOW, change


# -- Path in a REGISTER of his own -----------------------------------------------------------------------------------

FORGED = "<sip:lb@192.168.1.5;lr;received=sip:192.0.2.200:5060{}>"


@pytest.mark.parametrize("sig", ["", ";sig=", ";sig=00112233445566778899", ";r2=on;nat=yes"])
@pytest.mark.parametrize("policy", ["always", "if-supported", "require"])
@pytest.mark.parametrize("accept_unsigned", [False, True])
@pytest.mark.parametrize("form", ["Path: {}", "PATH : <sip:edge.example.com;lr>, {}", 'Path: "x, y"\n {}'])
def test_a_path_smuggled_in_by_a_clients_register(sig: str, policy: str, accept_unsigned: bool, form: str) -> None:
    """In our form, not of our making: calls to him would go to whom he names. The registrar does not get to see it."""
    at = Gateway(setup(path_policy=policy, accept_unsigned=accept_unsigned))
    for supported in ("", "Supported: path"):
        rows = [form.format(FORGED.format(sig)).replace("\n", "\r\n")] + [supported] * bool(supported)
        register = "\r\n".join(request("REGISTER", "sip:example.org", *rows, Via=VIA_MALLORY).split("\n"))
        register = register.replace("\r\r\n", "\r\n")
        result = at.from_phone(register.encode(), MALLORY)
        assert (result.reason, result.dst) == (Reason.BAD_FLOW, MALLORY)


def test_a_path_of_somebody_in_front_of_us_passes(gateway: Gateway) -> None:
    """An edge proxy outside writes its own (RFC 3327); ours stands above, so calls come by us first."""
    edge = "<sip:edge.example.com;lr;received=sip:10.1.1.1:5060>"
    result = gateway.from_phone(request("REGISTER", "sip:example.org", f"Path: {edge}"))
    ours, theirs = result.headers("Path")
    assert theirs == edge
    back = gateway.from_backend(request("INVITE", "sip:a@10.1.1.1", f"Route: {ours}", f"Route: {theirs}"))
    assert (back.dst, back.headers("Route")) == (PHONE, [edge])


def test_his_own_path_sent_from_elsewhere_leads_to_himself_only(gateway: Gateway) -> None:
    """Signed and sound: it passes, below the one that says where he is now. Calls to him go there."""
    own = path_of(gateway, MALLORY)
    result = gateway.from_phone(request("REGISTER", "sip:example.org", f"Path: {own}"), BOB)
    paths = result.headers("Path")
    assert paths[1] == own
    rows = [f"Route: {path}" for path in paths]
    assert gateway.from_backend(request("INVITE", "sip:a@10.1.1.1", *rows)).dst == BOB


# -- responses -------------------------------------------------------------------------------------------------------


def test_a_response_forged_to_a_client(gateway: Gateway) -> None:
    """He has seen the client's request, and knows all of it but the branch that we gave it."""
    sent = call(gateway, "call-1")
    true = response_to(sent)
    branch = sent.headers("Via")[0].partition("branch=")[2]
    assert gateway.from_backend(true, PROXY1).dst == BOB
    for guess in (
        "z9hG4bKnfq0000000000000000.00000000",
        "z9hG4bKnfq",
        branch[:-9],
        branch.upper(),
        branch[:-10] + "0.",
    ):
        forged = true.replace(branch, guess)
        wanted = {Reason.STRAY_RESPONSE} if guess not in (branch[:-9], branch.upper()) else {
            Reason.STRAY_RESPONSE, Reason.RESPONSE_LEAVING
        }  # fmt: skip
        assert gateway.from_backend(forged, PROXY1).reason in wanted
    # From outside to E, even with the true branch: the answer to what came in by E comes to I.
    assert gateway.send(MALLORY, EXT, true).reason is Reason.STRAY_RESPONSE
    turned = true.replace("192.168.1.5;", "203.0.113.5;")
    assert gateway.send(MALLORY, EXT, turned).reason in (Reason.STRAY_RESPONSE, Reason.RESPONSE_HAIRPIN)
    # And to I he may not speak.
    assert gateway.send(MALLORY, INT, true).reason is Reason.NOT_FROM_BACKEND


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("rport=40000", "rport=5060"), ("received=198.51.100.77", "received=192.0.2.200"),
        ("received=198.51.100.77", "received=198.51.100.77;maddr=192.0.2.200"), (";rport=40000", ""),
        (";received=198.51.100.77", ""), ("UDP 10.9.9.9:5060", "UDP 192.0.2.200"), ("z9hG4bK-3", "z9hG4bK-4"),
        ("Call-ID: call-1", "Call-ID: call-2"), ("tag=f1", "tag=f9"), ("CSeq: 1 ", "CSeq: 2 "),
    ],
)  # fmt: skip
def test_a_response_turned_to_a_third_party_by_whoever_answers(gateway: Gateway, old: str, new: str) -> None:
    """He is the callee, so he has a true branch. It holds for that request and that sender only (P33)."""
    true = response_to(call(gateway, "call-1"))
    assert true.count(old) == 1
    assert gateway.from_backend(true.replace(old, new), PROXY1).reason is Reason.STRAY_RESPONSE


def test_a_response_forged_to_a_backend(gateway: Gateway) -> None:
    """To a request that a backend sent out; he has not seen it."""
    leaving = gateway.from_backend(request("INVITE", "sip:b@198.51.100.9", Via=VIA_BACKEND))
    true = response_to(leaving)
    branch = leaving.headers("Via")[0].partition("branch=")[2]
    assert gateway.send("198.51.100.9:5060", EXT, true).dst == REG1
    for forged in (
        true.replace(branch, "z9hG4bKnfqffffffffffffffff.00000000"),
        true.replace("192.168.1.11", "192.168.1.99"),
        true.replace("branch=z9hG4bKb1", "branch=z9hG4bKb1;received=192.168.1.21"),
        true.replace("Call-ID: call-1@172.31.23.177", "Call-ID: other"),
        response_to(call(gateway, "call-1")).replace("192.168.1.5;", "203.0.113.5;"),
    ):
        assert forged != true
        assert gateway.send(MALLORY, EXT, forged).reason in (Reason.STRAY_RESPONSE, Reason.RESPONSE_HAIRPIN)


def test_a_branch_of_one_request_on_another(gateway: Gateway) -> None:
    one, other = call(gateway, "call-1"), call(gateway, "call-2")
    ours_one, ours_other = one.headers("Via")[0], other.headers("Via")[0]
    assert gateway.from_backend(response_to(one).replace(ours_one, ours_other), PROXY1).reason is Reason.STRAY_RESPONSE


def test_a_cancel_of_somebody_elses_call(gateway: Gateway) -> None:
    """He copies Call-ID, tags, CSeq, and even the Via with its branch: from his address it is another transaction."""
    invite = call(gateway, "call-1")
    same = {"Via": VIA_BOB, "Call_ID": "call-1", "CSeq": "1 CANCEL"}
    his = gateway.from_phone(request("CANCEL", "sip:bob@example.org", **same), MALLORY)
    true = gateway.from_phone(request("CANCEL", "sip:bob@example.org", **same), BOB)
    branches = [each.headers("Via")[0].partition("branch=")[2] for each in (invite, true, his)]
    assert branches[0] == branches[1]
    assert branches[2].partition(".")[0] != branches[0].partition(".")[0]


def test_an_ack_with_a_to_tag_of_ours_for_another_transaction_is_not_swallowed(gateway: Gateway) -> None:
    refused = gateway.from_phone(request(Max_Forwards="0"))
    tag = refused.header("To")
    assert gateway.from_phone(request("ACK", To=tag)).reason is Reason.OWN_ACK
    assert gateway.from_phone(request("ACK", To=tag, Call_ID="other")).reason is Reason.REQUEST_ENTERING
