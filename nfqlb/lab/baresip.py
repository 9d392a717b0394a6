"""Phones made of baresip: a real user agent that registers, rings and talks, told what to do over a socket.

Knows baresip's files and its control protocol (JSON in netstrings on TCP). It plays no sound: `aubridge` takes the
place of a sound card. Does not know which namespaces there are.
"""

import json
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from nfqlb.lab import LabError, namespaces
from nfqlb.lab.kamailio import DOMAIN
from nfqlb.lab.words import ending, last_words

CONTROL_PORT = 4444
"""TCP port of the control socket of the first phone in a namespace."""
TIMEOUT = 10.0
"""Seconds that a phone may take to report anything."""


@dataclass
class Baresip:
    """One phone. Use as a context manager: started on entry, registered with `register`, ended on exit."""

    user: str
    namespace: str
    host: str
    """As in a URI: IPv6 in brackets."""
    proxy: str
    """`host:port` of the gateway's E, as outbound proxy."""
    directory: Path
    port: int = 5060
    control_port: int = CONTROL_PORT
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _control: socket.socket | None = field(default=None, repr=False)
    _buffer: bytes = field(default=b"", repr=False)
    _events: list[dict[str, Any]] = field(default_factory=list, repr=False)
    _answers: list[dict[str, Any]] = field(default_factory=list, repr=False)

    def __enter__(self) -> "Baresip":
        self.directory.mkdir(exist_ok=True)
        (self.directory / "config").write_text(self._config())
        (self.directory / "accounts").write_text(
            f'<sip:{self.user}@{DOMAIN}>;auth_pass=none;outbound="sip:{self.proxy}";regint=3600;answermode=manual\n'
        )
        (self.directory / "contacts").write_text("")
        family = "-6" if self.host.startswith("[") else "-4"
        self._process = namespaces.spawn(
            self.namespace, ["baresip", family, "-f", str(self.directory)], self.directory / "log"
        )
        try:
            self._connect()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the phone; it unregisters first."""
        if self._control:
            self._control.close()
            self._control = None
        if self._process:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def registered(self) -> None:
        """Wait until the phone is registered; LabError when it is not in time."""
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            # Asked, not waited for: it may have happened before the control socket was there.
            self._command("reginfo")
            if "OK " in self._answer("reginfo", deadline):
                return
            time.sleep(0.05)
        raise LabError(f"{self.user} (baresip) did not register within {TIMEOUT:.0f} s. {self._log()}")

    def dial(self, uri: str) -> None:
        self._command("dial", uri)

    def answer(self) -> None:
        self._command("accept")

    def hang_up(self) -> None:
        self._command("hangup")

    def wait(self, kind: str, timeout: float = TIMEOUT) -> dict[str, Any]:
        """The next event of that kind (`CALL_INCOMING`, `CALL_ESTABLISHED`, `CALL_CLOSED` …), as baresip names them."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            while self._events:
                event = self._events.pop(0)
                if event.get("type") == kind:
                    return event
            self._read(deadline)
        raise LabError(f"{self.user} (baresip) did not report {kind} within {timeout:.0f} s. {self._log()}")

    def _answer(self, command: str, deadline: float) -> str:
        """What baresip says to a command, or "" when the time is over."""
        while time.monotonic() < deadline:
            for answer in self._answers:
                if answer.get("token") == command:
                    self._answers.remove(answer)
                    return str(answer.get("data", ""))
            self._read(deadline)
        return ""

    def _command(self, command: str, params: str = "") -> None:
        text = json.dumps({"command": command, "params": params, "token": command})
        assert self._control
        try:
            self._control.sendall(f"{len(text)}:{text},".encode())
        except OSError:
            raise self._ended() from None

    def _read(self, deadline: float) -> None:
        assert self._control
        self._control.settimeout(max(deadline - time.monotonic(), 0.01))
        try:
            data = self._control.recv(65536)
        except TimeoutError:
            return
        except OSError:
            raise self._ended() from None
        if not data:
            raise self._ended()
        self._buffer += data
        while True:
            length, colon, rest = self._buffer.partition(b":")
            try:
                if not colon or len(rest) <= int(length):
                    return
                message = json.loads(rest[: int(length)].decode(errors="replace"))
            except ValueError:
                said = self._buffer[:80].decode(errors="replace")
                raise LabError(f"{self.user} (baresip) says what cannot be read: {said!r}. {self._log()}") from None
            self._buffer = rest[int(length) + 1 :]
            (self._events if message.get("event") else self._answers).append(message)

    def _connect(self) -> None:
        deadline = time.monotonic() + TIMEOUT
        while True:
            try:
                self._control = namespaces.inside(
                    self.namespace, lambda: socket.create_connection(("127.0.0.1", self.control_port), 1.0)
                )
                return
            except OSError:
                assert self._process
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise LabError(f"{self.user} (baresip) does not start. {self._log()}") from None
                time.sleep(0.02)

    def _ended(self) -> LabError:
        """It has closed its control socket."""
        assert self._process
        try:
            how = ending(self._process.wait(1))
        except subprocess.TimeoutExpired:
            how = "has closed its control socket"
        return LabError(f"{self.user} (baresip) {how}. {self._log()}")

    def _log(self) -> str:
        path = self.directory / "log"
        text = path.read_text(errors="replace") if path.exists() else ""
        return f"Its log ends: {last_words(text, 500)}"

    def _config(self) -> str:
        modules = _module_path()
        return (
            f"poll_method epoll\nsip_listen {self.host}:{self.port}\n"
            "audio_player aubridge,nil\naudio_source aubridge,nil\naudio_alert aubridge,nil\n"
            "call_local_timeout 30\ncall_max_calls 2\n"
            f"rtp_ports {20000 + self.control_port}-{20100 + self.control_port}\n"
            f"module_path {modules}\nmodule g711.so\nmodule aubridge.so\n"
            "module_app account.so\nmodule_app menu.so\nmodule_app ctrl_tcp.so\n"
            f"ctrl_tcp_listen 127.0.0.1:{self.control_port}\n"
        )


def _module_path() -> Path:
    """Where the package put baresip's modules: /usr/lib/baresip/modules, or below the machine's triplet."""
    found = sorted(Path("/usr/lib").glob("baresip/modules")) + sorted(Path("/usr/lib").glob("*/baresip/modules"))
    if not found:
        raise LabError("The modules of baresip are not below /usr/lib: install the Debian package baresip-core.")
    return found[0]
