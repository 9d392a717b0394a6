"""tools/chaos of a pair, in a short form: its figures are there, and it finds what is lost."""

import json
import os
import subprocess
import sys

import pytest
from livepair import running

from devtools.chaos import nodes
from devtools.chaos.phones import Phones
from nfqlb.lab.namespaces import NETNS_DIR

pytestmark = pytest.mark.root


@pytest.mark.parametrize(
    ("name", "family"), [("node-kill", 6), ("service-kill", 4), ("keepalived-kill", 4), ("node-partition", 6)]
)
def test_calls_and_registrations_are_accounted_for(name: str, family: int) -> None:
    lab = f"pc{os.getpid()}"
    argv = [
        sys.executable,
        "-m",
        "devtools.chaos",
        name,
        "--json",
        "--name",
        lab,
        *(["--ipv6"] if family == 6 else []),
    ]
    argv += ["--calls", "6", "--registrations", "20", "--new", "5", "--pulse", "50"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=110, check=False)
    told = json.loads(done.stdout)
    slow = [text for text in told["problems"] if "were away for" in text]  # no figure: this machine may be busy
    assert (done.returncode, told["problems"]) == (int(bool(slow)), slow), done.stderr
    assert (told["calls_established"], told["calls_lost"]) == (6, 0)
    assert (told["registrations"], told["registrations_lost"]) == (20, 0)
    assert told["registrations_behind_nat"] == 10
    if nodes.FAULTS[name].heard:
        assert told["lost"] < told["sent"] / 2, "one of the two has the addresses at any time"
    else:
        assert 0 < told["lost"] < told["sent"]
    assert told["failover_ms"] == max(told["outside_ms"], told["inside_ms"])
    assert not list(NETNS_DIR.glob(f"nfqlb-{lab}-*"))


def test_phones_that_cannot_be_reached_are_counted() -> None:
    with running() as lab, Phones(lab.plan, 6) as phones:
        assert phones.register() == 6
        assert phones.call() == 6
        for half in lab.halves:
            half.unplug()
        assert phones.call() == 0


def test_a_broken_bound_is_told() -> None:
    result = nodes.Result(
        nodes.FAULTS["node-kill"], nodes.Options(), 450, 450, 440, 300, 2, 350, 1, 1000, 500, 3, 900, 200
    )
    assert nodes.broken(result) == [
        "The addresses were away for 450 ms; 400 ms are allowed.",
        "2 established calls were lost.",
        "1 new calls failed.",
        "3 registered phones cannot be called.",
    ]
    result.moves_ms = [300.0, 310.0]
    assert len(nodes.broken(result)) == 3
