"""Work in a child process: its result, its refusal, and its death, which must never be taken for a result."""

import logging
import os
import select
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from typing import Any

import pytest

from nfqlb.gateway.host.procfs import alive
from nfqlb.gateway.runtime.job import CHUNK, Job, Refused


def open_files() -> list[str]:
    return os.listdir("/proc/self/fd")


def wait_until_done(job: "Job[Any]", seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not job.done:
        assert select.select([job], [], [], max(0.0, deadline - time.monotonic()))[0], "it says nothing"
        job.read()


@pytest.mark.parametrize("value", [None, 7, "größer", {"a": [1, 2]}, b"x" * (10 * CHUNK), range(3, 9)])
@pytest.mark.parametrize("watched", [True, False])
def test_what_it_returns_comes_back(value: object, watched: bool) -> None:
    before = open_files()
    job: Job[object] = Job(lambda: value)
    if watched:
        wait_until_done(job)
    assert job.result() == value
    assert job.end() == 0
    assert open_files() == before


def test_it_works_in_another_process() -> None:
    seen: list[int] = []

    def work() -> int:
        seen.append(1)
        return os.getpid()

    assert Job(work).result() != os.getpid()
    assert seen == []


def test_what_is_to_be_let_go_is_let_go_first() -> None:
    order: list[str] = []
    assert Job(lambda: [*order, "work"], lambda: order.append("let go")).result() == ["let go", "work"]


def test_a_refusal_comes_back_with_all_its_lines() -> None:
    def work() -> None:
        raise Refused("one", "two größer")

    with pytest.raises(Refused) as caught:
        Job(work).result()
    assert caught.value.lines == ("one", "two größer")
    assert str(caught.value) == "one\ntwo größer"


def boom() -> object:
    raise LookupError("ordered by the test")


def leave() -> object:
    raise SystemExit("ordered by the test")


def die() -> object:
    os.kill(os.getpid(), signal.SIGKILL)
    return "never"


@pytest.mark.parametrize(
    "work",
    [boom, leave, die, lambda: os._exit(0), lambda: lambda: 1],
    ids=["raises", "leaves", "is killed", "exits", "cannot be told"],
)
def test_a_failure_inside_is_refused_in_a_sentence(work: Callable[[], object]) -> None:
    job = Job(work)
    with pytest.raises(Refused, match="failed inside"):
        job.result()


def test_half_a_result_is_none() -> None:
    """Killed by the kernel for its memory, say, in the middle of a large table."""
    job: Job[bytes] = Job(lambda: bytes(50 << 20))
    assert select.select([job], [], [], 5)[0]
    os.kill(job.pid, signal.SIGKILL)
    wait_until_done(job)
    with pytest.raises(Refused, match="failed inside"):
        job.result()


def test_an_end_kills_it() -> None:
    before = open_files()
    job = Job(lambda: time.sleep(60))
    pid = job.pid
    job.read()
    assert not job.done
    begin = time.monotonic()
    job.end()
    assert time.monotonic() - begin < 30
    assert not alive(pid)
    job.end()
    assert open_files() == before


def test_no_process_to_be_had_is_told_and_leaves_no_file_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def fork() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    before = open_files()
    monkeypatch.setattr(os, "fork", fork)
    with pytest.raises(OSError, match="temporarily"):
        Job(lambda: 1)
    assert open_files() == before
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()


def test_its_exceptions_go_to_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    handler = logging.StreamHandler(sys.stderr)
    logging.getLogger("nfqlb").addHandler(handler)
    try:
        with pytest.raises(Refused):
            Job(boom).result()
    finally:
        logging.getLogger("nfqlb").removeHandler(handler)
    assert "LookupError: ordered by the test" in capfd.readouterr().err


INTERRUPTED = textwrap.dedent("""\
    import os, signal, time
    from nfqlb.gateway.runtime.job import Job

    # In the middle of the fork, as a terminal sends it: the whole group gets it.
    os.register_at_fork(before=lambda: os.killpg(0, signal.SIGINT))
    try:
        Job(lambda: time.sleep(30)).result()
    except KeyboardInterrupt:
        print("interrupted")
""")


def test_ctrl_c_is_not_lost_while_it_forks() -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=20, start_new_session=True
    )
    assert done.stdout == "interrupted\n", done.stderr
    assert done.stderr == ""
