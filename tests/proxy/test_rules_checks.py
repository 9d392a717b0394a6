"""Part B of the rules: what a request is checked for, and what we answer (P8–P14)."""

from typing import Any

import pytest
from sipcase import EXT, INT, PHONE, REG1, Gateway, request, response_to, wire

from nfqlb.proxy.verdict import Reason


def test_P8_other_sip_version_gets_505() -> None:
    result = Gateway().from_phone(request().replace("bob@example.org SIP/2.0", "bob@example.org SIP/7.0"))
    assert result.reason is Reason.BAD_VERSION
    assert result.lines[0] == "SIP/2.0 505 Version Not Supported"
    assert (result.src, result.dst) == (EXT, PHONE)


def test_P8_version_comes_before_everything_else_wrong() -> None:
    broken = request(CSeq="x", Max_Forwards="999").replace("example.org SIP/2.0", "example.org SIP/3.1", 1)
    assert Gateway().from_phone(broken).reason is Reason.BAD_VERSION


@pytest.mark.parametrize("name", ["From", "To", "Call-ID", "CSeq"])
def test_P8_a_missing_header_gets_400(name: str) -> None:
    without: dict[str, Any] = {name: None}
    result = Gateway().from_phone(request(**without))
    assert result.reason is Reason.MISSING_HEADER
    assert result.lines[0] == "SIP/2.0 400 Bad Request"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CSeq", "INVITE"), ("CSeq", "1"), ("CSeq", "-1 INVITE"), ("CSeq", "36893488147419103232 INVITE"),
        ("CSeq", "1 INVITE x"), ("Call-ID", ""), ("Call-ID", "two words"), ("From", ""), ("To", "<>"),
    ],
)  # fmt: skip
def test_P8_an_unreadable_header_gets_400(name: str, value: str) -> None:
    assert Gateway().from_phone(request(**{name: value})).reason is Reason.BAD_HEADER


def test_P8_cseq_method_must_be_the_method() -> None:
    assert Gateway().from_phone(request(CSeq="1 OPTIONS")).reason is Reason.METHOD_MISMATCH
    assert Gateway().from_phone(request("invite", CSeq="1 INVITE")).reason is Reason.METHOD_MISMATCH


@pytest.mark.parametrize("via", [None, "", "garbage", "SIP/2.0/UDP", "SIP/2.0/UDP h:99999"])
def test_P8_without_a_usable_via_there_is_no_answer(via: str | None) -> None:
    text = request(Via="@@").replace("Via: @@\n", "" if via is None else f"Via: {via}\n")
    assert Gateway().from_phone(text).reason is Reason.UNANSWERABLE


@pytest.mark.parametrize("part", ["branch=z9hG4bK-2", "received=1.1.1.1;received=2.2.2.2", "rport;rport=5", ";,;,,"])
def test_P8_a_via_whose_parameters_are_unreadable_gets_400(part: str) -> None:
    result = Gateway().from_phone(request(Via=f"SIP/2.0/UDP 172.31.23.177;branch=z9hG4bK-1;{part}"))
    assert result.reason is Reason.BAD_HEADER
    assert result.dst == PHONE


@pytest.mark.parametrize(
    "line",
    [
        "INVITE  sip:bob@example.org SIP/2.0", "INVITE sip:bob@example.org  SIP/2.0",
        "INVITE sip:bob@example.org SIP/2.0 ",
        "INVITE sip:bob@example.org; lr SIP/2.0", "INV<>ITE sip:bob@example.org SIP/2.0",
    ],
)  # fmt: skip
def test_P8_a_request_line_that_is_no_grammar_gets_400(line: str) -> None:
    head, _, rest = wire(request()).partition(b"\r\n")
    assert Gateway().from_phone(line.encode() + b"\r\n" + rest).reason is Reason.BAD_START_LINE
    del head


