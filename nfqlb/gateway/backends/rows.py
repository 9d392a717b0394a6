"""A backend as `nfqlb backends --json` and the control socket show it: one row, of plain values.

Knows what a row has. Does not know where the values come from, nor how people are shown them.
"""

from collections.abc import Mapping
from typing import Any

from nfqlb.balance.states import WHOLE, Place, State
from nfqlb.gateway.backends.activity import Seen
from nfqlb.gateway.backends.status import BackendStatuses
from nfqlb.gateway.shm.probe_results import ProbeResult
from nfqlb.gateway.stats import traffic


def row(
    place: Place,
    address: str,
    statuses: BackendStatuses,
    now: float,
    *,
    share: float,
    rate: float | None,
    counts: Mapping[str, float],
    seen: Seen,
    result: ProbeResult | None,
) -> dict[str, Any]:
    """`now` in seconds since 1970. `share` of the keys of its pool, 0..1. `rate`: requests per second."""
    override, record = statuses.override(place, now), statuses.records[place]
    return {
        "pool": place[0],
        "name": place[1],
        "address": address,
        "state": (record.state if override is None else override.state).name.lower(),
        "since": record.since if override is None else override.since,
        "until": None if override is None else override.until,
        "health": record.state.name.lower(),
        "warming": statuses.share(place, now) / WHOLE,
        "share": share,
        "requests_per_second": rate,
        "counts": dict(counts),
        "last_request": seen.last_request or None,
        "last_response": seen.last_response or None,
        "probe": None
        if result is None or not result.answered
        else {"round_trip": result.round_trip, "status": result.status, "at": result.answered},
        "error": record.error or None,
        "error_at": record.error_at or None,
        "leaving": not place[0],
    }


def without_address(place: Place, name: str, error: str) -> dict[str, Any]:
    """The row of a backend whose name has no address: nothing can be sent there."""
    return {
        "pool": place[0],
        "name": place[1],
        "address": name,
        "state": State.DOWN.name.lower(),
        "since": None,
        "until": None,
        "health": State.DOWN.name.lower(),
        "warming": 1.0,
        "share": 0.0,
        "requests_per_second": None,
        "counts": traffic((), 0),
        "last_request": None,
        "last_response": None,
        "probe": None,
        "error": error,
        "error_at": None,
        "leaving": False,
    }
