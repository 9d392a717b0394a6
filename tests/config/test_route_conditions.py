"""A condition of a route rule stands in nine places. Each test here names the conditions that its place lacks."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from ipaddress import IPv4Network
from pathlib import Path

import pytest

import nfqlb
from nfqlb.balance import routes
from nfqlb.balance.routes import RouteRule, Routes, conditions
from nfqlb.cli.check import summary
from nfqlb.config.build import load
from nfqlb.config.checks.routes import covers
from nfqlb.config.reference.example import example
from nfqlb.config.schema.tables import RouteTable
from nfqlb.proxy import route_facts

ROOT = Path(__file__).parents[2]

GIVEN: dict[str, tuple[object, object]] = {
    "methods": (["REGISTER"], frozenset({"REGISTER"})),
    "listeners": (["main"], frozenset({"main"})),
    "domains": (["example.org"], frozenset({"example.org"})),
    "user_prefixes": (["+49"], frozenset({"+49"})),
    "user_regex": ("^[+]49", "^[+]49"),
    "from_domains": (["a.example"], frozenset({"a.example"})),
    "to_domains": (["b.example"], frozenset({"b.example"})),
    "sources": (["198.51.100.0/24"], (IPv4Network("198.51.100.0/24"),)),
    "user_agents": (["Acme"], frozenset({"Acme"})),
    "user_agent_regex": ("^Acme", "^Acme"),
    "headers": (["Event"], frozenset({"event"})),
    "percent": (50, 50.0),
}
"""Condition → a value of it as the file has it, and as a RouteRule has it."""

CONDITIONS = [each.name for each in fields(RouteRule) if each.name != "pool"]


@dataclass
class Request:
    """A request for which all values of GIVEN hold; with other values, none."""

    method: bytes = b"REGISTER"
    listener: str = "main"
    source: bytes = bytes((198, 51, 100, 20))
    domain: bytes = b"example.org"
    from_domain: bytes = b"a.example"
    to_domain: bytes = b"b.example"
    user: bytes = b"+4930"
    user_agent: bytes = b"Acme/1"
    headers: frozenset[bytes] = frozenset({b"event"})
    keys: Mapping[str, bytes] = field(default_factory=lambda: {"regs": b"1"})

    def key(self, pool: str) -> bytes:
        return self.keys[pool]


def rule(name: str) -> RouteRule:
    """With that condition alone."""
    return RouteRule("regs", **{name: GIVEN[name][1]})  # type: ignore[arg-type]  # each has the type of its field


def test_there_is_a_value_for_each() -> None:
    assert list(GIVEN) == CONDITIONS


@pytest.mark.parametrize("name", CONDITIONS)
def test_the_configuration_has_it(name: str) -> None:
    table = RouteTable.model_validate({"pool": "regs", name: GIVEN[name][0]})
    assert table.value() == rule(name)


@pytest.mark.parametrize("name", CONDITIONS)
def test_it_is_asked(name: str) -> None:
    other = Request(b"BYE", "x", bytes(4), b"x", b"x", b"x", b"x", b"x", frozenset({b"x"}))
    asked = Routes([rule(name)])
    if name == "percent":
        held = [asked.first(Request(keys={"regs": b"%d" % number})) for number in range(400)]
        assert 100 < held.count(0) < 300
    else:
        assert (asked.first(Request()), asked.first(other)) == (0, -1)


@pytest.mark.parametrize("name", CONDITIONS)
def test_people_read_it(name: str) -> None:
    assert len(conditions(rule(name))) == 1


@pytest.mark.parametrize("name", CONDITIONS)
def test_check_knows_that_it_narrows(name: str) -> None:
    everything = RouteRule("regs")
    assert covers(everything, rule(name))
    assert not covers(rule(name), everything)
    assert covers(rule(name), rule(name))


def test_check_prints_all_as_json() -> None:
    config = load(ROOT / "docs" / "nfqlb.example.toml")
    assert set(summary(config)["routes"][0]) == {*CONDITIONS, "pool"}


@pytest.mark.parametrize("name", CONDITIONS)
def test_page_and_example_tell_of_it(name: str) -> None:
    assert f"`{name}`" in (ROOT / "docs" / "routing.md").read_text()
    assert re.search(rf"^#?{name} = ", example().partition("[[route]]")[2], re.MULTILINE)


def test_both_paths_can_be_asked_all_that_rules_ask() -> None:
    """By name: that their answers agree is for the tests of twins, which ask every fact."""
    asked = {name for name in vars(routes.RouteFacts) if not name.startswith("_")}
    slow = {*dir(route_facts.RouteFacts), *route_facts.RouteFacts.__slots__}
    (part,) = re.findall(
        r"^cdef class Asked:\n(.*?)(?=^\S)", (Path(nfqlb.__file__).parent / "fast/choice.pxi").read_text(), re.M | re.S
    )
    fast = set(re.findall(r"^    def (\w+)\(|^    cdef readonly \w+ (\w+)$", part, re.MULTILINE))
    assert asked - slow == set()
    assert asked - {one or other for one, other in fast} == set()
