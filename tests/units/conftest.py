"""The namespaces of `hostnet`, for the tests of this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hostnet import Host, made


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    yield from made(tmp_path)
