"""What every forked child lets go of, and that none ever comes back into the code of its parent."""

import errno
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress

import pytest

from nfqlb.gateway.runtime.child import WORKER_SIGNALS, become, fork, held_back, let_go_of_signals

WAIT = 20
"""Seconds after which a child that hangs ends itself."""


def nothing() -> None:
    pass


def ended(work: Callable[[], object], failed: Callable[[], object] = nothing) -> tuple[int, bytes]:
    """Exit status of a child, negative for a signal, and what it has written to descriptor `SAYS`."""
    reading, writing = os.pipe()

    def watched() -> None:
        os.close(reading)
        os.dup2(writing, SAYS)
        signal.alarm(WAIT)
        work()

    pid = fork(watched, failed)
    os.close(writing)
    with open(reading, "rb") as pipe:
        said = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said


SAYS = 200


def say(text: object) -> None:
    os.write(SAYS, f"{text}\n".encode())


# -- the way out


def test_a_child_ends_with_its_work() -> None:
    assert ended(lambda: say("work"), lambda: say("failed")) == (os.EX_OK, b"work\n")


@pytest.mark.parametrize(
    "error", [KeyError("x"), SystemExit(0), KeyboardInterrupt()], ids=lambda each: type(each).__name__
)
def test_a_child_that_fails_says_so_and_ends(error: BaseException) -> None:
    def work() -> None:
        raise error

    assert ended(work, lambda: say(f"failed: {sys.exc_info()[1]!r}")) == (
        os.EX_SOFTWARE,
        f"failed: {error!r}\n".encode(),
    )


class Full:
    """A stderr that nothing can be written to any more."""

    def flush(self) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def write(self, text: str) -> int:
        return len(text)


@pytest.mark.parametrize("which", ["the log fails", "stderr is full"])
def test_whatever_fails_at_its_end_it_does_not_come_back(monkeypatch: pytest.MonkeyPatch, which: str) -> None:
    """It would go on as a second supervisor."""

    def failed() -> None:
        if which == "the log fails":
            raise OSError(errno.ENOSPC, "No space left on device")

    if which == "stderr is full":
        monkeypatch.setattr(sys, "stderr", Full())
    own = os.getpid()
    code = None
    with suppress(OSError):
        code, _ = ended(lambda: 1 / 0, failed)
    if os.getpid() != own:
        os._exit(0)
    assert code == os.EX_SOFTWARE


def test_no_process_to_be_had_is_an_error_of_the_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", none)
    with pytest.raises(BlockingIOError):
        fork(nothing, nothing)


# -- signals


def test_signals_wait_until_the_end_of_the_block_however_it_ends() -> None:
    caught: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: caught.append(number))
    try:
        with suppress(ZeroDivisionError), held_back((signal.SIGUSR1,)) as mask:
            assert mask == set()
            signal.raise_signal(signal.SIGUSR1)  # to this thread: another one might not hold it back
            assert caught == []
            raise ZeroDivisionError
        assert caught == [signal.SIGUSR1]
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_one_that_was_blocked_before_stays_blocked() -> None:
    with held_back((signal.SIGUSR2,)):
        with held_back((signal.SIGUSR1, signal.SIGUSR2)) as mask:
            assert mask == {signal.SIGUSR2}
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == {signal.SIGUSR2}


def test_no_signal_reaches_the_socket_or_handlers_of_the_parent() -> None:
    def work() -> None:
        let_go_of_signals((signal.SIGHUP,))
        say(signal.set_wakeup_fd(-1))
        say(signal.getsignal(signal.SIGHUP) is signal.SIG_DFL)

    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.signal(signal.SIGHUP, lambda *_: None)
    wakeup = signal.set_wakeup_fd(writing)
    try:
        assert ended(work) == (os.EX_OK, b"-1\nTrue\n")
    finally:
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGHUP, before)
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGCHLD])
def test_what_a_terminal_sends_the_whole_group_is_for_the_supervisor(number: signal.Signals) -> None:
    def work() -> None:
        become("test", (SAYS,))
        os.kill(os.getpid(), number)
        say("goes on")

    with held_back(WORKER_SIGNALS):
        assert ended(work) == (os.EX_OK, b"goes on\n")


def test_a_signal_that_came_too_early_is_not_lost() -> None:
    def work() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        say("held back")
        become("test", (SAYS,))
        say("never")

    with held_back(WORKER_SIGNALS):
        assert ended(work) == (-signal.SIGTERM, b"held back\n")


def test_a_signal_may_mean_something_to_the_child() -> None:
    def work() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        become("test", (SAYS,), {signal.SIGTERM: lambda number, _: say(number)})
        os.kill(os.getpid(), signal.SIGTERM)

    with held_back(WORKER_SIGNALS):
        assert ended(work) == (os.EX_OK, b"15\n15\n")


# -- files and name


def test_of_the_files_of_the_parent_it_keeps_what_it_is_given() -> None:
    kept, other = os.pipe()

    def work() -> None:
        become("test", (SAYS, kept))
        for number in (0, 1, 2, kept, other):
            try:
                os.fstat(number)
                say(f"{number} is open")
            except OSError:
                say(f"{number} is closed")

    said = ended(work)[1].decode().splitlines()
    os.close(kept)
    os.close(other)
    assert said == ["0 is open", "1 is open", "2 is open", f"{kept} is open", f"{other} is closed"]


def test_it_has_a_name_for_ps() -> None:
    def work() -> None:
        become("nfqlb-test", (SAYS,))
        with open("/proc/self/comm") as comm:
            say(comm.read().strip())

    assert ended(work)[1] == b"nfqlb-test\n"
