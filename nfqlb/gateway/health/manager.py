"""The prober as the supervisor has it: what it is given, and when it is replaced.

Does not know what follows from what it says. It ends by itself when the supervisor is gone: nobody could use what it
finds out.
"""

import time
from collections.abc import Callable, Sequence
from selectors import BaseSelector
from typing import Any

from nfqlb.balance.states import State
from nfqlb.gateway.health.probe import Round, Target
from nfqlb.gateway.health.prober import Prober
from nfqlb.gateway.runtime import privileges
from nfqlb.gateway.runtime.helper import Helper
from nfqlb.gateway.shm.board import BACKENDS, RESPONSES_FROM, Board, Traffic
from nfqlb.gateway.shm.probe_results import ProbeResult, ProbeResults

NAME = "nfqlb-health"
"""What ps and top call it."""

STUCK_AFTER = 10.0
"""Seconds without a sign of life after which it is replaced."""


class HealthManager:
    """One prober at a time, for one round."""

    def __init__(
        self,
        round_: Round,
        board: Board,
        known: Callable[[], Sequence[State]],
        heard: Callable[[dict[str, Any]], None],
        selector: BaseSelector,
    ) -> None:
        """Start one. `board`: where the workers of the moment count. `known`: what is known of each target, asked at
        each start. `heard`: called with each line that it says.
        """
        self.round, self.board, self._known = round_, board, known
        self.results = ProbeResults(len(round_.targets))
        stands = "what is known of backends stands until another asks"
        self._helper = Helper(NAME, "the prober of health", stands, heard, selector)
        self._start()

    @property
    def pid(self) -> int:
        return self._helper.pid

    def result(self, target: int) -> ProbeResult:
        return self.results.read(target)

    def tick(self, now: float) -> float:
        """Replace one that has died or hangs; seconds until there is something to do again."""
        helper = self._helper
        helper.tick(now, max(self._born, self.results.heartbeat / 1e9), STUCK_AFTER)
        if not helper.pid and now >= helper.start_at:
            self._start()
        return 1.0 if helper.pid else max(0.0, helper.start_at - now)

    def end(self) -> None:
        self._helper.end()
        self.results.close()

    def _start(self) -> None:
        known = self._known()
        self._born = time.monotonic()
        self._helper.start(lambda writing: self._work(known, writing))

    def _work(self, known: Sequence[State], writing: int) -> None:
        """In the child."""
        round_, responses = self.round, _responses(self.board, self.round.targets)
        prober = Prober(round_.targets, known, round_.internals, round_.name, responses, self.results, writing)
        privileges.drop(keep=None)
        prober.run()


def _responses(board: Board, targets: Sequence[Target]) -> Callable[[int], int]:
    """How many responses workers have seen from a target."""
    slots = [board.slot(worker) for worker in range(len(board.about.queues))]
    cells = [
        [BACKENDS + number * len(Traffic) + each for number in target.numbers for each in RESPONSES_FROM]
        for target in targets
    ]
    return lambda target: sum(slot[cell] for slot in slots for cell in cells[target])
