"""Networks of IPv4 and IPv6, and whether a packed address is in one of several."""

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network

Network = IPv4Network | IPv6Network

Packed = tuple[int, int, int]
"""A network as (address length in bytes, mask, masked address)."""


def _packed(network: Network) -> Packed:
    return network.max_prefixlen // 8, int(network.netmask), int(network.network_address)


class NetworkSet:
    """Is a packed address in one of these networks?"""

    def __init__(self, networks: Sequence[Network]) -> None:
        self.networks = [_packed(network) for network in networks]

    def __contains__(self, addr: bytes) -> bool:
        size, value = len(addr), int.from_bytes(addr, "big")
        for length, mask, base in self.networks:  # noqa: SIM110 - a generator would cost as much again
            if length == size and value & mask == base:
                return True
        return False
