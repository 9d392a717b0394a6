"""Which values are set, remembered and put back; on a made-up /proc/sys."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfqlb.errors import HostError
from nfqlb.gateway.netfilter.ingress import Ingress
from nfqlb.gateway.netfilter.sysctl import Sysctls, lowered

LINKS = ("all", "default", "lo", "out", "in", "side")
BOTH = Ingress(ipv4=frozenset({"out", "in"}))


class Host:
    """A made-up host."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "sys"
        self.run_dir = folder / "run"
        for link in LINKS:
            self.add(link)
        self.state = Sysctls(self.run_dir, self.root)

    def add(self, link: str, rp_filter: str = "1") -> None:
        values = {"forwarding": "0", "accept_local": "0", "rp_filter": rp_filter, "send_redirects": "1"}
        for name, value in values.items():
            path = self.root / f"net/ipv4/conf/{link}/{name}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{value}\n")
        path = self.root / f"net/ipv6/conf/{link}/forwarding"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("0\n")

    def remove(self, link: str) -> None:
        for path in self.root.glob(f"net/ipv?/conf/{link}/*"):
            path.unlink()
        for path in self.root.glob(f"net/ipv?/conf/{link}"):
            path.rmdir()

    def set(self, key: str, value: str) -> None:
        (self.root / "net/ipv4/conf" / key).write_text(value)

    def get(self, key: str) -> str:
        return (self.root / "net/ipv4/conf" / key).read_text().strip()

    def all(self) -> dict[str, str]:
        return {str(path): path.read_text().strip() for path in self.root.rglob("*") if path.is_file()}


@pytest.fixture
def made(tmp_path: Path) -> Host:
    return Host(tmp_path)


VALUES = st.integers(0, 2)


@given(
    own=st.fixed_dictionaries(dict.fromkeys(LINKS, VALUES)), wanted=st.dictionaries(st.sampled_from(LINKS[2:]), VALUES)
)
def test_what_counts_elsewhere_stays(own: dict[str, int], wanted: dict[str, int]) -> None:
    new = lowered(own, wanted)
    for link in LINKS[1:]:
        expected = wanted.get(link, max(own["all"], own[link]))
        assert max(new["all"], new[link]) == expected


def test_only_the_interfaces_that_packets_come_in_by_change(made: Host) -> None:
    before = made.all()
    made.state.apply(BOTH)
    for link in ("out", "in"):
        assert [made.get(f"{link}/{name}") for name in ("forwarding", "accept_local", "rp_filter")] == ["1", "1", "2"]
    changed = {path.rsplit("/", 2)[1] for path, value in made.all().items() if before[path] != value}
    assert changed == {"out", "in"}


def test_a_filter_that_is_not_strict_is_left_as_it_is(made: Host) -> None:
    for link in LINKS:
        made.set(f"{link}/rp_filter", "0")
    made.set("in/rp_filter", "2")
    made.state.apply(BOTH)
    assert (made.get("out/rp_filter"), made.get("in/rp_filter")) == ("0", "2")


def test_an_interface_without_an_address_needs_no_filter_and_the_others_keep_theirs(made: Host) -> None:
    made.set("side/rp_filter", "0")
    made.state.apply(Ingress(ipv4=frozenset({"out", "in"}), unnumbered=frozenset({"out"})))
    assert {link: made.get(f"{link}/rp_filter") for link in LINKS} == {
        "all": "0",
        "out": "0",  # here it is off
        "in": "2",  # numbered, so loose will do
        "side": "1",
        "lo": "1",
        "default": "1",  # as strict as all made them, those to come as well
    }


def test_redirects_are_off_where_packets_turn_and_on_elsewhere(made: Host) -> None:
    made.set("side/send_redirects", "0")  # "all" had switched it on
    made.state.apply(Ingress(ipv4=frozenset({"out"}), turning=frozenset({"out"})))
    assert {link: made.get(f"{link}/send_redirects") for link in ("all", "out", "in", "side", "default")} == {
        "all": "0",
        "out": "0",
        "in": "1",
        "side": "1",
        "default": "1",
    }


def test_two_armed_hosts_keep_their_redirects(made: Host) -> None:
    made.state.apply(BOTH)
    assert {made.get(f"{link}/send_redirects") for link in LINKS} == {"1"}


def test_taking_back_leaves_no_trace(made: Host) -> None:
    before = made.all()
    arrivals = Ingress(frozenset({"out", "in"}), frozenset({"out"}), frozenset({"out"}), frozenset({"out"}))
    made.state.apply(arrivals)
    assert made.all() != before
    made.state.remove()
    assert made.all() == before
    assert list(made.run_dir.iterdir()) == []


def test_twice_is_once(made: Host) -> None:
    before = made.all()
    arrivals = Ingress(frozenset({"out", "in"}), unnumbered=frozenset({"out"}))
    assert made.state.apply(arrivals)
    once = made.all()
    assert made.state.differences(arrivals) == []
    assert made.state.apply(arrivals) == []
    assert made.all() == once
    made.state.remove()
    assert made.all() == before


