"""Waiting until a backend that is drained is quiet, for `nfqlb backends drain --wait`.

Knows what quiet is and how a wait is shown; the times are the running gateway's. That keeps no calls, so all that can
be told is when messages were last seen: a backend is quiet when for so long no request was sent to it, and no response
came from it.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import click

from nfqlb.cli._common import UserError, ask, errors_in
from nfqlb.cli.backends import span
from nfqlb.config.dns_backends import base

IDLE = 180.0
"""Seconds without a message, unless told otherwise: as long as an INVITE may ring, and its backend is remembered."""

INTERVAL = 1.0
"""Seconds between two questions."""

TOLD_EVERY = 60.0
"""Seconds between two lines where there is no terminal."""

PATIENCE = 30.0
"""Seconds for which the gateway may be away, as in an upgrade or a restart."""


class Look(NamedTuple):
    """What one answer of the gateway says of the backends that are waited for."""

    back: tuple[str, ...]
    """Those that take requests again."""
    chosen: bool
    """Tables still have one of them: new requests may be on their way there."""
    last_request: float | None
    last_response: float | None
    """Of any of them, in seconds since 1970; None: none since the gateway has started."""
    silent_since: float
    """When the last message was seen, or the gateway began to look."""

    def told(self, now: float) -> str:
        return f"{last('request', self.last_request, now)}, {last('response', self.last_response, now)}"


class Outcome(NamedTuple):
    """How a wait has ended."""

    why: str
    """Why the backend is not quiet; nothing: it is."""
    waited: float
    """Seconds."""
    last: Look | None

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {
            "quiet": not self.why,
            "why": self.why or None,
            "waited": round(self.waited, 1),
            "last_request": self.last and self.last.last_request,
            "last_response": self.last and self.last.last_response,
        }


def look(answer: Mapping[str, Any], names: Collection[str]) -> Look | None:
    """`answer`: to the request "backends". `names`: as an order names whom it concerns, POOL/NAME each; NAME may stand
    for several addresses. None: nobody of that name is known any more.
    """
    rows = [row for row in answer["backends"] if _is_meant(row, names)]
    if not rows:
        return None
    requests, responses = (
        max((row[key] for row in rows if row[key] is not None), default=None)
        for key in ("last_request", "last_response")
    )
    # One whose name has no address has no `since`: nothing can be sent there.
    there = [row for row in rows if not row["leaving"] and row["since"] is not None]
    return Look(
        back=tuple(f"{row['pool']}/{row['name']}" for row in there if row["state"] not in ("draining", "disabled")),
        chosen=any(row["share"] > 0 for row in rows),
        last_request=requests,
        last_response=responses,
        silent_since=max(requests or 0.0, responses or 0.0, answer["started"]),
    )


def _is_meant(row: Mapping[str, Any], names: Collection[str]) -> bool:
    """One that a reload or DNS has taken out of its pool finishes what it has begun, and is waited for."""
    places = [name.rpartition("/") for name in names]
    return any(
        name in (row["name"], base(row["name"])) and (row["leaving"] or pool == row["pool"]) for pool, _, name in places
    )


def wait(config_path: Path, names: Collection[str], idle: float, limit: float, progress: Progress) -> Outcome:
    """Ask until they have been silent for `idle` seconds, for `limit` seconds at most. Raises UserError."""
    begun = heard = time.monotonic()
    found: Look | None = None
    settled = False
    while True:
        answer, trouble = _answer(config_path)
        now = time.monotonic()
        waited = now - begun
        if answer is not None:
            heard = now
            found = look(answer, names)
            if found is None:
                return Outcome("the gateway does not know it any more", waited, found)
            if found.back:
                why = f"{', '.join(found.back)} takes requests again: somebody has enabled it, or its time is over"
                return Outcome(why, waited, found)
            # Not at the first look that finds it in no table: a request may be on its way, and is counted by the next.
            if settled and time.time() - found.silent_since >= idle:
                return Outcome("", waited, found)
            settled = not found.chosen
        elif now - heard > PATIENCE:
            return Outcome(trouble, waited, found)
        if waited >= limit:
            return Outcome(f"not quiet after {span(waited)}", waited, found)
        if found is not None:
            progress.show(f"{found.told(time.time())}; quiet after {span(idle)}", now)
        time.sleep(min(INTERVAL, limit - waited))


def _answer(config_path: Path) -> tuple[dict[str, Any] | None, str]:
    """What the gateway says of its backends, or why it says nothing. Raises UserError when it never will."""
    try:
        answer = ask(config_path, {"do": "backends"}, quiet=True, timeout=10)
    except UserError as error:
        return None, error.message
    if not answer["ok"]:
        return None, errors_in(answer)
    if "started" not in answer:
        raise UserError("The gateway that runs is older than this command, and does not know the times: nfqlb upgrade")
    return answer, ""


class Progress:
    """How far a wait is, on stderr: one line that changes on a terminal, else a line now and then."""

    def __init__(self, title: str, *, quiet: bool) -> None:
        """`quiet`: say nothing."""
        self._title, self._quiet = title, quiet
        self._terminal = sys.stderr.isatty()
        self._open = False
        self._next = float("-inf")

    def show(self, text: str, now: float) -> None:
        """`now` of time.monotonic()."""
        if self._quiet:
            return
        line = f"{self._title}: {text}"
        if self._terminal:
            room = shutil.get_terminal_size().columns - 1
            click.echo(f"\r{line if len(line) <= room else line[: room - 1] + '…'}\x1b[K", nl=False, err=True)
            self._open = True
        elif now >= self._next:
            self._next = now + TOLD_EVERY
            click.echo(line, err=True)

    def end(self) -> None:
        """Leave the line that has changed so far as it is."""
        if self._open:
            self._open = False
            click.echo(err=True)


def last(what: str, at: float | None, now: float) -> str:
    """`last request 12s ago`. `at` and `now` in seconds since 1970."""
    return f"no {what} yet" if at is None else f"last {what} {span(now - at)} ago"
