"""How the gateway writes its log: one line for each event, on stderr, in one write, so that the lines of its processes
do not mix.

Knows where stderr leads, and what a line looks like there:

    terminal, file or pipe   2026-12-01T09:30:00.123+01:00 nfqlb-0[4711] error: TEXT
    journal of systemd       <3>TEXT     the journal has time, process and pid by itself; sd-daemon(3) has the numbers
    JSON, wherever it goes   {"time": …, "level": …, "process": …, "pid": …, "message": …}, in the journal behind <3>

A text of several lines goes on indented: what begins at the margin is an event, whoever wrote the text. Children that
are forked go on with the settings of their parent. Does not know what is logged, nor how often (`log_limit`).
"""

import json
import logging
import os
import re
import select
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any

from nfqlb.config.model import Log, LogFormat, LogLevel

STDERR = 2

PATIENCE = 0.1
"""Seconds that a line waits for a reader of the log who is slow. One that has stopped (Ctrl-S in a terminal, a hung
program behind a pipe) shall not stop the gateway: lines are lost then, and counted."""

PRIORITIES = {
    logging.CRITICAL: 2,
    logging.ERROR: 3,
    logging.WARNING: 4,
    logging.INFO: 6,
    logging.DEBUG: 7,
}
"""Level → syslog's number for it [RFC 5424, 6.2.1], as sd-daemon(3) wants it in front of a line."""

_HEAD = re.compile(r"\d{4}-\d\d-\d\dT\S+ \S+\[\d+\] \w+: ")
_PRIORITY = re.compile(r"^<[0-7]>")

_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}
"""A text may quote what strangers have sent: nothing in it shall steer a terminal."""

logger = logging.getLogger("nfqlb")


def about(**fields: object) -> dict[str, Any]:
    """`logger.error("…", extra=about(pool="a"))`: what the event is about, for who reads JSON."""
    return {"about": fields}


def name_process(name: str) -> None:
    """Have ps, top and the log call this process that."""
    with open("/proc/self/comm", "w") as comm:
        comm.write(name)
    if _log is not None:
        _log.process = name


class Lines(logging.Handler):
    """Writes to stderr."""

    def __init__(self, *, to_journal: bool) -> None:
        super().__init__()
        self.process = "nfqlb"
        self.as_json = False
        self._to_journal = to_journal
        self._poll = select.poll()
        self._poll.register(STDERR, select.POLLOUT)
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
            if self._lost and self._can_write(0.0):
                lost = f"{self._lost} lines of the log of this process are lost: who reads it had stopped"
                self._lost = 0
                line = self.format(logging.makeLogRecord({**LOST, "msg": lost, "process": record.process})) + line
            if self._can_write(0.0 if self._lost else PATIENCE):
                self._write(line.encode("utf-8", "backslashreplace"))
            else:
                self._lost += 1
        except Exception:
            self.handleError(record)

    def format(self, record: logging.LogRecord) -> str:
        """As it is written, with the end of the line."""
        priority = f"<{PRIORITIES.get(record.levelno, 6)}>" if self._to_journal else ""
        if self.as_json:
            return f"{priority}{json.dumps(self._plain(record), ensure_ascii=False, default=str)}\n"
        told = record.getMessage()
        if record.exc_info and record.exc_info[0] is not None:
            told += "\n" + _trace(record.exc_info)
        first, *more = told.translate(_CONTROLS).split("\n")
        if not self._to_journal:
            first = f"{timestamp(record.created)} {self.process}[{record.process}] {record.levelname.lower()}: {first}"
        return "".join(f"{priority}{line}\n" for line in (first, *(f"  {each}" for each in more)))

    def _plain(self, record: logging.LogRecord) -> dict[str, Any]:
        plain: dict[str, Any] = {
            "time": timestamp(record.created),
            "level": record.levelname.lower(),
            "process": self.process,
            "pid": record.process,
            "message": record.getMessage(),
        }
        if record.exc_info and record.exc_info[0] is not None:
            plain["exception"] = _trace(record.exc_info)
        return plain | {name: value for name, value in getattr(record, "about", {}).items() if name not in plain}

    def _can_write(self, patience: float) -> bool:
        return bool(self._poll.poll(1000 * patience))

    def _write(self, line: bytes) -> None:
        with suppress(OSError):  # nobody reads it any more, or the disk is full
            while line:
                line = line[os.write(STDERR, line) :]  # once: more is left only where a disk is about to be full


