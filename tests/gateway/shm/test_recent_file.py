"""The file of recent choices: shared, kept, and replaced where it is not ours to read."""

import mmap
import os
from pathlib import Path

import pytest

from nfqlb.balance.recent import SIZE, Recent, key, token
from nfqlb.gateway.shm import recent_file
from nfqlb.gateway.shm.recent_file import shared_memory

KEY, TOKEN = key(b"a transaction"), token(b"10.0.0.1:5060")


def stored(cells: memoryview) -> None:
    Recent(cells).store(KEY, TOKEN, 32)


def test_who_opens_it_next_finds_what_is_in_it(tmp_path: Path) -> None:
    first = shared_memory(tmp_path)
    second = shared_memory(tmp_path)
    stored(first)
    assert Recent(second).find(KEY) == TOKEN
    assert os.listdir(tmp_path) == [recent_file.FILE_NAME]
    assert (tmp_path / recent_file.FILE_NAME).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [b"", b"hello", bytes(SIZE), b"\xff" * SIZE, bytes(SIZE + 8), bytes(SIZE - 8)])
def test_a_file_of_something_else_is_replaced(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / recent_file.FILE_NAME
    path.write_bytes(content)
    with path.open("rb") as other:
        stored(shared_memory(tmp_path))
        assert other.read() == content, "it may be in use"
    assert Recent(shared_memory(tmp_path)).find(KEY) == TOKEN


def test_another_layout_is_left_to_those_who_use_it(tmp_path: Path) -> None:
    cells = shared_memory(tmp_path)
    cells[1] += 1
    stored(shared_memory(tmp_path))
    assert cells[1] == shared_memory(tmp_path)[1] + 1


def test_what_a_killed_one_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / f"{recent_file.FILE_NAME}.4711").write_bytes(b"half")
    shared_memory(tmp_path)
    assert os.listdir(tmp_path) == [recent_file.FILE_NAME]
    recent_file.remove(tmp_path)
    recent_file.remove(tmp_path)
    assert os.listdir(tmp_path) == []


def test_its_room_on_the_disk_is_taken_at_once(tmp_path: Path) -> None:
    """A store into a hole of a full disk would be death by SIGBUS."""
    shared_memory(tmp_path)
    assert (tmp_path / recent_file.FILE_NAME).stat().st_blocks * 512 >= SIZE


def test_no_room_is_an_error_that_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space"):
        shared_memory(tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.root
def test_a_file_of_another_user_is_told(tmp_path: Path) -> None:
    shared_memory(tmp_path)
    os.chmod(tmp_path, 0o755)
    told = mmap.mmap(-1, 8)
    pid = os.fork()
    if not pid:
        os.chdir(tmp_path)
        os.setresuid(65534, 65534, 65534)
        try:
            shared_memory(Path())
        except PermissionError:
            told[0] = 1
        os._exit(0)
    os.waitpid(pid, 0)
    assert told[0] == 1
