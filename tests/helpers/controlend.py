"""A control socket as a gateway has it, for commands that ask one."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from selectors import DefaultSelector
from typing import Any

from nfqlb.gateway.runtime.control_socket import ControlSocket, Conversation


@contextmanager
def answering(run_dir: Path, handle: Callable[[dict[str, Any], Conversation], None]) -> Iterator[None]:
    """While this lasts, requests to the gateway of that run directory are given to `handle`."""
    selector, ended = DefaultSelector(), threading.Event()
    control = ControlSocket(run_dir, selector, handle)
    control.publish()

    def serve() -> None:
        while not ended.is_set():
            for key, _ in selector.select(0.05):
                key.data()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        control.close(remove=True)
        selector.close()
