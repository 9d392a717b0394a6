"""A program on a terminal of its own, typed at as a person would."""

import os
import pty
import re
import select
import signal
import termios
import time
from collections.abc import Mapping
from typing import Self

PATIENCE = 60.0
"""Seconds until something is taken not to come."""

CONTROL = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[()].|[=>78cM])|\r")
"""What moves, colours and asks, and prints nothing."""


class Terminal:
    """Kills the program at the end."""

    def __init__(self, *command: str, env: Mapping[str, str], columns: int = 200) -> None:
        self._printed = b""
        self._read = 0
        """How much of it has been waited for, in characters without CONTROL."""
        self._pid, self._file = pty.fork()
        if self._pid == 0:
            try:
                os.execvpe(command[0], command, env)
            finally:
                os._exit(127)
        termios.tcsetwinsize(self._file, (24, columns))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._file)

    def type(self, keys: str) -> None:
        os.write(self._file, keys.encode())

    def until(self, pattern: str) -> re.Match[str]:
        """Wait until something like `pattern` has been printed since the last such call."""
        deadline = time.monotonic() + PATIENCE
        while True:
            printed = CONTROL.sub("", self._printed.decode(errors="replace"))
            if found := re.compile(pattern).search(printed, self._read):
                self._read = found.end()
                return found
            ready, _, _ = select.select([self._file], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"{pattern!r} did not come; there was {printed[self._read :]!r}"
            self._printed += os.read(self._file, 65536)
