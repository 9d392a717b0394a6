"""Where each backend stands: what the operator has said, what is known of its health, and how slowly it starts again.

Knows how these come together in one Standing, and when one changes by itself. Pure values and times (seconds since
1970); does not know who asks backends, nor what becomes of a Standing.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from nfqlb.balance.states import Place, Standing, State
from nfqlb.config.dns_backends import base
from nfqlb.files import replace_file
from nfqlb.gateway.backends import warmup
from nfqlb.gateway.backends.overrides import Override, Overrides

FILE_NAME = "health"
"""In the run directory: what is known of health, for the next supervisor of the same workers."""


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of the health of one backend."""

    address: str
    state: State = State.UNKNOWN
    """UNKNOWN, UP or DOWN."""
    since: float = 0.0
    error: str = ""
    """What was last wrong with it; also when that is over."""
    error_at: float = 0.0
    warm_from: float | None = None
    """When it came back; None where it has been there all the time."""


class BackendStatuses:
    """All backends that any tables in use know of."""

    def __init__(self, overrides: Overrides, records: Mapping[Place, Record]) -> None:
        """`records`: of an earlier supervisor."""
        self.overrides = overrides
        self._records = dict(records)
        self._warmups: dict[Place, float] = {}

    def adopt(self, backends: Mapping[Place, str], warmups: Mapping[Place, float], now: float) -> None:
        """Backends (and their addresses) come in, beside those that there are. One that was known by another name
        keeps its health; one whose address is another begins anew.
        """
        by_address = {record.address: record for record in self._records.values()}
        for place, address in backends.items():
            record = self._records.get(place)
            if record is None or record.address != address:
                self._records[place] = by_address.get(address) or Record(address, since=now)
        self._warmups |= warmups

    def keep(self, places: Iterable[Place]) -> None:
        """Forget the health of all others. What the operator has said of them stands: they may come back."""
        kept = set(places)
        self._records = {place: record for place, record in self._records.items() if place in kept}
        self._warmups = {place: each for place, each in self._warmups.items() if place in kept}

    @property
    def records(self) -> Mapping[Place, Record]:
        return self._records

    # -- what is said and heard

    def heard(self, place: Place, state: State, error: str, now: float) -> bool:
        """What the prober says; whether the state of health has changed."""
        record = self._records.get(place)
        if record is None:
            return False
        changed = record.state is not state
        if changed:
            warm_from = now if record.state is State.DOWN and state is State.UP else None
            record = replace(record, state=state, since=now, warm_from=warm_from)
        if error:
            record = replace(record, error=error, error_at=now)
        self._records[place] = record
        return changed

    def say(self, place: Place, override: Override | None, now: float) -> None:
        """What the operator says: None is `enable`."""
        before = self.override(place, now)
        if override is None:
            self.overrides.pop(place, None)
            self._back(place, before, now)
        else:
            self.overrides[place] = override

    def lapse(self, now: float) -> list[Place]:
        """Forget what has run out; of whom."""
        over = [place for place, override in self.overrides.items() if not override.holds(now)]
        for place in over:
            self._back(place, self.overrides.pop(place), now)
        return over

    def _back(self, place: Place, override: Override | None, now: float) -> None:
        """One that was disabled comes back cold, one that was draining is warm."""
        if override is not None and override.state is State.DISABLED:
            for each, record in self._records.items():
                if place in (each, whole(each)):
                    self._records[each] = replace(record, warm_from=now)

    # -- what follows

    def override(self, place: Place, now: float) -> Override | None:
        """What was said of that backend, or else of the name that it is one of the addresses of."""
        for said_of in (place, whole(place)):
            override = self.overrides.get(said_of)
            if override is not None and override.holds(now):
                return override
        return None

    def standings(self, places: Iterable[Place], now: float) -> dict[Place, Standing]:
        return {place: self._standing(place, now) for place in places}

    def _standing(self, place: Place, now: float) -> Standing:
        override = self.override(place, now)
        record = self._records[place]
        if override is not None:
            return Standing(override.state)
        return Standing(record.state, self.share(place, now))

    def share(self, place: Place, now: float) -> int:
        """In tenths of its weight; see `warmup`."""
        return warmup.share(self._records[place].warm_from, self._warmups.get(place, 0.0), now)

    def next_change(self, now: float) -> float:
        """When a standing changes without anybody saying anything; inf for never."""
        times = [override.until for override in self.overrides.values() if override.until is not None]
        times += [
            warmup.next_step(record.warm_from, self._warmups.get(place, 0.0), now)
            for place, record in self._records.items()
        ]
        return min(times, default=float("inf"))


def whole(place: Place) -> Place:
    """The backend as the configuration has it: where that has a name for an address, each address is a backend."""
    return place[0], base(place[1])


# -- from one supervisor to the next


def save(run_dir: Path, records: Mapping[Place, Record]) -> None:
    """Raises OSError. Without fsync: after a boot everything is found out again."""
    rows = [{"pool": pool, "backend": name, **asdict(record)} for (pool, name), record in records.items()]
    replace_file(run_dir / FILE_NAME, json.dumps(rows), durable=False)


def load(run_dir: Path) -> dict[Place, Record]:
    """What was saved; nothing where that cannot be read: it is all found out again."""
    try:
        rows = json.loads((run_dir / FILE_NAME).read_bytes())
        found = {}
        for row in rows:
            place = str(row.pop("pool")), str(row.pop("backend"))
            found[place] = Record(**{**row, "state": State(row["state"])})
        return found
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def remove(run_dir: Path) -> None:
    (run_dir / FILE_NAME).unlink(missing_ok=True)
