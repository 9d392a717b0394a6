"""The question that a backend is asked, what is taken for its answer, and who is asked at all."""

import pytest

from nfqlb.balance.health import Check
from nfqlb.balance.pool import Backend, Pool
from nfqlb.gateway.backends.plan import targets
from nfqlb.gateway.health.probe import Answer, Questions, Target, source_for
from nfqlb.net.endpoint import Endpoint
from nfqlb.sip import message, via

FOUR, SIX = Endpoint.parse("192.168.1.5:5060"), Endpoint.parse("[fd00::5]:5060")
ASKED = Endpoint.parse("192.168.1.11:5070")


def target(check: Check, address: Endpoint = ASKED) -> Target:
    return Target(address, FOUR, check, (("p", "a"),), (0,))


def question(check: Check = Check(), address: Endpoint = ASKED, here: str = "192.168.1.5:40000") -> bytes:  # noqa: B008
    return Questions("lb", "5ec2e7").ask(target(check, address), 7, 12, Endpoint.parse(here))


def answer_to(asked: bytes, status: int = 200, top: str = "") -> bytes:
    """As a server makes one: the first line, and Via, From, To, Call-ID and CSeq as they came."""
    rows = [
        line for line in asked.split(b"\r\n") if line.split(b":")[0] in (b"Via", b"From", b"To", b"Call-ID", b"CSeq")
    ]
    return b"\r\n".join([b"SIP/2.0 %d Whatever" % status, *([top.encode()] if top else []), *rows, b"", b""])


@pytest.mark.parametrize(
    ("address", "here"), [("192.168.1.11:5070", "192.168.1.5:40000"), ("[fd00::11]:5060", "[fd00::5]:40000")]
)
def test_the_question_is_a_sound_request(address: str, here: str) -> None:
    text = question(address=Endpoint.parse(address), here=here)
    read = message.parse(text)
    assert read.fault is None
    assert (read.method, read.uri) == (b"OPTIONS", b"sip:" + Endpoint.parse(address).hostport)
    for name in (b"via", b"from", b"to", b"call-id", b"cseq", b"max-forwards", b"contact", b"content-length"):
        assert len(read.rows[name]) == 1, name
    assert read.value(b"max-forwards") == b"70"
    assert (read.value(b"from") or b"").startswith(b"<sip:lb@" + here.encode() + b">;tag=")
    top = via.parse(text, *read.values(b"via", 1)[0])
    assert top is not None
    assert top.sent_by == Endpoint.parse(here)
    assert top.rport == b""


def test_method_and_uri_are_as_the_configuration_says() -> None:
    read = message.parse(question(Check(method="INFO", uri="sip:ping@example.org;to={address}")))
    assert (read.method, read.uri) == (b"INFO", b"sip:ping@example.org;to=192.168.1.11:5070")
    assert read.value(b"cseq") == b"12 INFO"


@pytest.mark.parametrize("status", [100, 200, 404, 503])
def test_an_answer_is_known_by_its_branch(status: int) -> None:
    assert Questions("lb", "5ec2e7").answer(answer_to(question(), status)) == Answer(7, 12, status)


def test_an_answer_in_another_hand_is_known_too() -> None:
    asked = (
        answer_to(question())
        .replace(b"Via: SIP/2.0/UDP ", b"v : SIP / 2.0 / UDP  ")
        .replace(b";rport", b";rport=40000")
    )
    assert Questions("lb", "5ec2e7").answer(asked) == Answer(7, 12, 200)


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        b"\r\n\r\n",
        b"SIP/2.0 200 OK\r\n\r\n",
        question(),
        answer_to(question())[:-2],
        answer_to(question()).replace(b"5ec2e7", b"000000"),
        answer_to(question()).replace(b"z9hG4bKask", b"z9hG4bKnfq"),
        answer_to(question()).replace(b"5ec2e7.7.12", b"5ec2e7.7." + b"1" * 400),
        answer_to(question(), top="Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKother"),
        answer_to(question(), top='Via: "SIP/2.0/UDP 192.0.2.1'),
    ],
)
def test_nothing_else_is_an_answer(datagram: bytes) -> None:
    assert Questions("lb", "5ec2e7").answer(datagram) is None


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("10.1.2.3:5060", "10.1.0.5:5060"),
        ("10.2.2.3:5060", "10.2.0.5:5060"),
        ("10.2.0.5:5061", "10.2.0.5:5060"),
        ("[fd00:2::1]:5060", "[fd00:2::5]:5060"),
    ],
)
def test_it_is_asked_from_the_internal_address_that_faces_it(address: str, source: str) -> None:
    internals = [
        Endpoint.parse(each) for each in ("10.1.0.5:5060", "10.2.0.5:5060", "[fd00:1::5]:5060", "[fd00:2::5]:5060")
    ]
    assert source_for(Endpoint.parse(address), internals) == Endpoint.parse(source)


def test_whom_no_listener_faces_nobody_asks() -> None:
    assert source_for(ASKED, [SIX]) is None


def test_one_address_is_asked_once_for_all_pools_that_ask_the_same_way() -> None:
    one, other = Backend("a", ASKED), Backend("b", Endpoint.parse("192.168.1.12:5060"))
    pools = [Pool("p", (one, other)), Pool("q", (Backend("x", ASKED),)), Pool("r", (one,)), Pool("s", (other,))]
    slow = Check(interval=30.0)
    checks = {"p": Check(), "q": Check(), "r": slow, "s": Check(enabled=False)}
    found = {(each.address, each.check): (each.places, each.numbers) for each in targets(pools, checks, (FOUR,))}
    assert found == {
        (ASKED, Check()): ((("p", "a"), ("q", "x")), (0, 2)),
        (other.address, Check()): ((("p", "b"),), (1,)),
        (ASKED, slow): ((("r", "a"),), (3,)),
    }
