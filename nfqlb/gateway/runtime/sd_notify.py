"""What the gateway tells the service manager that started it: ready, reloading, stopping, alive.

Knows the protocol of sd_notify(3): datagrams of NAME=VALUE lines to the unix socket that NOTIFY_SOCKET names. Without
that variable nobody wants to know, and nothing is said. Nothing that goes wrong here stops a gateway.

(A library would be longer to justify: the pure Python one has not been touched since 2017, the others need a compiler.)
"""

import logging
import os
import socket
import time
from collections.abc import Mapping
from typing import Self

SOCKET = "NOTIFY_SOCKET"
WATCHDOG = "WATCHDOG_USEC"
WATCHDOG_PID = "WATCHDOG_PID"

PATIENCE = 0.2
"""Seconds that a word may wait for room in the socket. A pat for the watchdog does not wait: another follows."""

logger = logging.getLogger("nfqlb")


class Notifier:
    """Talks to the service manager, if there is one."""

    def __init__(self, address: str | None = None, interval: float | None = None) -> None:
        """`address`: a path, or for an abstract socket its name behind an @; None: nobody to talk to."""
        self._address = address
        self.interval = interval
        """Call `alive` at least so often, in seconds; None: no watchdog waits for it."""
        self._failed = False

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """As the service manager has told this process by its environment. What is not understood is not there."""
        address = environment.get(SOCKET) or None
        if address is not None and address[0] not in "/@":
            logger.warning("the service manager cannot be notified: %s=%s is not an address we know", SOCKET, address)
            address = None
        return cls(address, _interval(environment) if address else None)

    def ready(self, status: str) -> None:
        """The service has started, or has ended its reload."""
        self._tell("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """From now on it reloads; `ready` has to follow, also when nothing came of it."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        self._tell("STOPPING=1")

    def status(self, text: str) -> None:
        """A line for `systemctl status`."""
        self._tell(f"STATUS={text}")

    def main_pid(self, pid: int) -> None:
        """The service's main process is `pid` from now on."""
        self._tell(f"MAINPID={pid}")

    def alive(self) -> None:
        """Pat the watchdog."""
        self._tell("WATCHDOG=1", patience=0.0)

    def _tell(self, *lines: str, patience: float = PATIENCE) -> None:
        if self._address is None:
            return
        message = "\n".join(line.replace("\n", " ") for line in lines).encode()
        target = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as opened:
                opened.settimeout(patience)
                opened.sendto(message, target)
        except OSError as error:
            if not self._failed:
                why = os.strerror(error.errno) if error.errno else str(error)
                logger.warning("the service manager at %s cannot be told: %s", self._address, why)
            self._failed = True
        else:
            self._failed = False


def for_successor(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for a process that will take this one's place: the watchdog is meant for it, too."""
    return {name: value for name, value in environment.items() if name != WATCHDOG_PID}


def _interval(environment: Mapping[str, str]) -> float | None:
    """Half of what the watchdog allows, as sd_watchdog_enabled(3) advises; None when it is not meant for us."""
    try:
        allowed = int(environment[WATCHDOG])
        meant = int(environment.get(WATCHDOG_PID) or os.getpid())
    except (KeyError, ValueError):
        return None
    return allowed / 2e6 if allowed > 0 and meant == os.getpid() else None
