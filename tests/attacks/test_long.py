"""An attacker fills a datagram with one thing, over and over, to keep a worker busy: 64 kB of it must cost time in
proportion to its length. The square of it would be minutes, in which thousands wait; so each of these has a limit that
only the square can reach.
"""

import pytest
from sipcase import Gateway, one_armed, request, setup, wire

from nfqlb.proxy.verdict import Reason

LENGTH = 60_000
MESSAGE = wire(request("MESSAGE", "sip:bob@example.org"))
REGISTER = wire(request("REGISTER", "sip:example.org"))
HOPS = b"Max-Forwards: 70\r\n"


def filled(text: bytes, behind: bytes = b"") -> bytes:
    return text * (LENGTH // len(text)) + behind


def row(text: bytes, name: bytes = b"X: ", end: bytes = b"\r\n", *, message: bytes = MESSAGE) -> bytes:
    return message.replace(HOPS, name + text + end + HOPS)


def put(old: bytes, new: bytes, *, message: bytes = MESSAGE) -> bytes:
    assert message.count(old) >= 1
    return message.replace(old, new, 1)


ENTERS, BLOCK, HEADER = Reason.REQUEST_ENTERING, Reason.BAD_HEADER_BLOCK, Reason.BAD_HEADER
FLOOD = {
    "a line without a colon": (row(filled(b"a"), b""), BLOCK),
    "lines without a colon": (row(filled(b"a" * 98 + b"\r\n"), b"", b""), BLOCK),
    "blanks before no colon": (row(filled(b" "), b"a"), BLOCK),
    "folded lines": (row(filled(b"\r\n a")), ENTERS),
    "folded lines and a NUL": (row(filled(b"\r\n a", b"\0")), BLOCK),
    "short rows": (row(filled(b"a:\r\n"), b"", b""), ENTERS),
    "short rows and a NUL": (row(filled(b"a:\r\n", b"\0\r\n"), b"", b""), BLOCK),
    "line feeds": (row(filled(b"\n")), BLOCK),
    "carriage returns": (row(filled(b"\r")), BLOCK),
    "blank lines first": (filled(b"\r\n") + MESSAGE, ENTERS),
    "nearly a keepalive": (filled(b"\r\n \0", b"x"), Reason.NOT_SIP),
    "empty Routes": (row(filled(b","), b"Route: "), ENTERS),
    "own Routes": (row(filled(b"<sip:203.0.113.5;lr>,", b"<sip:192.168.1.21;lr>"), b"Route: "), ENTERS),
    "open brackets": (row(filled(b"<"), b"Route: "), Reason.BAD_QUOTING),
    "own Vias": (row(filled(b"Via: SIP/2.0/UDP 203.0.113.5;branch=z9hG4bKnfq0.0\r\n"), b"", b""), ENTERS),
    "own Vias in a list": (row(filled(b"SIP/2.0/UDP 203.0.113.5;branch=z9hG4bKnfq0.0,", b"x"), b"Via: "), ENTERS),
    "parameters of Via": (put(b"z9hG4bK-1", b"z9hG4bK-1" + filled(b";a")), ENTERS),
    "blanks behind Via": (put(b"z9hG4bK-1", b"z9hG4bK-1" + filled(b" ", b"x")), HEADER),
    "empty parameters of Via": (put(b"z9hG4bK-1", b"z9hG4bK-1" + filled(b"; ")), HEADER),
    "quotes in From": (put(b"From: ", b"From: " + filled(b'""')), ENTERS),
    "escapes in From": (put(b"From: ", b'From: "' + filled(b'\\"')), Reason.BAD_QUOTING),
    "a word in From": (put(b"From: ", b"From: " + filled(b"a")), ENTERS),
    "parameters of From": (put(b";tag=f1", b";tag=f1" + filled(b";a=b")), ENTERS),
    "semicolons behind From": (put(b";tag=f1", b";tag=f1" + filled(b";")), ENTERS),
    "quotes behind From": (put(b";tag=f1", b";tag=f1;a=" + filled(b'"a')), Reason.BAD_QUOTING),
    "a user": (put(b"bob@example.org SIP", filled(b"b") + b"@example.org SIP"), ENTERS),
    "no host": (put(b"bob@example.org SIP", filled(b"b;") + b" SIP"), Reason.BAD_URI),
    "colons of a host": (put(b"bob@example.org SIP", b"[" + filled(b":") + b"] SIP"), ENTERS),
    "parameters of the Request-URI": (put(b"bob@example.org SIP", b"b@c" + filled(b";a=b") + b" SIP"), ENTERS),
    "a number": (put(b"CSeq: 1 ", b"CSeq: " + filled(b"1") + b" "), HEADER),
    "extensions": (row(filled(b"a,", b"b"), b"Proxy-Require: "), Reason.MESSAGE_TOO_LARGE),
    "Contacts": (put(b"Contact: ", b"Contact: " + filled(b"*,")), ENTERS),
    "Paths": (row(filled(b"<sip:lb@192.168.1.5;lr>,", b"<sip:x>"), b"Path: ", message=REGISTER), ENTERS),
    "versions": (filled(b"a SIP/2.0", b"\n"), Reason.UNANSWERABLE),
    "a method": (filled(b"M") + MESSAGE, Reason.METHOD_MISMATCH),
}


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.parametrize("what", FLOOD)
def test_a_datagram_full_of(what: str) -> None:
    payload, outcome = FLOOD[what]
    for at in (Gateway(setup()), Gateway(one_armed())):
        assert at.from_phone(payload).reason is outcome
