"""The states of a backend, and what each means for a choice. Knows nothing of what brings a backend into one."""

from collections.abc import Mapping
from enum import IntEnum


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


States = Mapping[tuple[str, str], State]
"""By (name of the pool, name of the backend): one name may stand in two pools. What is missing is UNKNOWN."""
