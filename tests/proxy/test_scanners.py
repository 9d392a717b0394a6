"""Scanners by their User-Agent: dropped without a word, and at little cost."""

import pytest
from sipcase import INT, REG1, Gateway, one_armed, request, setup

from nfqlb.proxy.scanners import KNOWN, LONGEST, REMEMBERED, Scanners
from nfqlb.proxy.verdict import Reason

SCANNERS = Scanners(KNOWN)


@pytest.mark.parametrize("value", ["friendly-scanner", "SIPVicious/0.3", "sipcli/v1.8", "x SundayDDR 2", "iWar"])
def test_scanners_are_known_in_whatever_case(value: str) -> None:
    assert SCANNERS.matches(value.encode())
    assert SCANNERS.matches(value.upper().encode())


@pytest.mark.parametrize("value", ["Yealink SIP-T46U 108.86.0.70", "FRITZ!OS", "Asterisk PBX 20", "baresip v1.0", ""])
def test_phones_are_not(value: str) -> None:
    assert not SCANNERS.matches(value.encode())


def test_no_words_match_nothing() -> None:
    assert not Scanners(()).matches(b"friendly-scanner")


def test_words_are_no_patterns() -> None:
    assert not Scanners(("a.c",)).matches(b"abc")
    assert Scanners(("a.c",)).matches(b"A.C 1")


def test_strangers_values_do_not_pile_up() -> None:
    scanners = Scanners(KNOWN)
    for number in range(3 * REMEMBERED):
        assert not scanners.matches(b"agent %d" % number)
        assert len(scanners._known) <= REMEMBERED
    assert not scanners.matches(b"x" * LONGEST + b"sipvicious")
    assert max(map(len, scanners._known)) <= LONGEST


def scan(method: str = "OPTIONS", agent: str = "friendly-scanner", **rows: str) -> str:
    return request(method, "sip:100@203.0.113.5", User_Agent=agent, **rows)


GATEWAY = Gateway(setup(scanners=KNOWN))


@pytest.mark.parametrize("method", ["OPTIONS", "REGISTER", "INVITE", "ACK"])
def test_a_scanners_request_is_dropped_whatever_else_it_would_get(method: str) -> None:
    assert GATEWAY.from_phone(scan(method)).reason is Reason.SCANNER
    assert GATEWAY.from_phone(scan(method, Max_Forwards="0")).reason is Reason.SCANNER
    assert GATEWAY.from_phone(scan(method) + "\0").reason is Reason.SCANNER
    broken = scan(method).replace("CSeq: 1", "CSeq:")
    assert GATEWAY.from_phone(broken).reason is Reason.SCANNER
    assert GATEWAY.from_phone(scan(method, "Yealink")).reason is not Reason.SCANNER


def test_who_sends_through_a_backend_is_no_scanner() -> None:
    """It is a backend's business whom it calls for."""
    assert GATEWAY.send(REG1, INT, scan("INVITE")).reason is not Reason.SCANNER
    gateway = Gateway(one_armed(scanners=KNOWN))
    assert gateway.send(REG1, "203.0.113.5:5060", scan("INVITE")).reason is not Reason.SCANNER
    assert gateway.from_phone(scan("INVITE")).reason is Reason.SCANNER


def test_without_words_they_are_served() -> None:
    assert Gateway().from_phone(scan("INVITE")).reason is Reason.REQUEST_ENTERING
