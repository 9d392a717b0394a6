"""What the supervisor does about backends: probe results and overrides of the operator become tables all workers see.

Knows who has to be told of what, and in which order. What a Standing follows from is in `status`, how a table is made
in `balance.tables`. Workers choose from memory that they share, so none is asked or replaced for a change.
A plan without BackendsPlan (a stand-in) has no backends.
"""

import logging
import mmap
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nfqlb.balance.states import Place, Standings, State
from nfqlb.balance.tables import Built, Draft, build
from nfqlb.gateway.backends import activity
from nfqlb.gateway.backends import log as backends_log
from nfqlb.gateway.backends import overrides as override_file
from nfqlb.gateway.backends import rows as backends_rows
from nfqlb.gateway.backends import status as backends_status
from nfqlb.gateway.backends.activity import LOOK_INTERVAL, Activity
from nfqlb.gateway.backends.log import named
from nfqlb.gateway.backends.override_request import UnknownBackend, find, override_of
from nfqlb.gateway.backends.overrides import WORDS, Override, OverridesError
from nfqlb.gateway.backends.plan import BackendsPlan
from nfqlb.gateway.backends.status import BackendStatuses, whole
from nfqlb.gateway.backends.successor_file import SuccessorFile
from nfqlb.gateway.health.manager import HealthManager
from nfqlb.gateway.runtime.control_socket import Conversation
from nfqlb.gateway.runtime.event_loop import Loop, Task
from nfqlb.gateway.runtime.job import Refused
from nfqlb.gateway.shm.board import Board, Header, Traffic
from nfqlb.gateway.stats import traffic

DIRECT_SLOTS = 8192
"""Slots of tables that the supervisor builds itself, in some milliseconds; more are built in a child."""

BUILD_WITHIN = 30.0
"""Seconds."""

BUILD_AGAIN = 5.0
"""Seconds until tables are built that could not be."""

SAVE_INTERVAL = 1.0
"""Seconds between two writes of what is known of health, however fast it changes."""

ACTIVITY_INTERVAL = 5.0
"""Seconds between two writes of when backends were last sent a request."""

SAMPLE_INTERVAL = 5.0
"""Seconds between two looks at the counters, for requests per second."""

LOWEST_AGE = 1.0
"""Seconds from the look that a rate is counted from."""

ENABLE = "enable"
"""The word that takes back what another one said."""

REQUESTS = ("backends", *WORDS, ENABLE)
"""By the control socket."""

logger = logging.getLogger("nfqlb")


