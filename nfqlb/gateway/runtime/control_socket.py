"""The control socket: how commands reach the gateway that runs.

Knows the wire format, and both of its ends. Does not know what the requests do: the supervisor hands in a function for
each. docs/control.md describes the format for others.

    request   one JSON object on a line: {"do": "reload", …}
    answer    any number of {"event": "text"} lines, then one {"ok": true | false, …} line, and the end
"""

import grp
import json
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from selectors import EVENT_READ, EVENT_WRITE, BaseSelector
from typing import Any

from nfqlb import SERVICE_USER
from nfqlb.errors import NfqlbError, NotRunning

FILE_NAME = "control"
MODE = 0o660
GROUP = SERVICE_USER
"""Who may steer the gateway besides its own user, where the host has such a group."""

REQUEST_MAX = 1 << 16
"""Bytes of a request."""
ANSWER_MAX = 1 << 22
"""Bytes that may wait for a slow reader before it is let go."""
CLIENTS = 32
"""Clients at a time: nobody shall use up the file numbers that the gateway needs for its workers."""

Answer = dict[str, Any]
Handle = Callable[[Answer, "Conversation"], None]
"""Called with a request and with whom to answer, now or later."""


class ControlError(NfqlbError):
    """The gateway cannot be asked, or its answer is none; the text says why and what to do."""


class Conversation:
    """One client of the socket: its request, and what it is told."""

    def __init__(self, connection: socket.socket, selector: BaseSelector, handle: Handle) -> None:
        self._connection, self._selector, self._handle = connection, selector, handle
        self._heard = bytearray()
        self._unsent = bytearray()
        self._asked = self._answered = self._closed = False
        connection.setblocking(False)
        selector.register(connection, EVENT_READ, self._hear)

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def asked(self) -> bool:
        """It has said what it wants, and waits for its answer."""
        return self._asked

    def event(self, text: str) -> None:
        """Tell how far it is."""
        self._send({"event": text})

    def end(self, ok: bool, **fields: Any) -> None:
        """The last line of the answer."""
        self._answered = True
        self._stop_hearing()
        self._send({"ok": ok, **fields})

    def refuse(self, *errors: str) -> None:
        self.end(False, errors=errors)

    def _hear(self) -> None:
        try:
            piece = self._connection.recv(REQUEST_MAX)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        if not piece:
            self.close()
            return
        self._heard += piece
        line, found, _ = self._heard.partition(b"\n")
        if found:
            self._understand(bytes(line))
        elif len(self._heard) > REQUEST_MAX:
            self.refuse(f"a request has at most {REQUEST_MAX} bytes")

    def _understand(self, line: bytes) -> None:
        self._stop_hearing()
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            request = None
        if isinstance(request, dict) and isinstance(request.get("do"), str):
            self._handle(request, self)
        else:
            self.refuse('expected a line with a JSON object that says what to do: {"do": "status"}')

    def _stop_hearing(self) -> None:
        if not self._asked:
            self._asked = True
            self._selector.unregister(self._connection)

    def _send(self, message: Answer) -> None:
        if not self._closed:
            waits = bool(self._unsent)
            self._unsent += json.dumps(message, separators=(",", ":")).encode() + b"\n"
            if not waits:
                self._flush()
                if self._unsent and not self._closed:
                    self._selector.register(self._connection, EVENT_WRITE, self._flush)
            elif len(self._unsent) > ANSWER_MAX:
                self.close()

    def _flush(self) -> None:
        """Send what the socket takes; close when all is said."""
        try:
            while self._unsent:
                del self._unsent[: self._connection.send(self._unsent)]
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if self._answered:
            self.close()
        elif self._asked and self._connection in self._selector.get_map():
            self._selector.unregister(self._connection)

    def close(self) -> None:
        """Let the client go, whatever it still waits for."""
        if not self._closed:
            self._closed = True
            if self._connection in self._selector.get_map():
                self._selector.unregister(self._connection)
            self._connection.close()


