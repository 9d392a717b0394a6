"""What a plan says of its backends: whom to ask after their health, and the tables that follow from it.

Plain values. Made from the configuration by `plan.build`, lived by `manager`; knows neither.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from nfqlb.balance.health import Check
from nfqlb.balance.pool import Pool
from nfqlb.balance.states import Place
from nfqlb.balance.tables import Tables
from nfqlb.gateway.health.probe import Round, Target, source_for
from nfqlb.net.endpoint import Endpoint
from nfqlb.proxy.setup import Setup


@dataclass(frozen=True)
class BackendsPlan:
    tables: Tables
    """Those of the engine that the workers of this plan share."""
    places: tuple[Place, ...]
    """Of all backends, by number; those of the pool "" are leaving."""
    addresses: tuple[str, ...]
    """The same way."""
    warmups: dict[Place, float]
    """Seconds, of those in pools that have any."""
    round: Round
    state_dir: Path

    @property
    def pools(self) -> tuple[str, ...]:
        return self.tables.pools


def make(
    setup: Setup,
    tables: Tables,
    checks: dict[str, Check],
    state_dir: Path,
    own_source: Callable[[Endpoint], Endpoint | None] = lambda _: None,
) -> BackendsPlan:
    """`checks`: by pool. `own_source`: the address to ask a backend from, where it is not that of a listener."""
    internals = tuple(listener.internal for listener in setup.listeners)
    return BackendsPlan(
        tables=tables,
        places=setup.places,
        addresses=tuple(str(backend.address) for backend in setup.known),
        warmups={(pool.name, each.name): pool.warmup for pool in setup.pools if pool.warmup for each in pool.backends},
        round=Round(targets(setup.pools, checks, internals, own_source), internals, setup.name),
        state_dir=state_dir,
    )


def targets(
    pools: Iterable[Pool],
    checks: dict[str, Check],
    internals: tuple[Endpoint, ...],
    own_source: Callable[[Endpoint], Endpoint | None] = lambda _: None,
) -> tuple[Target, ...]:
    """One for each address and way to ask, however many pools have it. Whom no listener faces nobody can reach, so
    nobody asks him; nor whom the configuration says so of.
    """
    among: dict[tuple[Endpoint, Check], list[tuple[Place, int]]] = {}
    number = 0
    for pool in pools:
        for backend in pool.backends:
            among.setdefault((backend.address, checks[pool.name]), []).append(((pool.name, backend.name), number))
            number += 1
    return tuple(
        Target(address, source, check, tuple(place for place, _ in members), tuple(number for _, number in members))
        for (address, check), members in among.items()
        if check.enabled
        and (facing := source_for(address, internals)) is not None
        and (source := own_source(address) or facing)
    )
