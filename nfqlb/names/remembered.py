"""The last good answers, in `<state_dir>/names.json`: a gateway that starts while DNS is dead goes on with them.

Knows the file. What is in it is of use only where nothing better is to be had, so a file that cannot be read is none.
It says for which IP versions DNS was asked: addresses of another one are not missing in DNS, nobody asked for them.
"""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from nfqlb.files import replace_file
from nfqlb.names.target import Answers, Known, Target, as_plain, from_plain

FILE_NAME = "names.json"


def read(state_dir: Path) -> dict[Target, Known]:
    """What was good when it was written."""
    try:
        return dict(map(from_plain, _content(state_dir)["names"]))
    except (ValueError, KeyError, TypeError):
        return {}


def versions(state_dir: Path) -> frozenset[int]:
    """The IP versions whose addresses were asked for; both where the file does not say."""
    try:
        return frozenset(map(int, _content(state_dir).get("versions", (4, 6))))
    except (ValueError, TypeError, AttributeError):
        return frozenset()


def _content(state_dir: Path) -> Any:
    try:
        return json.loads((state_dir / FILE_NAME).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}


def write(state_dir: Path, answers: Answers, versions: Collection[int]) -> None:
    """All of it at once or nothing. `versions`: the IP versions whose addresses were asked for. Raises OSError."""
    rows = [as_plain(target, Known(known.addresses)) for target, known in sorted(answers.items()) if known.addresses]
    state_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
    replace_file(state_dir / FILE_NAME, json.dumps({"versions": sorted(versions), "names": rows}, indent=1) + "\n")
