"""Replacing a file: a reader finds all of the old content or all of the new, also after a power cut in between.

Knows the one way to do that on Linux: write into another file of the same directory, have the disk take it (fsync),
rename, have the disk take the directory. Does not know what stands in the file, nor who may be wrong about it. On the
ground floor of the house, because names, units and the gateway keep files alike; it needs nothing but the kernel.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NEW_MODE = 0o644
"""Of a file that was not there before; less what the umask takes away."""


def replace_file(path: Path, content: str | bytes, mode: int | None = None, *, durable: bool = True) -> None:
    """Put `content` (text becomes UTF-8) in the place of what stands in `path`, as `replacing` does it. Raises OSError;
    what was there then stays.
    """
    left = memoryview(content.encode() if isinstance(content, str) else content)
    with replacing(path, mode, durable=durable) as descriptor:
        while left:
            left = left[os.write(descriptor, left) :]


@contextmanager
def replacing(path: Path, mode: int | None = None, *, durable: bool = True) -> Iterator[int]:
    """The descriptor of a new file, open for reading and writing, which takes the place of `path` at the end of the
    block. If anything fails, in the block or after it, the new file is removed and the old one stays.

    `mode`: permissions of the new file, whatever the umask; it then belongs to whoever writes it. None: it has the
    permissions of the old one, and its owner where we may give files away; without an old one, NEW_MODE.

    `durable`: wait until the disk has the file and its name. Leave that out for what is of use to this boot alone.

    A link at `path` is replaced, not followed; nor is one that somebody has put in the place of the temporary file,
    for the directory may belong to a user who may do less than we. Raises OSError. If the very last step fails, the
    fsync of the directory, the new content stands there but may not outlive a power cut.
    """
    old = _regular(path) if mode is None else None
    wanted = stat.S_IMODE(old.st_mode) & 0o777 if old is not None else mode
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)  # of a process that had our number and was killed
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, NEW_MODE if wanted is None else wanted & 0o700)
    try:
        try:
            if old is not None:
                with suppress(PermissionError):
                    os.fchown(descriptor, old.st_uid, old.st_gid)
            if wanted is not None:
                os.fchmod(descriptor, wanted)
            yield descriptor
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.rename(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    if durable:
        _sync_directory(path.parent)


def _regular(path: Path) -> os.stat_result | None:
    """The status of the file that is there, if it is one."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return found if stat.S_ISREG(found.st_mode) else None


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # file systems that are not on a disk of ours: they keep names as they see fit
            raise
    finally:
        os.close(descriptor)
