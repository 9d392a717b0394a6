"""The head of each part of the fast path says what it mirrors: where the same is said in Python, and what differs from
it is a mistake of one of both.
"""

import builtins
import importlib
import re
from pathlib import Path

import pytest

import nfqlb.fast

PARTS = sorted(Path(nfqlb.fast.__file__).parent.glob("*.pxi"))
SLOW = ("proxy", "sip", "net", "balance")
"""Packages of the slow path that gives verdicts."""
ALONE = {
    "proxy/proxy": "the order of the steps: path.pyx",
    "proxy/keys": "keys are derived once, by the slow path, for both",
    "proxy/names": "a target that is a name takes the slow path",
    "proxy/verdict": "both use the one table of fates",
    "sip/edit": "edits are written by common and datagram",
    "sip/reply": "replies take the slow path",
    "net/stun": "STUN takes the slow path",
    "balance/health": "the supervisor's",
    "balance/maglev": "tables are made by the supervisor",
    "balance/pattern": "route rules with patterns are asked in Python, once for each text",
    "balance/pool": "the supervisor's",
    "balance/routes": "asked in Python, by the facts that rulebook has gathered",
    "balance/states": "the supervisor's",
}
"""Modules of the slow path that no part mirrors, and why."""


def mirrored(part: Path) -> list[str]:
    head = re.match(r"(#.*\n)+", part.read_text())
    assert head, "it has no head"
    (found,) = re.findall(r"^# Mirrors: (.+)$", head[0], re.MULTILINE)
    return [str(name) for name in found.split(", ")]


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_what_a_part_mirrors_exists(part: Path) -> None:
    for name in mirrored(part):
        assert hasattr(builtins, name) or importlib.import_module(name)


def test_each_module_that_gives_verdicts_is_mirrored_or_it_says_why_not() -> None:
    root = Path(nfqlb.__file__).parent
    modules = {f"{room}/{file.stem}" for room in SLOW for file in (root / room).glob("[a-z]*.py")}
    there = {name.removeprefix("nfqlb.").replace(".", "/") for part in PARTS for name in mirrored(part)}
    assert modules - there == set(ALONE)
