"""Who was banned by the kernel alone: noticed, told of, and given a reason.

The rules ban by themselves who floods or sends much junk, and can write down no reason: beside the ban they note the
source in a set of that name (nfqlb/iptables/raw.*). Here it is taken out again. Knows these sets. Does not know when a
source is banned, nor how often the log is told.
"""

from collections import deque
from collections.abc import Callable, Iterable
from ipaddress import ip_address

from nfqlb.errors import HostError
from nfqlb.gateway.netfilter import ipset
from nfqlb.gateway.netfilter.kernel_sets import Address, KernelSets

INTERVAL = 1.0
"""Seconds between two looks."""

AT_ONCE = 100
"""Sources that are taken out in one turn: some milliseconds."""

Tell = Callable[[Address, ipset.Kind, float], None]
"""Given the source, what it was banned for, and the time."""


class KernelBans:
    def __init__(self, outside: Iterable[str], kernel: KernelSets, tell: Tell) -> None:
        """`outside`: our external addresses."""
        versions = sorted({ip_address(host).version for host in outside})
        self._names = [(kind, ipset.name_of(kind, version)) for version in versions for kind in ipset.NOTICES]
        self._kernel, self._tell = kernel, tell
        self._look_at = float("-inf")
        self._waiting: deque[tuple[ipset.Kind, str, Address, int]] = deque()

    def turn(self, now: float) -> None:
        """Take out who was noted since the last time. `now`: seconds of CLOCK_MONOTONIC, never falling."""
        if not self._waiting and now >= self._look_at:
            self._look_at = now + INTERVAL
            for kind, name in self._names:
                try:
                    found = self._kernel.entries(name)
                except HostError:  # no rules yet: who bans says so
                    continue
                self._waiting.extend((kind, name, address, seconds) for address, seconds in found)
        for _ in range(min(AT_ONCE, len(self._waiting))):
            self._take(*self._waiting.popleft(), now)

    def _take(self, kind: ipset.Kind, name: str, address: Address, seconds: int, now: float) -> None:
        banned = ipset.name_of("ban", address.version)
        try:
            self._kernel.remove(name, address)
            if self._kernel.has(banned, address):  # and not let go by an operator meanwhile
                self._kernel.put(banned, address, max(1, seconds), kind)
        except HostError:  # the rules have just been taken away
            return
        self._tell(address, kind, now)
