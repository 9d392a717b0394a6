"""Which backend an operator means by a name."""

import pytest

from nfqlb.gateway.care import Unknown, find

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
    with pytest.raises(Unknown) as refused:
        find(name, PLACES)
    assert told in str(refused.value)
