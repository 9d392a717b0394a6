"""A gateway with many backends, whose names and addresses are as long as they may be, for those who look at tables.

Every name and address begins like no other text, so that one that is broken or cut can be told in any output.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nfqlb.config.schema.types import NAME

BEGINNINGS = re.compile(r"(?:pool|backend|listener|group)-[\w.-]+|\[?2001:db8:[0-9a-f:]+\]?(?::\d+)?(?:/\d+)?")
"""What begins like a name or an address of ours."""


@dataclass(frozen=True)
class Crowd:
    """`length` characters in each name."""

    length: int
    pools: int = 10
    per_pool: int = 20

    def name(self, kind: str, number: int) -> str:
        name = f"{kind}-{number}-".ljust(self.length, "x")
        assert NAME.fullmatch(name)
        return name

    def host(self, number: int, network: str = "4444") -> str:
        return f"2001:db8:1111:2222:3333:{network}:{0x5000 + number:x}:6666"

    def address(self, number: int, network: str = "4444", port: int = 50601) -> str:
        return f"[{self.host(number, network)}]:{port}"

    @property
    def backends(self) -> list[tuple[str, str, str]]:
        """Pool, name and address of each."""
        return [
            (self.name("pool", number // self.per_pool), self.name("backend", number), self.address(number))
            for number in range(self.pools * self.per_pool)
        ]

    @property
    def names(self) -> set[str]:
        """Everything that may not be broken."""
        numbers = range(self.pools * self.per_pool)
        names = {self.name(kind, number) for kind in ("pool", "backend", "listener", "group") for number in numbers}
        hosts = {self.host(number, network) for number in numbers for network in ("4444", "eeee", "1111", "9999")}
        ports = {f"[{host}]:{port}" for host in hosts for port in (5060, 50601)}
        return names | hosts | ports | {f"[{host}]" for host in hosts} | {f"{host}/64" for host in hosts}

    def row(self, number: int, state: str = "up", **changes: Any) -> dict[str, Any]:
        """As the control socket tells of a backend."""
        pool, name, address = self.backends[number]
        row = {
            "pool": pool,
            "name": name,
            "address": address,
            "state": state,
            "since": 1_700_000_000.0,
            "until": None,
            "health": "down" if state == "down" else "up",
            "warming": 1.0,
            "share": 0.05,
            "requests_per_second": 1234.5,
            "counts": {f"responses_{each}xx": 10 ** (2 + each) for each in range(1, 7)},
            "probe": {"round_trip": 0.0123, "status": 200, "at": 1_700_000_000.0},
            "error": "no answer to OPTIONS, and before that an ICMP error: connection refused by the host",
            "error_at": 1_700_000_000.0,
            "leaving": False,
        }
        return row | changes

    def rows(self) -> list[dict[str, Any]]:
        """Most are up; some are not, in each way that there is."""
        rows = [self.row(number) for number in range(len(self.backends))]
        rows[3] = self.row(3, "down")
        rows[4] = self.row(4, "draining", until=4_000_000_000.0, health="down")
        rows[5] = self.row(5, "disabled", leaving=True, pool="")
        rows[6] = self.row(6, warming=0.1)
        rows[7] = self.row(7, "down", since=None, requests_per_second=None, probe=None, error_at=None)
        return rows

    def toml(self, folder: Path, secret: Path) -> str:
        """A configuration with all of them, two listeners, and a pair."""
        text = f'[gateway]\nname = "lb"\nrun_dir = "{folder}/run"\nsecret_file = "{secret}"\n'
        for number in range(2):
            aliases = ", ".join(f'"edge-{each}.sip.example.org"' for each in range(8))
            text += f'[[listener]]\nname = "{self.name("listener", number)}"\naliases = [{aliases}]\n'
            text += f'external = "{self.address(number, "eeee", 5060)}"\n'
            text += f'internal = "{self.address(number, "1111", 5060)}"\n'
        for number, (pool, name, address) in enumerate(self.backends):
            if number % self.per_pool == 0:
                text += f'[[pool]]\nname = "{pool}"\nhash_on = ["request-user", "from-uri", "to-uri", "call-id"]\n'
            text += f'[[pool.backend]]\nname = "{name}"\naddress = "{address}"\n'
        for number in range(self.pools):
            domains = ", ".join(f'"example-{number}-{each}.org"' for each in range(12))
            text += f'[[route]]\nmethods = ["MESSAGE"]\ndomains = [{domains}]\npool = "{self.name("pool", number)}"\n'
        text += f'[[route]]\npool = "{self.name("pool", 0)}"\n'
        text += f'[ha]\naddress = "{self.host(2, "1111")}"\npeer = "{self.host(3, "1111")}"\ninterface = "eth1"\n'
        text += 'outside = "interface-eth7"\n'
        text += f'[[ha.group]]\nname = "{self.name("group", 0)}"\nrouter_id = 200\npriority = 254\n'
        return text + f'listeners = ["{self.name("listener", 0)}", "{self.name("listener", 1)}"]\n'
