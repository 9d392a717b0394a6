"""For the tests of this folder: the namespaces of `livenet` and of `hostnet`, and the children of `faultcase`."""

from collections.abc import Iterator
from pathlib import Path

import faultcase
import hostnet
import livenet
import pytest


@pytest.fixture
def net(tmp_path: Path) -> Iterator[livenet.Net]:
    yield from livenet.made(tmp_path)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[hostnet.Host]:
    yield from hostnet.made(tmp_path)


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[faultcase.Processes]:
    yield from faultcase.made(monkeypatch)
