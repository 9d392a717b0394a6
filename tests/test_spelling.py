"""Which name was meant: slips of the finger lead to what was meant, and what is like nothing leads nowhere."""

from collections.abc import Sequence
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfqlb.cli import COMMANDS
from nfqlb.spelling import distance, nearest


@pytest.mark.parametrize(
    ("typed", "names", "meant"),
    [
        ("stauts", COMMANDS, "status"),  # one letter less would make it stats
        ("statsu", COMMANDS, "status"),
        ("stast", COMMANDS, "stats"),
        ("chek", COMMANDS, "check"),
        ("CHECK", COMMANDS, "check"),
        ("backned", COMMANDS, "backends"),
        ("install_units", COMMANDS, "install-units"),
        ("bakends", COMMANDS, "backends"),
        ("drian", ("drain", "disable", "enable", "list"), "drain"),
        ("proxy", ("registrars", "proxies"), "proxies"),
        ("hash", ("hash_on", "name"), "hash_on"),
        ("probe_interval", ("interval", "timeout"), "interval"),
        ("external", ("name", "external_interface"), "external_interface"),
        ("Registers", ("registers", "REGISTER"), "registers"),
        ("hs", ("ha", "lab"), None),
        ("a", ("b", "c"), None),
        ("frobnicate", COMMANDS, None),
        ("", COMMANDS, None),
        ("x" * 60_000, COMMANDS, None),
        ("anything", (), None),
    ],
)
def test_what_was_meant(typed: str, names: Sequence[str], meant: str | None) -> None:
    assert nearest(typed, names) == meant


WORD = st.text("abc", max_size=7)


@cache
def by_definition(one: str, other: str) -> int:
    """The recurrence of optimal string alignment, from the end."""
    if not one or not other:
        return len(one) + len(other)
    ways = [by_definition(one[:-1], other) + 1, by_definition(one, other[:-1]) + 1]
    ways.append(by_definition(one[:-1], other[:-1]) + (one[-1] != other[-1]))
    if one[-2:] == other[-2:][::-1] and len(one) > 1 and len(other) > 1:
        ways.append(by_definition(one[:-2], other[:-2]) + 1)
    return min(ways)


@given(WORD, WORD, st.integers(0, 7))
def test_the_distance_is_that_of_its_definition_up_to_the_limit(one: str, other: str, limit: int) -> None:
    away = by_definition(one, other)
    assert min(distance(one, other, limit), limit + 1) == min(away, limit + 1)


@given(st.sampled_from(sorted(COMMANDS)), st.data())
def test_two_neighbours_swapped_in_a_command_are_put_right(command: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(command) - 2))
    typed = command[:at] + command[at + 1] + command[at] + command[at + 2 :]
    assert typed in COMMANDS or len(command) < 3 or nearest(typed, COMMANDS) == command
