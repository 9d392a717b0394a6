"""When each backend was last sent a request, and was last heard to respond: found out from counters that have risen.

Knows the counters on the board, looks at them now and then, and costs no packet anything. So a time is that of the look
which found the counter risen: LOOK_INTERVAL later than the packet at most, never earlier. Backends go by their names on
the board, and what is known of one lasts as long as what is counted for it. Times are seconds since 1970.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nfqlb.gateway.shm.board import RESPONSES_FROM, Board, Traffic

FILE_NAME = "activity"
"""In the run directory: for the next supervisor of the same workers."""

LOOK_INTERVAL = 1.0
"""Seconds between two looks."""


@dataclass(slots=True)
class Seen:
    """What the last look has found of one backend."""

    requests: int
    """Sent to it."""
    responses: int
    """From it."""
    last_request: float = 0.0
    """0.0: none since the gateway has counted."""
    last_response: float = 0.0


class Activity:
    """Of all backends of one gateway, over all its configurations."""

    def __init__(self, past: Mapping[str, Seen]) -> None:
        """`past`: what an earlier supervisor saw last. What was counted since then counts as of the first look."""
        self._seen = dict(past)

    def look(self, board: Board, now: float) -> bool:
        """Whether there is anything new to hand on. Who is not on the board is forgotten."""
        counted = zip(board.about.backends, board.sums(Traffic.REQUESTS_TO), board.sums(*RESPONSES_FROM), strict=True)
        before, self._seen = self._seen, {}
        news = before.keys() != set(board.about.backends)
        for name, requests, responses in counted:
            self._seen[name] = seen = before.get(name) or Seen(0, 0)
            if requests != seen.requests:
                seen.requests, seen.last_request, news = requests, now, True
            if responses != seen.responses:
                seen.responses, seen.last_response, news = responses, now, True
        return news

    def of(self, name: str) -> Seen:
        return self._seen.get(name) or Seen(0, 0)

    # -- from one supervisor to the next

    def save(self, run_dir: Path) -> None:
        """Raises OSError."""
        rows = {
            name: [each.requests, each.responses, each.last_request, each.last_response]
            for name, each in self._seen.items()
        }
        fresh = run_dir / f"{FILE_NAME}.{os.getpid()}"
        try:
            fresh.write_text(json.dumps(rows))
            fresh.rename(run_dir / FILE_NAME)
        except OSError:
            with suppress(OSError):
                fresh.unlink()
            raise


def load(run_dir: Path) -> dict[str, Seen]:
    """What was saved; nothing where that cannot be read."""
    try:
        rows = json.loads((run_dir / FILE_NAME).read_bytes())
        return {
            str(name): Seen(int(requests), int(responses), float(last_request), float(last_response))
            for name, (requests, responses, last_request, last_response) in rows.items()
        }
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def remove(run_dir: Path) -> None:
    (run_dir / FILE_NAME).unlink(missing_ok=True)
