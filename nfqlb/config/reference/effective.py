"""A configuration as it takes effect: every key that has a value, defaults filled in, in the form of the file.

What is given here, written as TOML, is a configuration that amounts to the same, wherever it lies. Keys that sign are
not in it, only the name of their file.
"""

from pathlib import Path
from typing import Any

from nfqlb.config.build import build, parse
from nfqlb.config.parse import Draft, read_draft
from nfqlb.config.reference.reference import sections
from nfqlb.config.schema.base import Table

FILES = (("gateway", "secret_file"), ("ha", "keepalived_conf"))
"""Keys whose relative names start from the directory of the file."""


def effective(path: Path) -> dict[str, Any]:
    """Table → plain values, in the order of the example. Raises ConfigError."""
    raw = parse(path)
    build(path, raw)  # the mistakes
    draft = read_draft(raw, [])
    tables: dict[str, Any] = {}
    for section in sections():
        if "." in section.place:
            continue
        if section.repeated:
            tables[section.place] = [_values(each) for each in _repeated(draft, section.place).values()]
        elif (table := getattr(draft, section.place)) is not None:
            tables[section.place] = _values(table)
    for pool, place in zip(tables["pool"], draft.pools, strict=True):
        pool["backend"] = [_values(each) for each in draft.backends[place].values()]
        if (health := draft.pool_health.get(place)) is not None:
            pool["health"] = {**tables["health"], **health.model_dump(mode="json", exclude_unset=True)}
    if draft.ha_groups:
        tables["ha"]["group"] = [_values(each) for each in draft.ha_groups.values()]
    for place, key in FILES:
        if place in tables:
            tables[place][key] = str(path.absolute().parent / tables[place][key])
    return tables


def _repeated(draft: Draft, place: str) -> dict[str, Any]:
    found = getattr(draft, f"{place}s")
    assert isinstance(found, dict)
    return found


def _values(table: Table | None) -> dict[str, Any]:
    assert table is not None  # there are no mistakes
    return table.model_dump(mode="json", exclude_none=True)
