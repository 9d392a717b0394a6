"""Who watches the run directory, as /proc says. The real keepalived is in test_track_live."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nfqlb.gateway.ha import watch

WATCHER = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
assert libc.inotify_add_watch(libc.inotify_init1(0), os.fsencode(sys.argv[1]), 8) > 0
print("watching", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory that somebody watches, who speaks VRRP."""
    made = tmp_path / "run"
    made.mkdir()
    argv = [sys.executable, "-c", WATCHER, str(made)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "watching\n"
        monkeypatch.setattr(watch, "_speakers", lambda: {process.pid})
        yield made
        process.kill()


def test_the_directory_that_it_watches_is_told_from_one_that_was_made_in_its_place(run_dir: Path) -> None:
    assert watch.unwatched(run_dir) == ""
    before = run_dir.rename(run_dir.with_name("before"))
    assert f"does not watch {run_dir} (it is not there)" in watch.unwatched(run_dir)
    run_dir.mkdir()
    assert f"does not watch {run_dir} (it is not the one that was there when" in watch.unwatched(run_dir)
    assert watch.unwatched(before) == ""


def test_where_nobody_can_be_looked_at_nothing_is_said(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir.rmdir()
    assert watch.unwatched(run_dir)
    for nobody in (set[int](), {2**22 + 1}):  # more than any pid
        monkeypatch.setattr(watch, "_speakers", lambda nobody=nobody: nobody)
        assert watch.unwatched(run_dir) == ""
