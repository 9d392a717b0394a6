"""The last good answers, in `<state_dir>/names.json`: a gateway that starts while DNS is dead goes on with them.

Knows the file. What is in it is of use only where nothing better is to be had, so a file that cannot be read is none.
"""

import json
import os
from contextlib import suppress
from pathlib import Path

from nfqlb.names.target import Answers, Known, Target, as_plain, from_plain

FILE_NAME = "names.json"


def read(state_dir: Path) -> dict[Target, Known]:
    """What was good when it was written."""
    try:
        rows = json.loads((state_dir / FILE_NAME).read_bytes())["names"]
        return dict(map(from_plain, rows))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def write(state_dir: Path, answers: Answers) -> None:
    """All of it at once or nothing. Raises OSError."""
    rows = [as_plain(target, Known(known.addresses)) for target, known in sorted(answers.items()) if known.addresses]
    fresh = state_dir / f"{FILE_NAME}.{os.getpid()}"
    try:
        state_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
        fresh.write_text(json.dumps({"names": rows}, indent=1) + "\n")
        fresh.rename(state_dir / FILE_NAME)
    except OSError:
        with suppress(OSError):
            fresh.unlink()
        raise
