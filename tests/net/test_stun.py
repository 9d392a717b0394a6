"""STUN on the SIP port (P3): RFC 5769's vectors, scapy as another reader and writer, and what must get no answer."""

import struct
import warnings
from zlib import crc32

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sipcase import INT, REG1, Gateway, endpoint, one_armed

from nfqlb.net import stun
from nfqlb.net.endpoint import Endpoint
from nfqlb.net.stun import Answer
from nfqlb.proxy.verdict import Reason

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from scapy.contrib.stun import STUN, STUNXorMappedAddress

TRANSACTION = bytes.fromhex("b7e7a701bc34d686fa87dfae")
FOUR, SIX = endpoint("192.0.2.1:32853"), endpoint("[2001:db8:1234:5678:11:2233:4455:6677]:32853")

# RFC 5769 2.1: a request with SOFTWARE, PRIORITY, ICE-CONTROLLED, USERNAME, MESSAGE-INTEGRITY and FINGERPRINT.
VECTOR = bytes.fromhex(
    "000100582112a442b7e7a701bc34d686fa87dfae802200105354554e207465737420636c69656e74"
    "002400046e0001ff80290008932ff9b151263b36000600096576746a3a68367659202020"
    "000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a280280004e57a3bcf"
)
PRIORITY = VECTOR[40:48]


def request(body: bytes = b"", kind: int = 1) -> bytes:
    return struct.pack("!HH", kind, len(body)) + stun.COOKIE + TRANSACTION + body


def attribute(name: int, value: bytes = b"") -> bytes:
    return struct.pack("!HH", name, len(value)) + value + bytes(-len(value) % 4)


def with_fingerprint(message: bytes) -> bytes:
    head = message[:2] + (len(message) - 12).to_bytes(2, "big") + message[4:]
    return head + attribute(0x8028, struct.pack("!I", crc32(head) ^ 0x5354554E))


def small(message: bytes, answer: bytes) -> bool:
    return len(answer) <= 1.5 * len(message) + 200


@pytest.mark.parametrize(
    ("source", "value"),
    [(FOUR, "0001a147e112a643"), (SIX, "0002a1470113a9faa5d3f179bc25f4b5bed2b9d9")],
    ids=["IPv4", "IPv6"],
)
def test_P3_the_answer_has_the_xored_source_address_of_rfc_5769(source: Endpoint, value: str) -> None:
    kind, answer = stun.answer(request(), source)
    assert kind is Answer.SUCCESS
    body = attribute(0x0020, bytes.fromhex(value))
    assert answer == struct.pack("!HH", 0x0101, len(body)) + stun.COOKIE + TRANSACTION + body


def test_P3_scapy_asks_and_understands() -> None:
    asked = bytes(STUN(stun_message_type=0x0001, transaction_id=int.from_bytes(TRANSACTION, "big")))
    assert stun.is_stun(asked)
    found = STUN(stun.answer(asked, FOUR)[1])
    assert found.stun_message_type == 0x0101
    assert found.transaction_id == int.from_bytes(TRANSACTION, "big")
    (mapped,) = found.attributes
    assert isinstance(mapped, STUNXorMappedAddress)
    assert (mapped.xip, mapped.xport) == ("192.0.2.1", 32853)


def test_P3_a_fingerprint_is_checked_and_answered_with_one() -> None:
    asked = with_fingerprint(request())
    kind, answer = stun.answer(asked, FOUR)
    assert kind is Answer.SUCCESS
    assert answer == with_fingerprint(stun.answer(request(), FOUR)[1])
    assert stun.answer(asked[:-1] + b"\0", FOUR) == (Answer.NONE, b"")


