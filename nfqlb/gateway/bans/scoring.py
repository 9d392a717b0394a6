"""Who has earned a ban: points for offences, source by source, that drain away with time.

Pure: the time is a parameter. Knows neither offences nor bans, and is bounded whatever comes: a flood from forged
addresses makes it forget the sources that it has known for longest.
"""

from typing import NamedTuple

SOURCES = 1 << 16
"""That are remembered at once; 270 bytes each."""

MINUTE = 60.0

Source = tuple[int, int]
"""IP version, and the bits of the address that count."""


class _Account(NamedTuple):
    points: float
    at: float


class OffenceScores:
    """A leaky bucket for each source: `limit` points are too many, and so many drain away in a minute."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._drain = limit / MINUTE
        self._accounts: dict[Source, _Account] = {}

    def __len__(self) -> int:
        return len(self._accounts)

    def add(self, source: Source, points: int, now: float) -> bool:
        """Whether that is too much. Then the account is closed: it begins anew. `now` in seconds, never falling."""
        accounts = self._accounts
        account = accounts.pop(source, None)  # to be the youngest when it is put back
        if account is not None:
            points_now = max(0.0, account.points - (now - account.at) * self._drain) + points
        else:
            points_now = float(points)
            if len(accounts) >= SOURCES:
                self._make_room(now)
        if points_now >= self._limit:
            return True
        accounts[source] = _Account(points_now, now)
        return False

    def _make_room(self, now: float) -> None:
        """Forget those whose points have drained away, or else the older half."""
        drained = [source for source, each in self._accounts.items() if each.points <= (now - each.at) * self._drain]
        for source in drained or list(self._accounts)[: SOURCES // 2]:
            del self._accounts[source]
