"""What the log says of backends and pools: the sentences, and the fields for who reads JSON.

Knows how they are called for people. Does not know when there is something to say: `manager` does.
"""

import logging
from collections.abc import Iterable, Mapping, Set

from nfqlb.balance.states import Place, State
from nfqlb.gateway.runtime.log import about

NAMES = 20
"""Backends that one line names; JSON has all of them."""

logger = logging.getLogger("nfqlb")


def named(place: Place) -> str:
    return f"{place[0]}/{place[1]}"


def tell_state(place: Place, state: State, error: str) -> None:
    """Its health has changed; `error`: what was wrong with the last sign of it, if anything."""
    told = about(pool=place[0], backend=place[1], state=state.name.lower(), reason=error or None)
    if state is State.DOWN:
        logger.error("backend %s is down: %s", named(place), error, extra=told)
    else:
        logger.info("backend %s is %s", named(place), state.name.lower(), extra=told)


def tell_unheard(places: Iterable[Place], asked: Set[Place]) -> None:
    """Nothing is known of these, pool by pool; those in `asked` will be asked."""
    groups: dict[tuple[str, bool], list[str]] = {}
    for place in places:
        groups.setdefault((place[0], place in asked), []).append(place[1])
    for (pool, are_asked), names in groups.items():
        logger.info(
            "backends of pool %s are taken to be up %s: %s",
            pool,
            "until they have been asked" if are_asked else "and nobody asks them",
            ", ".join(names[:NAMES]) + (f" and {len(names) - NAMES} more" if len(names) > NAMES else ""),
            extra=about(pool=pool, backends=names, state=State.UNKNOWN.name.lower()),
        )


def tell_alarms(before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Say it loudly when a pool gets into trouble, and when it is out of it. Name of a pool → what is wrong."""
    for pool, text in now.items():
        if before.get(pool) != text:
            logger.critical("alarm: pool %s: %s", pool, text, extra=about(pool=pool, reason=text))
    for pool in before:
        if pool not in now:
            logger.warning("the alarm of pool %s is over", pool, extra=about(pool=pool))


def tell_order(word: str, place: Place, seconds: float | None) -> None:
    """What an operator has said, and for how long; None: until told otherwise."""
    span = "" if seconds is None else f" for {seconds:.0f} s"
    told = about(pool=place[0], backend=place[1], override=word, seconds=seconds)
    logger.info("an operator says: %s %s%s", word, named(place), span, extra=told)


def tell_lapsed(places: Iterable[Place]) -> None:
    """The time has run out for which an operator had taken these out."""
    names = list(map(named, places))
    logger.info("back in use, as their time is over: %s", ", ".join(names), extra=about(backends=names))
