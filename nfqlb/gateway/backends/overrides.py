"""What an operator has said of backends: drain this one, disable that one, for ten minutes or until told otherwise.

Kept in `<state_dir>/backends.json`, so that it outlives the gateway and the host. Knows the file and when a word has
run out; who it concerns may be in the configuration or not. Times are seconds since 1970.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from nfqlb.balance.states import Place, State
from nfqlb.errors import StateError
from nfqlb.files import replace_file

FILE_NAME = "backends.json"

WORDS = {"drain": State.DRAINING, "disable": State.DISABLED}
"""What may be said, and the state that it means."""


@dataclass(frozen=True, slots=True)
class Override:
    state: State
    """DRAINING or DISABLED."""
    since: float
    until: float | None = None
    """None: until somebody says otherwise."""

    def holds(self, now: float) -> bool:
        return self.until is None or now < self.until


class OverridesError(StateError):
    """The file cannot be read or written; the text says why and what follows."""


Overrides = dict[Place, Override]


def read(state_dir: Path) -> Overrides:
    """What the file says; nothing where there is none. Raises OverridesError."""
    path = state_dir / FILE_NAME
    try:
        rows = json.loads(path.read_bytes())
        return {
            (str(row["pool"]), str(row["backend"])): Override(
                WORDS[row["order"]], float(row["since"]), None if row["until"] is None else float(row["until"])
            )
            for row in rows["orders"]
        }
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise OverridesError(
            f"{path} cannot be read ({error.strerror}): backends that were drained or disabled take requests again."
        ) from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise OverridesError(
            f"{path} is not what this program writes: backends that were drained or disabled take requests again. "
            "Remove it, and drain or disable again with 'nfqlb backends'."
        ) from None


def write(state_dir: Path, overrides: Overrides) -> None:
    """All of it at once or nothing. Raises OverridesError."""
    path = state_dir / FILE_NAME
    word = {state: word for word, state in WORDS.items()}
    rows = [
        {"pool": pool, "backend": name, "order": word[each.state], "since": each.since, "until": each.until}
        for (pool, name), each in sorted(overrides.items())
    ]
    try:
        state_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
        replace_file(path, json.dumps({"orders": rows}, indent=1) + "\n")
    except OSError as error:
        raise OverridesError(f"{path} cannot be written ({error.strerror}): a restart will forget it.") from None
