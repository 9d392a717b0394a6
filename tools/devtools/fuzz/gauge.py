"""What a fuzzing process tells about itself while it runs, in memory that the one who started it can read, too.

It holds the input at hand, so that one that never ends, or that takes the interpreter with it, is known.

    executions  8 bytes     violations  8     inputs that were new  8     length of the input  8     the input
"""

import mmap
from pathlib import Path
from struct import Struct

LONGEST = 1 << 17
_HEAD = Struct("=QQQQ")
SIZE = _HEAD.size + LONGEST
_COUNT = Struct("=Q")


class Gauge:
    """One view of it, of the process that fuzzes or of the one that looks on."""

    def __init__(self, path: Path) -> None:
        """`path`: SIZE bytes, zeros at first."""
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), SIZE)
        self._executions = 0

    def begin(self, data: bytes) -> None:
        """An execution begins."""
        self._executions += 1
        _COUNT.pack_into(self._memory, 0, self._executions)
        self._memory[24 : _HEAD.size + len(data[:LONGEST])] = _COUNT.pack(len(data[:LONGEST])) + data[:LONGEST]

    def violated(self) -> None:
        _COUNT.pack_into(self._memory, 8, self.read()[1] + 1)

    def new(self, count: int = 1) -> None:
        _COUNT.pack_into(self._memory, 16, self.read()[2] + count)

    def read(self) -> tuple[int, int, int]:
        """Executions, violations, inputs that were new."""
        executions, violations, new, _ = _HEAD.unpack_from(self._memory)
        return executions, violations, new

    def input(self) -> bytes:
        """What is, or was last, tried."""
        length = _HEAD.unpack_from(self._memory)[3]
        return self._memory[_HEAD.size : _HEAD.size + length]

    @staticmethod
    def create(path: Path) -> "Gauge":
        path.write_bytes(bytes(SIZE))
        return Gauge(path)
