"""One gateway for each run directory: a lock on `<run_dir>/pid`, which also tells who has it.

Knows the directory and the file. The kernel drops the lock when the holder dies, however it dies.
"""

import fcntl
import os
from pathlib import Path

FILE_NAME = "pid"


class InstanceError(Exception):
    """The run directory cannot be ours; the text says why and what to do."""


class Instance:
    """The lock, held until `release` or the death of this process."""

    def __init__(self, run_dir: Path) -> None:
        """Make the directory where it is missing, and take the lock. Raises InstanceError."""
        self._path = run_dir / FILE_NAME
        try:
            run_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._descriptor = self._locked()
        except OSError as error:
            raise InstanceError(
                f"{self._path} cannot be written ({error.strerror}): start as root, or name another [gateway] run_dir."
            ) from error
        os.truncate(self._descriptor, 0)
        os.write(self._descriptor, b"%d\n" % os.getpid())

    def release(self) -> None:
        """Remove the file and give up the lock."""
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)

    def forget(self) -> None:
        """Let go of the lock in a child: it belongs to the parent alone."""
        os.close(self._descriptor)

    def _locked(self) -> int:
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(descriptor), os.stat(self._path)):
                    return descriptor
            except BlockingIOError:
                holder = os.read(descriptor, 20).decode("ascii", "replace").strip() or "?"
                os.close(descriptor)
                raise InstanceError(
                    f"Another gateway runs here (pid {holder}). Stop it first, or name another [gateway] run_dir."
                ) from None
            except FileNotFoundError:  # the last holder removed the file between our open and our lock
                pass
            os.close(descriptor)