class ControlSocket:
    """The socket itself. It has a name of its own until `publish` puts it where clients look."""

    def __init__(self, run_dir: Path, selector: BaseSelector, handle: Handle) -> None:
        """`handle` is called with each request. Raises OSError."""
        self._path = run_dir / FILE_NAME
        self._fresh = run_dir / f"{FILE_NAME}.{os.getpid()}"
        self._selector, self._handle = selector, handle
        self._clients: list[Conversation] = []
        self._open()

    def publish(self) -> None:
        self._inode = self._fresh.stat().st_ino
        self._fresh.rename(self._path)

    def reclaim(self) -> None:
        """Come back to the place, if somebody has taken it. Raises OSError."""
        self._sweep()
        if not self._path.exists() or self._path.stat().st_ino != self._inode:
            self._selector.unregister(self._socket)
            self._socket.close()
            self._open()
            self.publish()

    def close(self, *, remove: bool) -> None:
        """Let go of all clients. `remove`: also of the file; not where a successor's has taken its place."""
        for client in self._clients:
            client.close()
        if self._socket.fileno() >= 0:
            self._selector.unregister(self._socket)
            self._socket.close()
        if remove:
            self._path.unlink(missing_ok=True)
            self._sweep()
        self._fresh.unlink(missing_ok=True)

    def _open(self) -> None:
        self._sweep()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.setblocking(False)
            self._socket.bind(os.fspath(self._fresh))
            with suppress(KeyError, PermissionError):
                os.chown(self._fresh, -1, grp.getgrnam(GROUP).gr_gid)
            self._fresh.chmod(MODE)
            self._socket.listen()
        except BaseException:
            self._socket.close()
            raise
        self._selector.register(self._socket, EVENT_READ, self._accept)

    def _sweep(self) -> None:
        """Remove what others left who were killed before they came to the place."""
        for left_over in self._path.parent.glob(f"{FILE_NAME}.*"):
            left_over.unlink(missing_ok=True)

    def _accept(self) -> None:
        with suppress(OSError):
            new = Conversation(self._socket.accept()[0], self._selector, self._handle)
            self._clients = [client for client in self._clients if not client.closed]
            if len(self._clients) >= CLIENTS:
                self._make_room(new)
            self._clients.append(new)

    def _make_room(self, new: Conversation) -> None:
        """Let go of the client that has been silent for longest; where all wait for answers, of the new one."""
        for client in self._clients:
            if not client.asked:
                client.close()
                return
        new.refuse(f"{CLIENTS} others wait for an answer; try again later")


def ask(
    run_dir: Path, request: Answer, on_event: Callable[[str], None] | None = None, timeout: float = 120.0
) -> Answer:
    """Ask the gateway whose run directory this is; the last line of its answer.

    `timeout`: seconds without a word from it. Raises NotRunning, ControlError.
    """
    path = run_dir / FILE_NAME
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        try:
            connection.connect(os.fspath(path))
            connection.sendall(json.dumps(request).encode() + b"\n")
            with connection.makefile("rb") as lines:
                for line in lines:
                    answer = json.loads(line)
                    if not isinstance(answer, dict):
                        raise ValueError(f"it answers {line[:100]!r}")
                    if "ok" in answer:
                        return answer
                    if on_event is not None:
                        on_event(str(answer.get("event", "")))
        except (FileNotFoundError, ConnectionRefusedError):
            raise NotRunning(f"No gateway runs here: nobody listens at {path}.") from None
        except PermissionError:
            raise ControlError(
                f"{path} is not open to you: use sudo, or ask to be let into the group {GROUP}."
            ) from None
        except TimeoutError:
            text = f"The gateway at {path} has said nothing for {timeout:.0f} s; its log says more."
            raise ControlError(text) from None
        except (OSError, ValueError, RecursionError) as error:
            raise ControlError(f"{path} cannot be asked: {error}.") from None
    raise ControlError(f"The gateway at {path} ended before it had answered; its log says more.")
