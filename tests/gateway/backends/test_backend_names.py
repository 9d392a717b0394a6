"""Which backend an operator means by a name, and for how long an order may last."""

import pytest

from nfqlb.gateway.backends.override_request import LONGEST, UnknownBackend, find, override_of

PLACES = [("registrars", "reg1"), ("registrars", "shared"), ("proxies", "edge-1"), ("proxies", "shared")]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("reg1", ("registrars", "reg1")),
        ("registrars/reg1", ("registrars", "reg1")),
        ("proxies/shared", ("proxies", "shared")),
    ],
)
def test_a_name_or_a_pool_and_a_name_is_enough(name: str, meant: tuple[str, str]) -> None:
    assert find(name, PLACES) == [meant]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("rge1", "No backend is called 'rge1'. Did you mean 'reg1'?"),
        ("registras/reg1", "No backend is called 'registras/reg1'. Did you mean 'registrars/reg1'?"),
        ("elsewhere", "No backend is called 'elsewhere'. 'nfqlb backends' lists them."),
        ("shared", "name one of registrars/shared, proxies/shared."),
    ],
)
def test_a_name_of_nobody_or_of_several_is_refused(name: str, told: str) -> None:
    with pytest.raises(UnknownBackend) as refused:
        find(name, PLACES)
    assert told in str(refused.value)


def test_an_order_that_ends_does_so_within_ten_years() -> None:
    assert override_of({"do": "drain", "backend": "reg1", "for": LONGEST}) == ("reg1", LONGEST)
    with pytest.raises(UnknownBackend, match="too long: 3650 days at most"):
        override_of({"do": "drain", "backend": "reg1", "for": LONGEST + 1})


@pytest.mark.parametrize("seconds", [0, -1, True, "600", float("nan")])
def test_an_order_lasts_some_seconds(seconds: object) -> None:
    with pytest.raises(UnknownBackend, match="Say for how many seconds"):
        override_of({"do": "drain", "backend": "reg1", "for": seconds})
