"""What the kernel says of routes, interfaces and addresses: to us the same as to `ip`, IPv4 and IPv6."""

import json
import os
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import pytest

from nfqlb.gateway.host import netlink
from nfqlb.gateway.host.netlink import Netlink
from nfqlb.gateway.host.network import NoRoute, look
from nfqlb.lab import namespaces
from nfqlb.lab.namespaces import inside

pytestmark = pytest.mark.root

SETUP = """
link add one type veth peer name far1
link add two type veth peer name far2
link add bridge0 type bridge
link set far2 master bridge0
link add off type veth peer name far3
link set lo up
link set far1 up
link set far2 up
link set one up
link set two up
addr add 192.0.2.1/24 dev one
addr add 198.51.100.1/24 dev two
addr add 2001:db8:1::1/64 dev one nodad
addr add 10.77.0.1 peer 10.77.0.2 dev two
addr add 2001:db8:1::7/64 dev two
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
    except namespaces.Failed:
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


def test_interfaces_are_those_that_ip_lists(namespace: str) -> None:
    def ours() -> dict[str, tuple[int, bool, str, int]]:
        with look() as network:
            return {link.name: (link.index, link.up, link.kind, link.master) for link in network.links.values()}

    theirs = json.loads(namespaces.run(namespace, ["ip", "-j", "-details", "link", "show"]))
    index = {each["ifname"]: each["ifindex"] for each in theirs}
    assert inside(namespace, ours) == {
        each["ifname"]: (
            each["ifindex"],
            "UP" in each["flags"],
            "lo" if each["link_type"] == "loopback" else each.get("linkinfo", {}).get("info_kind", ""),
            index.get(each.get("master"), 0),
        )
        for each in theirs
    }
    assert {"bridge0", "off"} < index.keys()


def test_addresses_are_those_that_ip_lists(namespace: str) -> None:
    def ours() -> set[tuple[str, bytes, bool]]:
        with look() as network:
            return {(each.link, each.packed, each.tentative) for each in network.addresses}

    def theirs() -> set[tuple[str, bytes, bool]]:
        links = json.loads(namespaces.run(namespace, ["ip", "-j", "addr", "show"]))
        return {
            (link["ifname"], ip_address(each["local"]).packed, bool(each.get("tentative")))
            for link in links
            for each in link["addr_info"]
        }

    before = theirs()
    found = inside(namespace, ours)
    assert ("two", ip_address("10.77.0.1").packed, False) in found
    assert found in (before, theirs())  # duplicate address detection may end in between


def test_a_list_that_changes_while_it_is_told_is_told_again(namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel says so by a flag; the first answer is made to have it."""

    def names() -> tuple[list[str], int]:
        asked = []

        class Changing:
            def __init__(self, real: Any) -> None:
                self._real = real

            def send(self, data: bytes) -> None:
                asked.append(data)
                self._real.send(data)

            def recv(self, size: int) -> bytes:
                data = bytearray(self._real.recv(size))
                if len(asked) == 1:
                    data[6] |= netlink.NLM_F_DUMP_INTR
                return bytes(data)

            def close(self) -> None:
                self._real.close()

        with Netlink() as kernel:
            monkeypatch.setattr(kernel, "_socket", Changing(kernel._socket))
            return [row.name for row in kernel.links()], len(asked)

    found, asked = inside(namespace, names)
    assert asked == 2
    assert len(found) == len(set(found)) == 8
