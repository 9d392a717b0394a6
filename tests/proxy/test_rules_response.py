"""Part F of the rules: responses (P33–P36)."""

from collections.abc import Callable

import pytest
from sipcase import EXT, INT, OTHER, PHONE, PROXY1, REG1, Gateway, Result, one_armed, request, response_to

from nfqlb.proxy.verdict import Reason


def entered(gateway: Gateway) -> Result:
    return gateway.from_phone(request(Via="SIP/2.0/UDP 10.9.9.9;branch=z9hG4bK-1"), OTHER)


def test_P33_the_top_via_must_be_ours() -> None:
    gateway = Gateway()
    good = response_to(entered(gateway))
    for bad in (
        good.replace("192.168.1.5;", "192.168.1.6;"),
        good.replace("192.168.1.5;", "203.0.113.5;"),  # ours, but not the socket it came to
        good.replace("z9hG4bKnfq", "z9hG4bKxxx"),
        "SIP/2.0 200 OK\nContent-Length: 0\n\n",
    ):
        assert gateway.from_backend(bad, PROXY1).reason is Reason.STRAY_RESPONSE


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("rport=40000", "rport=40001"), ("received=198.51.100.77", "received=9.9.9.9"), ("UDP 10.9.9.9", "UDP 9.9.9.9"),
        ("z9hG4bK-1", "z9hG4bK-2"), ("call-1@", "call-2@"), ("tag=f1", "tag=f2"), ("CSeq: 1 ", "CSeq: 2 "),
    ],
)  # fmt: skip
def test_P33_the_keyed_hash_must_match_the_via_below(old: str, new: str) -> None:
    gateway = Gateway()
    good = response_to(entered(gateway))
    assert gateway.from_backend(good, PROXY1).reason is Reason.RESPONSE_LEAVING
    assert old in good
    assert gateway.from_backend(good.replace(old, new), PROXY1).reason is Reason.STRAY_RESPONSE


def test_P33_a_stranger_cannot_forge_a_response_to_a_backend() -> None:
    gateway = Gateway()
    leaving = gateway.from_backend(request("INVITE", "sip:b@198.51.100.9", Via=f"SIP/2.0/UDP {REG1};branch=z9hG4bKq"))
    forged = response_to(leaving).replace(leaving.headers("Via")[0][-30:], "0" * 30)
    assert gateway.send("198.51.100.9:5060", EXT, forged).reason is Reason.STRAY_RESPONSE
    assert gateway.send("198.51.100.9:5060", EXT, response_to(leaving)).dst == REG1


@pytest.mark.parametrize(
    "rewrite",
    [
        lambda via: via.replace(";received", " ; received").replace("UDP 10", "UDP  10"),
        lambda via: via.replace("10.9.9.9;", "10.9.9.9:5060;"),
        lambda _: "SIP/2.0/UDP 10.9.9.9:5060;rport=40000;received=198.51.100.77;branch=z9hG4bK-1",
    ],
)
def test_P33_stacks_that_re_serialise_vias_are_understood(rewrite: Callable[[str], str]) -> None:
    gateway = Gateway()
    sent = entered(gateway)
    theirs = sent.headers("Via")[1]
    answer = response_to(sent).replace(theirs, rewrite(theirs))
    assert gateway.from_backend(answer, PROXY1).dst == OTHER


def test_P33_cseq_is_compared_as_a_number() -> None:
    gateway = Gateway()
    sent = gateway.from_phone(request(CSeq="0009 INVITE"))
    assert gateway.from_backend(response_to(sent, CSeq="9 INVITE"), PROXY1).dst == PHONE


@pytest.mark.parametrize("form", ["rows", "list", "folded", "compact"])
def test_P34_just_that_value_is_removed(form: str) -> None:
    gateway = Gateway()
    sent = entered(gateway)
    ours, theirs = sent.headers("Via")
    third = "SIP/2.0/UDP 10.8.8.8;branch=z9hG4bK-0"
    plain = response_to(sent)
    vias = {
        "rows": f"Via: {ours}\r\nVia: {theirs}\r\nVia: {third}\r\n",
        "list": f"Via: {ours}, {theirs} ,{third}\r\n",
        "folded": f"Via:\r\n {ours}\r\n\t,\r\n {theirs}\r\nVia: {third}\r\n",
        "compact": f"v:{ours},{theirs}\r\nVIA : {third}\r\n",
    }[form]
    left = {
        "rows": f"Via: {theirs}\r\nVia: {third}\r\n",
        "list": f"Via: {theirs} ,{third}\r\n",
        "folded": f"Via:\r\n {theirs}\r\nVia: {third}\r\n",
        "compact": f"v:{theirs}\r\nVIA : {third}\r\n",
    }[form]
    rest = plain.split("\n", 3)[3].replace("\n", "\r\n")
    result = gateway.from_backend(f"SIP/2.0 180 Ringing\r\n{vias}{rest}".encode(), PROXY1)
    assert result.text == f"SIP/2.0 180 Ringing\r\n{left}{rest}"


