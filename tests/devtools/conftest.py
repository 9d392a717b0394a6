"""Processes that the tools start find their modules, as they do when tools/bench and the like are called."""

from pathlib import Path

import pytest

import devtools


@pytest.fixture(autouse=True)
def devtools_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(devtools.__file__).parent.parent))