def test_P3_an_unknown_attribute_that_must_be_known_gets_420() -> None:
    """The vector's PRIORITY is ICE's; what else it has is known, optional, or for servers that ask who it is."""
    kind, answer = stun.answer(VECTOR, SIX)
    assert kind is Answer.REFUSAL
    assert struct.unpack_from("!HH", answer) == (0x0111, len(answer) - 20)
    assert answer[20:].startswith(struct.pack("!HHI", 9, 21, 0x0414) + b"Unknown Attribute\0\0\0")
    assert attribute(0x000A, b"\x00\x24") in answer
    assert with_fingerprint(answer[:2] + (len(answer) - 28).to_bytes(2, "big") + answer[4:-8]) == answer
    assert small(VECTOR, answer)
    without = request(VECTOR[20:40] + VECTOR[48:-8])
    assert stun.answer(without, SIX)[0] is Answer.SUCCESS


def test_P3_what_follows_the_integrity_is_ignored() -> None:
    integrity = attribute(0x0008, bytes(20))
    assert stun.answer(request(PRIORITY + integrity), FOUR)[0] is Answer.REFUSAL
    assert stun.answer(request(integrity + PRIORITY), FOUR)[0] is Answer.SUCCESS


def test_P3_a_refusal_names_each_unknown_attribute_once_and_not_all() -> None:
    one = stun.answer(request(PRIORITY * 5), FOUR)[1]
    assert one[20:].count(b"\x00\x24") == 1
    many = request(b"".join(attribute(0x4000 + number) for number in range(100)))
    answer = stun.answer(many, FOUR)[1]
    assert len(answer) == 20 + 28 + 4 + 2 * stun.MOST_UNKNOWN
    assert small(many, answer)


@pytest.mark.parametrize(
    "message",
    [
        request(kind=0x0011),  # an indication
        request(kind=0x0101),  # an answer
        request(kind=0x0003),  # TURN's allocation
        request(b"\0"),
        request(struct.pack("!HH", 0x8022, 400)),
        request(attribute(0x8028, b"\0\0\0\0")),
        request(attribute(0x8022, bytes(600))),
    ],
    ids=["indication", "answer", "allocate", "length", "beyond", "fingerprint", "long"],
)
def test_P3_what_is_no_sound_binding_request_gets_no_answer(message: bytes) -> None:
    assert stun.is_stun(message)
    assert stun.answer(message, FOUR) == (Answer.NONE, b"")


@given(st.binary(max_size=600), st.sampled_from((FOUR, SIX)))
@example(PRIORITY, FOUR)
def test_P3_any_attributes_get_a_small_answer_or_none(body: bytes, source: Endpoint) -> None:
    asked = request(body)
    assert stun.is_stun(asked)
    kind, answer = stun.answer(asked, source)
    assert (kind is Answer.NONE) == (answer == b"")
    assert small(asked, answer)
    if answer:
        assert stun.is_stun(answer)
        assert answer[8:20] == TRANSACTION


@given(st.binary(max_size=40))
@example(stun.COOKIE * 5)
def test_P3_what_is_no_stun_is_told_by_its_header(raw: bytes) -> None:
    whole = len(raw) >= 20 and struct.unpack("!H", raw[2:4])[0] + 20 == len(raw)
    assert stun.is_stun(raw) is (whole and raw[0] >> 6 == 0 and raw[4:8] == stun.COOKIE)


def test_P3_the_gateway_answers_from_the_socket_that_was_asked() -> None:
    result = Gateway().from_phone(request(), "198.51.100.77:40000")
    assert (result.reason, result.src, result.dst) == (Reason.STUN_ANSWERED, "203.0.113.5:5060", "198.51.100.77:40000")
    assert result.payload == stun.answer(request(), endpoint("198.51.100.77:40000"))[1]
    assert Gateway().from_phone(VECTOR).reason is Reason.STUN_REFUSED


def test_P3_the_gateway_answers_none_from_inside_and_no_classic_stun() -> None:
    for gateway, socket in ((Gateway(), INT), (Gateway(one_armed()), "203.0.113.5:5060")):
        assert gateway.send(REG1, socket, request()).reason is Reason.STUN
    classic = request()[:4] + b"\0\0\0\0" + request()[8:]
    assert Gateway().from_phone(classic).reason is Reason.NOT_SIP
    assert Gateway().from_phone(request(kind=0x0011)).reason is Reason.STUN
