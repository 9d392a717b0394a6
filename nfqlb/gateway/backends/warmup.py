"""How slowly a backend starts again that has been down: the share of its weight that it gets, step by step.

Knows two times and how long the warm-up of its pool takes ([[pool]] warmup, seconds). Who is warming up, and since
when, is in `status`.
"""

from nfqlb.balance.states import WHOLE


def share(warm_from: float | None, seconds: float, now: float) -> int:
    """In tenths of its weight, 1 to WHOLE: one more after each tenth of the warm-up.

    `warm_from`: when it came back, None for one that does not warm up. Times of time.time().
    """
    if warm_from is None or not seconds:
        return WHOLE
    return max(1, min(WHOLE, 1 + int((now - warm_from) / seconds * WHOLE)))


def next_step(warm_from: float | None, seconds: float, now: float) -> float:
    """When its share grows next; inf when it has all of it."""
    part = share(warm_from, seconds, now)
    if warm_from is None or part == WHOLE:
        return float("inf")
    return warm_from + seconds * part / WHOLE
