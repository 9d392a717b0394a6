"""nfqlb.toml(5), from the reference of the configuration.

Knows how tables and keys are laid out on a page. What they mean is for `nfqlb.config.reference.reference`.
"""

from collections.abc import Mapping
from typing import Any

from nfqlb.config.problems import listed
from nfqlb.config.reference import toml
from nfqlb.config.reference.reference import Key, Section, sections
from nfqlb.config.schema.types import written_size
from nfqlb.manual import MANUAL, Page, date, source
from nfqlb.manual.commands import listing
from nfqlb.manual.roff import Roff, bold, italic

PATH = "/etc/nfqlb/nfqlb.toml"

DESCRIPTION = (
    "The configuration of the gateway is a file in TOML. Tables in single brackets stand once, and may be left out; "
    "tables in double brackets stand as often as needed. A key or a table that is not known is a mistake.",
    "'nfqlb check' reports all mistakes at once. 'nfqlb reload' puts a changed file in force, and 'nfqlb plan' says "
    "before what that would do. 'nfqlb config example' prints a file with every key, 'nfqlb config show' one with the "
    "defaults filled in, and 'nfqlb config schema' a JSON Schema, with which editors explain and complete the keys.",
)

MINIMAL = """\
[[listener]]
name = "main"
external = "203.0.113.5:5060"
internal = "192.168.1.5:5060"

[[pool]]
name = "registrars"

[[pool.backend]]
name = "reg1"
address = "192.168.1.11:5060"

[[pool.backend]]
name = "reg2"
address = "192.168.1.12:5060"

[[route]]
pool = "registrars"
"""
"""All that has to be there."""


def page() -> Page:
    made = Roff("nfqlb.toml", 5, date=date(), source=source(), manual=MANUAL)
    made.heading("NAME")
    made.prose("nfqlb.toml - configuration of the SIP load balancer nfqlb")
    made.heading("SYNOPSIS")
    made.pieces([italic(PATH)])
    made.heading("DESCRIPTION")
    for paragraph in DESCRIPTION:
        made.prose(paragraph)
    made.heading("TABLES")
    for section in sections():
        _table(made, section)
    made.heading("EXAMPLES")
    made.prose("The least that has to be there:")
    made.verbatim(MINIMAL.rstrip().splitlines())
    made.heading("FILES")
    made.tagged(italic(PATH), "The configuration, where no other is named with --config.")
    made.heading("SEE ALSO")
    made.pieces(listing(("nfqlb(1)", "nfqlb-check(1)", "nfqlb-config(1)", "nfqlb-plan(1)", "nfqlb-reload(1)")))
    return Page("nfqlb.toml", 5, made.text())


def _table(made: Roff, section: Section) -> None:
    made.subheading(section.header)
    if section.explained_as != section.place:
        one = f"one {section.place.partition('.')[0]} only"
        made.prose(f"The keys of [{section.explained_as}], for {one}; what is not here is as it is there.")
        return
    made.prose(section.text)
    for key in section.keys:
        told = [key.text]
        if key.required:
            told.append("Required.")
        elif key.default is not None and key.default != []:
            told.append(f"Default: {toml.value(key.default)}.")
        made.tagged(f"{bold(key.name)} ({_kind(key)})", " ".join(told))


def _kind(key: Key) -> str:
    """`whole number from 1 to 100`, `list of networks`; troff already, but nothing in it needs to be."""
    return _kind_of(key.schema)


def _kind_of(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return listed(schema["enum"]).replace('"', "\\(dq").replace("-", "\\-")
    kind = str(schema.get("title", ""))
    if schema.get("type") == "array" and not kind:
        items = _kind_of(schema["items"])
        return f"list of {items}{'es' if items.endswith('s') else 's'}"
    kind = kind or {"integer": "whole number", "number": "number", "boolean": "true or false"}[schema["type"]]
    bounds = [schema[each] for each in ("minimum", "maximum") if each in schema]
    if len(bounds) == 2:
        low, high = (written_size(each) if kind.startswith("size") else toml.value(each) for each in bounds)
        return f"{kind} from {low} to {high}"
    return kind
