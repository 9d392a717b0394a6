"""Relief for workers that cannot even shed fast enough: for some seconds the kernel drops seven in eight new requests.

A worker sheds what can wait, but each packet has come through its queue by then. When the queues of all workers are
about to be full nevertheless, our external addresses go into a set of the kernel's, and the rules of NFQLB-SHED do it
before the queue. One worker alone may be full because of one source; for that, nobody else is made to wait.

Knows the workers' notes of full queues and the set. The entries end by themselves, so nothing has to be undone, whoever
dies. Does not know what the rules let through, nor the process that it runs in (`manager`).
"""

import logging
from ipaddress import ip_address

from nfqlb.errors import HostError
from nfqlb.gateway.bans.plan import BansPlan
from nfqlb.gateway.netfilter import ipset
from nfqlb.gateway.netfilter.kernel_sets import KernelSets
from nfqlb.gateway.runtime.log import about
from nfqlb.gateway.runtime.log_limit import LogLimit, more
from nfqlb.gateway.shm.offence_ring import OffenceRings

TICK = 0.02
"""Seconds between two looks: a third of a queue with room for 8,192 packets is filled in about that time."""

LATELY = 0.1
"""Seconds for which a note of a full queue holds; workers look every 10 ms."""

SHORTEST, LONGEST = 5, 40
"""Seconds of relief. It ends without anybody knowing whether it still presses; when it does, the next is twice as long,
as the time until it is there costs some packets."""
AGAIN = 10.0
"""Seconds after its end within which another is the next of the same overload."""

logger = logging.getLogger("nfqlb")


class KernelShedding:
    def __init__(self, bans_plan: BansPlan, rings: OffenceRings, kernel: KernelSets) -> None:
        self._workers, self._outside = bans_plan.workers, bans_plan.outside
        self._rings, self._kernel = rings, kernel
        self._until = float("-inf")
        self._failures = LogLimit()
        self._seconds = 0

    def turn(self, now: float) -> None:
        """Relieve if it must be. `now`: seconds of CLOCK_MONOTONIC."""
        if now < self._until or self._rings.full(self._workers, int((now - LATELY) * 1e9)) < self._workers:
            return
        again = now - self._until < AGAIN
        seconds = min(2 * self._seconds, LONGEST) if again else SHORTEST
        added = [self._add(host, seconds, now) for host in self._outside]  # one that fails leaves the others their turn
        if not any(added):
            return
        self._seconds, self._until = seconds, now + seconds
        logger.warning(
            "overload: all workers have more than they can do; for %d s the kernel drops seven in eight new requests, "
            "and calls go on",
            seconds,
            extra=about(seconds=seconds),
        )

    def _add(self, host: str, seconds: int, now: float) -> bool:
        """Whether the kernel has it."""
        address = ip_address(host)
        try:
            self._kernel.put(ipset.name_of("shed", address.version), address, seconds)
        except HostError as error:
            before = self._failures.before(now)
            if before is not None:
                logger.error(
                    "overload: cannot make the kernel drop new requests to %s (%s)%s. Are the rules in place? "
                    "Try: nfqlb rules apply",
                    host,
                    error,
                    more(before),
                    extra=about(address=host, reason=str(error), before=before),
                )
            return False
        return True
