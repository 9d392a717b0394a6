"""Microseconds of the engine for a datagram of each kind, by pyperf: several processes, many values each.

Run as `python -m devtools.bench.timing FILE` this is the program that pyperf runs again and again: it processes what
`cases` has made before. The same 200 packets of a kind come round and round.
"""

import argparse
import pickle
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from devtools.bench.cases import Case, cases
from devtools.bench.player import engine, setup
from nfqlb import fast
from nfqlb.lab import LabError

MODULE = "devtools.bench.timing"


@dataclass(frozen=True)
class Timing:
    kind: str
    size: int
    """Bytes of the UDP payload."""
    best: float
    """Microseconds for one datagram: the best value, which is nearest to a quiet machine's."""
    median: float
    deviation: float
    """Median absolute deviation of the values."""


def measure(kinds: tuple[str, ...] = (), *, processes: int = 3, values: int = 5, quick: bool = False) -> list[Timing]:
    """Time each of `kinds`, or all. LabError when pyperf lacks or fails."""
    try:
        import pyperf
    except ImportError:
        raise LabError("The engine is timed by pyperf: pip install 'nfqlb[bench]'.") from None
    found = [case for case in cases(1 if quick else 5) if not kinds or case.kind in kinds]
    with tempfile.TemporaryDirectory(prefix="nfqlb-bench-") as place:
        prepared, output = Path(place, "cases"), Path(place, "timing.json")
        prepared.write_bytes(pickle.dumps(found))
        options = ["--processes", "1", "--values", "3", "--min-time", "0.01"] if quick else []
        if not quick:
            options = ["--processes", str(processes), "--values", str(values), "--min-time", "0.05"]
        argv = [sys.executable, "-m", MODULE, *options, "--warmups", "1", "--quiet", "--output", str(output)]
        argv += ["--inherit-environ", fast.PURE]
        done = subprocess.run([*argv, str(prepared)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise LabError(f"pyperf failed: {' '.join(done.stderr[-800:].split())}")
        suite = pyperf.BenchmarkSuite.load(str(output))
        sizes = {case.kind: case.size for case in found}
        return [
            Timing(
                bench.get_name(),
                sizes[bench.get_name()],
                *(round(value * 1e6, 2) for value in (min(bench.get_values()), bench.median(), bench.median_abs_dev())),
            )
            for bench in suite.get_benchmarks()
        ]


def main() -> None:
    import pyperf

    def pass_on(command: list[str], options: argparse.Namespace) -> None:
        command.append(options.prepared)

    runner = pyperf.Runner(program_args=("-m", MODULE), add_cmdline_args=pass_on)
    runner.argparser.add_argument("prepared")
    runner.parse_args()
    found: list[Case] = pickle.loads(Path(runner.args.prepared).read_bytes())
    engines = {version: engine(setup(version=version)).process for version in (4, 6)}
    for case in found:
        runner.bench_time_func(case.kind, _timed, engines[case.version], case, inner_loops=len(case.packets))


def _timed(loops: int, process: object, case: Case) -> float:
    assert callable(process)
    for packet in case.warm:
        process(packet)
    begun = time.perf_counter()
    for _ in range(loops):
        for packet in case.packets:
            process(packet)
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
