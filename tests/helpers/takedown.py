"""The end of a network that a test made: sockets, processes, namespaces, in this order and whatever happened."""

import socket
import subprocess
from collections.abc import Iterable, Sequence

from nfqlb.lab import namespaces


def take_down(
    opened: Iterable[socket.socket], processes: "Iterable[subprocess.Popen[bytes]]", names: Sequence[str]
) -> None:
    """Close, end and remove all of it; a process that does not heed SIGTERM for 10 s is killed."""
    for each in opened:
        each.close()
    for process in processes:
        process.terminate()  # does nothing to one that has ended
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
    namespaces.end_members(names)
    for name in names:
        namespaces.remove(name)
