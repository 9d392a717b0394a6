"""Labs for the live tests: one per kind of gateway, shared by all tests of a module."""

from collections.abc import Iterator

import pytest
from livelab import Cell, fresh_name, running

from nfqlb.lab.sipp import Phone
from nfqlb.lab.topology import Plan


@pytest.fixture(
    scope="module",
    params=[(4, False), (4, True), (6, False), (6, True)],
    ids=["IPv4-two-armed", "IPv4-one-armed", "IPv6-two-armed", "IPv6-one-armed"],
)
def cell(request: pytest.FixtureRequest) -> Iterator[Cell]:
    """A lab of each kind in turn."""
    family, one_armed = request.param
    with running(Plan(fresh_name(), family=family, one_armed=one_armed)) as cell:
        yield cell


@pytest.fixture(params=[True, False], ids=["behind-NAT", "public"])
def alice(request: pytest.FixtureRequest, cell: Cell) -> Phone:
    return cell.alice[request.param]


@pytest.fixture(params=[True, False], ids=["alice-calls", "bob-calls"])
def pair(request: pytest.FixtureRequest, cell: Cell, alice: Phone) -> tuple[Phone, Phone]:
    """Caller and callee."""
    return (alice, cell.bob) if request.param else (cell.bob, alice)


@pytest.fixture
def lab_name() -> str:
    return fresh_name()
