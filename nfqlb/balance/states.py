"""The states of a backend, and what each means for a choice. Knows nothing of what brings a backend into one."""

from collections.abc import Mapping
from enum import IntEnum
from typing import NamedTuple


class State(IntEnum):
    """What may be sent to a backend. A request that names it in its Route reaches it in any state (P19)."""

    UNKNOWN = 0
    """Not heard of yet: taken to be up."""
    UP = 1
    DOWN = 2
    """Does not answer: nothing new, and what was begun there goes elsewhere."""
    DRAINING = 3
    """Takes nothing new, and finishes what it has begun."""
    DISABLED = 4
    """The operator's word that it is as good as dead, whatever it answers: to let it finish is what draining is for."""

    @property
    def takes_new(self) -> bool:
        """Does the pool's table hold it?"""
        return self in (State.UNKNOWN, State.UP)

    @property
    def alive(self) -> bool:
        """May a transaction that began there stay (P31)?"""
        return self not in (State.DOWN, State.DISABLED)

    @property
    def by_operator(self) -> bool:
        """Is it somebody's word, which holds whatever the backend's health is?"""
        return self in (State.DRAINING, State.DISABLED)


WHOLE = 10
"""The share of a backend that takes all that its weight entitles it to."""


class Standing(NamedTuple):
    """All that a pool's table depends on, of one backend, besides the configuration."""

    state: State
    share: int = WHOLE
    """Tenths of its weight: fewer than WHOLE while it starts slowly after it has been down."""


HEARD_NOTHING = Standing(State.UNKNOWN)

Place = tuple[str, str]
"""(name of the pool, name of the backend): one name may stand in two pools."""

Standings = Mapping[Place, Standing]
"""What is missing is HEARD_NOTHING."""
