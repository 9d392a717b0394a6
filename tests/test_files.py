"""Replacing a file: whole or not at all, whatever fails, and who may read it afterwards."""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nfqlb.files import replace_file, replacing

OLD, NEW = "what was there", "what shall be there"


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@contextmanager
def umask(value: int) -> Iterator[None]:
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "kept.json"
    made.write_text(OLD)
    return made


def failing(number: int, when: Callable[..., bool] = lambda *_: True, real: Callable[..., Any] | None = None) -> Any:
    """A call that fails with `number`, or is `real` where `when` does not hold."""

    def call(*args: Any, **named: Any) -> Any:
        if not when(*args):
            assert real is not None
            return real(*args, **named)
        raise OSError(number, os.strerror(number))

    return call


def is_directory(descriptor: int) -> bool:
    return stat.S_ISDIR(os.fstat(descriptor).st_mode)


@pytest.mark.parametrize("durable", [True, False])
def test_a_file_takes_the_place_of_the_old_one(path: Path, durable: bool) -> None:
    with path.open() as reader:
        replace_file(path, NEW, durable=durable)
        assert reader.read() == OLD, "who has it open reads the old one to its end"
    assert path.read_text() == NEW
    assert os.listdir(path.parent) == [path.name]


def test_text_is_utf_8_and_bytes_are_as_they_are(path: Path) -> None:
    replace_file(path, "Zürich")
    assert path.read_bytes() == "Zürich".encode()
    replace_file(path, b"\xff\x00")
    assert path.read_bytes() == b"\xff\x00"


def test_what_the_disk_takes_in_pieces_is_written_whole(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, content: write(descriptor, content[:3]))
    replace_file(path, NEW)
    assert path.read_text() == NEW


FAULTS = {
    "the disk is full at the first byte": ("write", errno.ENOSPC),
    "the disk is full when the content is to be there": ("fsync", errno.ENOSPC),
    "the disk fails": ("fsync", errno.EIO),
    "the permissions cannot be set": ("fchmod", errno.EPERM),
    "the directory has no room for the name": ("rename", errno.ENOSPC),
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda each: each.replace(" ", "-"))
def test_a_failure_leaves_the_old_file_and_nothing_else(
    path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    name, number = FAULTS[fault]
    monkeypatch.setattr(os, name, failing(number))
    open_before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match=os.strerror(number)):
        replace_file(path, NEW)
    assert path.read_text() == OLD
    assert os.listdir(path.parent) == [path.name]
    assert len(os.listdir("/proc/self/fd")) == open_before


def test_the_disk_is_full_halfway(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, pieces = os.write, iter((True, False))
    one_piece = failing(errno.ENOSPC, lambda *_: not next(pieces), lambda opened, content: write(opened, content[:3]))
    monkeypatch.setattr(os, "write", one_piece)
    with pytest.raises(OSError, match="No space"):
        replace_file(path, NEW)
    assert path.read_text() == OLD
    assert os.listdir(path.parent) == [path.name]


def test_a_block_that_fails_leaves_the_old_file(path: Path) -> None:
    def begun() -> None:
        with replacing(path) as descriptor:
            os.write(descriptor, b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        begun()
    assert path.read_text() == OLD
    assert os.listdir(path.parent) == [path.name]


def test_a_directory_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        replace_file(tmp_path / "missing" / "file", NEW)


def test_the_disk_has_the_file_before_its_name_and_the_name_before_we_go_on(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, rename = os.fsync, os.rename

    def synced(descriptor: int) -> None:
        done.append("directory" if is_directory(descriptor) else "file")
        fsync(descriptor)

    def renamed(*args: Any, **named: Any) -> None:
        done.append("rename")
        rename(*args, **named)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    replace_file(path, NEW)
    assert done == ["file", "rename", "directory"]
    done.clear()
    replace_file(path, OLD, durable=False)
    assert done == ["rename"]


@pytest.mark.parametrize(("number", "raised"), [(errno.EIO, True), (errno.EINVAL, False)])
def test_a_directory_that_cannot_be_synced(
    path: Path, monkeypatch: pytest.MonkeyPatch, number: int, raised: bool
) -> None:
    """The new file is there by then; that a file system does not know the call is no reason to fail for ever."""
    monkeypatch.setattr(os, "fsync", failing(number, is_directory, os.fsync))
    if raised:
        with pytest.raises(OSError, match=os.strerror(number)):
            replace_file(path, NEW)
    else:
        replace_file(path, NEW)
    assert path.read_text() == NEW
    assert os.listdir(path.parent) == [path.name]


# -- who may read it


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644, 0o666])
def test_permissions_stay_as_they_were(path: Path, mode: int) -> None:
    path.chmod(mode)
    with umask(0o077):
        replace_file(path, NEW)
    assert mode_of(path) == mode


def test_permissions_that_are_given_count_whatever_was_there(path: Path) -> None:
    path.chmod(0o600)
    with umask(0o077):
        replace_file(path, NEW, 0o644)
    assert mode_of(path) == 0o644


def test_a_new_file_goes_by_the_umask(tmp_path: Path) -> None:
    for number, mode in ((0o022, 0o644), (0o077, 0o600), (0, 0o644)):
        with umask(number):
            replace_file(tmp_path / f"{number}", NEW)
        assert mode_of(tmp_path / f"{number}") == mode


def test_nobody_else_can_open_it_before_it_has_its_permissions(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who opened it then could read what is written later."""
    seen: list[int] = []
    fchmod = os.fchmod

    def watched(descriptor: int, mode: int) -> None:
        seen.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        fchmod(descriptor, mode)

    path.chmod(0o640)
    monkeypatch.setattr(os, "fchmod", watched)
    with umask(0):
        replace_file(path, NEW)
    assert seen == [0o600]


def test_a_link_is_replaced_and_its_target_left_alone(tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / "link"
    victim.write_text(OLD)
    victim.chmod(0o666)
    path.symlink_to(victim)
    with umask(0o022):
        replace_file(path, NEW)
    assert (victim.read_text(), path.read_text(), path.is_symlink()) == (OLD, NEW, False)
    assert mode_of(path) == 0o644


def test_a_link_in_the_place_of_the_temporary_file_is_not_followed(path: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text(OLD)
    path.with_name(f"{path.name}.{os.getpid()}").symlink_to(victim)
    replace_file(path, NEW)
    assert victim.read_text() == OLD
    assert sorted(os.listdir(tmp_path)) == [path.name, "victim"]


def test_nor_is_one_that_comes_at_the_last_moment(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = tmp_path / "victim"
    victim.write_text(OLD)
    unlink = Path.unlink

    def outrun(self: Path, missing_ok: bool = False) -> None:
        unlink(self, missing_ok=missing_ok)
        self.symlink_to(victim)

    monkeypatch.setattr(Path, "unlink", outrun)
    with pytest.raises(FileExistsError):
        replace_file(path, NEW)
    assert (victim.read_text(), path.read_text()) == (OLD, OLD)


@pytest.mark.root
def test_the_owner_stays_unless_permissions_are_given(path: Path) -> None:
    os.chown(path, 65534, 65533)
    replace_file(path, NEW)
    assert (path.stat().st_uid, path.stat().st_gid) == (65534, 65533)
    replace_file(path, NEW, 0o600)
    assert (path.stat().st_uid, path.stat().st_gid) == (os.geteuid(), os.getegid())


def test_who_may_not_give_files_away_still_replaces_them(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fchown", failing(errno.EPERM))
    replace_file(path, NEW)
    assert path.read_text() == NEW
