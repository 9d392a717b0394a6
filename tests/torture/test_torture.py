"""Each torture message has the outcome that the rules demand: the verdict, the status, and every byte of what leaves.

The classes of RFC 4475 and RFC 5118 are among them, in messages of our own (`like` names the one they stand beside).
What is expected was derived from the rules, not recorded from the engine.
"""

import pytest
from sipcase import EXT, INT, OTHER, Result
from torturecase import INT6, Torture, all_messages, forwarded, gateway, on_the_wire, reply

from nfqlb.proxy.verdict import Action
from nfqlb.sip.reply import PHRASES

MESSAGES = all_messages()
GATEWAY = gateway()


def send(case: Torture) -> Result:
    return GATEWAY.send(*case.sockets, on_the_wire(case.text))


def ids(case: Torture) -> str:
    return f"{case.rules.replace(', ', '+').replace(' ', '+')}-{case.name}"


@pytest.mark.parametrize("case", [case for case in MESSAGES if case.is_forwarded], ids=ids)
def test_what_is_forwarded_leaves_with_these_bytes(case: Torture) -> None:
    result = send(case)
    assert result.verdict.action is Action.FORWARD, (result.reason, result.trace)
    assert result.reason.slug in (case.out, f"request-{case.out}")
    want = forwarded(case)
    assert want.fullmatch(result.payload), f"\n{result.payload!r}\nis not\n{want.pattern!r}"
    if case.out == "entering":
        assert (result.src, result.dst) == (INT6 if case.version == 6 else INT, case.backend)
    else:
        assert (result.src, result.dst) == (EXT, case.to or OTHER)


@pytest.mark.parametrize("case", [case for case in MESSAGES if case.out == "entering"], ids=ids)
def test_its_answer_finds_the_way_back(case: Torture) -> None:
    """P33–P35: whatever the request looked like, a response that echoes its rows goes to where the request came from,
    and has the Vias that the request had, the top one with its true source.
    """
    result = send(case)
    head = result.payload.partition(b"\r\n\r\n")[0]
    rows = head.partition(b"\r\n")[2]
    ours, _, below = rows.partition(b"\r\n")
    assert ours.startswith(b"Via: ")
    # All rows echoed, not only those that a response has: we own the top Via, the rest is not ours to look at.
    echo = b"SIP/2.0 200 OK\r\n%b\r\n%b\r\n\r\n"
    length = result.payload.partition(b"\r\n\r\n")[2]
    back = GATEWAY.send(result.dst, result.src, echo % (ours, below) + length)
    assert back.verdict.action is Action.FORWARD, (back.reason, back.trace)
    assert (back.src, back.dst) == (case.sockets[1], case.sockets[0])
    assert back.payload == b"SIP/2.0 200 OK\r\n" + below + b"\r\n\r\n" + length


@pytest.mark.parametrize("case", [case for case in MESSAGES if case.out[0].isdigit()], ids=ids)
def test_what_is_refused_gets_this_reply(case: Torture) -> None:
    result = send(case)
    assert f"{result.reason.status} {result.reason.slug}" == case.out, result.trace
    assert (result.src, result.dst) == case.sockets[::-1]
    lines = [line for line in result.payload.split(b"\r\n") if not line.startswith(b"Warning: ")]
    want = reply(case, PHRASES[result.reason.status].decode())
    assert want.fullmatch(b"\r\n".join(lines)), f"\n{result.payload!r}\nis not\n{want.pattern!r}"


@pytest.mark.parametrize("case", [case for case in MESSAGES if case.out.startswith("drop")], ids=ids)
def test_what_is_dropped_is_counted_under_this_reason(case: Torture) -> None:
    result = send(case)
    assert f"drop {result.reason.slug}" == case.out, result.trace
    assert (result.verdict.action, result.verdict.packet) == (Action.DROP, b"")