def test_P34_none_left_means_it_was_for_us() -> None:
    gateway = Gateway()
    sent = entered(gateway)
    answer = response_to(sent).replace(f"Via: {sent.headers('Via')[1]}\n", "")
    assert gateway.from_backend(answer, PROXY1).reason is Reason.FINAL_HERE


def test_P35_to_received_and_rport_from_the_socket_that_faces_it() -> None:
    gateway = Gateway()
    back = gateway.from_backend(response_to(entered(gateway)), PROXY1)
    assert (back.src, back.dst) == (EXT, OTHER)
    leaving = gateway.from_backend(request("INVITE", "sip:b@198.51.100.9", Via=f"SIP/2.0/UDP {REG1};branch=z9hG4bKq"))
    inward = gateway.send("198.51.100.9:5060", EXT, response_to(leaving))
    assert (inward.reason, inward.src, inward.dst) == (Reason.RESPONSE_ENTERING, INT, REG1)


def test_P35_sent_by_and_its_default_port() -> None:
    gateway = Gateway()
    sent = gateway.from_phone(request(Via="SIP/2.0/UDP 172.31.23.177;branch=z9hG4bK-1"), PHONE)
    assert sent.headers("Via")[1] == "SIP/2.0/UDP 172.31.23.177;branch=z9hG4bK-1"
    assert gateway.from_backend(response_to(sent), PROXY1).dst == PHONE


def test_P35_one_armed() -> None:
    gateway = Gateway(one_armed())
    sent = gateway.from_phone(request(Via="SIP/2.0/UDP 10.9.9.9;branch=z9hG4bK-1"), OTHER)
    back = gateway.send(PROXY1, EXT, response_to(sent))
    assert (back.reason, back.src, back.dst) == (Reason.RESPONSE_LEAVING, EXT, OTHER)
    leaving = gateway.send(
        REG1, EXT, request("INVITE", "sip:b@198.51.100.9", Via=f"SIP/2.0/UDP {REG1};branch=z9hG4bKq")
    )
    inward = gateway.send("198.51.100.9:5060", EXT, response_to(leaving))
    assert (inward.reason, inward.dst) == (Reason.RESPONSE_ENTERING, REG1)


@pytest.mark.parametrize(
    "status", ["100 Trying", "180 Ringing", "183 x", "200 OK", "302 Moved", "401 x", "486 Busy", "699 x"]
)
def test_P36_every_response_is_forwarded_and_changed_in_nothing_else(status: str) -> None:
    gateway = Gateway()
    sent = entered(gateway)
    answer = response_to(sent, status).replace("Content-Length: 0", "X-Odd:  a ,b\nContact: *\nContent-Length: 0")
    first = gateway.from_backend(answer, PROXY1)
    again = gateway.from_backend(answer, PROXY1)
    assert first.payload == again.payload
    ours = f"Via: {sent.headers('Via')[0]}\n"
    assert first.text == answer.replace(ours, "").replace("\n", "\r\n")


def test_P36_a_response_without_reason_phrase_or_max_forwards_passes() -> None:
    gateway = Gateway()
    sent = entered(gateway)
    for status in ("100 ", "200"):
        assert gateway.from_backend(response_to(sent, status).encode().replace(b"\n", b"\r\n"), PROXY1).dst == OTHER


def test_P35_maddr_added_on_the_way_does_not_steer_the_response() -> None:
    gateway = Gateway()
    leaving = gateway.from_backend(request("INVITE", f"sip:b@{OTHER}", Via="SIP/2.0/UDP 192.168.1.11;branch=z9hG4bKk1"))
    answer = response_to(leaving)
    assert gateway.send(OTHER, EXT, answer).dst == REG1
    steered = answer.replace("branch=z9hG4bKk1", "branch=z9hG4bKk1;maddr=192.168.1.99")
    assert gateway.send(OTHER, EXT, steered).reason is Reason.STRAY_RESPONSE


def test_P34_what_stands_further_down_is_nobodys_business() -> None:
    gateway = Gateway()
    sent = gateway.from_phone(request("INVITE", "sip:bob@x", 'Via: SIP/2.0/UDP 10.0.0.1;branch=z9hG4bKz;x="oops'))
    assert gateway.from_backend(response_to(sent), PROXY1).reason is Reason.RESPONSE_LEAVING


def test_P36_a_peer_s_tag_behind_a_stray_semicolon_of_the_caller_passes() -> None:
    """RFC 3261 8.2.6.2 has the peer add its tag; behind `To: <sip:b@c>;` that gives `;;tag=`."""
    gateway = Gateway()
    asked = gateway.from_phone(request(To="<sip:bob@example.org>;"))
    answer = response_to(asked, To="<sip:bob@example.org>;;tag=t1")
    result = gateway.from_backend(answer, asked.dst)
    assert result.reason is Reason.RESPONSE_LEAVING
    assert result.header("To") == "<sip:bob@example.org>;;tag=t1"
