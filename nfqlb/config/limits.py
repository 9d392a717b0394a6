"""What sources may send, as the configuration has it: plain values with the defaults.

Knows no kernel and no packet. Why the defaults are what they are: docs/limits.md.
"""

from dataclasses import dataclass

from nfqlb.proxy import scanners
from nfqlb.proxy.setup import Network


@dataclass(frozen=True, slots=True)
class Limits:
    """A source is an IPv4 address or an IPv6 /64."""

    enabled: bool = True
    requests: int = 2000
    """A second, per source."""
    burst: int = 4000
    """Requests of one source at once."""
    ban_above: int = 8000
    """Requests a second."""
    ban_for: int = 600
    """Seconds."""
    offences: int = 500
    """Points a minute."""
    allow: tuple[Network, ...] = ()
    """Never limited, never banned; backends and the other node are not in it, and are neither limited nor banned."""
    replies: int = 5000
    """Of our own, a second, of all workers together."""
    replies_per_network: int = 500
    """A second; a network is an IPv4 /24 or an IPv6 /56."""
    shed_at: float = 50.0
    """Percent of a queue."""
    shed_age: float = 1.0
    """Seconds that packets wait in a queue."""
    scanners: tuple[str, ...] = scanners.KNOWN
    """Parts of User-Agents."""
