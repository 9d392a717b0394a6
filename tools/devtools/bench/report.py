"""What is made of the runs of `live`: figures, ratios with their spread, a table, a picture.

Knows results; does not measure. A ratio is formed within each round, between runs that followed one another, and its
spread is that of the rounds.
"""

import json
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

import nfqlb
from devtools.bench.live import JUNK, PARTS, WITH_JUNK, Point, Result
from nfqlb import fast

CPU_PART = PARTS[-1]
"""Where the processor's time for a message is taken from: the highest load, at which there are fewest wake-ups."""

OURS = "nfqlb"
REGISTER = "register"

Ratio = tuple[float, float, float]
"""Median, least and most over the rounds."""


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = next(
        (
            row.partition(":")[2].strip()
            for row in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in row
        ),
        platform.machine(),
    )
    return {
        "nfqlb": nfqlb.__version__,
        "path": fast.which(),
        "python": platform.python_version(),
        "compiler": platform.python_compiler(),
        "kernel": platform.release(),
        "processor": model,
    }


def ratios(results: Sequence[Result], mix: str) -> dict[str, dict[str, Ratio]]:
    """Of ours to each other system: throughput, core, processes, p50 and p99 at half load."""
    of = {result.system: result for result in results if result.mix == mix}
    ours = of.pop(OURS, None)
    if ours is None:
        return {}
    found: dict[str, dict[str, Ratio]] = {}
    part = 0.0 if mix == JUNK else CPU_PART
    for name, other in of.items():
        pairs: dict[str, list[tuple[float, float]]] = {
            "throughput": list(zip(ours.capacity, other.capacity, strict=True)),
            "core": [(a.core, b.core) for a, b in zip(ours.at(part), other.at(part), strict=True)],
            "processes": [(a.processes, b.processes) for a, b in zip(ours.at(part), other.at(part), strict=True)],
            "p50": [(a.p50, b.p50) for a, b in zip(ours.at(0.5), other.at(0.5), strict=True)],
            "p99": [(a.p99, b.p99) for a, b in zip(ours.at(0.5), other.at(0.5), strict=True)],
        }
        found[name] = {
            what: _spread([mine / theirs for mine, theirs in each])
            for what, each in pairs.items()
            if each and all(theirs for _, theirs in each)
        }
    return found


def junk_part(results: Sequence[Result], system: str = OURS) -> Ratio | None:
    """What junk costs a core that has no time left, as a part of a forwarded REGISTER; None when it was not measured.

    Of a mix of both in equal parts, two messages take the time of a REGISTER and of one piece of junk.
    """
    of = {result.mix: result.capacity for result in results if result.system == system}
    if not of.get(REGISTER) or not of.get(WITH_JUNK):
        return None
    return _spread([2 * alone / mixed - 1 for alone, mixed in zip(of[REGISTER], of[WITH_JUNK], strict=True)])


def idle_junk_part(results: Sequence[Result]) -> float | None:
    """The same by our core's time, at a rate at which it sleeps between two messages: most of either's time is then the
    waking of the core."""
    of = {result.mix: result for result in results if result.system == OURS}
    if REGISTER not in of or JUNK not in of:
        return None
    return _median(of[JUNK].at(0.0), "core") / _median(of[REGISTER].at(CPU_PART), "core")


def as_dict(results: Sequence[Result], options: object, date: str) -> dict[str, Any]:
    """All of it, for JSON."""
    return {
        "date": date,
        "machine": machine(),
        "options": options,
        "results": [asdict(result) for result in results],
        "ratios": {mix: ratios(results, mix) for mix in dict.fromkeys(result.mix for result in results)},
        "junk_part": junk_part(results),
        "idle_junk_part": idle_junk_part(results),
    }


TITLES = (
    "MIX", "SYSTEM", "MSG/S", "RANGE", "CORE µs", "USER", "SYS", "SOFTIRQ", "p50 µs 25/50/80 %", "p99", "p99.9", "MB",
)  # fmt: skip


def rows(results: Sequence[Result]) -> list[tuple[str, ...]]:
    """For a table with TITLES."""
    found = []
    for result in results:
        part = 0.0 if result.mix == JUNK else CPU_PART
        points = result.at(part)
        times = (f"{_median(points, name):.1f}" for name in ("core", "user", "system", "softirq"))
        latency = (
            "/".join(f"{_median(result.at(each), name):,.0f}" for each in PARTS) if result.mix != JUNK else ""
            for name in ("p50", "p99", "p999")
        )
        rate, least, most = _spread(result.capacity) if result.capacity else (0.0, 0.0, 0.0)
        found.append(
            (
                result.mix,
                result.system,
                f"{rate:,.0f}" if rate else "",
                f"{least:,.0f}–{most:,.0f}" if rate else "",
                *times,
                *latency,
                f"{result.memory / 2**20:.0f}",
            )
        )
    return found


