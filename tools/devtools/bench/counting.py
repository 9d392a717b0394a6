"""Instructions of the engine for a datagram of each kind, counted by valgrind's callgrind.

Instructions are the same on a busy machine and on a quiet one, so a change of a few percent is seen at once. They are
not time: a cache miss costs nothing here. The kernel's instructions are not counted, and the engine has none.

Run as `python -m devtools.bench.counting FILE` this is the program that valgrind watches: it processes what `cases`
has made before, and calls getppid(), which nothing else here does, before and after each kind; at each of these calls
callgrind writes down what it has counted since the one before.
"""

import gc
import os
import pickle
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from devtools.bench.cases import Case, cases
from devtools.bench.player import engine, setup
from nfqlb import fast
from nfqlb.lab import LabError, namespaces

ROUNDS = 1
"""40 packets of each kind."""

TIME_LIMIT = 300.0


def count() -> dict[str, int]:
    """Instructions for one datagram, by kind. LabError when valgrind lacks or fails."""
    with tempfile.TemporaryDirectory(prefix="nfqlb-bench-") as place:
        dumps, prepared = Path(place, "dump"), Path(place, "cases")
        found = cases(ROUNDS)
        prepared.write_bytes(pickle.dumps(found))  # made here: under valgrind all takes fifty times as long
        try:
            subprocess.run(
                [
                    "valgrind", "--tool=callgrind", "--dump-before=getppid", "--combine-dumps=no",
                    f"--callgrind-out-file={dumps}", sys.executable, "-m", __name__,
                    str(prepared),
                ],
                capture_output=True,
                check=True,
                timeout=TIME_LIMIT,
                cwd=Path(__file__).parents[3],
                # The hash seed decides the order in sets, and with it how often a look-up has to look again.
                env={"PATH": namespaces.search_path(), "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
                | {name: value for name, value in os.environ.items() if name in (fast.PURE, "PYTHONPATH")},
            )  # fmt: skip
        except FileNotFoundError:
            raise LabError("Instructions are counted by valgrind: apt-get install valgrind.") from None
        except subprocess.CalledProcessError as error:
            raise LabError(
                f"valgrind failed: {' '.join(str(error.stderr, 'utf-8', 'replace')[-800:].split())}"
            ) from None
        counts = [total for number in range(1, 10_000) if (total := _total(Path(f"{dumps}.{number}"))) is not None]
    # Dumps alternate: what lies before a kind, the kind, what lies between it and the next …
    if len(counts) < 2 * len(found):
        raise LabError("callgrind wrote fewer counts than there are kinds; does it know getppid()?")
    return {case.kind: round(total / len(case.packets)) for case, total in zip(found, counts[1::2], strict=False)}


def _total(dump: Path) -> int | None:
    if not dump.exists():
        return None
    found = re.search(r"^(?:totals|summary): (\d+)", dump.read_text(), re.MULTILINE)
    return int(found[1]) if found else None


def main(prepared: Path) -> None:
    found: list[Case] = pickle.loads(prepared.read_bytes())
    engines = {version: engine(setup(version=version)).process for version in (4, 6)}
    for case in found:
        for packet in case.warm:
            engines[case.version](packet)
    for case in found:
        process, packets = engines[case.version], case.packets
        gc.collect()
        os.getppid()
        for packet in packets:
            process(packet)
        os.getppid()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
