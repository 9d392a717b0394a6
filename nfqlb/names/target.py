"""A name to be looked up, and what DNS has said of it: plain values.

Knows how SRV records become groups and weights of a pool. Does not know DNS messages, time, or what a name is for.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from nfqlb.net.endpoint import Endpoint

SERVICE = "_sip._udp."
"""Where SIP over UDP has its SRV records [RFC 3263 4.2]."""

HEAVIEST = 100
"""Weight of the heaviest record of an SRV answer: theirs go up to 65,535, which would need tables of that size."""

MOST = 64
"""Addresses of one name; of more, the first in order are taken."""


class Target(NamedTuple):
    """What to look up. Without a port SRV records tell it: those of the host itself, if it begins with SERVICE, else
    those of the service there, and where there are none it is 5060 [RFC 3263 4.2].
    """

    host: str
    """In lower case, without a dot at the end."""
    port: int = 0

    @property
    def is_service(self) -> bool:
        """Does the name itself stand for SRV records?"""
        return self.host.startswith(SERVICE)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}" if self.port else self.host


class Address(NamedTuple):
    """One of the addresses of a name."""

    endpoint: Endpoint
    rank: int = 0
    """0 for the best; the others are for when nobody of a lower one lives [RFC 2782, priority]."""
    weight: int = 1
    """Relative to others of that rank, 1 to HEAVIEST."""


class Known(NamedTuple):
    """What is known of a name."""

    addresses: tuple[Address, ...]
    """In one order only: two nodes that got the same records in another order have the same."""
    error: str = ""
    """What is wrong, for people; there may be addresses nevertheless, of an earlier answer."""


Answers = Mapping[Target, Known]


class Service(NamedTuple):
    """An SRV record."""

    priority: int
    weight: int
    port: int
    host: str


@dataclass(frozen=True)
class Dns:
    """Whom to ask, and how."""

    servers: tuple[Endpoint, ...] = ()
    """None: those of /etc/resolv.conf."""
    timeout: float = 2.0
    """Seconds for one question, all servers together."""
    min_ttl: float = 5.0
    max_ttl: float = 3600.0
    """Seconds; what an answer says of how long it holds is brought between these."""


def in_order(addresses: Iterable[Address]) -> tuple[Address, ...]:
    """Each endpoint once, with the best that is said of it; MOST at most."""
    best: dict[Endpoint, Address] = {}
    for each in addresses:
        before = best.setdefault(each.endpoint, each)
        if (each.rank, -each.weight) < (before.rank, -before.weight):
            best[each.endpoint] = each
    return tuple(sorted(best.values(), key=lambda each: (each.rank, each.endpoint.version, each.endpoint)))[:MOST]


def ranked(records: Iterable[Service]) -> list[tuple[Service, int, int]]:
    """Each record with its rank and weight. Priorities only say which comes first, so they are counted through;
    weights only say how much more one gets than another. A weight of 0 means next to nothing [RFC 2782], which a table
    cannot say: 1.
    """
    given = list(records)
    priorities = sorted({each.priority for each in given})
    heaviest = max((each.weight for each in given), default=0)
    return [
        (
            each,
            priorities.index(each.priority),
            max(1, each.weight if heaviest <= HEAVIEST else round(each.weight * HEAVIEST / heaviest)),
        )
        for each in given
    ]


def merged(before: Known | None, now: Known) -> Known:
    """`now`, but an answer without addresses takes none away: a zone that somebody has broken shall not stop the
    gateway. To take a backend out is for its health, or for an operator.
    """
    if now.addresses or before is None or not before.addresses:
        return now
    return Known(before.addresses, now.error)


# -- as JSON has it


def as_plain(target: Target, known: Known) -> dict[str, Any]:
    return {
        "host": target.host,
        "port": target.port,
        "addresses": [[str(each.endpoint), each.rank, each.weight] for each in known.addresses],
        "error": known.error,
    }


def from_plain(row: Mapping[str, Any]) -> tuple[Target, Known]:
    """Raises ValueError, KeyError or TypeError when it is not what `as_plain` has made."""
    addresses = tuple(Address(Endpoint.parse(each), int(rank), int(weight)) for each, rank, weight in row["addresses"])
    return Target(str(row["host"]), int(row["port"])), Known(addresses, str(row["error"]))
