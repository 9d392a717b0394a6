"""When the kernel is asked to relieve workers, and for how long."""

import logging

import pytest

from nfqlb.errors import HostError
from nfqlb.gateway.bans.kernel_shedding import AGAIN, LATELY, LONGEST, SHORTEST, KernelShedding
from nfqlb.gateway.bans.plan import BansPlan
from nfqlb.gateway.netfilter.kernel_sets import Address
from nfqlb.gateway.runtime.log_limit import INTERVAL
from nfqlb.gateway.shm.offence_ring import OffenceRings

OUTSIDE = ("198.51.100.5", "2001:db8::5")


class Kernel:
    """Takes the place of KernelSets."""

    def __init__(self) -> None:
        self.added: list[tuple[str, str, int]] = []
        self.error: Exception | None = None

    def put(self, name: str, address: Address, seconds: int) -> None:
        if self.error:
            raise self.error
        self.added.append((name, str(address), seconds))


class Scene:
    def __init__(self, workers: int = 2) -> None:
        self.rings, self.kernel, self.workers = OffenceRings(), Kernel(), workers
        bans_plan = BansPlan(500, 600, (), workers, OUTSIDE)
        self.relief = KernelShedding(bans_plan, self.rings, self.kernel)  # type: ignore[arg-type]  # stands in for the real one

    def full(self, now: float, workers: int | None = None) -> None:
        """So many workers have a full queue."""
        for seat in range(self.workers if workers is None else workers):
            self.rings.notebook(seat).full(int(now * 1e9))
        self.relief.turn(now)

    @property
    def seconds(self) -> list[int]:
        return [seconds for _, entry, seconds in self.kernel.added if entry == OUTSIDE[0]]


def test_all_our_external_addresses_are_relieved_when_all_workers_are_full(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene()
    scene.full(100.0)
    assert scene.kernel.added == [("NFQLB-shed4", OUTSIDE[0], SHORTEST), ("NFQLB-shed6", OUTSIDE[1], SHORTEST)]
    assert "for 5 s the kernel drops seven in eight new requests" in caplog.text


def test_one_worker_alone_makes_nobody_else_wait() -> None:
    scene = Scene()
    scene.full(100.0, workers=1)
    assert scene.kernel.added == []


def test_what_was_full_a_while_ago_is_full_no_more() -> None:
    scene = Scene()
    scene.full(100.0, workers=1)
    scene.rings.notebook(1).full(int((100.0 + LATELY + 0.01) * 1e9))
    scene.relief.turn(100.0 + LATELY + 0.01)
    assert scene.kernel.added == []


def test_it_lasts_longer_each_time_but_not_for_ever_and_begins_anew_after_a_pause() -> None:
    scene = Scene()
    now = 100.0
    for seconds in (5, 10, 20, LONGEST, LONGEST):
        scene.full(now)
        scene.full(now + seconds - 0.1)  # it is in force
        assert scene.seconds[-1] == seconds
        now += seconds
    assert len(scene.seconds) == 5
    scene.full(now + AGAIN + 0.1)
    assert scene.seconds[-1] == SHORTEST


def test_a_kernel_that_refuses_is_told_of_once_and_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "nfqlb")
    scene = Scene()
    scene.kernel.error = HostError("there is no such set")
    for number in range(10):
        scene.full(100.0 + number / 10)
    assert len(caplog.records) == 1
    assert "nfqlb rules apply" in caplog.text
    scene.full(100.0 + INTERVAL)  # before: ten times two addresses
    assert "(there is no such set) (and 19 more before). Are the rules" in caplog.messages[1]
    scene.kernel.error = None
    scene.full(102.0 + INTERVAL)
    assert scene.seconds == [SHORTEST]


def test_one_set_that_is_missing_does_not_keep_relief_from_the_other() -> None:
    class Half(Kernel):
        def put(self, name: str, address: Address, seconds: int) -> None:
            if name == "NFQLB-shed4":
                raise HostError("there is no such set")
            super().put(name, address, seconds)

    scene = Scene()
    half = Half()
    scene.relief._kernel = half  # type: ignore[assignment]  # stands in for the real one
    for now in (100.0, 100.1, 100.2):
        scene.full(now)
    assert half.added == [("NFQLB-shed6", OUTSIDE[1], SHORTEST)]


def test_seats_of_former_workers_do_not_count() -> None:
    scene = Scene(workers=1)
    scene.rings.notebook(1).full(int(100.0 * 1e9))
    scene.relief.turn(100.0)
    assert scene.kernel.added == []
