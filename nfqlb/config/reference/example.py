"""The commented example: every table and every key there is, explained, with a gateway for one farm in force.

Knows which values the example shows, and how it looks. What is said of a table or a key is for `reference`, which also
has the keys: one that is new needs nothing here.

docs/nfqlb.example.toml is the same, for those who read it in the checkout; a test compares. After a change write it
with `nfqlb config example > docs/nfqlb.example.toml`.
"""

import textwrap
import tomllib
from collections.abc import Iterator
from typing import Any

from nfqlb.config.reference import toml
from nfqlb.config.reference.reference import Key, Section, sections

WIDTH = 80
"""Columns of an explanation."""

HEAD = """\
/etc/nfqlb/nfqlb.toml: every table and every key that nfqlb knows.

An explanation begins with "# ". A setting that is not in force begins with "#" alone: take that away to change it. It
shows the default or, where the explanation says what holds "unless given", an example.

After a change: nfqlb check"""

IN_FORCE = """
[[listener]]
name = "main"
external = "203.0.113.5:5060"
internal = "192.168.1.5:5060"

[[listener]]
name = "main6"
external = "[2001:db8:1::5]:5060"
internal = "[2001:db8:2::5]:5060"

[[pool]]
name = "registrars"
hash_on = "from-uri"

[[pool.backend]]
name = "reg1"
address = "192.168.1.11:5060"

[[pool.backend]]
name = "reg2"
address = "192.168.1.12:5060"

[[pool.backend]]
name = "reg1-v6"
address = "[2001:db8:2::11]:5060"

[[pool]]
name = "proxies"

[[pool.backend]]
name = "proxy1"
address = "192.168.1.21:5060"
weight = 2

[[pool.backend]]
name = "proxy1-v6"
address = "[2001:db8:2::21]:5060"

[[pool]]
name = "trunks"

[[pool.backend]]
name = "sbc1"
address = "192.168.1.31:5060"

[pool.health]
interval = 2

[[route]]
listeners = ["main"]
sources = ["198.51.100.0/24"]
pool = "trunks"

[[route]]
methods = ["REGISTER", "SUBSCRIBE"]
pool = "registrars"

[[route]]
methods = ["INVITE"]
pool = "proxies"

[[route]]
pool = "proxies"
"""
"""What the example has in force. The first table of each kind is shown with all its keys."""


def example() -> str:
    """The whole file as text."""
    lines = [*_explained(HEAD), *_Writer(tomllib.loads(IN_FORCE)).lines()]
    return "\n".join(lines) + "\n"


class _Writer:
    def __init__(self, in_force: dict[str, Any]) -> None:
        self._in_force = in_force
        self._sections = {section.place: section for section in sections()}
        self._shown: set[str] = set()
        """Places that have been explained."""

    def lines(self) -> Iterator[str]:
        for place, section in self._sections.items():
            if "." not in place:
                yield from self._each(section, self._in_force.get(place))

    def _each(self, section: Section, values: Any) -> Iterator[str]:
        """The tables of one kind that are in force; where there are none, one to show what could be there."""
        if values is not None:
            for one in values if section.repeated else [values]:
                yield from self._table(section, one, "")
        elif section.explained_as == section.place and section.place not in self._shown:
            # A table that would not do without settings is no more in force than these.
            yield from self._table(section, {}, "#" if any(key.required for key in section.keys) else "")

    def _table(self, section: Section, values: dict[str, Any], off: str) -> Iterator[str]:
        first = section.place == section.explained_as and section.place not in self._shown
        self._shown.add(section.place)
        yield ""
        if first:
            yield ""
            yield from _explained(section.text)
        yield f"{off}{section.header}"
        for key in section.keys:
            if first:
                yield ""
                yield from _explained(key.text)
                yield toml.setting(key.name, values[key.name]) if key.name in values else f"#{_shown(key)}"
            elif key.name in values:
                yield toml.setting(key.name, values[key.name])
        for place, within in self._sections.items():
            owner, _, name = place.rpartition(".")
            if owner == section.place:
                yield from self._each(within, values.get(name))


def _shown(key: Key) -> str:
    return toml.setting(key.name, key.default if key.example is None else key.example)


def _explained(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(text.split("\n\n")):
        if number:
            yield "#"
        for line in textwrap.wrap(paragraph, WIDTH - len("# "), break_on_hyphens=False):
            yield f"# {line}"
