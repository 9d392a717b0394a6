"""Headers that are read for one rule only, and cannot be: refused where that rule asks for them, and only there.
And what is checked once more although it can hardly come to that."""

import pytest
from sipcase import EXT, PHONE, PROXY1, Gateway, endpoint, request, response_to, setup

from nfqlb.proxy.selection import username
from nfqlb.proxy.setup import Listener
from nfqlb.proxy.verdict import Reason

OPEN = '<sip:a@192.0.2.1;x="'
"""A quote that nobody ends."""


@pytest.mark.parametrize("method", ["REGISTER", "INVITE"])
def test_P5_P11_proxy_require_with_an_open_quote_gets_400(method: str) -> None:
    gateway = Gateway()
    assert gateway.from_phone(request(method, "sip:example.org", f"Proxy-Require: {OPEN}")).reason is Reason.BAD_QUOTING
    assert gateway.from_phone(request(method, "sip:example.org", f"Require: {OPEN}")).reason is Reason.REQUEST_ENTERING


def test_P5_P25_path_and_supported_with_an_open_quote_get_400_where_a_path_is_asked_for() -> None:
    wanting = Gateway(setup(path_policy="if-supported"))
    for header in ("Path", "Supported"):
        broken = request("REGISTER", "sip:example.org", f"{header}: {OPEN}")
        assert wanting.from_phone(broken).reason is Reason.BAD_QUOTING, header
    assert wanting.from_phone(request("MESSAGE", "sip:a@example.org", f"Supported: {OPEN}")).reason is (
        Reason.REQUEST_ENTERING
    )


def test_P35_a_response_goes_to_no_address_that_has_become_ours_meanwhile() -> None:
    """The branch proves where the request came from; since then a reload has given us that address."""
    answer = response_to(Gateway().from_phone(request()))
    more = Listener("more", endpoint("172.31.23.177:5070"), endpoint("192.168.1.5:5070"))
    assert Gateway().from_backend(answer, PROXY1).dst == PHONE
    after = Gateway(setup(listeners=(*setup().listeners, more)))
    assert after.from_backend(answer, PROXY1).reason is Reason.NO_RETURN


def test_P8_a_response_of_another_sip_version_is_dropped() -> None:
    gateway = Gateway()
    entered = gateway.from_phone(request())
    answer = response_to(entered).replace("SIP/2.0 200", "SIP/3.0 200", 1)
    assert gateway.from_backend(answer, PROXY1).reason is Reason.BROKEN_RESPONSE
    assert gateway.send(PHONE, EXT, answer).reason is Reason.BROKEN_RESPONSE


@pytest.mark.parametrize(
    ("credentials", "name"),
    [
        (None, None),
        (b'Digest realm="x"', None),
        (b'Digest username="bob", realm="x"', b"bob"),
        (b"Digest username=bob , realm=x", b"bob"),
        (b"Digest username=bob", b"bob"),
    ],
)
def test_P29_the_name_in_credentials_stands_in_quotes_or_without(credentials: bytes | None, name: bytes | None) -> None:
    assert username(credentials) == name
