"""`--watch`, in a pipe, in a file and on a terminal: what is shown, when, and how it ends."""

import fcntl
import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from boardcase import Gateway
from controlend import answering
from crowd import Crowd
from rich.cells import cell_len
from sipcase import KEY

from nfqlb.cli import PIPE_CLOSED
from nfqlb.gateway.runtime.control_socket import Conversation
from nfqlb.interrupt import INTERRUPTED

pytestmark = pytest.mark.slow

CROWD = Crowd(16)
WATCHES = (["stats"], ["backends"], ["backends", "list"])
SECONDS = 60.0
"""That a busy machine may take for what is done at once."""
SELDOM = "3600"
"""An interval that no test outlives."""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """Where a gateway runs, as far as the commands can tell."""
    (tmp_path / "secret").write_bytes(KEY + b"\n")
    (tmp_path / "secret").chmod(0o600)
    (tmp_path / "nfqlb.toml").write_text(CROWD.toml(tmp_path, tmp_path / "secret"))
    Gateway(tmp_path, tuple(range(5000, 5064)), tuple(name for _, name, _ in CROWD.backends))

    def handle(_request: dict[str, object], conversation: Conversation) -> None:
        conversation.end(True, backends=CROWD.rows(), alarms={})

    with answering(tmp_path / "run", handle):
        yield tmp_path


def start(place: Path, words: list[str], *more: str, **options: Any) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "nfqlb", *words, *more, "-c", str(place / "nfqlb.toml")]
    return subprocess.Popen(command, stderr=subprocess.PIPE, **options)


def until(condition: Callable[[], object]) -> bool:
    end = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