@pytest.mark.parametrize(
    "payload", [b"hello", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01", b"\xff" * 1400, b"INVITE\r\n"]
)
def test_P8_what_is_not_sip_is_dropped(payload: bytes) -> None:
    assert Gateway().from_phone(payload).reason is Reason.NOT_SIP


@pytest.mark.parametrize(
    "uri", ["http://example.org/", "nobodyKnowsThisScheme:totallyopaque", "soap.beep://192.0.2.103"]
)
def test_P9_other_schemes_get_416(uri: str) -> None:
    result = Gateway().from_phone(request("OPTIONS", uri))
    assert result.reason is Reason.BAD_SCHEME
    assert result.lines[0] == "SIP/2.0 416 Unsupported URI Scheme"


@pytest.mark.parametrize("uri", ["sip:bob@example.org", "SIPS:bob@example.org", "tel:+49891234;phone-context=x"])
def test_P9_sip_sips_and_tel_pass(uri: str) -> None:
    assert Gateway().from_phone(request("INVITE", uri)).reason is Reason.REQUEST_ENTERING


@pytest.mark.parametrize(
    "uri", ["<sip:bob@example.org>", "bob@example.org", "sip:", "sip:a@b@c", "sip:b@c:0", "sip:b@c:70000"]
)
def test_P9_an_unreadable_uri_gets_400(uri: str) -> None:
    assert Gateway().from_phone(request("INVITE", uri)).reason is Reason.BAD_URI


@pytest.mark.parametrize(("before", "after"), [("70", "69"), ("1", "0"), ("255", "254"), ("0068", "67"), (None, "70")])
def test_P10_max_forwards_counts_down(before: str | None, after: str) -> None:
    result = Gateway().from_phone(request(Max_Forwards=before))
    assert result.header("Max-Forwards") == after


@pytest.mark.parametrize("value", ["256", "300", "-1", "seventy", "", "7 0", "1" * 5000])
def test_P10_other_max_forwards_get_400(value: str) -> None:
    assert Gateway().from_phone(request(Max_Forwards=value)).reason is Reason.BAD_MAX_FORWARDS


def test_P10_at_zero() -> None:
    gateway = Gateway()
    assert gateway.from_phone(request(Max_Forwards="0")).lines[0] == "SIP/2.0 483 Too Many Hops"
    result = gateway.from_phone(request("OPTIONS", Max_Forwards="0"))
    assert result.reason is Reason.HOPS_PING
    assert result.lines[0] == "SIP/2.0 200 OK"


def test_P11_proxy_require_gets_420_with_unsupported() -> None:
    result = Gateway().from_phone(request("OPTIONS", "sip:bob@example.org", "Proxy-Require: foo, bar"))
    assert result.reason is Reason.BAD_EXTENSION
    assert result.header("Unsupported") == "foo, bar"


@pytest.mark.parametrize("method", ["CANCEL", "ACK"])
def test_P11_cancel_and_ack_cannot_be_refused_for_it(method: str) -> None:
    result = Gateway().from_phone(request(method, "sip:bob@example.org", "Proxy-Require: foo"))
    assert result.reason is Reason.REQUEST_ENTERING


def test_P12_our_own_request_come_back_is_a_loop() -> None:
    gateway = Gateway()
    sent = gateway.from_phone(request())
    again = sent.text.replace("Via: ", f"Via: SIP/2.0/UDP {REG1};branch=z9hG4bKk\r\nVia: ", 1)
    assert gateway.from_phone(again.encode()).reason is Reason.LOOP
    assert gateway.from_phone(again.encode()).lines[0] == "SIP/2.0 482 Loop Detected"


def test_P12_a_spiral_passes() -> None:
    gateway = Gateway()
    sent = gateway.from_phone(request())
    other_uri = sent.text.replace("sip:bob@example.org SIP", "sip:carol@example.org SIP", 1)
    assert gateway.from_phone(other_uri.encode()).reason is Reason.REQUEST_ENTERING
    leaving = sent.text.replace("sip:bob@example.org SIP", "sip:bob@198.51.100.9 SIP", 1)
    assert gateway.from_backend(leaving.encode()).reason is Reason.REQUEST_LEAVING


def test_P12_to_pass_once_in_each_direction_is_no_loop() -> None:
    gateway = Gateway()
    inward = gateway.from_phone(request("INVITE", "sip:bob@198.51.100.9"))
    assert gateway.from_backend(inward.payload, inward.dst).reason is Reason.REQUEST_LEAVING


def test_P12_somebody_elses_via_with_our_mark_is_none_of_ours() -> None:
    gateway = Gateway()
    sent = gateway.from_phone(request())
    foreign = sent.text.replace("SIP/2.0/UDP 192.168.1.5;", "SIP/2.0/UDP 9.9.9.9;", 1)
    assert gateway.from_phone(foreign.encode()).reason is Reason.REQUEST_ENTERING


@pytest.mark.parametrize("uri", ["sip:203.0.113.5", "sip:203.0.113.5:5060;transport=udp", "sip:192.168.1.5"])
def test_P13_options_to_ourselves_is_answered(uri: str) -> None:
    gateway = Gateway()
    for result in (gateway.from_phone(request("OPTIONS", uri)), gateway.from_backend(request("OPTIONS", uri))):
        assert result.reason is Reason.PING
        assert result.lines[0] == "SIP/2.0 200 OK"
    assert result.dst == REG1
    assert result.src == INT


def test_P13_with_a_user_part_it_is_for_somebody() -> None:
    result = Gateway().from_phone(request("OPTIONS", "sip:bob@203.0.113.5"))
    assert result.reason is Reason.REQUEST_ENTERING


def test_P14_an_ack_is_never_answered() -> None:
    gateway = Gateway()
    assert gateway.from_phone(request("ACK", Max_Forwards="0")).reason is Reason.BROKEN_ACK
    assert gateway.from_phone(request("ACK", From=None)).reason is Reason.BROKEN_ACK
    assert gateway.from_phone(request("ACK", "sip:x@y", "Route: <sip:9.9.9.9;lr>")).reason is Reason.BROKEN_ACK


def test_P14_a_reply_is_stateless_and_deterministic() -> None:
    refused = request(Max_Forwards="0")
    first, second = Gateway().from_phone(refused), Gateway().from_phone(refused)
    assert first.payload == second.payload
    assert ";tag=nfq" in first.header("To")
    assert first.header("From") == "<sip:alice@example.org>;tag=f1"
    assert first.header("CSeq") == "1 INVITE"
    assert first.header("Call-ID") == "call-1@172.31.23.177"
    assert first.header("Content-Length") == "0"


def test_P14_a_reply_keeps_the_to_tag_that_is_there() -> None:
    result = Gateway().from_phone(request(Max_Forwards="0", To="<sip:bob@example.org>;tag=theirs"))
    assert result.header("To") == "<sip:bob@example.org>;tag=theirs"


def test_P14_the_ack_of_our_reply_is_absorbed() -> None:
    gateway = Gateway()
    to = gateway.from_phone(request(Max_Forwards="0")).header("To")
    assert gateway.from_phone(request("ACK", To=to)).reason is Reason.OWN_ACK
    forged = to[:-1] + ("0" if to[-1] != "0" else "1")
    assert gateway.from_phone(request("ACK", To=forged)).reason is Reason.REQUEST_ENTERING
    assert gateway.from_phone(request("ACK", To=to, CSeq="2 ACK")).reason is Reason.REQUEST_ENTERING


def test_P14_all_vias_are_copied_and_the_top_one_filled_in() -> None:
    text = request(Max_Forwards="0", Via="SIP/2.0/UDP 10.0.0.1;rport;branch=z9hG4bK-1, SIP/2.0/UDP 10.0.0.2;branch=a")
    result = Gateway().from_phone(text)
    assert result.headers("Via") == [
        "SIP/2.0/UDP 10.0.0.1;rport=5060;branch=z9hG4bK-1;received=172.31.23.177, SIP/2.0/UDP 10.0.0.2;branch=a"
    ]


def test_P14_responses_are_never_answered() -> None:
    gateway = Gateway()
    sent = gateway.from_phone(request())
    broken = response_to(sent).replace("SIP/2.0 200", "SIP/2.0 4294967301")
    assert gateway.from_backend(broken, sent.dst).reason is Reason.BROKEN_RESPONSE


@pytest.mark.parametrize("name", ["Content_Length", "Max_Forwards", "CSeq"])
def test_P8_numbers_as_long_as_a_datagram_are_cheap(name: str) -> None:
    zeros = "0" * 20000
    value = f"{zeros}1 INVITE" if name == "CSeq" else zeros
    result = Gateway().from_phone(request("INVITE", **{name: value}))
    assert result.reason is (Reason.TOO_MANY_HOPS if name == "Max_Forwards" else Reason.REQUEST_ENTERING)
    assert Gateway().from_phone(request("INVITE", **{name: "9" * 20000 + " INVITE"})).reason.status == 400


def test_P5_two_tags_are_ambiguous() -> None:
    assert Gateway().from_phone(request(From="<sip:a@example.org>;tag=1;tag=2")).reason is Reason.BAD_HEADER


def test_P14_a_reply_goes_to_the_port_that_the_via_wants_and_to_no_other_address() -> None:
    from sipcase import endpoint, setup

    from nfqlb.proxy.setup import Listener

    never = Gateway(setup(listeners=(Listener("main", endpoint(EXT), endpoint(INT), force_rport="never"),)))
    refused = request(Max_Forwards="0")
    assert never.from_phone(refused, "172.31.23.177:51234").dst == PHONE
    assert never.from_phone(refused, "198.51.100.9:51234").dst == "198.51.100.9:5060"
    assert Gateway().from_phone(refused, "172.31.23.177:51234").dst == "172.31.23.177:51234"
