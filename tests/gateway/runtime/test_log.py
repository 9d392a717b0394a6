"""What a line of the log looks like, wherever stderr leads, and that lines of several processes do not mix."""

import json
import logging
import os
import pty
import re
import select
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nfqlb.config.model import Log
from nfqlb.gateway.runtime import log as runtime_log
from nfqlb.gateway.runtime.log import Lines, about, leads_to_journal, message_in, timestamp

TEXT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d nfqlb\[\d+\] (\w+): (.*)")

EVENTS = """
logger = logging.getLogger("nfqlb")
logger.debug("a %s", 1)
logger.info("größer")
logger.warning("b", extra=log.about(pool="regs", backend="reg1"))
try:
    {}["key"]
except KeyError:
    logger.exception("c")
"""


def start(program: str, stderr: int, environment: dict[str, str] | None = None, **more: Any) -> subprocess.Popen[bytes]:
    source = f"import logging, os, sys\nfrom nfqlb.gateway.runtime import log\n{textwrap.dedent(program)}"
    clean = {name: value for name, value in os.environ.items() if name != "JOURNAL_STREAM"}
    return subprocess.Popen([sys.executable, "-c", source], stderr=stderr, env={**clean, **(environment or {})}, **more)


def to_file(program: str, folder: Path) -> str:
    with (folder / "log").open("wb") as file:
        assert start(program, file.fileno()).wait(30) in (0, 1)
    return (folder / "log").read_text()


def to_pipe(program: str, _: Path) -> str:
    return start(program, subprocess.PIPE).communicate(timeout=30)[1].decode()


def to_terminal(program: str, _: Path) -> str:
    ours, theirs = pty.openpty()
    with start(program, theirs) as process:
        os.close(theirs)
        text = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # it has ended
                break
            text += piece
    os.close(ours)
    assert process.returncode == 0
    return text.decode().replace("\r\n", "\n")


