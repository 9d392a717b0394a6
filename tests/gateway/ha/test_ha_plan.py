"""What a plan says of the pair, and what it finds out on a host that fails it: no route, no sockets, no iptables."""

import errno
import os
import pickle
import socket
import tomllib
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self

import pytest
from faultcase import open_files
from paircase import GROUPS, LISTENERS, NODES

from nfqlb.config.build import build
from nfqlb.config.model import Config
from nfqlb.errors import HostError
from nfqlb.gateway.ha import plan as ha_plan
from nfqlb.gateway.netfilter import ruleset
from nfqlb.net.endpoint import Endpoint

PAIR = f"{NODES}check_port = 8090\n{GROUPS}"
RIGHT = ("203.0.113.6", "192.168.1.6", "2001:db8:5::5", "2001:db8:1::5")
KEYS = (b"0123456789abcdef0123456789abcdef",)
BACKEND, BACKEND6 = Endpoint.parse("192.168.1.11:5060"), Endpoint.parse("[2001:db8:1::11]:5060")


def own(address: str) -> Endpoint:
    """An address of this node, whatever the port."""
    return Endpoint(ip_address(address).packed, 0)


STAYS = own("192.168.1.2")
"""The address of [ha], which stays on this node."""


def read(text: str) -> Config:
    return build(Path("/etc/nfqlb/nfqlb.toml"), tomllib.loads(text))


@pytest.fixture
def config() -> Config:
    return read(LISTENERS + PAIR)


class FakeSocket:
    """One that the kernel would send from `own`, or that cannot be made or connected."""

    fails_to_open = fails_to_connect = 0
    """Numbers of errors."""
    own = ""

    def __init__(self, *_: int) -> None:
        if self.fails_to_open:
            raise OSError(self.fails_to_open, os.strerror(self.fails_to_open))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def connect(self, _: tuple[str, int]) -> None:
        if self.fails_to_connect:
            raise OSError(self.fails_to_connect, os.strerror(self.fails_to_connect))

    def getsockname(self) -> tuple[str, int]:
        return self.own, 40000


@pytest.fixture
def fake_socket(monkeypatch: pytest.MonkeyPatch) -> type[FakeSocket]:
    class Fake(FakeSocket):
        pass

    monkeypatch.setattr(socket, "socket", Fake)
    return Fake


# -- the plan


def test_a_node_that_stands_alone_has_none() -> None:
    config = read(LISTENERS)
    assert ha_plan.make(config, config.setup(KEYS)) is None
    assert ha_plan.own_sources(config)(BACKEND) is None, "probes leave from the internal socket"


def test_each_address_of_a_group_stands_there_once(config: Config) -> None:
    plan = ha_plan.make(config, config.setup(KEYS))
    assert plan is not None
    assert plan.groups == {"left": ("203.0.113.5", "192.168.1.5"), "right": RIGHT}
    assert plan.priorities == {"left": 254, "right": 249}
    assert (plan.address, plan.peer, plan.check_port) == ("192.168.1.2", "192.168.1.3", 8090)
    assert plan.interfaces == ("eth1", "eth7")


def test_it_comes_out_of_a_child_and_can_still_look_at_the_rules(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy: Any = pickle.loads(pickle.dumps(ha_plan.make(config, config.setup(KEYS))))
    monkeypatch.setattr(ruleset, "queues_in_place", lambda _: range(300, 302))
    assert copy.misplaced(range(300, 302)) == ""
    assert copy.digests == ha_plan.make(config, config.setup(KEYS)).digests  # type: ignore[union-attr]  # there is a pair


# -- the rules


@pytest.mark.parametrize("placed", [None, range(300, 301), range(400, 402)])
def test_rules_that_lead_elsewhere_make_the_node_unwell(
    config: Config, monkeypatch: pytest.MonkeyPatch, placed: range | None
) -> None:
    monkeypatch.setattr(ruleset, "queues_in_place", lambda _: placed)
    text = "the iptables rules do not lead to the workers: nfqlb rules apply -c /etc/nfqlb/nfqlb.toml"
    assert ha_plan.misplaced(config, range(300, 302)) == text


def test_rules_that_cannot_be_looked_at_make_the_node_unwell_and_say_why(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Config) -> range:
        raise HostError("iptables-save has failed: Resource temporarily unavailable.")

    monkeypatch.setattr(ruleset, "queues_in_place", refuse)
    assert ha_plan.misplaced(config, range(300, 302)) == ("iptables-save has failed: Resource temporarily unavailable.")


# -- where probes leave from


def test_the_address_that_the_kernel_would_send_from_is_asked_from_it(
    config: Config, fake_socket: type[FakeSocket]
) -> None:
    source = ha_plan.own_sources(config)
    fake_socket.own = "192.168.1.7"
    assert source(BACKEND) == own("192.168.1.7"), "without the port, which was the question's"
    fake_socket.own = "2001:db8:1::7"
    assert source(BACKEND6) == own("2001:db8:1::7")


def test_an_address_that_may_be_on_the_other_node_is_not_asked_from(
    config: Config, fake_socket: type[FakeSocket]
) -> None:
    source = ha_plan.own_sources(config)
    fake_socket.own = "192.168.1.5"
    assert source(BACKEND) == STAYS
    fake_socket.own = "2001:db8:1::5"
    assert source(BACKEND6) is None, "the one that stays is of another IP version"


@pytest.mark.parametrize(
    "fault",
    [
        {"fails_to_connect": errno.ENETUNREACH},
        {"fails_to_open": errno.EAFNOSUPPORT},  # a kernel without IPv6
        {"fails_to_open": errno.EMFILE},
    ],
    ids=["no route", "no such protocol", "no file"],
)
def test_where_the_kernel_cannot_say_it_is_the_address_that_stays(
    config: Config, fake_socket: type[FakeSocket], fault: dict[str, int]
) -> None:
    for name, number in fault.items():
        setattr(fake_socket, name, number)
    source = ha_plan.own_sources(config)
    assert source(BACKEND) == STAYS
    assert source(BACKEND6) is None


def test_the_question_leaves_no_socket_open(config: Config) -> None:
    before = open_files()
    assert ha_plan.own_sources(config)(Endpoint.parse("127.0.0.1:5060")) == own("127.0.0.1")
    assert open_files().items() <= before.items()
