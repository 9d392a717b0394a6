"""The ratchet: instruction counts that are kept in `ratchet.json`, and must not grow.

Counts depend on the build of Python, so each build has its own; on a build without counts nothing can be said.
"""

import json
import platform
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nfqlb import fast

FILE = Path(__file__).with_name("ratchet.json")
TOLERANCE = 0.05
"""Part by which a count may exceed the one that is kept."""

RENEW = "tools/bench ratchet --renew"


def build() -> str:
    """What counts are comparable: version, compiler and processor of this Python, and which engine it runs."""
    optimised = "pgo" if "--enable-optimizations" in str(sysconfig.get_config_var("CONFIG_ARGS")) else "plain"
    return " ".join(
        (
            platform.python_implementation(),
            platform.python_version(),
            platform.python_compiler(),
            optimised,
            platform.machine(),
            *_engine(),
        )
    )


def _engine() -> tuple[str, ...]:
    which = fast.which().partition(" ")[0]
    if which != "compiled":
        return (which,)
    from nfqlb.fast.path import VECTORS

    # Valgrind knows no others, so they are not used there.
    return (which, "avx2") if "avx2" in VECTORS else (which,)


@dataclass(frozen=True)
class Change:
    kind: str
    kept: int | None
    """None of a kind that is new."""
    now: int | None
    """None of a kind that is no more."""

    @property
    def part(self) -> float:
        """How much it grew: 0.1 is ten percent."""
        return self.now / self.kept - 1 if self.kept and self.now else 0.0

    @property
    def broken(self) -> bool:
        return self.kept is not None and self.now is not None and self.now > self.kept * (1 + TOLERANCE)

    @property
    def stale(self) -> bool:
        """The file should be renewed: there is less to do now, or other things."""
        return self.kept is None or self.now is None or self.part < -TOLERANCE


def kept(file: Path = FILE) -> dict[str, dict[str, int]]:
    """Build → kind → instructions."""
    if not file.exists():
        return {}
    found: dict[str, dict[str, int]] = json.loads(file.read_text())
    return found


def compare(before: Mapping[str, int], now: Mapping[str, int]) -> list[Change]:
    """One Change for each kind, in the order of `now`."""
    return [Change(kind, before.get(kind), now.get(kind)) for kind in [*now, *(k for k in before if k not in now)]]


def renew(now: Mapping[str, int], file: Path = FILE, of: str = "") -> None:
    """Keep these counts for `of`, or this build."""
    everything = kept(file) | {of or build(): dict(now)}
    file.write_text(json.dumps(dict(sorted(everything.items())), indent=1) + "\n")
