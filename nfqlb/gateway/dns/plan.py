"""What a plan says of names: what there is to look up, and what it was made with.

Plain values. Made from the configuration by `plan.build`, lived by `manager`; knows neither.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nfqlb.balance.states import Place
from nfqlb.config.dns_backends import base
from nfqlb.config.model import Config
from nfqlb.names.target import Answers, Dns, Known, Target


@dataclass(frozen=True)
class DnsPlan:
    """Made in a child, so it must be picklable."""

    dns: Dns
    state_dir: Path
    versions: frozenset[int]
    """The IP versions whose addresses are of use."""
    egress: bool
    """Whether names that backends send to are looked up."""
    answers: Mapping[Target, Known]
    """What the plan was made with, for each name that a backend has instead of an address."""
    places: Mapping[Place, Target]
    """The backends that have names, as the configuration calls them."""
    served: frozenset[Place]
    """Of these, those with an address or more in the plan."""
    dismissed: Mapping[Place, str]
    """Of these, those with an address that is not used, and why."""

    @property
    def needs(self) -> tuple[object, ...]:
        """Two of them that are equal need the same of the process which asks."""
        return self.dns, self.versions, tuple(self.answers)


def make(config: Config, answers: Answers) -> DnsPlan:
    """`config` with the addresses of `answers`, which may have more."""
    wanted = {named.address: answers.get(named.address, Known(())) for named in config.names}
    places = {(named.pool, named.name): named.address for named in config.names}
    served = {(pool.name, base(each.name)) for pool in config.pools for each in pool.backends}
    reasons: dict[Place, list[str]] = {}
    for named, why in config.dismissed(wanted):
        reasons.setdefault((named.pool, named.name), []).append(why)
    return DnsPlan(
        dns=config.dns,
        state_dir=config.gateway.state_dir,
        versions=config.versions,
        egress=config.egress_names,
        answers=wanted,
        places=places,
        served=frozenset(served & places.keys()),
        dismissed={place: "; ".join(each) for place, each in reasons.items()},
    )
