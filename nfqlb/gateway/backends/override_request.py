"""What an operator asks for by the control socket: which backend is meant, and for how long.

Knows the words of such a request, and which of several a short name stands for. What becomes of it is for `manager`.
"""

from typing import Any

from nfqlb.balance.states import Place
from nfqlb.errors import NfqlbError
from nfqlb.gateway.backends.log import named
from nfqlb.spelling import nearest

LONGEST = 10 * 365 * 86400.0
"""Seconds that an order may last which has an end."""


class UnknownBackend(NfqlbError):
    """No backend goes by that name, or several do; the text says what to do."""


def find(name: str, places: list[Place]) -> list[Place]:
    """The one of `places` that an operator means by `BACKEND` or `POOL/BACKEND`. Raises UnknownBackend."""
    pool, slash, backend = name.rpartition("/")
    found = [place for place in places if place[1] == backend and (not slash or place[0] == pool)]
    if len(found) == 1:
        return found
    if not found:
        near = nearest(name, dict.fromkeys(named(place) if slash else place[1] for place in places))
        hint = f" Did you mean {near!r}?" if near else ""
        raise UnknownBackend(f"No backend is called {name!r}.{hint} 'nfqlb backends' lists them.")
    raise UnknownBackend(f"Several backends are called {name!r}; name one of {', '.join(map(named, found))}.")


def override_of(request: dict[str, Any]) -> tuple[str, float | None]:
    """Whom, and for how many seconds. Raises UnknownBackend."""
    name, seconds = request.get("backend"), request.get("for")
    if not isinstance(name, str):
        raise UnknownBackend('Say which backend: {"do": "drain", "backend": "reg1"}.')
    if seconds is None:
        return name, None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds > 0:
        raise UnknownBackend('Say for how many seconds: {"do": "drain", "backend": "reg1", "for": 600}.')
    if seconds > LONGEST:
        raise UnknownBackend(
            f"That is too long: {LONGEST / 86400:.0f} days at most, or without an end, until 'enable'."
        )
    return name, float(seconds)