RATIO_TITLES = ("MIX", "NFQLB TO", "THROUGHPUT", "CORE", "PROCESSES", "p50 AT HALF LOAD", "p99")


def ratio_rows(results: Sequence[Result]) -> list[tuple[str, ...]]:
    """For a table with RATIO_TITLES."""
    return [
        (mix, other, *(_shown(each.get(what)) for what in ("throughput", "core", "processes", "p50", "p99")))
        for mix in dict.fromkeys(result.mix for result in results)
        for other, each in ratios(results, mix).items()
    ]


def _shown(ratio: Ratio | None) -> str:
    return "" if ratio is None else f"{ratio[0]:.2f} ({ratio[1]:.2f}–{ratio[2]:.2f})"


def _spread(values: Sequence[float]) -> Ratio:
    return round(statistics.median(values), 4), round(min(values), 4), round(max(values), 4)


def _median(points: Sequence[Point], name: str) -> float:
    values: list[float] = [getattr(point, name) for point in points]
    return statistics.median(values)


# The picture

WIDTH, BAR, GAP, LEFT, RIGHT = 760, 18, 14, 150, 120
COLOURS = {"nfqlb": "#1a7f5a", "kamailio": "#8a8f98", "kamailio-tlsf": "#b4b9c0", "floor": "#d8c48a"}


def svg(results: Sequence[Result], caption: str) -> str:
    """Bars of throughput and of the core's time for a message, with the range of the rounds."""
    parts: list[str] = []
    y = 30
    panels: tuple[tuple[str, str, Any], ...] = (
        (
            "Messages a second without loss, on one core",
            "{:,.0f}",
            lambda r: _spread(r.capacity) if r.capacity else None,
        ),
        (
            "Microseconds of the core for a message, at the same rate",
            "{:.1f}",
            lambda r: _spread([p.core for p in r.at(CPU_PART)]) if r.at(CPU_PART) else None,
        ),
    )
    for title, form, value in panels:
        shown = [(result, figure) for result in results if (figure := value(result))]
        if not shown:
            continue
        parts.append(f'<text x="{LEFT}" y="{y}" class="t">{escape(title)}</text>')
        y += 14
        scale = (WIDTH - LEFT - RIGHT) / max(figure[2] for _, figure in shown)
        mix = ""
        for result, (middle, least, most) in shown:
            if result.mix != mix:
                mix = result.mix
                y += GAP if mix != shown[0][0].mix else 0
                parts.append(f'<text x="8" y="{y + 14}" class="m">{escape(mix)}</text>')
            colour = COLOURS.get(result.system, "#556")
            centre = y + BAR / 2
            parts += [
                f'<text x="{LEFT - 6}" y="{y + 13}" text-anchor="end">{escape(result.system)}</text>',
                f'<rect x="{LEFT}" y="{y}" width="{middle * scale:.1f}" height="{BAR - 4}" fill="{colour}"/>',
                f'<path d="M{LEFT + least * scale:.1f} {centre - 2}H{LEFT + most * scale:.1f}" stroke="#222"/>',
                f'<text x="{LEFT + most * scale + 6:.1f}" y="{y + 12}">{form.format(middle)}</text>',
            ]
            y += BAR
        y += 40
    parts.append(f'<text x="8" y="{y - 12}" class="c">{escape(caption)}</text>')
    style = "text{font:12px sans-serif;fill:#222}.t{font-weight:bold}.m{font-weight:bold}.c{font-size:10px;fill:#555}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" viewBox="0 0 {WIDTH} {y}">'
        f'<style>{style}</style><rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def caption(date: str) -> str:
    on = machine()
    return (
        f"{date}, {on['processor']}, Linux {on['kernel']}, Python {on['python']}; the line is the range of the rounds"
    )


def write(results: Sequence[Result], options: object, date: str, stem: Path) -> list[Path]:
    """`stem`.json and `stem`.svg."""
    written = stem.with_suffix(".json"), stem.with_suffix(".svg")
    written[0].write_text(json.dumps(as_dict(results, options, date), indent=1, ensure_ascii=False) + "\n")
    written[1].write_text(svg(results, caption(date)))
    return list(written)
