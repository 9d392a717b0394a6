"""A pair for the tests, with fast health checks."""

from collections.abc import Iterator

import pytest
from livepair import running

from nfqlb.lab.pair import PairLab


@pytest.fixture(scope="module", params=[4, 6], ids=["IPv4", "IPv6"])
def pair(request: pytest.FixtureRequest) -> Iterator[PairLab]:
    with running(family=request.param) as lab:
        yield lab
