"""Forking a child, and what every child lets go of: signals, files, its name, and the way out.

Knows how a process is forked so that no signal is lost or goes to the wrong one, and that a child never comes back into
the code of its parent. Does not know what the child does, nor who looks after it: `job`, `helper` and the worker pool
do.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

from nfqlb.gateway.runtime import log as runtime_log

HAND_ON = signal.SIGUSR1
"""To a worker: leave at the next packet boundary, a successor has the queue."""

RELIEVE = signal.SIGUSR2
"""To a worker: others get what is new; leave when nothing waits any more."""

WORKER_SIGNALS = (signal.SIGTERM, HAND_ON, RELIEVE, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
"""Those that mean something else to a worker than to the supervisor."""

Handler = Callable[[int, FrameType | None], object]
Mask = set[int | signal.Signals]


@contextmanager
def held_back(numbers: Iterable[signal.Signals]) -> Iterator[Mask]:
    """Signals that wait until the end of the block; for it to `fork` in. Yields those that were blocked before.

    None may reach a child while it still has the handlers of its parent: it would write into its socket. And what a
    handler raises while Python forks is ignored: Ctrl-C would be lost.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield before
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def fork(work: Callable[[], object], failed: Callable[[], object]) -> int:
    """Fork a child that does `work` and exits with 0. Where that raises anything, the child calls `failed`, which may
    log it, and exits with EX_SOFTWARE. The child's number. Raises OSError.

    The child never leaves by a normal exit: the clean-up of libraries would let go of what its parent still has.
    """
    pid = os.fork()
    if pid:
        return pid
    code = os.EX_SOFTWARE
    try:
        work()
        code = os.EX_OK
    except BaseException:
        failed()
    finally:
        try:
            sys.stderr.flush()
        finally:
            os._exit(code)


def let_go_of_signals(numbers: Iterable[signal.Signals]) -> None:
    """In a child: none of them shall reach the socket of the parent; they mean what they mean to any process."""
    signal.set_wakeup_fd(-1)
    for number in numbers:
        signal.signal(number, signal.SIG_DFL)


def become(name: str, kept: Iterable[int], handlers: Mapping[signal.Signals, Handler] | None = None) -> None:
    """In a child that lives beside the supervisor: keep, of its files, 0 to 2 and `kept` only, and of its signals none.
    `name`: what ps and top call it. `handlers`: what a signal means to it. Ends what `held_back` began.
    """
    let_go_of_signals(WORKER_SIGNALS)
    # Ctrl-C in a terminal reaches the whole group; the supervisor decides for all.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for number, handler in (handlers or {}).items():
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, WORKER_SIGNALS)
    close_all_but((0, 1, 2, *kept))
    runtime_log.name_process(name)


def close_all_but(kept: Iterable[int]) -> None:
    """Close every file of this process but these. Whoever still has an object for one must leave by os._exit."""
    first = 0
    for descriptor in sorted(set(kept)):
        if descriptor > first:  # an empty range that begins at 0 would be taken for all there are
            os.closerange(first, descriptor)
        first = descriptor + 1
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))