@pytest.mark.parametrize("words", WATCHES, ids=" ".join)
@pytest.mark.parametrize("form", [[], ["--json"], ["--wide"]], ids=str)
def test_the_first_frame_comes_at_once_and_a_reader_that_goes_ends_it(
    place: Path, words: list[str], form: list[str]
) -> None:
    """`| head -3`: nothing waits for the second frame, which would be an hour later."""
    with start(place, words, "--watch", SELDOM, *form, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        lines = [process.stdout.readline() for _ in range(1 if form == ["--json"] else 3)]
        process.stdout.close()
        assert process.wait(SECONDS) == PIPE_CLOSED
        assert process.stderr.read() == b""
    if form == ["--json"]:
        assert len(json.loads(lines[0]).get("backends") or json.loads(lines[0])["totals"]["backends"]) == 200
    else:
        assert all(lines)
        assert b"\x1b" not in b"".join(lines)


@pytest.mark.parametrize("words", WATCHES, ids=" ".join)
def test_a_reader_that_has_gone_ends_a_single_look_as_it_ends_others(place: Path, words: list[str]) -> None:
    with start(place, words, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(SECONDS) == PIPE_CLOSED
        assert process.stderr.read() == b""


@pytest.mark.parametrize("words", WATCHES, ids=" ".join)
def test_frames_in_a_file_are_whole_and_apart_and_ctrl_c_ends_them(place: Path, words: list[str]) -> None:
    path = place / "out"
    first = "lb: running" if words == ["stats"] else "[0-9:]{8}\n"

    def frames() -> list[str]:
        return re.findall(rf"^{first}.*?\n\n(?={first})", path.read_text(), re.MULTILINE | re.DOTALL)

    with path.open("wb") as file, start(place, words, "--watch", "0.1", stdout=file) as process:
        assert process.stderr is not None
        assert until(lambda: len(frames()) > 1)
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == INTERRUPTED
        assert process.stderr.read() == b""
    for frame in frames():
        assert frame.count("backend-") == 200
        assert "…" not in frame


@pytest.mark.parametrize("words", WATCHES, ids=" ".join)
def test_json_is_an_object_a_line(place: Path, words: list[str]) -> None:
    with start(place, words, "--watch", "0.1", "--json", stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        times = [json.loads(process.stdout.readline()) for _ in range(3)]
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(SECONDS) == INTERRUPTED
    assert len(times) == 3


class Terminal:
    """One of 80 columns and 24 lines, on which a command runs."""

    def __init__(self, place: Path, words: list[str], *more: str, term: str = "xterm") -> None:
        self._parent, child = pty.openpty()
        self.resize(80, 24)
        environment = {**os.environ, "TERM": term, "NO_COLOR": "1"}

        def lead() -> None:
            os.setsid()
            fcntl.ioctl(child, termios.TIOCSCTTY, 0)

        command = [sys.executable, "-m", "nfqlb", *words, *more, "-c", str(place / "nfqlb.toml")]
        self.process = subprocess.Popen(
            command, stdin=child, stdout=child, stderr=child, env=environment, preexec_fn=lead, pass_fds=(child,)
        )
        os.close(child)
        self._shown = bytearray()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with suppress(OSError):  # how Linux says that the other end is closed
            while data := os.read(self._parent, 65536):
                self._shown.extend(data)

    def resize(self, columns: int, lines: int) -> None:
        """The kernel then tells the processes in the foreground."""
        termios.tcsetwinsize(self._parent, (lines, columns))

    def type(self, keys: bytes) -> None:
        os.write(self._parent, keys)

    @property
    def shown(self) -> str:
        return self._shown.decode(errors="replace").replace("\r\n", "\n")

    @property
    def frames(self) -> list[list[str]]:
        """The lines of each frame that is complete, as on the screen."""
        on_screen = self.shown.rpartition("\x1b[?1049h")[2]
        return [
            [line.rstrip() for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", frame).split("\n")]
            for frame in on_screen.split("\x1b[H")[1:]
        ]

    def wait(self) -> int:
        code = self.process.wait(SECONDS)
        self._reader.join(SECONDS)
        return code

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._parent)


@pytest.fixture
def terminal(place: Path) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def make(words: list[str], *more: str, term: str = "xterm") -> Terminal:
        opened.append(Terminal(place, words, *more, term=term))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


def fits(terminal: Terminal, columns: int, lines: int) -> bool:
    """Whether the last frame is one for that size, full to the last line."""
    frame = terminal.frames[-1] if terminal.frames else []
    return (
        len(frame) == lines
        and all(cell_len(line) <= columns for line in frame)
        and frame[-1].startswith("…")
        and frame[-1].endswith(("more backends", "…"))
    )


RESTORED = "\x1b[?1049l"


@pytest.mark.parametrize("words", WATCHES, ids=" ".join)
def test_a_terminal_shows_one_frame_in_the_place_of_another(
    terminal: Callable[..., Terminal], words: list[str]
) -> None:
    """On its alternate screen, cut to its height; a new size counts at once, and Ctrl-C leaves what was there."""
    there = terminal(words, "--watch", SELDOM)
    assert until(lambda: fits(there, 80, 24)), there.frames
    there.resize(60, 14)
    assert until(lambda: fits(there, 60, 14)), there.frames
    there.resize(120, 40)
    assert until(lambda: fits(there, 120, 40)), there.frames
    there.type(b"\x03")
    assert there.wait() == INTERRUPTED
    assert there.shown.count("\x1b[?1049h") == there.shown.count(RESTORED) == 1
    after = there.shown.rpartition(RESTORED)[2]
    assert "\x1b[?25h" in there.shown.rpartition("\x1b[?25l")[2], "the cursor is back"
    assert "Traceback" not in after


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_leaves_the_terminal_as_it_was(terminal: Callable[..., Terminal], number: signal.Signals) -> None:
    there = terminal(["backends"], "--watch", SELDOM)
    assert until(lambda: fits(there, 80, 24))
    there.process.send_signal(number)
    assert there.wait() == 128 + number
    assert RESTORED in there.shown
    assert "Traceback" not in there.shown


def test_ctrl_z_gives_the_terminal_back_until_it_goes_on(terminal: Callable[..., Terminal]) -> None:
    there = terminal(["backends"], "--watch", SELDOM)
    assert until(lambda: fits(there, 80, 24))
    there.process.send_signal(signal.SIGTSTP)  # from the keyboard it would be ignored: nobody is there to say fg
    status = os.waitid(os.P_PID, there.process.pid, os.WSTOPPED)
    assert status is not None
    assert status.si_status == signal.SIGSTOP
    assert until(lambda: there.shown.count(RESTORED) == 1)
    there.process.send_signal(signal.SIGCONT)
    assert until(lambda: there.shown.count("\x1b[?1049h") == 2 and fits(there, 80, 24)), there.frames
    there.type(b"\x03")
    assert there.wait() == INTERRUPTED


def test_a_gateway_that_is_gone_is_told_on_the_ordinary_screen(terminal: Callable[..., Terminal], place: Path) -> None:
    there = terminal(["stats"], "--watch", "0.2")
    assert until(lambda: fits(there, 80, 24))
    (place / "run" / "board").unlink()
    assert there.wait() == 1
    assert "Error: No gateway runs here" in there.shown.rpartition(RESTORED)[2]


def test_a_terminal_that_cannot_do_that_gets_plain_frames(terminal: Callable[..., Terminal]) -> None:
    there = terminal(["backends"], "--watch", SELDOM, term="dumb")
    assert until(lambda: there.shown.count("backend-") >= 200)
    assert "\x1b" not in there.shown
    there.type(b"\x03")
    assert there.wait() == INTERRUPTED


@pytest.mark.parametrize("words", WATCHES, ids=" ".join)
def test_a_screen_is_never_wide(terminal: Callable[..., Terminal], words: list[str]) -> None:
    there = terminal(words, "--watch", SELDOM, "--wide")
    assert there.wait() == 2
    assert "no room for --wide" in there.shown


def test_what_belongs_behind_list_is_not_taken_before_another_word(place: Path) -> None:
    for option in ("--watch=1", "--wide", "--json"):
        with start(place, ["backends", option, "enable", "x"], stdout=subprocess.DEVNULL) as process:
            assert process.stderr is not None
            assert f"{option.removesuffix('=1')} goes behind enable".encode() in process.stderr.read()
            assert process.wait(SECONDS) == 2
