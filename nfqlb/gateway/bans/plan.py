"""What a plan says of bans and relief: whom the gateway bans for offences, for how long; and for which addresses the
kernel sheds new requests when workers cannot keep up.

Plain values. Made from the configuration by `plan.build`, lived by `manager`; knows neither. Limits that the kernel
keeps by itself are in the rules.
"""

from dataclasses import dataclass
from ipaddress import ip_network

from nfqlb.config.model import Config
from nfqlb.proxy.setup import Network


@dataclass(frozen=True)
class BansPlan:
    """Made in a child, so it must be picklable."""

    offences: int
    """Points a minute that are too much."""
    seconds: int
    """That a ban lasts."""
    allowed: tuple[Network, ...]
    """Never banned."""
    workers: int = 1
    outside: tuple[str, ...] = ()
    """Our external addresses."""


def make(config: Config) -> BansPlan | None:
    """None: nobody is banned, and nothing relieved."""
    from nfqlb.gateway.netfilter import ipset  # not for the supervisor, nor for workers

    limits = config.limits
    if not limits.enabled:
        return None
    outside = tuple(sorted({listener.external.host for listener in config.listeners}))
    own = [ip_network(each.host) for listener in config.listeners for each in (listener.external, listener.internal)]
    allowed = (*ipset.allowed(config, 4), *ipset.allowed(config, 6), *own)
    return BansPlan(limits.offences, limits.ban_for, allowed, len(config.workers.queues), outside)
