"""Tables built in several processes at once, while the one that wants them does something else.

Knows how many processes are worth their while, and who of them builds what. What a table follows from is known in
`balance.tables`.
"""

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from types import TracebackType

from nfqlb.balance.pool import Pool
from nfqlb.balance.states import Standings
from nfqlb.balance.tables import Built, Draft, Ready, Tables, build, missing
from nfqlb.gateway.runtime.job import Job

WORTH_A_PROCESS = 1 << 16
"""Slots that take some 30 ms: for fewer, no process is forked."""

PROCESSES_MAX = 8
"""Each has a copy of what it writes to, if only for a second."""


class TableBuild:
    """The tables of some pools, begun; `with` ends what nobody has waited for."""

    def __init__(self, pools: Iterable[Pool], like: Tables | None = None) -> None:
        """`like`: tables in force; with their standings, and what is the same there is not built again."""
        self.standings: Standings = {} if like is None else like.standings
        self._ready: Ready = {} if like is None else like.built
        self._drafts = missing(pools, self.standings, self._ready)
        count = min(sum(map(_slots, self._drafts)) // WORTH_A_PROCESS, PROCESSES_MAX, len(os.sched_getaffinity(0)))
        self._jobs: list[Job[list[Built]]] = []
        with suppress(OSError):  # no memory or process numbers for more: what nobody does is done here
            for part in parts(self._drafts, count):
                self._jobs.append(Job(partial(_build, part)))

    def finish(self) -> Ready:
        """All tables there are, when the last one is built. Raises Refused."""
        built = {each.draft.which: each for job in self._jobs for each in job.result()}
        for draft in self._drafts:
            if draft.which not in built:
                built[draft.which] = build(draft)
        return {**self._ready, **built}

    def __enter__(self) -> "TableBuild":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for job in self._jobs:
            job.end()


def parts(drafts: Sequence[Draft], count: int) -> list[list[Draft]]:
    """The drafts in so many parts that take about as long; those that nothing is left for are missing."""
    found: list[list[Draft]] = [[] for _ in range(count)]
    for draft in sorted(drafts, key=_slots, reverse=True) if found else ():
        min(found, key=lambda part: sum(map(_slots, part))).append(draft)
    return [part for part in found if part]


def _build(drafts: Iterable[Draft]) -> list[Built]:
    return [build(draft) for draft in drafts]


def _slots(draft: Draft) -> int:
    return draft.intake.slots
