"""The namespaces of `livenet` and of `hostnet`, for the tests of this folder."""

from collections.abc import Iterator
from pathlib import Path

import hostnet
import livenet
import pytest


@pytest.fixture
def net(tmp_path: Path) -> Iterator[livenet.Net]:
    yield from livenet.made(tmp_path)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[hostnet.Host]:
    yield from hostnet.made(tmp_path)