def test_what_was_right_before_us_is_not_ours_to_take_back(made: Host) -> None:
    made.set("out/accept_local", "1")
    made.state.apply(BOTH)
    made.state.remove()
    assert made.get("out/accept_local") == "1"


def test_what_somebody_else_changed_since_stays(made: Host) -> None:
    made.state.apply(BOTH)
    made.set("out/rp_filter", "0")
    made.state.remove()
    assert made.get("out/rp_filter") == "0"
    assert made.get("in/rp_filter") == "1"


def test_the_latest_wish_of_others_is_what_comes_back(made: Host) -> None:
    made.state.apply(BOTH)
    made.set("out/rp_filter", "1")
    made.set("all/rp_filter", "0")
    made.set("in/rp_filter", "0")
    assert {change.key.split("/")[3] for change in made.state.apply(BOTH)} == {"out"}
    made.state.remove()
    assert (made.get("out/rp_filter"), made.get("in/rp_filter")) == ("1", "0")


def test_another_interface_later(made: Host) -> None:
    made.state.apply(BOTH)
    made.add("new")
    made.state.apply(Ingress(ipv4=frozenset({"out", "new"})))
    assert [made.get(f"{link}/accept_local") for link in ("out", "in", "new")] == ["1", "0", "1"]
    made.state.remove()
    assert [made.get(f"{link}/accept_local") for link in ("out", "in", "new")] == ["0", "0", "0"]


def test_an_interface_that_has_gone_is_no_obstacle(made: Host) -> None:
    made.state.apply(BOTH)
    made.remove("in")
    made.state.remove()
    assert made.get("out/accept_local") == "0"


def test_an_interface_that_came_after_all_was_lowered_keeps_its_strictness(made: Host) -> None:
    arrivals = Ingress(frozenset({"out"}), unnumbered=frozenset({"out"}))
    made.state.apply(arrivals)
    made.add("new", rp_filter=made.get("default/rp_filter"))  # as Linux makes it
    assert max(int(made.get("all/rp_filter")), int(made.get("new/rp_filter"))) == 1
    assert made.state.apply(arrivals) == []
    made.state.remove()
    assert max(int(made.get("all/rp_filter")), int(made.get("new/rp_filter"))) == 1


def test_after_a_crash_between_record_and_change_nothing_wrong_is_put_back(made: Host) -> None:
    made.state.apply(BOTH)
    record = (made.run_dir / "sysctls.json").read_text()
    made.state.remove()
    made.set("in/rp_filter", "0")  # neither the value before nor ours
    before = made.all()
    (made.run_dir / "sysctls.json").write_text(record)
    made.state.remove()
    assert made.all() == before


def test_forwarding_that_the_whole_host_needs_meanwhile_stays(made: Host) -> None:
    made.state.apply(BOTH)
    made.set("all/forwarding", "1")  # Docker started
    made.state.remove()
    assert made.get("out/forwarding") == "1"
    assert made.get("out/accept_local") == "0"


FOREIGN = [
    ["something else"],
    {"kernel/core_pattern": {"before": "1", "ours": "0"}},
    {"net/ipv4/conf/../../../victim": {"before": "1", "ours": "0"}},
    {"net/ipv4/conf/../forwarding": {"before": "1", "ours": "0"}},
    {"net/ipv4/conf/out/forwarding\n": {"before": "1", "ours": "0"}},
    {"net/ipv4/conf/out/forwarding": {"before": "1\n2", "ours": "0"}},
    {"net/ipv4/conf/out/forwarding": {"before": 1, "ours": 0}},
]
"""What somebody may have written there who may not set sysctls himself."""


@pytest.mark.parametrize("record", FOREIGN, ids=str)
def test_a_foreign_record_is_an_error_and_nothing_is_touched(made: Host, record: object) -> None:
    made.run_dir.mkdir()
    (made.root / "kernel").mkdir()
    for victim in ("kernel/core_pattern", "victim", "net/ipv4/forwarding"):
        (made.root / victim).write_text("0")
    (made.run_dir / "sysctls.json").write_text(json.dumps(record))
    before = made.all()
    acts: tuple[Callable[[], object], ...] = (lambda: made.state.apply(BOTH), made.state.remove)
    for act in acts:
        with pytest.raises(HostError, match="not the record"):
            act()
    assert made.all() == before


def test_a_link_in_place_of_the_record_is_not_followed(made: Host, tmp_path: Path) -> None:
    """The directory may belong to somebody who could not write to the file himself."""
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    made.run_dir.mkdir()
    (made.run_dir / f"sysctls.json.{os.getpid()}").symlink_to(victim)
    made.state.apply(BOTH)
    assert victim.read_text() == "untouched"
    assert not (made.run_dir / "sysctls.json").is_symlink()
