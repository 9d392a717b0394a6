"""What a gateway is to run, as the supervisor needs to know it: plain values and a few functions.

Made from the configuration (build), run by a worker pool. Knows neither of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from nfqlb.balance.recent import Recent
from nfqlb.config.model import Log
from nfqlb.gateway.backends.plan import BackendsPlan
from nfqlb.gateway.bans.plan import BansPlan
from nfqlb.gateway.dns.plan import DnsPlan
from nfqlb.gateway.ha.plan import HaPlan
from nfqlb.gateway.worker.shedding import LoadShedder
from nfqlb.gateway.worker.worker import Process
from nfqlb.net.endpoint import Endpoint
from nfqlb.proxy.names import Names

LINGER = 180.0
"""Seconds that a backend which has been removed goes on with what it has begun: as long as an INVITE may ring (P31)."""


@dataclass(frozen=True)
class Plan:
    """What a worker pool runs. Made in a child, so it must be picklable."""

    gateway: str
    backends: tuple[str, ...]
    """Their names on the board, by number."""
    addresses: tuple[str, ...]
    """And their addresses."""
    ranges: tuple[range, ...]
    """Queue numbers, one for each worker: the ranges to try, in order of preference."""
    sources: Sequence[Endpoint]
    """Our own endpoints, which large IPv6 packets leave from."""
    queue_length: int
    """Packets."""
    socket_buffer: int
    """Bytes."""
    run_dir: Path
    process: Callable[[int, Recent, Names | None], Process]
    """Given its first IP identification, the memory of recent choices and who knows names of hosts (if anybody may),
    the function that a worker asks about each packet. Called in the worker, and again in each replacement: what takes
    long or much memory belongs before.
    """
    place: Callable[[range], int]
    """Puts rules and sysctls in place for these queues, and returns the number of changes. Called in a child; raises
    Refused."""
    displace: Callable[[], int]
    """Takes them out again, in the same manner."""
    summary: str = ""
    """What it serves, in a few words."""
    path: str = ""
    """The configuration file that it was made from, for people."""
    source: object = None
    """What it was made from, for who makes the next."""
    fingerprint: bytes = b""
    """Two plans of one fingerprint and number of workers need the same rules."""
    reach: bytes = b""
    """Two plans of one fingerprint and reach need the same sysctls, too."""
    placed: range | None = None
    """The queues that the rules in the kernel lead to when this is made; None where there are no rules of ours."""
    fits: bool = False
    """Rules and sysctls were seen in place for it, with the queues of the gateway that runs."""
    leaving: int = 0
    """How many of the backends at the end have been removed, and only finish what they have begun."""
    backends_plan: BackendsPlan | None = None
    """What there is to do about the backends' health; None: nothing."""
    pair: HaPlan | None = None
    """What there is to do for the pair; None when this node stands alone."""
    dns_plan: DnsPlan | None = None
    """What there is to do about names; None: nothing."""
    bans_plan: BansPlan | None = None
    """Who is banned; None: nobody."""
    shedder: Callable[[int, Recent, int], LoadShedder] | None = None
    """As `process`; given the number of workers instead of who knows names. None: nothing is limited or shed."""
    log: Log = field(default_factory=Log)
    """What is logged, and how."""
    pin: bool = False
    """Each worker to a core of its own, when there are enough."""

    @property
    def workers(self) -> int:
        return len(self.ranges[0])

    @property
    def named(self) -> set[str]:
        """The backends that have not been removed."""
        return set(self.backends[: len(self.backends) - self.leaving])

    @property
    def misled(self) -> bool:
        """The rules lead to queues of somebody else: a gateway that starts with it puts them right in any case."""
        return self.placed not in (None, self.ranges[0])

    @property
    def queue_key(self) -> tuple[object, ...]:
        """Two plans of one key can serve the same queues, one after the other, without a change of the rules."""
        return self.fingerprint, self.workers, self.queue_length, self.socket_buffer, tuple(self.sources)

    def keeps(self, queues: range, current: "Plan") -> bool:
        """Can its workers go on with `queues`, which those of `current` serve, under the same rules?"""
        return self.queue_key == current.queue_key and queues in self.ranges


class Reading(NamedTuple):
    """The configuration, read anew while a plan is in force."""

    changed: bool
    """It means something else than what is in force."""
    plan: Plan | None
    """What to put in force; None: nothing."""
    lines: list[str]
    """What is other, and warnings, which begin with "warning: "; a line each, for people."""