RFC_4475 = {
    "wsinv": "every-blank-that-the-grammar-allows",
    "intmeth": "every-character-of-a-token-and-of-a-user-part",
    "esc01": "escapes-that-are-not-to-be-decoded",
    "escnull": "nul-written-as-an-escape",
    "esc02": "a-percent-sign-is-no-escape-in-a-method-nor-in-a-header-name",
    "lwsdisp": "display-names-of-bare-tokens-and-no-blank-before-the-bracket",
    "longreq": "values-as-long-as-a-header-block",
    "dblreq": "two-requests-in-one-datagram",
    "semiuri": "sip:bob;par=u%40example.net@example.org",
    "transports": "SIP/2.0/UNKNOWN t4.example.org",
    "mpart01": "a-body-that-looks-like-headers-and-holds-a-nul",
    "unreason": "a-response-whose-reason-is-no-ascii",
    "noreason": "a-response-without-a-reason",
    "badinv01": "branch=z9hG4bK-v;;,;,,",
    "clerr": "Content-Length: 9999",
    "ncl": "Content-Length: -999",
    "scalar02": "CSeq: 36893488147419103232 MESSAGE",
    "scalarlg": "CSeq: 9292394834772304023312 OPTIONS",
    "quotbal": 'To: "Mr. Bob <sip:bob@example.org>',
    "ltgtruri": "MESSAGE <sip:bob@example.org> SIP",
    "lwsruri": "org; lr SIP/2.0",
    "lwsstart": "MESSAGE  sip",
    "trws": "org SIP/2.0⟨20⟩",
    "escruri": "sip:bob@example.org?Route=%3Csip:9.9.9.9%3E SIP",
    "baddate": "what-nobody-reads-may-be-broken",
    "regbadct": "Contact: sip:bob@example.org?Route=%3Csip:9.9.9.9%3E",
    "badaspec": "blanks-inside-the-angle-brackets",
    "baddn": "a-comma-in-a-display-name-without-quotes",
    "badvers": "org SIP/7.0",
    "mismatch01": "CSeq: 1 INVITE",
    "mismatch02": "NEWMETHOD sip:bob",
    "bigcode": "SIP/2.0 4294967301 better not break the receiver",
    "badbranch": "branch=z9hG4bK\n",
    "insuf": "P8-a missing header",
    "unkscm": "nobodyKnowsThisScheme:totallyopaquecontent",
    "novelsc": "soap.beep://192.0.2.103:3002",
    "unksm2": "To: isbn:2983792873",
    "bext01": "Proxy-Require: noProxiesSupportThis",
    "invut": "application/unknownformat",
    "regaut01": "Authorization: NoOneKnowsThisScheme opaque-data=here",
    "multi01": "Call-ID: two",
    "mcl01": "Content-Length: 13\nContent-Length: 5",
    "bcast": "SIP/2.0/UDP 255.255.255.255;branch=z9hG4bK1saber23",
    "zeromf": "Max-Forwards: 0",
    "cparam01": "unknownparam>;;;;",
    "cparam02": "gw1.example.net;unknownparam>",
    "regescrt": "Contact: sip:bob@example.org?Route=",
    "sdp01": "Accept: text/nobodyKnowsThis",
    "inv2543": "P10, P22, P24-without cookie, tag or Max-Forwards",
}
"""Each message of RFC 4475, and what the message of ours is called, or has in it, that is of its kind."""


@pytest.mark.parametrize("name", RFC_4475)
def test_each_message_of_rfc_4475_has_one_of_ours_beside_it(name: str) -> None:
    assert len(RFC_4475) == 49
    assert any(RFC_4475[name] in f"{case.rules}-{case.name}\n{case.text}" for case in MESSAGES)


@pytest.mark.parametrize("section", range(1, 11))
def test_each_section_of_rfc_5118_has_messages_of_ours_beside_it(section: int) -> None:
    told = [f"{case.like}," for case in MESSAGES if "RFC 5118" in case.like]
    assert any(f"4.{section}," in like for like in told)
