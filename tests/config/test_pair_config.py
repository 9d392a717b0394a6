"""[ha]: what it turns into, and what each mistake in it is told."""

import tomllib
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from nfqlb.config.build import build
from nfqlb.config.diff import differences
from nfqlb.config.model import Config
from nfqlb.config.pair import Group
from nfqlb.config.problems import ConfigError

BASE = """
[[listener]]
name = "a"
external = "203.0.113.5:5060"
internal = "192.168.1.5:5060"
[[listener]]
name = "b"
external = "203.0.113.6:5060"
internal = "192.168.1.6:5060"
[[pool]]
name = "p"
[[pool.backend]]
name = "one"
address = "192.168.1.11:5060"
[[route]]
pool = "p"
"""
HA = '[ha]\naddress = "192.168.1.2"\npeer = "192.168.1.3"\ninterface = "eth1"\n'
LEFT = '[[ha.group]]\nname = "left"\nlisteners = ["a"]\nrouter_id = 61\npriority = 254\n'
RIGHT = '[[ha.group]]\nname = "right"\nlisteners = ["b"]\nrouter_id = 62\npriority = 249\n'


def read(text: str) -> Config:
    return build(Path("/etc/nfqlb/nfqlb.toml"), tomllib.loads(BASE + text))


def test_without_the_table_a_node_stands_alone() -> None:
    assert read("").ha is None


def test_the_least_there_is_to_say() -> None:
    pair = read(HA).ha
    assert pair is not None
    assert (pair.address, pair.peer) == (ip_address("192.168.1.2"), ip_address("192.168.1.3"))
    assert pair.interfaces == ("eth1",)
    assert (pair.interval, pair.check_port, pair.networks) == (0.1, 0, ())
    assert pair.groups == (Group("all", ("a", "b"), 51, 250),)


def test_groups_and_interfaces() -> None:
    pair = read(HA + 'outside = "eth0"\nnetworks = ["203.0.113.0/24"]\n' + LEFT + RIGHT).ha
    assert pair is not None
    assert (pair.outside, pair.inside, pair.interfaces) == ("eth0", "eth1", ("eth1", "eth0"))
    assert pair.networks == (ip_network("203.0.113.0/24"),)
    assert pair.groups == (Group("left", ("a",), 61, 254), Group("right", ("b",), 62, 249))


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ('[ha]\naddress = "192.168.1.2"\ninterface = "eth1"\n', "ha.peer", "it is not there"),
        (HA.replace('"192.168.1.3"', '"192.168.1.3:5060"'), "ha.peer", "without a port"),
        (HA.replace("192.168.1.3", "192.168.1.2"), "ha.peer", "that of the other node"),
        (HA.replace("192.168.1.3", "2001:db8::3"), "ha.peer", "expected IPv4"),
        (HA.replace("192.168.1.2", "192.168.1.5"), "ha.address", "listener[0] has this address, which moves"),
        (HA + "priority = 100\n", "ha.priority", "at least 205"),
        (HA + "router_id = 0\n", "ha.router_id", "at least 1"),
        (HA + "intervall = 0.1\n", "ha.intervall", 'did you mean "interval"?'),
        (HA + LEFT, "listener[1].name", "its addresses would not move"),
        (HA + LEFT + RIGHT.replace("62", "61"), "ha.group[1].router_id", "has this number already"),
        (HA + LEFT + RIGHT.replace("right", "left"), "ha.group[1].name", "taken by ha.group[0]"),
        (HA + LEFT + RIGHT.replace('["b"]', '["b", "a"]'), "ha.group[1].listeners[1]", "has this listener already"),
        (HA + LEFT + RIGHT.replace('["b"]', '["c"]'), "ha.group[1].listeners[0]", "no listener has this name"),
        (HA + LEFT + RIGHT + "weight = 1\n", "ha.group[1].weight", "unknown key"),
        (HA.replace("192.168.1.", "2001:db8::"), "ha.address", "no listener has IPv6"),
        (HA.replace("192.168.1.", "2001:db8::") + LEFT + RIGHT, "ha.group[0].listeners", "expected a listener of IPv6"),
        ("ha = 3\n", "ha", "expected one table, [ha]"),
    ],
)
def test_a_mistake_is_told_with_its_place(text: str, place: str, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        build(Path("x"), tomllib.loads(text + BASE if text.startswith("ha =") else BASE + text))
    assert place in [problem.place for problem in error.value.problems]
    assert words in " ".join(str(each) for each in error.value.problems if each.place == place)


def test_listeners_of_one_address_move_together() -> None:
    shared = BASE.replace("203.0.113.6:5060", "203.0.113.5:5070")
    with pytest.raises(ConfigError, match=r"203\.0\.113\.5 moves with ha\.group\[0\]"):
        build(Path("x"), tomllib.loads(shared + HA + LEFT + RIGHT))


def test_changes_are_told() -> None:
    alone, pair, split = read(""), read(HA), read(HA.replace("eth1", "eth2") + LEFT + RIGHT)
    assert list(differences(alone, pair)) == ["ha: added"]
    assert list(differences(pair, alone)) == ["ha: removed"]
    assert list(differences(pair, split)) == [
        "ha.interface: eth1 → eth2",
        "ha.outside: eth1 → eth2",
        "ha.inside: eth1 → eth2",
        "ha.group all: removed",
        "ha.group left: added (listeners a, router_id 61, priority 254)",
        "ha.group right: added (listeners b, router_id 62, priority 249)",
    ]
