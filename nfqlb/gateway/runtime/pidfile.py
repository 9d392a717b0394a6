"""One gateway for each run directory: a lock on `<run_dir>/pid`, which also tells who has it.

Knows the directory and the file. The kernel drops the lock when the holder dies, however it dies.
"""

import fcntl
import os
from pathlib import Path

from nfqlb.errors import StateError

FILE_NAME = "pid"


class PidfileError(StateError):
    """The run directory cannot be ours; the text says why and what to do."""


class Pidfile:
    """The lock, held until `release` or the death of this process."""

    def __init__(self, run_dir: Path, inherited: int | None = None) -> None:
        """Make the directory where it is missing, and take the lock, or take over the one that a predecessor has
        given us with its open file. Raises PidfileError.
        """
        self._path = run_dir / FILE_NAME
        if inherited is not None:
            self._descriptor = inherited
            return
        try:
            run_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._descriptor = self._locked()
        except OSError as error:
            raise PidfileError(
                f"{self._path} cannot be written ({error.strerror}): start as root, or name another [gateway] run_dir."
            ) from error
        self.tell()

    def fileno(self) -> int:
        """The open file that has the lock: as long as any process has it open."""
        return self._descriptor

    def tell(self) -> None:
        """Write down that it is this process that has the lock."""
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, b"%d\n" % os.getpid(), 0)

    def release(self) -> None:
        """Remove the file and give up the lock."""
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)

    def forget(self) -> None:
        """Let go of the lock, which somebody else has, too: in a child its parent, in a predecessor its successor."""
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
                raise PidfileError(
                    f"Another gateway runs here (pid {holder}). Stop it first, or name another [gateway] run_dir."
                ) from None
            except FileNotFoundError:  # the last holder removed the file between our open and our lock
                pass
            os.close(descriptor)
