"""Plain values as TOML text: what `tomllib` reads, written.

Knows TOML's grammar as far as a configuration needs it: text, numbers, true and false, lists of these, and tables.
Does not know what the values mean.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def value(plain: Any) -> str:
    """One value, on one line."""
    if isinstance(plain, str):
        # TOML's basic strings are those of JSON, but that they also escape DEL.
        return json.dumps(plain, ensure_ascii=False).replace("\x7f", "\\u007F")
    if isinstance(plain, bool):
        return "true" if plain else "false"
    if isinstance(plain, float):
        return str(int(plain)) if plain.is_integer() else repr(plain)
    if isinstance(plain, int):
        return str(plain)
    return f"[{', '.join(map(value, plain))}]"


def setting(name: str, plain: Any) -> str:
    """`name = value`"""
    return f"{key(name)} = {value(plain)}"


def key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else value(name)


def document(tables: Mapping[str, Any]) -> str:
    """A whole file: of each table its settings, and then the tables within it."""
    return "\n".join(_table("", tables)).strip() + "\n"


def _table(place: str, table: Mapping[str, Any]) -> Iterator[str]:
    within = {name: each for name, each in table.items() if _is_table(each) or _are_tables(each)}
    yield from (setting(name, each) for name, each in table.items() if name not in within)
    for name, each in within.items():
        below = f"{place}.{key(name)}" if place else key(name)
        for one in [each] if _is_table(each) else each:
            yield ""
            yield f"[{below}]" if _is_table(each) else f"[[{below}]]"
            yield from _table(below, one)


def _is_table(plain: Any) -> bool:
    return isinstance(plain, Mapping)


def _are_tables(plain: Any) -> bool:
    return isinstance(plain, Sequence) and not isinstance(plain, str) and bool(plain) and all(map(_is_table, plain))
