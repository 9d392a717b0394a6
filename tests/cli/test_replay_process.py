"""`nfqlb replay` as a process: pipes, terminals, signals and memory."""

import gzip
import json
import os
import pty
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dpkt
import pytest
from pcap_files import EPOCH, Stored, write_pcap
from stored_case import Nfqlb, packets

from nfqlb.cli import PIPE_CLOSED
from nfqlb.interrupt import INTERRUPTED

pytestmark = pytest.mark.slow


def process(*arguments: str, **options: Any) -> "subprocess.Popen[bytes]":
    """The command as a process of its own."""
    command = [sys.executable, "-m", "nfqlb", *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, **options)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_standard_input(place: Path, nfqlb: Nfqlb, pack: Callable[[bytes], bytes]) -> None:
    wanted = nfqlb("replay", "in.pcap", "--json").stdout_bytes
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with process("replay", "-c", "nfqlb.toml", "--json", "-", **options) as child:
        output, errors = child.communicate(pack((place / "in.pcap").read_bytes()), timeout=60)
    assert (child.returncode, errors, output) == (0, b"", wanted)


def large_capture(place: Path, frames: int) -> Path:
    return write_pcap(place / "large.pcap", [Stored(packets()[0], EPOCH * 10**9)] * frames)


def test_a_reader_that_goes_away_is_no_error(place: Path) -> None:
    large_capture(place, 5000)
    with process("replay", "-c", "nfqlb.toml", "large.pcap", stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline().startswith(b"FRAME")
        child.stdout.close()
        assert child.stderr is not None
        errors = child.stderr.read()
        child.wait(timeout=60)
    assert (child.returncode, errors) == (PIPE_CLOSED, b"")


def test_a_live_pipe_shows_each_packet_as_it_comes_and_ctrl_c_ends_it(place: Path) -> None:
    """What was written until then is a whole capture."""
    data = (place / "in.pcap").read_bytes()
    first = 24 + 16 + len(packets()[0])
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with process("replay", "-c", "nfqlb.toml", "--json", "-", "-o", "out.pcap", **options) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(data[: first + 20])
        child.stdin.flush()
        assert json.loads(child.stdout.readline())["frame"] == 1
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=60)
    assert child.returncode == INTERRUPTED
    assert b"Traceback" not in errors
    with (place / "out.pcap").open("rb") as file:
        assert len(list(dpkt.pcap.Reader(file))) == 1


def on_a_terminal(*arguments: str, stdout: bool, environment: dict[str, str]) -> tuple[bytes, bytes]:
    """Run the command with stderr, and stdout if wanted, on a terminal of 100 columns: (what it shows, stdout)."""
    parent, child_end = pty.openpty()
    termios.tcsetwinsize(child_end, (24, 100))
    os.set_blocking(parent, True)
    shown = bytearray()

    def read() -> None:
        while True:
            try:
                data = os.read(parent, 65536)
            except OSError:  # how Linux says that the other end is closed
                return
            shown.extend(data)

    command = [sys.executable, "-c", "import sys; from nfqlb.cli import replay, main\n"]
    command[-1] += "replay.PROGRESS_FROM = 20_000\nmain()"
    reader = threading.Thread(target=read)
    try:
        child = subprocess.Popen(
            [*command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=child_end if stdout else subprocess.PIPE,
            stderr=child_end,
            env={**os.environ, "TERM": "xterm", **environment},
        )
        os.close(child_end)
        reader.start()
        output = b"" if stdout else child.communicate(timeout=60)[0]
        child.wait(timeout=60)
        reader.join(timeout=60)
    finally:
        os.close(parent)
    return bytes(shown), output


def test_colours_and_narrow_rows_on_a_terminal_only(place: Path) -> None:
    arguments = ("replay", "-c", "nfqlb.toml", "--diff", "in.pcap")
    shown, _ = on_a_terminal(*arguments, stdout=True, environment={})
    assert b"\x1b[32m" in shown
    assert b"\x1b[31m      - Max-Forwards: 70" in shown
    shown, _ = on_a_terminal(*arguments, stdout=True, environment={"NO_COLOR": "1"})
    assert b"\x1b" not in shown
    lines = shown.decode().splitlines()
    assert lines[0].split() == ["FRAME", "SIDE", "MESSAGE", "VERDICT", "REASON", "BACKEND", "FROM", "SENT", "TO"]
    assert max(map(len, lines)) <= 100
    shown, _ = on_a_terminal(*arguments, "--wide", stdout=True, environment={})
    assert b"reg-1@10.1.1.9" in shown
    _, output = on_a_terminal(*arguments, stdout=False, environment={})
    assert b"\x1b" not in output
    assert b"reg-1@10.1.1.9" in output
    assert place.exists()


@pytest.mark.parametrize("stdout", [False, True])
def test_a_progress_bar_for_large_files_on_a_terminal(place: Path, nfqlb: Nfqlb, stdout: bool) -> None:
    large_capture(place, 3000)
    arguments = ("replay", "-c", "nfqlb.toml", "large.pcap")
    shown, output = on_a_terminal(*arguments, stdout=stdout, environment={})
    assert b"large.pcap" in shown
    assert "━".encode() in shown
    if stdout:
        assert shown.count(b"request-entering") == 3001
    else:
        assert output == nfqlb("replay", "large.pcap").stdout_bytes
    shown, _ = on_a_terminal("replay", "-c", "nfqlb.toml", "in.pcap", stdout=stdout, environment={})
    assert "━".encode() not in shown


MEASURE = """
import re, sys
from pathlib import Path
from nfqlb.cli import main
try:
    main()
finally:
    print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1], file=sys.stderr)
"""


def test_memory_does_not_grow_with_the_capture(place: Path) -> None:
    sizes = []
    for frames in (500, 10_000):
        large_capture(place, frames)
        result = subprocess.run(
            [sys.executable, "-c", MEASURE, "replay", "-c", "nfqlb.toml", "large.pcap", "-o", "out.pcap"],
            check=True,
            timeout=100,
            capture_output=True,
        )
        assert result.stdout.count(b"\n") > frames
        sizes.append(int(result.stderr))
    assert sizes[1] - sizes[0] < 2_000
