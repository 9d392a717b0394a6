"""The prober as the supervisor has it: forked, watched, replaced when it dies or hangs, ended.

Knows a process and the pipe that it speaks by. Does not know what follows from what it says. It ends by itself when the
supervisor is gone: nobody could use what it finds out.
"""

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from selectors import EVENT_READ, BaseSelector
from typing import Any, NoReturn

from nfqlb.balance.states import State
from nfqlb.gateway import privileges
from nfqlb.gateway.board import BACKENDS, RESPONSES_FROM, Board, Traffic
from nfqlb.gateway.crew import WORKER_SIGNALS, close_all_but
from nfqlb.gateway.probe import Round, Target
from nfqlb.gateway.prober import Prober
from nfqlb.gateway.vitals import Vital, Vitals

NAME = "nfqlb-health"
"""What ps and top call it."""

RESPAWN_AFTER = 1.0
"""Seconds until one that died is replaced."""

STUCK_AFTER = 10.0
"""Seconds without a sign of life after which it is replaced."""

PIECE = 1 << 16

logger = logging.getLogger("nfqlb")


class Checkup:
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
        self.round, self.board, self._known, self._heard_line, self._selector = round_, board, known, heard, selector
        self.vitals = Vitals(len(round_.targets))
        self.pid = 0
        self._pipe = -1
        self._rest = b""
        self._born = 0.0
        self._start_at = 0.0
        self._start()

    def vital(self, target: int) -> Vital:
        return self.vitals.read(target)

    def look_after(self, now: float) -> float:
        """Replace one that has died or hangs; seconds until there is something to do again."""
        if self.pid:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._died(os.waitstatus_to_exitcode(status), now)
            elif now - max(self._born, self.vitals.heartbeat / 1e9) > STUCK_AFTER:
                logger.error("the prober of health (pid %d) hangs; killed", self.pid)
                os.kill(self.pid, signal.SIGKILL)
                self._born = now  # once is enough; it is buried when it has died
        if not self.pid and now >= self._start_at:
            self._start()
        return 1.0 if self.pid else max(0.0, self._start_at - now)

    def end(self) -> None:
        """Kill it: it has nothing to bring to an end."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        self._forget()
        self.vitals.close()

    def _died(self, code: int, now: float) -> None:
        why = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        logger.error(
            "the prober of health (pid %d) died (%s); what is known of backends stands until another asks",
            self.pid,
            why,
        )
        self._hear()
        self._forget()
        self._start_at = now + RESPAWN_AFTER

    def _forget(self) -> None:
        self.pid = 0
        if self._pipe >= 0:
            self._selector.unregister(self._pipe)
            os.close(self._pipe)
            self._pipe, self._rest = -1, b""

    def _hear(self) -> None:
        try:
            self._rest += os.read(self._pipe, PIECE)
        except BlockingIOError:
            return
        *lines, self._rest = self._rest.split(b"\n")
        for line in lines:
            self._heard_line(json.loads(line))

    def _start(self) -> None:
        known = self._known()
        self._born = time.monotonic()
        reading, writing = os.pipe()
        # No signal may reach the child while it still has our handlers: it would write into our socket.
        signal.pthread_sigmask(signal.SIG_BLOCK, WORKER_SIGNALS)
        try:
            pid = os.fork()
            if not pid:
                self._work(known, writing)
        except OSError as error:
            logger.error("the prober of health cannot be forked: %s", error.strerror)
            os.close(reading)
            self._start_at = self._born + RESPAWN_AFTER
            return
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, WORKER_SIGNALS)
            os.close(writing)
        os.set_blocking(reading, False)
        self.pid, self._pipe = pid, reading
        self._selector.register(reading, EVENT_READ, self._hear)

    # -- in the child

    def _work(self, known: Sequence[State], writing: int) -> NoReturn:
        code = os.EX_SOFTWARE
        try:
            signal.set_wakeup_fd(-1)
            for number in WORKER_SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            # Ctrl-C in a terminal reaches the whole group; the supervisor decides for all.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, WORKER_SIGNALS)
            close_all_but((0, 1, 2, writing))
            with open("/proc/self/comm", "w") as comm:
                comm.write(NAME)
            round_, responses = self.round, _responses(self.board, self.round.targets)
            prober = Prober(round_.targets, known, round_.ears, round_.name, responses, self.vitals, writing)
            privileges.drop(keep=None)
            prober.run()
            code = os.EX_OK
        except BaseException:
            logger.exception("the prober of health ends")
        finally:
            sys.stderr.flush()
            os._exit(code)


def _responses(board: Board, targets: Sequence[Target]) -> Callable[[int], int]:
    """How many responses workers have seen from a target."""
    slots = [board.slot(worker) for worker in range(len(board.about.queues))]
    cells = [
        [BACKENDS + number * len(Traffic) + each for number in target.numbers for each in RESPONSES_FROM]
        for target in targets
    ]
    return lambda target: sum(slot[cell] for slot in slots for cell in cells[target])
