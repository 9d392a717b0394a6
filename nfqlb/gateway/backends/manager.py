"""The supervisor's care for backends: health from the prober and orders from the operator become tables that all
workers see.

Knows who has to be told of what, and in which order. What a Standing follows from is in `status`, how a table is
made in `balance.tables`; whom workers choose from changes in the memory that they share, so no worker is asked or
replaced for it.

A gateway whose plan has no Charge (a stand-in) has no backends to care for.
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
from nfqlb.gateway.backends import overrides as order_file
from nfqlb.gateway.backends import rows as backends_rows
from nfqlb.gateway.backends import status as backends_status
from nfqlb.gateway.backends.activity import LOOK_INTERVAL, Activity
from nfqlb.gateway.backends.log import named
from nfqlb.gateway.backends.override_request import Unknown, find, order_of
from nfqlb.gateway.backends.overrides import WORDS, Order, OrdersError
from nfqlb.gateway.backends.plan import Charge
from nfqlb.gateway.backends.status import Roll, whole
from nfqlb.gateway.health.manager import Checkup
from nfqlb.gateway.runtime.control_socket import Conversation
from nfqlb.gateway.runtime.event_loop import Flow, Loop
from nfqlb.gateway.runtime.job import Refused
from nfqlb.gateway.shm.board import Board, Header, Traffic
from nfqlb.gateway.stats import traffic

DIRECT_SLOTS = 8192
"""Slots of tables that the supervisor builds itself, in some milliseconds; more are built in a child."""

BUILD_WITHIN = 30.0
"""Seconds."""

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


class Care:
    """For the backends of one gateway over all its configurations."""

    def __init__(
        self,
        loop: Loop,
        charge: Charge | None,
        run_dir: Path,
        *,
        past: bool,
        nameless: Callable[[], Mapping[Place, tuple[str, str]]] = dict,
    ) -> None:
        """Ready for the first crew to be forked. `past`: workers of another supervisor are to be relieved, and what
        that one knew of health goes on. `nameless`: the backends with a name that has no address, their names, and why.
        """
        self._nameless = nameless
        self._loop, self._charge, self._run_dir = loop, charge, run_dir
        self._live: list[Charge] = []
        """Those whose tables workers may look into."""
        self._roll = Roll({}, {})
        self._checkup: Checkup | None = None
        self._board: Board | None = None
        self._stale = self._refreshing = self._unsaved = False
        self._next_save = self._next_sample = 0.0
        self._next_change = float("inf")
        self._unheard: set[Place] = set()
        """Backends of which nothing is known yet, and of which that has been told."""
        self._samples: list[tuple[float, list[int]]] = []
        self._activity = Activity(activity.load(run_dir) if past else {})
        self._unsaved_activity = False
        self._next_look = self._next_activity = 0.0
        self._alarms: dict[str, str] = {}
        if charge is None:
            return
        try:
            orders = order_file.read(charge.state_dir)
        except OrdersError as error:
            logger.error("%s", error)
            orders = {}
        self._roll = Roll(orders, backends_status.load(run_dir) if past else {})
        self._adopt(charge)
        standings = self._standings(charge)
        charge.tables.put(standings, [build(each) for each in charge.tables.changed(standings)])
        self._live.append(charge)

    # -- with each crew

    def prepare(self, charge: Charge | None) -> Flow[None]:
        """Before a crew with that charge is forked: its tables become those of the moment. Raises Refused."""
        if charge is not None:
            self._adopt(charge)
            yield from self._bring(charge)
            self._live.append(charge)
            self._stale = True  # much may have come meanwhile

    def follow(self, charge: Charge | None, board: Board) -> None:
        """The crew in force is the one with that charge: the one before is gone, or the one to come does not."""
        if charge is None:
            return
        self._charge, self._board = charge, board
        self._live = [charge]
        self._roll.keep(charge.places)
        self._tell_unheard(charge)
        self._samples.clear()
        if self._checkup is not None and self._checkup.board is not board:
            self._checkup.end()
            self._checkup = None
        if self._checkup is None and charge.round.targets:
            self._checkup = Checkup(charge.round, board, self._known, self._heard, self._loop.selector)
        self._stale = self._unsaved = True

    def end(self, *, others_go_on: bool) -> None:
        """Stop asking. `others_go_on`: with what is known, in the run directory."""
        if self._checkup is not None:
            self._checkup.end()
            self._checkup = None
        if self._charge is not None and not others_go_on:
            backends_status.remove(self._run_dir)
            activity.remove(self._run_dir)

    @property
    def prober(self) -> int:
        """Its process id; 0 when none runs."""
        return 0 if self._checkup is None else self._checkup.pid

    # -- every turn

    def look_after(self, now: float) -> float:
        """Do what time brings; `now` of time.monotonic(). Seconds until there is something to do again."""
        if self._board is None:
            return 1.0
        pause = 1.0 if self._checkup is None else self._checkup.look_after(now)
        today = time.time()
        if today >= self._next_change:
            self._next_change = float("inf")
            self._lapse(today)
            self._stale = True
        if self._stale and not self._refreshing:
            self._refreshing = True
            self._loop.begin(self._refresh())
        if self._unsaved and now >= self._next_save:
            self._save(now)
        if now >= self._next_look:
            self._next_look = now + LOOK_INTERVAL
            self._look(self._board)
        if self._unsaved_activity and now >= self._next_activity:
            self._save_activity(now)
        if now >= self._next_sample:
            self._next_sample = now + SAMPLE_INTERVAL
            self._samples = [*self._samples[-1:], (now, self._requests(self._board))]
        return min(pause, max(0.0, self._next_change - today))

    def _lapse(self, now: float) -> None:
        if places := self._roll.lapse(now):
            backends_log.tell_lapsed(places)
            self._keep_orders()

    def _save(self, now: float) -> None:
        self._unsaved, self._next_save = False, now + SAVE_INTERVAL
        try:
            backends_status.save(self._run_dir, self._roll.records)
        except OSError as error:
            logger.error("what is known of the health of backends cannot be kept for a successor: %s", error)

    def _look(self, board: Board) -> None:
        self._unsaved_activity |= self._activity.look(board, time.time())

    def _save_activity(self, now: float) -> None:
        self._unsaved_activity, self._next_activity = False, now + ACTIVITY_INTERVAL
        try:
            self._activity.save(self._run_dir)
        except OSError as error:
            logger.error("when backends were last sent a request cannot be handed on: %s", error)

    # -- tables

    def _adopt(self, charge: Charge) -> None:
        charge.tables.share(memoryview(mmap.mmap(-1, charge.tables.size)))
        self._roll.adopt(dict(zip(charge.places, charge.addresses, strict=True)), charge.warmups, time.time())

    def _standings(self, charge: Charge) -> Standings:
        return self._roll.standings(charge.places, time.time())

    def _refresh(self) -> Flow[None]:
        """Until all tables are what they should be."""
        try:
            while self._stale:
                self._stale = False
                for charge in list(self._live):
                    yield from self._bring(charge)
            self._next_change = self._roll.next_change(time.time())
            self._watch_pools()
        except Refused as error:
            logger.error("rebuilding the tables of backends failed; the current ones stay in use: %s", error)
        finally:
            self._refreshing = False

    def _bring(self, charge: Charge) -> Flow[None]:
        standings = self._standings(charge)
        drafts = charge.tables.changed(standings)
        if sum(draft.intake.slots for draft in drafts) <= DIRECT_SLOTS:
            built = _build(drafts)
        else:
            built = yield from self._loop.work(lambda: _build(drafts), BUILD_WITHIN)
        charge.tables.put(standings, built)

    def _watch_pools(self) -> None:
        alarms = self.alarms()
        backends_log.tell_alarms(self._alarms, alarms)
        self._alarms = alarms
        if self._board is not None:
            self._board.set(Header.ALARMS, len(alarms))

    @property
    def digest(self) -> str:
        """Of the tables that workers use now."""
        return "" if self._charge is None else self._charge.tables.digest()

    def alarms(self) -> dict[str, str]:
        """What is wrong with each pool that something is wrong with."""
        if self._charge is None:
            return {}
        conditions = {pool: self._charge.tables.condition(pool) for pool in self._charge.pools}
        return {
            pool: 'all backends are down; they get requests all the same (panic = "all")'
            if each.panic
            else f"{each.up} backends take requests, and min_up is {each.min_up}"
            for pool, each in conditions.items()
            if each.alarm
        }

    # -- the prober

    def _known(self) -> Sequence[State]:
        assert self._charge is not None
        records = self._roll.records
        return [records[target.places[0]].state for target in self._charge.round.targets]

    def _heard(self, line: dict[str, Any]) -> None:
        assert self._checkup is not None
        if trouble := line.get("trouble"):
            logger.warning("health checks of backends: %s", trouble)
            return
        state, error = State(line["state"]), line["error"]
        for place in self._checkup.round.targets[line["target"]].places:
            if self._roll.heard(place, state, error, time.time()):
                self._stale = True
                backends_log.tell_state(place, state, error)
            self._unsaved = True

    def _tell_unheard(self, charge: Charge) -> None:
        """Say whom we take to be up without knowing it, pool by pool, and of each backend once."""
        asked = {place for target in charge.round.targets for place in target.places}
        places = [each for each in charge.places if each[0] and self._roll.records[each].state is State.UNKNOWN]
        fresh = [place for place in places if place not in self._unheard]
        self._unheard = set(places)
        backends_log.tell_unheard(fresh, asked)

    # -- the operator

    def order(self, word: str, name: str, seconds: float | None) -> tuple[list[Place], str]:
        """Do what an operator wants: "drain", "disable", "enable". Whom it concerns, and a warning or nothing.

        `name` is that of a backend, or pool/backend where several have it. Raises Unknown.
        """
        places, now = self._find(name), time.time()
        state = WORDS.get(word)
        if state is None and any(whole(place) != place and whole(place) in self._roll.orders for place in places):
            raise Unknown(f"All addresses of that backend are out: say 'enable {whole(places[0])[1]}'.")
        for place in places:
            order = None if state is None else Order(state, now, None if seconds is None else now + seconds)
            self._roll.say(place, order, now)
            backends_log.tell_order(word, place, None if state is None else seconds)
        self._stale = self._unsaved = True
        return places, " ".join(each for each in (self._left_alone(places, now), self._keep_orders()) if each)

    def _left_alone(self, places: Iterable[Place], now: float) -> str:
        """Which pools these leave without anybody who takes requests."""
        assert self._charge is not None
        standings = self._roll.standings(self._charge.places, now)
        pools = dict.fromkeys(place[0] for place in places if self._roll.order(place, now) is not None)
        empty = [
            pool
            for pool in pools
            if not any(each.state.takes_new for (other, _), each in standings.items() if other == pool)
        ]
        return "".join(f"Nobody in pool {pool} takes requests now." for pool in empty)

    def _find(self, name: str) -> list[Place]:
        places = [] if self._charge is None else [place for place in self._charge.places if place[0]]
        places = list(dict.fromkeys([*places, *map(whole, places), *self._nameless()]))
        return find(name, places)

    def _keep_orders(self) -> str:
        assert self._charge is not None
        try:
            order_file.write(self._charge.state_dir, self._roll.orders)
        except OrdersError as error:
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
            places, warning = self.order(what, *order_of(request))
        except Unknown as error:
            conversation.refuse(str(error))
        else:
            conversation.end(True, backends=list(map(named, places)), warning=warning)
        return True

    # -- what there is to say

    def report(self) -> list[dict[str, Any]]:
        """A row for each backend, leaving ones too; as `nfqlb backends --json` shows them."""
        charge, board = self._charge, self._board
        if charge is None or board is None:
            return []
        self._look(board)
        snapshot, now = board.snapshot(), time.time()
        slots = (*snapshot.slots, snapshot.retired)
        shares, rates, vitals = charge.tables.shares(), self._rates(board), self._vitals()
        return [
            backends_rows.row(
                place,
                address,
                self._roll,
                now,
                share=shares.get(place, 0.0),
                rate=rates[number] if rates else None,
                counts=traffic(slots, number),
                seen=self._activity.of(name),
                vital=vitals.get(place),
            )
            for number, (place, address, name) in enumerate(
                zip(charge.places, charge.addresses, board.about.backends, strict=True)
            )
        ] + [backends_rows.without_address(place, *why) for place, why in self._nameless().items()]

    def _vitals(self) -> dict[Place, Any]:
        checkup = self._checkup
        if checkup is None:
            return {}
        return {
            place: checkup.vital(number) for number, each in enumerate(checkup.round.targets) for place in each.places
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
