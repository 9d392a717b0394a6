"""An input tried, and what broke: by its name, made small, kept in a file."""

import hashlib
import traceback
from collections import Counter
from collections.abc import Hashable
from pathlib import Path
from typing import NamedTuple

from devtools.fuzz.invariants import Violation
from devtools.fuzz.target import Target

KEPT = 3
"""Inputs kept of what breaks in the same way in one run."""
TRIES = 400
"""Executions that making a finding small may take."""


class Finding(NamedTuple):
    invariant: str
    detail: str
    where: str
    """What tells it from other findings: for an exception, its type and place."""
    text: str
    """All there is to say: the traceback of an exception."""


def attempt(target: Target, data: bytes) -> tuple[Hashable, Finding | None]:
    """The kind of outcome, and what broke, if anything did."""
    try:
        return target.run(data), None
    except Violation as violation:
        return None, Finding(violation.invariant, violation.detail, "", str(violation))
    except Exception as error:
        # Whatever the code under test lets out is what we look for.
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}"
        return None, Finding("no-exception", f"{where}: {error}", where, traceback.format_exc())


def shrink(target: Target, data: bytes, found: Finding) -> bytes:
    """A smaller input that breaks in the same way."""
    left = TRIES
    size = max(1, len(data) // 2)
    while size and left > 0:
        at = 0
        while at < len(data) and left > 0:
            left -= 1
            smaller = data[:at] + data[at + size :]
            again = attempt(target, smaller)[1]
            if again is not None and (again.invariant, again.where) == (found.invariant, found.where):
                data = smaller
            else:
                at += size
        size //= 2
    return data


class Keeper:
    """Keeps the findings of one run as files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._seen: Counter[tuple[str, str]] = Counter()

    def keep(self, target: Target, data: bytes, found: Finding) -> Path | None:
        """The file, None when there are enough of its like."""
        kind = (found.invariant, found.where)
        self._seen[kind] += 1
        if self._seen[kind] > KEPT:
            return None
        return store(self.folder, found.invariant, shrink(target, data, found))


def store(folder: Path, invariant: str, data: bytes) -> Path:
    """The file of an input that broke `invariant`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{invariant}-{hashlib.sha1(data, usedforsecurity=False).hexdigest()[:12]}"
    path.write_bytes(data)
    return path
