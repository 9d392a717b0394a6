"""What a plan says of names: also where DNS has said nothing, something useless, or something that nobody wants any
more.
"""

import pickle
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from nfqlb.config.build import build
from nfqlb.config.model import Config
from nfqlb.gateway.dns import plan as dns_plan
from nfqlb.gateway.dns.plan import DnsPlan
from nfqlb.names.target import Address, Known, Target
from nfqlb.net.endpoint import Endpoint

TEXT = """
[gateway]
state_dir = "/var/lib/nfqlb-test"
[[listener]]
name = "a"
external = "203.0.113.5:5060"
internal = "192.168.1.5:5060"
[[pool]]
name = "regs"
[[pool.backend]]
name = "fixed"
address = "192.168.1.11:5060"
[[pool.backend]]
name = "reg"
address = "reg.example.org:5060"
[[pool.backend]]
name = "twin"
address = "twin.example.org:5060"
[[route]]
pool = "regs"
"""
REG, TWIN = Target("reg.example.org", 5060), Target("twin.example.org", 5060)


def known(*addresses: str, error: str = "") -> Known:
    return Known(tuple(Address(Endpoint.parse(each)) for each in addresses), error)


GOOD = {REG: known("192.168.1.12:5060", "192.168.1.13:5060"), TWIN: known("192.168.1.14:5060")}


@pytest.fixture
def config() -> Config:
    return build(Path("/etc/nfqlb/nfqlb.toml"), tomllib.loads(TEXT))


def made(config: Config, answers: Mapping[Target, Known]) -> DnsPlan:
    """As `plan.build` has it made: by a configuration that has the addresses of these answers."""
    return dns_plan.make(config.with_addresses(answers), answers)


def test_backends_with_names_are_served_when_dns_has_answered(config: Config) -> None:
    plan = made(config, GOOD)
    assert plan.answers == GOOD
    assert plan.places == {("regs", "reg"): REG, ("regs", "twin"): TWIN}, "one with an address is none of them"
    assert plan.served == {("regs", "reg"), ("regs", "twin")}
    assert plan.dismissed == {}
    assert plan.versions == {4}
    assert plan.state_dir == Path("/var/lib/nfqlb-test")


@pytest.mark.parametrize("answers", [{}, {REG: known(error="no server answers")}], ids=["not asked", "dead DNS"])
def test_a_name_without_an_answer_is_still_looked_up(config: Config, answers: dict[Target, Known]) -> None:
    plan = made(config, answers)
    assert list(plan.answers) == [REG, TWIN], "what is to be asked, answered or not"
    assert plan.answers[TWIN] == Known(())
    assert plan.answers[REG].error == (answers[REG].error if answers else "")
    assert plan.served == frozenset()
    assert plan.needs == made(config, GOOD).needs, "the process that asks goes on when the answer comes"


def test_an_answer_to_a_name_that_nobody_has_any_more_is_left_out(config: Config) -> None:
    fewer = replace(config, names=config.names[:1])
    plan = made(fewer, GOOD)
    assert list(plan.answers) == [REG]
    assert plan.served == {("regs", "reg")}
    assert plan.needs != made(config, GOOD).needs


def test_addresses_that_are_of_no_use_serve_nobody_and_all_of_them_are_told(config: Config) -> None:
    answers = {REG: known("192.168.1.5:5060", "[2001:db8::1]:5060"), TWIN: known("192.168.1.11:5060")}
    plan = made(config, answers)
    assert plan.served == frozenset()
    assert plan.dismissed == {
        ("regs", "reg"): (
            "reg.example.org:5060 is 192.168.1.5:5060, which is not used: an address of the gateway itself; "
            "reg.example.org:5060 is [2001:db8::1]:5060, which is not used: no listener has IPv6"
        ),
        ("regs", "twin"): (
            "twin.example.org:5060 is 192.168.1.11:5060, which is not used: "
            "this pool has that address as backend fixed already"
        ),
    }
    assert plan.answers == answers, "they are kept as DNS has said them: another configuration may have use for them"


def test_one_useless_address_takes_no_good_one_away(config: Config) -> None:
    plan = made(config, {**GOOD, REG: known("192.168.1.5:5060", "192.168.1.12:5060")})
    assert plan.served == {("regs", "reg"), ("regs", "twin")}
    assert list(plan.dismissed) == [("regs", "reg")]


def test_it_comes_out_of_a_child_as_it_was(config: Config) -> None:
    plan = made(config, GOOD)
    copy = pickle.loads(pickle.dumps(plan))
    assert copy == plan
    assert copy.needs == plan.needs
