"""Plans: what makes one another, which queues may be tried, what backends are called, and who stays known."""

from dataclasses import replace
from pathlib import Path

import pytest

from nfqlb.balance.pool import Backend
from nfqlb.config import diff as config_diff
from nfqlb.config.build import load
from nfqlb.config.model import Config
from nfqlb.config.problems import Problem
from nfqlb.gateway.plan.build import QUEUE_NUMBERS, RANGES, Source, build, candidates, changes, gone, labels, staying
from nfqlb.gateway.plan.model import Plan
from nfqlb.gateway.plan.tables import TableBuild
from nfqlb.gateway.shm import board
from nfqlb.gateway.shm.board import About, Board
from nfqlb.net.endpoint import Endpoint
from nfqlb.proxy.setup import Setup

EXAMPLE = Path(__file__).parents[3] / "docs/nfqlb.example.toml"
KEYS = (b"0123456789abcdef0123456789abcdef",)


@pytest.fixture
def config() -> Config:
    return load(EXAMPLE)


@pytest.fixture
def setup(config: Config) -> Setup:
    return config.setup(KEYS)


def backend(name: str, address: str) -> Backend:
    return Backend(name, Endpoint.parse(address))


# -- what makes another plan


def plan_of(config: Config, keys: tuple[bytes, ...] = KEYS) -> Plan:
    source = Source(config, config.setup(keys), {})
    with TableBuild(source.setup.pools) as building:
        return build(source, (range(2),), None, building)


@pytest.fixture
def readable(config: Config, tmp_path: Path) -> Config:
    """The example, with its keys at hand."""
    secret = tmp_path / "secret"
    secret.write_bytes(KEYS[0])
    secret.chmod(0o600)
    return replace(config, gateway=replace(config.gateway, secret_file=secret))


def test_what_means_the_same_is_no_change(readable: Config) -> None:
    told = replace(readable, path=Path("elsewhere"), warnings=(), notes=(Problem("somewhere", "a note", "note"),))
    assert list(changes(plan_of(readable), plan_of(told))) == []
    left = replace(readable.setup(KEYS), leaving=(backend("gone", "192.0.2.99:5060"),))
    lingering = replace(plan_of(readable), source=Source(readable, left, {}))
    assert list(changes(lingering, plan_of(readable))) == [], "they stay for their time"


def test_keys_are_a_change(readable: Config) -> None:
    more = plan_of(readable, (KEYS[0], b"1" * 32))
    assert list(changes(plan_of(readable), more)) == ["secret: 1 keys added, 0 removed"]


def test_other_sources_of_probes_are_a_change(readable: Config) -> None:
    """In a pair they follow from the routes of the host."""
    old = plan_of(readable)
    assert old.backends_plan is not None
    first, *others = old.backends_plan.round.targets
    moved = replace(first, source=Endpoint.parse("192.0.2.77:1"))
    new = replace(
        old, backends_plan=replace(old.backends_plan, round=replace(old.backends_plan.round, targets=(moved, *others)))
    )
    assert list(changes(old, new)) == [f"backend {first.address}: probes leave from {first.source.host} → 192.0.2.77"]


def test_a_change_that_no_line_tells_is_one_all_the_same(readable: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_diff, "differences", lambda *_: iter(()))
    new = replace(readable, egress_names=not readable.egress_names)
    assert list(changes(plan_of(readable), plan_of(new))) == ["the configuration means something else"]


# -- queues and names


@pytest.mark.parametrize(
    ("first", "count", "placed", "expected"),
    [
        (5060, 2, None, [range(5060 + 2 * n, 5062 + 2 * n) for n in range(RANGES)]),
        (5060, 2, range(5062, 5064), [range(5062, 5064), range(5060, 5062), range(5064, 5066)]),
        (5060, 2, range(5060, 5062), [range(5060, 5062), range(5062, 5064)]),
        (5060, 2, range(5061, 5063), [range(5060, 5062), range(5062, 5064)]),  # none of ours
        (5060, 2, range(5060, 5063), [range(5060, 5062), range(5062, 5064)]),
        (QUEUE_NUMBERS - 3, 2, None, [range(QUEUE_NUMBERS - 3, QUEUE_NUMBERS - 1)]),
        (
            QUEUE_NUMBERS - 4,
            2,
            None,
            [range(QUEUE_NUMBERS - 4, QUEUE_NUMBERS - 2), range(QUEUE_NUMBERS - 2, QUEUE_NUMBERS)],
        ),
        (QUEUE_NUMBERS - 1, 1, None, [range(QUEUE_NUMBERS - 1, QUEUE_NUMBERS)]),
    ],
)
def test_ranges_of_queues(config: Config, first: int, count: int, placed: range | None, expected: list[range]) -> None:
    found = candidates(replace(config, workers=replace(config.workers, queue=first, count=count)), placed)
    assert list(found[: len(expected)]) == expected
    assert len(set(found)) == len(found) <= RANGES
    assert all(each.start >= 0 and each.stop <= QUEUE_NUMBERS and len(each) == count for each in found)
    assert len(found) == RANGES or first + RANGES * count > QUEUE_NUMBERS


def test_labels_are_unique_names(setup: Setup) -> None:
    assert labels(setup)[:3] == ("reg1", "reg2", "reg1-v6")
    leaving = (backend("reg1", "192.168.9.1:5060"), backend("old", "192.168.9.2:5060"))
    found = labels(replace(setup, leaving=leaving))
    assert found[-2:] == ("reg1 192.168.9.1:5060", "old")
    assert len(set(found)) == len(found) == len(setup.backends) + 2


def test_who_is_gone_is_told_by_address_not_by_name(setup: Setup) -> None:
    known = [
        backend("renamed", "192.168.1.11:5060"),  # reg1, under another name
        backend("reg2", "192.168.1.99:5060"),  # another, under the name of reg2
        backend("twice", "192.168.1.99:5060"),
    ]
    assert [str(each.address) for each in gone(known, setup)] == ["192.168.1.99:5060"]
    assert list(gone(setup.backends, setup)) == []


def test_backends_of_a_gateway_that_is_relieved_stay_known(setup: Setup, tmp_path: Path) -> None:
    assert staying(setup, tmp_path) is setup
    names = ("reg1", "left 192.168.9.1:5060", "other")
    addresses = ("192.168.1.11:5060", "192.168.9.1:5060", "[2001:db8:9::1]:5060")
    Board(tmp_path / board.FILE_NAME, About("lb", (5060,), names, addresses)).publish()
    found = staying(setup, tmp_path).leaving
    assert [(each.name, str(each.address)) for each in found] == [
        ("left", "192.168.9.1:5060"),
        ("other", "[2001:db8:9::1]:5060"),
    ]


def test_a_board_that_cannot_be_read_adds_nothing(setup: Setup, tmp_path: Path) -> None:
    (tmp_path / board.FILE_NAME).write_bytes(b"\0" * 500)
    assert staying(setup, tmp_path) is setup
