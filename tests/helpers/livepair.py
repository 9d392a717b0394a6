"""Pairs of gateways in namespaces of their own, and how long their addresses are away."""

import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from nfqlb.lab.pair import PairLab
from nfqlb.lab.pulse import Heard, Pulse
from nfqlb.lab.topology import Plan

NUMBER = itertools.count()
RATE = 200


@contextmanager
def running(
    *,
    family: int = 4,
    one_armed: bool = False,
    lab: type[PairLab] = PairLab,
    priorities: tuple[int, int] = (250, 250),
) -> Iterator[PairLab]:
    plan = Plan(f"p{os.getpid()}x{next(NUMBER)}", family=family, one_armed=one_armed, pair=True)
    with lab(plan, priorities=priorities) as up:
        yield up


def heard(lab: PairLab, happen: Callable[[], object], *, after: float = 1.5) -> tuple[Heard, float]:
    """What a phone hears of E meanwhile, and the longest silence in ms."""
    plan, phone = lab.plan, lab.plan.phones[0]
    with Pulse(plan.namespace(phone.role), phone.ip, plan.external.ip, lab.dir / "test.pulse", RATE) as pulse:
        time.sleep(0.2)
        moment = time.time()
        happen()
        time.sleep(after)
        found = pulse.stop()
    return found, found.gap_after(moment) * 1000


def until(condition: Callable[..., object], seconds: float = 10.0) -> bool:
    """Wait for `condition`, which is called without arguments, and may have defaults."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False
