"""sipvicious, which scans every visible address of the world, against the gateway in front of real registrars."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
from livelab import fresh_name

from nfqlb.gateway.bans.banning import BACKLOG
from nfqlb.gateway.netfilter import ipset
from nfqlb.lab import namespaces
from nfqlb.lab.lab import Lab
from nfqlb.lab.topology import INSIDE, OUTSIDE, Plan
from nfqlb.lab.wire import Seen, Tap

pytestmark = pytest.mark.root


class Attack(NamedTuple):
    said: str
    sent: int
    """Requests."""
    answers: int
    """Packets that came back to the scanner."""
    passed: int
    """Packets that reached a backend."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(Plan(fresh_name()), probes=False) as lab:
        yield lab


def attack(lab: Lab, folder: Path, *words: str) -> Attack:
    """Run a tool of sipvicious from outside against the gateway."""
    with Tap(lab.plan.namespace("gw"), (OUTSIDE, INSIDE)) as tap:
        done = subprocess.run(
            ["ip", "netns", "exec", lab.plan.namespace("phones"), "timeout", "40", *words, lab.plan.external.ip],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=folder,
            env=os.environ | {"HOME": str(folder), "PATH": namespaces.search_path()},
        )
        frames = [frame for frame in tap.settled() if is_udp(frame)]
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return Attack(
        said,
        sent=sum(each.link == OUTSIDE and not each.outgoing for each in frames),
        answers=sum(each.link == OUTSIDE and each.outgoing for each in frames),
        passed=sum(each.link == INSIDE and each.outgoing for each in frames),
    )


def is_udp(frame: Seen) -> bool:
    """What the lab's hosts send for IPv6 by themselves is none of ours; nor is an answer to the lab's own question."""
    return frame.packet[0] >> 4 == 4 and frame.packet[9] == 17 and b" ping" not in frame.packet[28:]


def banned(lab: Lab) -> dict[str, ipset.Entry]:
    return {entry.source: entry for entry in namespaces.inside(lab.plan.namespace("gw"), ipset.entries)}


def let_go(lab: Lab) -> None:
    """Unban all; afterwards, who offends is banned anew."""
    if entries := banned(lab).values():
        for entry in entries:
            namespaces.inside(lab.plan.namespace("gw"), partial(ipset.unban, entry))
        time.sleep(BACKLOG)


def until(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.parametrize(
    "words",
    [
        ("svmap", "-t", "0.3"),
        ("svwar", "--force", "-e", "100-399"),
        ("svcrack", "-u", "100", "-r", "100-399"),
    ],
    ids=lambda words: words[0],
)
def test_a_scanner_is_banned_and_learns_nothing(lab: Lab, tmp_path: Path, words: tuple[str, ...]) -> None:
    let_go(lab)
    scanner = lab.plan.phones[0].ip
    found = attack(lab, tmp_path, *words)
    assert found.sent >= 1
    assert (found.answers, found.passed) == (0, 0), found
    assert "found nothing" in found.said
    assert until(lambda: scanner in banned(lab), 10)
    assert banned(lab)[scanner].why == "scanner"
    # Whatever it tries next ends in the kernel.
    before = banned(lab)[scanner].packets
    again = attack(lab, tmp_path, "svmap", "-t", "0.3", "-m", "INVITE")
    assert (again.answers, again.passed) == (0, 0)
    assert banned(lab)[scanner].packets >= before + 1
