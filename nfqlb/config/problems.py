"""A mistake as a person reads it, and the error that carries all of them at once.

Knows how places and values are written. Does not know what is a mistake.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nfqlb.errors import NfqlbError

Severity = Literal["error", "warning", "note"]

VALUE_WIDTH = 60
"""Characters of a wrong value that are shown; enough to recognise it, too few to drown the sentence."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong (`error`), looks wrong (`warning`), or may not be what was meant (`note`)."""

    place: str
    """Where: `pool[0].backend[1].address`, `line 3, column 7`, or a part of the host."""
    text: str
    """What is wrong and what is expected, without the place."""
    severity: Severity = "error"
    value: str | None = None
    """The value as the file would write it; None where there is none to show (or where it is secret)."""
    nearest: str | None = None
    """The valid name or value that was probably meant."""

    def __str__(self) -> str:
        value = "" if self.value is None else f" = {self.value}"
        hint = "" if self.nearest is None else f'; did you mean "{self.nearest}"?'
        return f"{self.place}{value}: {self.text}{hint}"

    def as_dict(self) -> dict[str, str | None]:
        """The JSON form."""
        return {
            "place": self.place,
            "severity": self.severity,
            "text": self.text,
            "value": self.value,
            "nearest": self.nearest,
        }


class ConfigError(NfqlbError):
    """The configuration cannot be used; `problems` holds every mistake (and every warning) found in it."""

    def __init__(self, path: Path, problems: Sequence[Problem]) -> None:
        self.path = path
        self.problems = tuple(problems)
        super().__init__(self.path, self.problems)

    def __str__(self) -> str:
        errors = [problem for problem in self.problems if problem.severity == "error"]
        if len(errors) == 1:
            return f"{self.path}: {errors[0]}"
        return "\n".join([f"{self.path} has {len(errors)} mistakes:", *(f"  {error}" for error in errors)])


def shown(value: object) -> str:
    """`value` as TOML writes it, on one line and cut to VALUE_WIDTH."""
    if isinstance(value, dict):
        text = "{…}" if value else "{}"
    elif isinstance(value, list):
        text = f"[{', '.join(shown(each) for each in value)}]"
    elif isinstance(value, str | bool):
        text = json.dumps(value, ensure_ascii=False)
    else:
        text = str(value)
    return text if len(text) <= VALUE_WIDTH else text[: VALUE_WIDTH - 1] + "…"


def listed(names: Iterable[str]) -> str:
    """`"a", "b" or "c"`."""
    quoted = [f'"{name}"' for name in names]
    return " or ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)


def errors_in(problems: Iterable[Problem]) -> bool:
    return any(problem.severity == "error" for problem in problems)
