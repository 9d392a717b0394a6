"""What every forked child of the supervisor has to let go of: its signals and its files.

Knows the signals that mean something else to a child than to the supervisor. Does not know what the child does.
"""

import os
import signal
from collections.abc import Iterable

HAND_ON = signal.SIGUSR1
"""To a worker: leave at the next packet boundary, a successor has the queue."""

RELIEVE = signal.SIGUSR2
"""To a worker: others get what is new; leave when nothing waits any more."""

WORKER_SIGNALS = (signal.SIGTERM, HAND_ON, RELIEVE, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
"""Those that mean something else to a worker than to the supervisor."""


def close_all_but(kept: Iterable[int]) -> None:
    """Close every file of this process but these. Whoever still has an object for one must leave by os._exit."""
    first = 0
    for descriptor in sorted(set(kept)):
        if descriptor > first:  # an empty range that begins at 0 would be taken for all there are
            os.closerange(first, descriptor)
        first = descriptor + 1
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))
