"""The bytes of a capture in order, from a file or standard input, unpacked when they are gzip'ed.

Knows positions (for error messages and progress) and nothing of what the bytes mean.
"""

import gzip
import io
import os
import stat
import sys
import zlib
from types import TracebackType
from typing import IO, cast

from nfqlb.capture.errors import Truncated

GZIP_MAGIC = b"\x1f\x8b"
_BUFFER = 1 << 18
"""Bytes read from the file at a time; the only memory that a source takes."""


class Source:
    """Sequential reads with a position; use as a context manager.

    `path` "-" is standard input, which is left open.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        text = os.fspath(path)
        self.name = "standard input" if text == "-" else text
        self.offset = 0
        """Bytes handed out so far; in a gzip'ed file, of what was packed into it."""
        self.size: int | None = None
        """Bytes of the file on disk, None when that is not known (a pipe)."""
        self.packing_fault = ""
        """Why the gzip stream ended early, when it did."""
        self._file: IO[bytes] = (
            sys.stdin.buffer if text == "-" else open(text, "rb", buffering=_BUFFER)  # noqa: SIM115
        )
        self._owned = text != "-"
        try:
            status = os.fstat(self._file.fileno())
            if stat.S_ISREG(status.st_mode):
                self.size = status.st_size
        except (OSError, ValueError):  # a stand-in for stdin without a descriptor
            pass
        self.head = self._file.read(8)
        """The first (unpacked) bytes, up to 8; they will be read again."""
        self._ahead = self.head
        self._stream: IO[bytes] = self._file
        if self.head.startswith(GZIP_MAGIC):
            packed = cast(IO[bytes], _Joined(self.head, self._file))
            self._stream = cast(IO[bytes], gzip.GzipFile(fileobj=packed, mode="rb"))
            self._ahead = b""
            self.head = self._ahead = self._take(8)

    def read(self, count: int) -> bytes:
        """The next `count` bytes; fewer only at the end."""
        if self._ahead:
            data, self._ahead = self._ahead[:count], self._ahead[count:]
            if len(data) < count:
                data += self._take(count - len(data))
        else:
            data = self._take(count)
        self.offset += len(data)
        return data

    def skip(self, count: int) -> int:
        """Pass over `count` bytes without keeping them; how many there were."""
        left = count
        while left:
            data = self.read(min(left, _BUFFER))
            if not data:
                break
            left -= len(data)
        return count - left

    def truncated(self, frame: int, start: int, needed: int) -> Truncated:
        """The error to raise when the `needed` bytes that begin at `start` are not all there."""
        cause = f"gzip: {self.packing_fault}" if self.packing_fault else ""
        return Truncated(self.name, frame, start, needed, self.offset, cause)

    @property
    def consumed(self) -> int:
        """Bytes of the file on disk read so far, for a progress bar; 0 when unknown."""
        if self.size is None:
            return 0
        return self._file.tell()

    def _take(self, count: int) -> bytes:
        try:
            return self._stream.read(count)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            # What was unpacked before the fault has been handed out already; here the stream just ends.
            self.packing_fault = str(error)
            self._stream = io.BytesIO()
            return b""

    def __enter__(self) -> "Source":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._owned:
            self._file.close()


class _Joined:
    """A head that was read already, and the rest of its file: what gzip needs of a file, for pipes too."""

    def __init__(self, head: bytes, rest: IO[bytes]) -> None:
        self._head, self._rest = head, rest

    def read(self, count: int = -1) -> bytes:
        if self._head:
            data, self._head = self._head[:count], self._head[count:]
            return data
        return self._rest.read(count)
