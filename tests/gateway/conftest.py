"""The namespaces of `livenet`, for the tests of this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from livenet import Net, made


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Net]:
    yield from made(tmp_path)
