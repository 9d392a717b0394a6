"""The configuration as JSON Schema, by which editors explain, complete and check it while it is written.

Takes everything from `reference`. Knows where tables stand and which have to be there; what cannot be said in a schema,
such as two backends of one name, is for `nfqlb check`: whatever that takes, the schema takes.
"""

from typing import Any

from nfqlb.config.reference.reference import Key, Section, sections
from nfqlb.config.schema.tables import REPEATED

DIALECT = "http://json-schema.org/draft-07/schema#"
"""The newest that all editors know."""

NEEDED_WITHIN = "pool.backend"
"""The one table that has to be within another."""


def schema() -> dict[str, Any]:
    """The whole, as JSON would write it."""
    tables = {section.place: _table(section) for section in sections()}
    for place, table in tables.items():
        within, _, name = place.rpartition(".")
        if within:
            owner = tables[within].get("items", tables[within])
            owner["properties"][name] = table
            if place == NEEDED_WITHIN:
                owner["required"].append(name)
    return {
        "$schema": DIALECT,
        "title": "nfqlb.toml",
        "description": "The configuration of nfqlb, a SIP load balancer in the packet path of a Linux gateway.",
        "type": "object",
        "additionalProperties": False,
        "required": list(REPEATED),
        "properties": {place: table for place, table in tables.items() if "." not in place},
    }


def _table(section: Section) -> dict[str, Any]:
    table = {
        "description": section.text,
        "type": "object",
        "additionalProperties": False,
        # Of a table that only replaces keys of another, none has to be there.
        "required": [key.name for key in section.keys if key.required],
        "properties": {key.name: _value(key) for key in section.keys},
    }
    if section.repeated:
        at_least = int(section.place in (*REPEATED, NEEDED_WITHIN))
        return {"description": section.text, "type": "array", "minItems": at_least, "items": table}
    return table


def _value(key: Key) -> dict[str, Any]:
    value = {"description": key.text, **key.schema}
    if key.default is not None:
        value["default"] = key.default
    if key.example is not None:
        value["examples"] = [key.example]
    return value