LOST = {"levelno": logging.WARNING, "levelname": "WARNING", "name": "nfqlb"}

_log: Lines | None = None
_told = Log()
"""What the configuration says."""
_level: LogLevel | None = None
_format: LogFormat | None = None
"""What the command line says, which holds."""


def begin(level: LogLevel | None = None, format: LogFormat | None = None, stderr: int = STDERR) -> None:
    """From now on events, warnings of Python, and exceptions that end the process are lines on stderr. `level` and
    `format` as the command line has them. `stderr`: a file that leads where stderr will lead in a moment.
    """
    global _log, _level, _format
    if sys.stderr is None:  # it was closed; whatever is opened next would get its number, and our lines
        os.dup2(os.open(os.devnull, os.O_WRONLY), STDERR)
    _level, _format = level, format
    _log = Lines(to_journal=leads_to_journal(stderr, os.environ))
    logging.getLogger().handlers[:] = [_log]
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    apply(_told)


def apply(told: Log) -> None:
    """Do as the configuration says, as far as the command line does not."""
    global _told
    _told = told
    if _log is None:
        return
    now = settings()
    level = logging.getLevelNamesMapping()[now.level.upper()]
    _log.as_json = now.format == "json"
    logger.setLevel(level)
    logging.getLogger().setLevel(max(level, logging.WARNING))  # of libraries, what an operator should know


def settings() -> Log:
    """In force."""
    return Log(_level or _told.level, _format or _told.format)


def overruled() -> list[str]:
    """What the configuration says and the command line does not let it, a line each."""
    now = settings()
    pairs = (("level", _told.level, now.level), ("format", _told.format, now.format))
    return [
        f"log.{name}: {holds} goes on, as the command line says --log-{name} {holds}"
        for name, told, holds in pairs
        if told != holds
    ]


def to_terminal() -> bool:
    """Whether somebody looks on, rather than reads it later."""
    return settings().format != "json" and os.isatty(STDERR)


def leads_to_journal(descriptor: int, environment: Mapping[str, str]) -> bool:
    """Whether what is written there goes to the journal of systemd: its device and inode are those that systemd has
    told [systemd.exec(5), JOURNAL_STREAM]. The variable alone says nothing: whoever a service has started has it, too,
    wherever its stderr leads.
    """
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return environment.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def timestamp(seconds: float) -> str:
    """ISO 8601 in local time, with milliseconds and the offset to UTC."""
    local = time.localtime(seconds)
    sign, offset = ("-" if local.tm_gmtoff < 0 else "+"), abs(local.tm_gmtoff) // 60
    milliseconds = int(seconds * 1000) % 1000
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', local)}.{milliseconds:03d}{sign}{offset // 60:02d}:{offset % 60:02d}"


def message_in(line: str) -> str:
    """The text of a line of the log, for who only wants to know what happened; other lines as they are."""
    line = _PRIORITY.sub("", line)
    if line.startswith("{"):
        with suppress(ValueError, KeyError):
            return str(json.loads(line)["message"])
    found = _HEAD.match(line)
    return line[found.end() :] if found else line


def _trace(error: tuple[type[BaseException] | None, BaseException | None, TracebackType | None]) -> str:
    return "".join(traceback.format_exception(*error)).rstrip("\n")


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, Exception):
        logger.critical("internal error, which ends this process; please report it", exc_info=(kind, error, trace))
    else:
        sys.__excepthook__(kind, error, trace)
