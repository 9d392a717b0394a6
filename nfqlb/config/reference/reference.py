"""The reference of the configuration: every table and key there is, with its text, its default and its bounds.

Takes all of it from `tables`: texts from the docstrings of the tables and below their fields, the rest from the types.
What it gives is one thing with three looks: the example, the JSON Schema, nfqlb.toml(5). Knows none of these.
"""

import ast
import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from nfqlb.config.schema.base import Table
from nfqlb.config.schema.tables import REPEATED, SINGLE, WITHIN

FIRST = "gateway"
"""The table that a file begins with; then come those that are repeated, then the others."""


class Key(NamedTuple):
    """A key of a table."""

    name: str
    text: str
    """One sentence or two that stand alone."""
    schema: Mapping[str, Any]
    """JSON Schema of its value, without text and default."""
    required: bool
    default: Any
    """As plain values, as the file would write it; None where it has none, or none that TOML could write."""
    example: Any
    """Likewise, where the default would show nothing; else None."""


class Section(NamedTuple):
    """A table of the file."""

    place: str
    """`pool`, `pool.backend`"""
    text: str
    keys: tuple[Key, ...]
    repeated: bool
    explained_as: str
    """Place of the table where these keys are explained: its own, or that of one which has the same."""

    @property
    def header(self) -> str:
        """`[gateway]`, `[[pool.backend]]`"""
        return f"[[{self.place}]]" if self.repeated else f"[{self.place}]"


@cache
def sections() -> tuple[Section, ...]:
    """All tables, in the order of the file; those within another one follow it."""
    found = []
    for place in (FIRST, *REPEATED, *(place for place in SINGLE if place != FIRST)):
        found.append(_section(place, (REPEATED | SINGLE)[place], place in REPEATED))
        for within, model in WITHIN.items():
            if within.partition(".")[0] == place:
                found.append(_section(within, model, within != "pool.health"))
    return tuple(found)


def _section(place: str, model: type[Table], repeated: bool) -> Section:
    properties = model.model_json_schema(schema_generator=_Plain)["properties"]
    # Whatever has a default, and nothing else: so none of the others is missing.
    defaults = model.model_construct().model_dump(mode="json")
    texts = _texts(model)
    keys = []
    for name, schema in properties.items():
        examples = schema.pop("examples", (None,))
        for limit in model.model_fields[name].metadata:
            # Where a kind says itself what it looks like, pydantic leaves its bounds out.
            for bound, says in (("minimum", "ge"), ("maximum", "le")):
                if hasattr(limit, says):
                    schema[bound] = getattr(limit, says)
        default = defaults.get(name)
        keys.append(Key(name, texts.get(name, ""), schema, name not in defaults, default, examples[0]))
    same = next((other for other, each in SINGLE.items() if each is model), place)
    return Section(place, _flat(model.__doc__ or ""), tuple(keys), repeated, same)


class _Plain(GenerateJsonSchema):
    """Without null, which TOML does not have, titles that only repeat a name, and defaults: `_section` has them."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002  (pydantic's signature)
        return False


def _texts(model: type[Table]) -> dict[str, str]:
    """Field → the docstring below it.

    pydantic can do this itself, when the class is made: then each command that reads a configuration would pay for it.
    """
    (definition,) = ast.parse(inspect.getsource(model)).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for field, text in zip(definition.body, definition.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
        ):
            found[field.target.id] = _flat(str(text.value.value))
    return found


def _flat(text: str) -> str:
    return " ".join(text.split())
