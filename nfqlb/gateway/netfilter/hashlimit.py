"""What the templates of our rules call the limits: the names of chains, and rates and bursts as the kernel keeps them.

Knows [limits] and hashlimit. What the rules do with them is in the templates, and why in docs/limits.md.
"""

from nfqlb.config.limits import Limits
from nfqlb.gateway.bans.offences import NO_SIP

GUARD = "NFQLB-GUARD"
"""The chain that packets to external sockets are led to."""
OVER = "NFQLB-OVER"
"""The chain in which ends what is above the limit of requests."""
JUNK = "NFQLB-JUNK"
"""The chain in which ends what is not SIP."""

BAN_FLOOD, BAN_JUNK = "NFQLB-BAN-FLOOD", "NFQLB-BAN-JUNK"
"""The chains by which the kernel bans for either, and notes for which."""

SHED = "NFQLB-SHED"
"""The chain in which most new requests end while all workers have more than they can do."""

CHAINS = {
    "guard": GUARD,
    "over": OVER,
    "junk": JUNK,
    "ban_flood": BAN_FLOOD,
    "ban_junk": BAN_JUNK,
    "shed": SHED,
}
"""Those that are there for limits: name in a template → chain."""

UNIT = 1_000_000
"""hashlimit keeps a rate as the time between two packets, in whole microseconds (xt_hashlimit.h)."""


def names(limits: Limits) -> dict[str, str]:
    """Name in a template → value; nothing when there are no limits."""
    if not limits.enabled:
        return {}
    junk = max(1, limits.offences // NO_SIP)
    rates = {
        "requests": limits.requests,
        "excess": max(1, limits.ban_above - limits.requests),  # of those that are dropped already
        "junk_rate": -(-junk // 60),  # offences are counted by the minute
    }
    others = {"burst": limits.burst, "junk_burst": junk, "ban_for": limits.ban_for}
    return {
        **CHAINS,
        **{name: str(kept(rate)) for name, rate in rates.items()},
        **{name: str(value) for name, value in others.items()},
    }


def kept(rate: int) -> int:
    """The rate that the kernel makes of one, and prints again: the next above it."""
    return UNIT // (UNIT // rate)