def to_journal(program: str) -> str:
    """A stream socket, as systemd gives it, and its device and inode in the environment."""
    ours, theirs = socket.socketpair()
    found = os.fstat(theirs.fileno())
    process = start(program, theirs.fileno(), {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"})
    theirs.close()
    with ours:
        text = b"".join(iter(lambda: ours.recv(65536), b""))
    assert process.wait(30) == 0
    return text.decode()


@pytest.mark.parametrize("lead", [to_file, to_pipe, to_terminal])
def test_a_line_has_its_time_process_and_level(lead: Callable[[str, Path], str], tmp_path: Path) -> None:
    lines = lead(f"log.begin()\n{EVENTS}", tmp_path).splitlines()
    found = [TEXT.fullmatch(line) for line in lines]
    assert [each.groups() for each in found if each] == [("info", "größer"), ("warning", "b"), ("error", "c")]
    trace = lines[3:]
    assert trace[0] == "  Traceback (most recent call last):"
    assert trace[-1] == "  KeyError: 'key'"
    assert all(line.startswith("  ") for line in trace)


def test_in_the_journal_a_line_has_a_priority_and_no_time() -> None:
    lines = to_journal(f"log.begin('debug')\n{EVENTS}").splitlines()
    assert lines[:4] == ["<7>a 1", "<6>größer", "<4>b", "<3>c"]
    assert lines[4] == "<3>  Traceback (most recent call last):"
    assert all(line.startswith("<3>  ") for line in lines[4:])  # each is an entry of its own there


@pytest.mark.parametrize("lead", [to_file, to_pipe, to_terminal])
def test_json_is_one_object_a_line(lead: Callable[[str, Path], str], tmp_path: Path) -> None:
    lines = lead(f"log.begin('debug', 'json')\n{EVENTS}", tmp_path).splitlines()
    one, two, three, four = map(json.loads, lines)
    assert list(one) == ["time", "level", "process", "pid", "message"]
    assert (one["level"], one["process"], one["message"]) == ("debug", "nfqlb", "a 1")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d", one["time"])
    assert two["message"] == "größer"
    assert (three["pool"], three["backend"]) == ("regs", "reg1")
    assert four["message"] == "c"
    assert four["exception"].splitlines()[-1] == "KeyError: 'key'"


def test_json_in_the_journal_stands_behind_the_priority() -> None:
    first, *_ = to_journal(f"log.begin(None, 'json')\n{EVENTS}").splitlines()
    assert first.startswith("<6>{")
    assert json.loads(first[3:])["message"] == "größer"


@pytest.mark.parametrize(("level", "told"), [("debug", "acbd"), ("info", "bd"), ("warning", "d"), ("error", "")])
def test_the_level_is_the_least_that_is_told(level: str, told: str, tmp_path: Path) -> None:
    program = f"""
    log.begin({level!r})
    one, other = logging.getLogger("nfqlb"), logging.getLogger("asyncio")
    one.debug("a"); other.debug("x"); other.info("x"); one.debug("c"); one.info("b"); one.warning("d")
    other.error("e")
    """
    lines = to_file(program, tmp_path).splitlines()
    assert "".join(line[-1] for line in lines) == told + "e"  # of libraries, what an operator should know


def test_the_command_line_wins_over_the_configuration(tmp_path: Path) -> None:
    program = """
    from nfqlb.config.model import Log
    log.begin("error")
    log.apply(Log("debug", "json"))
    logging.getLogger("nfqlb").warning("no")
    logging.getLogger("nfqlb").error("yes")
    logging.getLogger("nfqlb").error("; ".join(log.overruled()))
    """
    lines = [json.loads(line)["message"] for line in to_file(program, tmp_path).splitlines()]
    assert lines == ["yes", "log.level: error goes on, as the command line says --log-level error"]


def test_an_exception_that_ends_it_is_a_line_too_and_so_are_warnings_of_python(tmp_path: Path) -> None:
    program = """
    import warnings
    log.begin(None, "json")
    warnings.warn("beware", RuntimeWarning)
    raise LookupError("ordered by the test")
    """
    beware, end = (json.loads(line) for line in to_file(program, tmp_path).splitlines())
    assert "RuntimeWarning: beware" in beware["message"]
    assert (beware["level"], end["level"]) == ("warning", "critical")
    assert end["exception"].endswith("LookupError: ordered by the test")


def test_who_has_the_variable_of_a_service_and_another_stderr_is_not_in_the_journal(tmp_path: Path) -> None:
    found = os.stat(tmp_path)
    with (tmp_path / "log").open("wb") as file:
        told = f"{found.st_dev}:{found.st_ino}"
        assert not leads_to_journal(file.fileno(), {"JOURNAL_STREAM": told})
        assert not leads_to_journal(file.fileno(), {})
        assert not leads_to_journal(file.fileno(), {"JOURNAL_STREAM": "no numbers"})
        own = os.fstat(file.fileno())
        assert leads_to_journal(file.fileno(), {"JOURNAL_STREAM": f"{own.st_dev}:{own.st_ino}"})
    assert not leads_to_journal(9999, {"JOURNAL_STREAM": told})


def test_lines_of_several_processes_do_not_mix(tmp_path: Path) -> None:
    program = """
    log.begin()
    children = []
    for number in range(4):
        if not (pid := os.fork()):
            log.name_process(f"child-{number}")
            for count in range(300):
                logging.getLogger("nfqlb").info("%d %s", count, str(number) * 500)
            os._exit(0)
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)
    """
    lines = to_pipe(program, tmp_path).splitlines()
    assert len(lines) == 1200
    for line in lines:
        assert re.fullmatch(r"\S+ child-(\d)\[\d+\] info: \d+ \1{500}", line), line


@pytest.fixture
def gone() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)


def test_a_reader_who_has_stopped_holds_nobody_up_and_what_was_lost_is_told(gone: tuple[int, int]) -> None:
    """A terminal after Ctrl-S, or a hung program behind a pipe."""
    reading, writing = gone
    program = """
    log.begin()
    for number in range(3000):
        logging.getLogger("nfqlb").info("%d %s", number, "x" * 100)
    print("through", flush=True)
    sys.stdin.readline()
    logging.getLogger("nfqlb").info("after")
    """
    with start(program, writing, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        os.close(writing)
        assert process.stdout is not None
        assert process.stdin is not None
        if not select.select([process.stdout], [], [], 30)[0]:
            process.kill()
            pytest.fail("it waits for the reader")
        assert process.stdout.readline() == b"through\n"
        text = b""
        while select.select([reading], [], [], 0)[0]:
            text += os.read(reading, 65536)
        process.stdin.write(b"\n")
        process.stdin.close()
        while piece := os.read(reading, 65536):
            text += piece
    lines = text.decode().splitlines()
    assert process.returncode == 0
    lost = re.search(r"warning: (\d+) lines of the log of this process are lost", lines[-2])
    assert lost
    assert lines[-1].endswith("info: after")
    assert len(lines) - 2 + int(lost[1]) == 3000


def test_nobody_reads_any_more() -> None:
    program = "log.begin()\nfor number in range(9): logging.getLogger('nfqlb').info('x')\nprint('through')"
    reading, writing = os.pipe()
    os.close(reading)
    process = start(program, writing, stdout=subprocess.PIPE)
    os.close(writing)
    assert process.communicate(timeout=30)[0] == b"through\n"


def test_a_closed_stderr_is_no_reason_to_write_elsewhere(tmp_path: Path) -> None:
    program = f"""
    log.begin()
    file = open({str(tmp_path / "other")!r}, "wb")
    logging.getLogger("nfqlb").error("x")
    """
    process = start(program, subprocess.DEVNULL, preexec_fn=lambda: os.close(2))
    assert process.wait(30) == 0
    assert (tmp_path / "other").read_bytes() == b""


# -- texts


def record(text: str, level: int = logging.INFO, **more: Any) -> logging.LogRecord:
    return logging.makeLogRecord({"msg": text, "levelno": level, "levelname": logging.getLevelName(level), **more})


def test_a_text_cannot_pass_for_a_second_event_nor_steer_a_terminal() -> None:
    line = Lines(to_journal=True).format(record("a\n<2>forged\n2026-12-01 b\x1b[2J\x07\x9b"))
    assert line == "<6>a\n<6>  <2>forged\n<6>  2026-12-01 b\\x1b[2J\\x07\\x9b\n"


def test_fields_do_not_take_the_place_of_what_every_line_has() -> None:
    lines = Lines(to_journal=False)
    lines.as_json = True
    told = json.loads(lines.format(record("a", process=7, **about(pid=9, time="x", at=Path("/tmp")))))
    assert (told["pid"], told["at"]) == (7, "/tmp")
    assert told["time"] != "x"


@pytest.mark.parametrize(
    ("zone", "text"),
    [
        ("UTC", "2001-09-09T01:46:40.987+00:00"),
        ("XXX-5:45", "2001-09-09T07:31:40.987+05:45"),
        ("XXX3:30", "2001-09-08T22:16:40.987-03:30"),
    ],
)
def test_a_time_is_local_with_milliseconds_and_offset(zone: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert timestamp(1_000_000_000.9876) == text
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("to_journal", [False, True])
def test_who_only_wants_to_know_what_happened_gets_the_text(as_json: bool, to_journal: bool) -> None:
    lines = Lines(to_journal=to_journal)
    lines.as_json = as_json
    assert message_in(lines.format(record("no: such [thing]")).strip()) == "no: such [thing]"
    assert message_in("Error: plain") == "Error: plain"
    assert message_in("{not JSON") == "{not JSON"
    assert message_in('{"other": 1}') == '{"other": 1}'


def test_without_a_beginning_nothing_changes(caplog: pytest.LogCaptureFixture) -> None:
    """As in tests, where somebody else looks at events."""
    before = logging.getLogger().handlers[:]
    runtime_log.apply(Log("error", "json"))
    runtime_log.apply(Log())
    assert logging.getLogger().handlers == before
    assert runtime_log.overruled() == []
    assert not caplog.records