class BackendsManager:
    """For the backends of one gateway over all its configurations."""

    def __init__(
        self,
        loop: Loop,
        backends_plan: BackendsPlan | None,
        run_dir: Path,
        *,
        past: bool,
        nameless: Callable[[], Mapping[Place, tuple[str, str]]] = dict,
    ) -> None:
        """Ready for the first worker pool to be forked. `past`: workers of another supervisor are to be relieved, and
        what that one knew of health goes on. `nameless`: the backends with a name that has no address, their names, and
        why.
        """
        self._nameless = nameless
        self._loop, self._backends_plan, self._run_dir = loop, backends_plan, run_dir
        self._live: list[BackendsPlan] = []
        """Those whose tables workers may look into."""
        self._statuses = BackendStatuses({}, {})
        self._health: HealthManager | None = None
        self._board: Board | None = None
        self._stale = self._refreshing = False
        self._next_look = self._next_sample = 0.0
        self._next_change = float("inf")
        self._unheard: set[Place] = set()
        """Backends of which nothing is known yet, and of which that has been told."""
        self._samples: list[tuple[float, list[int]]] = []
        self._activity = Activity(activity.load(run_dir) if past else {})
        self._health_file = SuccessorFile(
            "the health of backends cannot be saved for the next supervisor",
            SAVE_INTERVAL,
            lambda: backends_status.save(run_dir, self._statuses.records),
        )
        self._activity_file = SuccessorFile(
            "the times of the last requests to backends cannot be saved",
            ACTIVITY_INTERVAL,
            lambda: self._activity.save(run_dir),
        )
        self._alarms: dict[str, str] = {}
        if backends_plan is None:
            return
        try:
            overrides = override_file.read(backends_plan.state_dir)
        except OverridesError as error:
            logger.error("%s", error)
            overrides = {}
        self._statuses = BackendStatuses(overrides, backends_status.load(run_dir) if past else {})
        self._adopt(backends_plan)
        standings = self._standings(backends_plan)
        backends_plan.tables.put(standings, [build(each) for each in backends_plan.tables.changed(standings)])
        self._live.append(backends_plan)

    # -- with each worker pool

    def prepare(self, backends_plan: BackendsPlan | None) -> Task[None]:
        """Before a worker pool with that plan is forked: its tables become those of the moment. Raises Refused."""
        if backends_plan is not None:
            self._adopt(backends_plan)
            yield from self._bring(backends_plan)
            self._live.append(backends_plan)
            self._stale = True  # much may have come meanwhile

    def apply_plan(self, backends_plan: BackendsPlan | None, board: Board) -> None:
        """The worker pool in force is the one with that plan: the one before is gone, or the one to come does not."""
        if backends_plan is None:
            return
        self._backends_plan, self._board = backends_plan, board
        self._live = [backends_plan]
        self._statuses.keep(backends_plan.places)
        self._tell_unheard(backends_plan)
        self._samples.clear()
        if self._health is not None and self._health.board is not board:
            self._health.end()
            self._health = None
        if self._health is None and backends_plan.round.targets:
            self._health = HealthManager(backends_plan.round, board, self._known, self._heard, self._loop.selector)
        self._stale = self._health_file.behind = True

    def end(self, *, others_go_on: bool) -> None:
        """Stop asking. `others_go_on`: with what is known, in the run directory."""
        if self._health is not None:
            self._health.end()
            self._health = None
        if self._backends_plan is not None and not others_go_on:
            backends_status.remove(self._run_dir)
            activity.remove(self._run_dir)

    @property
    def prober(self) -> int:
        """Its process id; 0 when none runs."""
        return 0 if self._health is None else self._health.pid

    # -- every turn

    def tick(self, now: float) -> float:
        """Do what time brings; `now` of time.monotonic(). Seconds until there is something to do again."""
        if self._board is None:
            return 1.0
        pause = 1.0 if self._health is None else self._health.tick(now)
        today = time.time()
        if today >= self._next_change:
            self._next_change = float("inf")
            self._lapse(today)
            self._stale = True
        if self._stale and not self._refreshing:
            self._refreshing = True
            self._loop.begin(self._refresh())
        self._health_file.tick(now)
        if now >= self._next_look:
            self._next_look = now + LOOK_INTERVAL
            self._look(self._board)
        self._activity_file.tick(now)
        if now >= self._next_sample:
            self._next_sample = now + SAMPLE_INTERVAL
            self._samples = [*self._samples[-1:], (now, self._requests(self._board))]
        return min(pause, max(0.0, self._next_change - today))

    def _lapse(self, now: float) -> None:
        if places := self._statuses.lapse(now):
            backends_log.tell_lapsed(places)
            self._keep_overrides()

    def _look(self, board: Board) -> None:
        self._activity_file.behind |= self._activity.look(board, time.time())

    # -- tables

    def _adopt(self, backends_plan: BackendsPlan) -> None:
        backends_plan.tables.share(memoryview(mmap.mmap(-1, backends_plan.tables.size)))
        self._statuses.adopt(
            dict(zip(backends_plan.places, backends_plan.addresses, strict=True)), backends_plan.warmups, time.time()
        )

    def _standings(self, backends_plan: BackendsPlan) -> Standings:
        return self._statuses.standings(backends_plan.places, time.time())

    def _refresh(self) -> Task[None]:
        """Until all tables are what they should be."""
        try:
            while self._stale:
                self._stale = False
                for backends_plan in list(self._live):
                    yield from self._bring(backends_plan)
            self._next_change = self._statuses.next_change(time.time())
            self._watch_pools()
        except Refused as error:
            self._next_change = time.time() + BUILD_AGAIN
            logger.error("rebuilding the tables of backends failed; the current ones stay in use: %s", error)
        finally:
            self._refreshing = False

    def _bring(self, backends_plan: BackendsPlan) -> Task[None]:
        standings = self._standings(backends_plan)
        drafts = backends_plan.tables.changed(standings)
        if sum(draft.intake.slots for draft in drafts) <= DIRECT_SLOTS:
            built = _build(drafts)
        else:
            built = yield from self._loop.work(lambda: _build(drafts), BUILD_WITHIN)
        backends_plan.tables.put(standings, built)

    def _watch_pools(self) -> None:
        alarms = self.alarms()
        backends_log.tell_alarms(self._alarms, alarms)
        self._alarms = alarms
        if self._board is not None:
            self._board.set(Header.ALARMS, len(alarms))

    @property
    def digest(self) -> str:
        """Of the tables that workers use now."""
        return "" if self._backends_plan is None else self._backends_plan.tables.digest()

    def alarms(self) -> dict[str, str]:
        """What is wrong with each pool that something is wrong with."""
        if self._backends_plan is None:
            return {}
        conditions = {pool: self._backends_plan.tables.condition(pool) for pool in self._backends_plan.pools}
        return {
            pool: 'all backends are down; they get requests all the same (panic = "all")'
            if each.panic
            else f"{each.up} backends take requests, and min_up is {each.min_up}"
            for pool, each in conditions.items()
            if each.alarm
        }

    # -- the prober

    def _known(self) -> Sequence[State]:
        assert self._backends_plan is not None
        records = self._statuses.records
        return [records[target.places[0]].state for target in self._backends_plan.round.targets]

    def _heard(self, line: dict[str, Any]) -> None:
        assert self._health is not None
        if trouble := line.get("trouble"):
            logger.warning("health checks of backends: %s", trouble)
            return
        state, error = State(line["state"]), line["error"]
        for place in self._health.round.targets[line["target"]].places:
            if self._statuses.heard(place, state, error, time.time()):
                self._stale = True
                backends_log.tell_state(place, state, error)
            self._health_file.behind = True

    def _tell_unheard(self, backends_plan: BackendsPlan) -> None:
        """Say whom we take to be up without knowing it, pool by pool, and of each backend once."""
        asked = {place for target in backends_plan.round.targets for place in target.places}
        places = [
            each for each in backends_plan.places if each[0] and self._statuses.records[each].state is State.UNKNOWN
        ]
        fresh = [place for place in places if place not in self._unheard]
        self._unheard = set(places)
        backends_log.tell_unheard(fresh, asked)

    # -- the operator

    def override(self, word: str, name: str, seconds: float | None) -> tuple[list[Place], str]:
        """Do what an operator wants: "drain", "disable", "enable". Whom it concerns, and a warning or nothing.

        `name` is that of a backend, or pool/backend where several have it. Raises UnknownBackend.
        """
        places, now = self._find(name), time.time()
        state = WORDS.get(word)
        if state is None and any(
            whole(place) != place and whole(place) in self._statuses.overrides for place in places
        ):
            raise UnknownBackend(f"All addresses of that backend are out: say 'enable {whole(places[0])[1]}'.")
        for place in places:
            override = None if state is None else Override(state, now, None if seconds is None else now + seconds)
            self._statuses.say(place, override, now)
            backends_log.tell_order(word, place, None if state is None else seconds)
        self._stale = self._health_file.behind = True
        return places, " ".join(each for each in (self._left_alone(places, now), self._keep_overrides()) if each)

    def _left_alone(self, places: Iterable[Place], now: float) -> str:
        """Which pools these leave without anybody who takes requests."""
        assert self._backends_plan is not None
        standings = self._statuses.standings(self._backends_plan.places, now)
        pools = dict.fromkeys(place[0] for place in places if self._statuses.override(place, now) is not None)
        empty = [
            pool
            for pool in pools
            if not any(each.state.takes_new for (other, _), each in standings.items() if other == pool)
        ]
        return "".join(f"Nobody in pool {pool} takes requests now." for pool in empty)

    def _find(self, name: str) -> list[Place]:
        places = [] if self._backends_plan is None else [place for place in self._backends_plan.places if place[0]]
        places = list(dict.fromkeys([*places, *map(whole, places), *self._nameless()]))
        return find(name, places)

    def _keep_overrides(self) -> str:
        assert self._backends_plan is not None
        try:
            override_file.write(self._backends_plan.state_dir, self._statuses.overrides)
        except OverridesError as error:
            logger.error("%s", error)
            return str(error)
        return ""

    def asked(self, request: dict[str, Any], conversation: Conversation) -> bool:
        """A request by the control socket; whether it was for us."""
        what = request["do"]
        if what not in REQUESTS:
            return False
        if what == "backends":
            started = 0 if self._board is None else self._board.get(Header.STARTED)
            conversation.end(True, started=started / 1e9, backends=self.report(), alarms=self.alarms())
            return True
        try:
            places, warning = self.override(what, *override_of(request))
        except UnknownBackend as error:
            conversation.refuse(str(error))
        else:
            conversation.end(True, backends=list(map(named, places)), warning=warning)
        return True

    # -- what there is to say

    def report(self) -> list[dict[str, Any]]:
        """A row for each backend, leaving ones too; as `nfqlb backends --json` shows them."""
        backends_plan, board = self._backends_plan, self._board
        if backends_plan is None or board is None:
            return []
        self._look(board)
        snapshot, now = board.snapshot(), time.time()
        slots = (*snapshot.slots, snapshot.retired)
        shares, rates, results = backends_plan.tables.shares(), self._rates(board), self._results()
        return [
            backends_rows.row(
                place,
                address,
                self._statuses,
                now,
                share=shares.get(place, 0.0),
                rate=rates[number] if rates else None,
                counts=traffic(slots, number),
                seen=self._activity.of(name),
                result=results.get(place),
            )
            for number, (place, address, name) in enumerate(
                zip(backends_plan.places, backends_plan.addresses, board.about.backends, strict=True)
            )
        ] + [backends_rows.without_address(place, *why) for place, why in self._nameless().items()]

    def _results(self) -> dict[Place, Any]:
        health = self._health
        if health is None:
            return {}
        return {
            place: health.result(number) for number, each in enumerate(health.round.targets) for place in each.places
        }

    def _requests(self, board: Board) -> list[int]:
        return board.sums(Traffic.REQUESTS_TO)

    def _rates(self, board: Board) -> list[float]:
        """Requests per second to each backend, over some seconds; nothing to say right after a change."""
        now = time.monotonic()
        old = next((each for each in reversed(self._samples) if now - each[0] >= LOWEST_AGE), None)
        if old is None:
            return []
        return [
            round((new - before) / (now - old[0]), 2) for new, before in zip(self._requests(board), old[1], strict=True)
        ]


def _build(drafts: Iterable[Draft]) -> list[Built]:
    return [build(draft) for draft in drafts]
