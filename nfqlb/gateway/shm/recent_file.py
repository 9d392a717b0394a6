"""The file that all workers of all generations map: the memory of recent choices (P31).

Knows where it lies and who may use it. What is in it is for `nfqlb.balance.recent`.
"""

import mmap
import os
from pathlib import Path

from nfqlb.balance.recent import SIZE, Recent
from nfqlb.files import replacing

FILE_NAME = "recent"


def shared_memory(run_dir: Path) -> memoryview:
    """The cells of the table, with what is in it: an earlier generation may be using it at this moment. One of another
    layout is left to those who use it, and a new one takes its place. Raises OSError.
    """
    path = run_dir / FILE_NAME
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return _fresh(path)
    try:
        if os.fstat(descriptor).st_size == SIZE:
            cells = memoryview(mmap.mmap(descriptor, SIZE)).cast("Q")
            if Recent.fits(cells):
                return cells
    finally:
        os.close(descriptor)
    return _fresh(path)


def remove(run_dir: Path) -> None:
    """Nobody uses it any more."""
    (run_dir / FILE_NAME).unlink(missing_ok=True)


def _fresh(path: Path) -> memoryview:
    for left_over in path.parent.glob(f"{path.name}.*"):  # of those who were killed at their start
        left_over.unlink(missing_ok=True)
    with replacing(path, 0o600, durable=False) as descriptor:  # mapped memory: a boot forgets it anyway
        os.posix_fallocate(descriptor, 0, SIZE)  # where the disk is full, a hole would be our death at the first store
        cells = memoryview(mmap.mmap(descriptor, SIZE)).cast("Q")
        Recent.format(cells)
    return cells
