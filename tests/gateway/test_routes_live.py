"""The kernel's routes, asked by us and by `ip route get`: the same, IPv4 and IPv6."""

import json
import os
import subprocess
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import pytest

from nfqlb.gateway.network import NoRoute, look
from nfqlb.lab import namespaces
from nfqlb.lab.namespaces import inside

pytestmark = pytest.mark.root

SETUP = """
link add one type veth peer name far1
link add two type veth peer name far2
link set lo up
link set far1 up
link set far2 up
link set one up
link set two up
addr add 192.0.2.1/24 dev one
addr add 198.51.100.1/24 dev two
addr add 2001:db8:1::1/64 dev one nodad
route add 203.0.113.0/24 via 198.51.100.9
route add blackhole 10.9.0.0/16
-6 route add 2001:db8:9::/48 via 2001:db8:1::9
-6 route add unreachable 2001:db8:a::/48
"""


@pytest.fixture
def namespace() -> Iterator[str]:
    name = f"nfqlb-routes{os.getpid()}"
    namespaces.create(name)
    try:
        namespaces.sysctl(name, {"net/ipv4/ip_forward": "1"})
        for line in SETUP.strip().splitlines():
            namespaces.run(name, ["ip", *line.split()])
        yield name
    finally:
        namespaces.remove(name)


def by_ip(namespace: str, *words: str) -> dict[str, Any] | None:
    try:
        found: list[dict[str, Any]] = json.loads(namespaces.run(namespace, ["ip", "-j", "route", "get", *words]))
    except subprocess.CalledProcessError:
        return None
    return found[0]


@pytest.mark.parametrize(
    ("dst", "src", "came_in_by"),
    [
        ("192.0.2.7", None, None),
        ("203.0.113.7", None, None),
        ("203.0.113.7", "198.51.100.1", None),
        ("203.0.113.7", "192.0.2.1", None),
        ("192.0.2.1", None, None),
        ("8.8.8.8", None, None),
        ("10.9.1.1", None, None),
        ("203.0.113.7", "10.1.2.3", None),
        ("203.0.113.7", "192.0.2.77", "one"),
        ("2001:db8:1::7", None, None),
        ("2001:db8:9::7", "2001:db8:1::1", None),
        ("2001:db8:1::1", None, None),
        ("2001:db8:a::1", None, None),
        ("2001:db8:77::1", None, None),
    ],
)
def test_the_same_as_ip_route_get(namespace: str, dst: str, src: str | None, came_in_by: str | None) -> None:
    def ours() -> tuple[str, int] | None:
        packed = None if src is None else ip_address(src).packed
        with look() as network:
            try:
                route = network.route(ip_address(dst).packed, src=packed, came_in_by=came_in_by)
            except NoRoute:
                return None
            return route.link, route.kind

    words = [dst, *(["from", src] if src else []), *(["iif", came_in_by] if came_in_by else [])]
    theirs = by_ip(namespace, *words)
    found = inside(namespace, ours)
    if theirs is None:
        assert found is None
    else:
        kinds = {"local": 2, "blackhole": 6, "unreachable": 7}
        assert found == (theirs.get("dev", ""), kinds.get(theirs.get("type", ""), 1))


def test_one_after_another(namespace: str) -> None:
    def many() -> set[str]:
        with look() as network:
            return {network.route(ip_address(f"203.0.113.{number}").packed).link for number in range(256)}

    assert inside(namespace, many) == {"two"}
