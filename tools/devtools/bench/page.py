"""Writes measured figures into the documentation: tables between `<!-- bench:NAME -->` and `<!-- /bench -->`.

The figures are those of docs/benchmark.json (`tools/bench live -o docs/benchmark`) and docs/scaling.json (`tools/bench
scaling -o docs/scaling.json`), so a table cannot say what was not measured. The arithmetic of capacity is here, too.
"""

import json
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devtools.bench.live import JUNK, PARTS
from nfqlb.lab import LabError

PAGES = ("README.md", "docs/benchmarks.md", "docs/capacity.md")
LIVE, SCALING = "docs/benchmark.json", "docs/scaling.json"

UTILISATION = 0.5
"""Part of a core that is planned with; the rest is for bursts, and for what a failed node leaves to this one."""

CALL_MESSAGES = 7
"""INVITE, 100, 180, 200, ACK, BYE, 200."""

Figures = Mapping[str, Any]


@dataclass(frozen=True)
class Profile:
    """What one subscriber does."""

    name: str
    expires: float
    """Seconds from one registration to the next."""
    per_registration: int
    """Messages of it: REGISTER, 401, REGISTER, 200."""
    calls: float
    """Calls that it makes in the busy hour."""
    keepalive: float = 0.0
    """Seconds between two OPTIONS from the backends, each with its 200; 0 for none."""

    def messages(self) -> float:
        """A second, in the busy hour: each call passes twice, once from the caller and once to the callee."""
        kept = 2 / self.keepalive if self.keepalive else 0.0
        return self.per_registration / self.expires + self.calls * 2 * CALL_MESSAGES / 3600 + kept


PROFILES = (
    Profile("desk phones: registered every 30 min, 4 calls an hour", 1800, 4, 4),
    Profile("homes behind NAT: registered every 5 min, 1 call an hour", 300, 4, 1),
    Profile("the same, and each asked by OPTIONS every 30 s", 300, 4, 1, 30),
)


def write(root: Path) -> list[Path]:
    """Fill in all tables; the pages that changed. LabError when figures or markers are missing."""
    figures = {name: _read(root / name) for name in (LIVE, SCALING)}
    changed = []
    for name in PAGES:
        path = root / name
        text = path.read_text()
        fresh = filled(text, figures[LIVE], figures[SCALING])
        if fresh != text:
            path.write_text(fresh)
            changed.append(path)
    return changed


def _read(path: Path) -> Figures:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        raise LabError(f"{path} is missing: 'tools/bench live -o docs/benchmark', or 'tools/bench scaling'.") from None
    return found


def filled(text: str, live: Figures, scaling: Figures) -> str:
    """The text with each table made anew."""

    def fill(match: re.Match[str]) -> str:
        maker = TABLES.get(match[1])
        if maker is None:
            raise LabError(f"There is no table {match[1]!r}.")
        return f"<!-- bench:{match[1]} -->\n{maker(live, scaling)}<!-- /bench -->"

    return re.sub(r"<!-- bench:([\w-]+) -->\n.*?<!-- /bench -->", fill, text, flags=re.DOTALL)


def _table(titles: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [titles, ("---", *("--:" for _ in titles[1:])), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _median(result: Figures, part: float, name: str) -> float:
    values: list[float] = [point[name] for point in result["points"] if point["part"] == part]
    return statistics.median(values)


def _ratio(values: list[float] | None, form: str = ".2f") -> str:
    return "" if values is None else f"{values[0]:{form}} ({values[1]:{form}}–{values[2]:{form}})"


def where(live: Figures, _scaling: Figures) -> str:
    on, options = live["machine"], live["options"]
    return (
        f"`tools/bench live` on {live['date']}: {on['processor']}, Linux {on['kernel']}, Python {on['python']}, nfqlb\n"
        f"{on['nfqlb']} ({on['path']}); one core for the system, one for the load; {options['rounds']} rounds; median\n"
        "(least–most of the rounds).\n"
    )


def throughput(live: Figures, _scaling: Figures) -> str:
    rows = []
    for result in live["results"]:
        if result["mix"] != JUNK:
            part = PARTS[-1]
            rate = [statistics.median(result["capacity"]), min(result["capacity"]), max(result["capacity"])]
            cores = [_median(result, part, name) for name in ("core", "processes", "user", "system", "softirq")]
            rows.append(
                (
                    f"{result['mix']}: {result['system']}",
                    _ratio(rate, ",.0f"),
                    *(f"{value:.1f}" for value in cores),
                    f"{result['memory'] / 2**20:.0f}",
                )
            )
    return _table(("", "msg/s", "core µs/msg", "processes", "user ≈", "system ≈", "softirq ≈", "MB"), rows)


def latency(live: Figures, _scaling: Figures) -> str:
    rows = [
        (
            f"{result['mix']}: {result['system']}",
            *(
                " / ".join(f"{_median(result, part, name):,.0f}" for name in ("p50", "p99", "p999"))
                for part in PARTS
            ),
        )
        for result in live["results"]
        if result["mix"] != JUNK
    ]  # fmt: skip
    return _table(("µs, p50 / p99 / p99.9", *(f"at {part:.0%}" for part in PARTS)), rows)


def ratios(live: Figures, _scaling: Figures) -> str:
    rows = [
        (f"{mix}: to {other}", *(_ratio(each.get(what)) for what in ("throughput", "core", "p50", "p99")))
        for mix, others in live["ratios"].items()
        if mix != JUNK
        for other, each in others.items()
    ]
    text = _table(("nfqlb", "throughput", "core µs/msg", "p50 at half load", "p99 at half load"), rows)
    if live["junk_part"] is not None and live["idle_junk_part"] is not None:
        part, least, most = live["junk_part"]
        text += (
            f"\nNon-SIP bytes cost {part:.0%} ({least:.0%}–{most:.0%}) of a forwarded REGISTER when the core "
            f"has no time\nleft, and {live['idle_junk_part']:.0%} when it sleeps between two messages.\n"
        )
    return text


def growth(_live: Figures, scaling: Figures) -> str:
    rows = [
        (f"{cost['series']} {cost['value']:,}", f"{cost['workers']:.1f}", f"{cost['memory'] / 2**20:.0f}")
        for cost in scaling["costs"]
    ]
    return (
        f"`tools/bench scaling` on {scaling['date']}; otherwise 10 backends, 10,000 sources, 520 bytes, 1 worker.\n\n"
        + _table(("", "µs/msg", "MB"), rows)
    )


def _capacity(live: Figures, mix: str) -> float:
    """Messages a second of one core."""
    found = [each for each in live["results"] if (each["system"], each["mix"]) == ("nfqlb", mix)]
    if not found:
        raise LabError(f"{LIVE} has no figures of the mix {mix!r}.")
    capacity: list[float] = found[0]["capacity"]
    return statistics.median(capacity)


def capacity(live: Figures, _scaling: Figures) -> str:
    """Subscribers and calls of one core. The slower of the two mixes counts."""
    rate = min(_capacity(live, mix) for mix in ("register", "call"))
    planned = UTILISATION * rate
    rows = []
    for profile in PROFILES:
        each = profile.messages()
        subscribers = planned / each
        rows.append(
            (
                profile.name,
                f"{each:.4f}",
                f"{round(subscribers, -3):,.0f}",
                f"{subscribers * profile.calls / 3600:,.0f}",
                f"{-(-1e6 // subscribers):,.0f}",
            )
        )
    calls = _capacity(live, "call") * UTILISATION / CALL_MESSAGES
    return (
        f"One core passes {rate:,.0f} messages a second; planned with {UTILISATION:.0%} of that, {planned:,.0f}:\n\n"
        + _table(("", "msg/s each", "subscribers a core", "calls/s they make", "cores for 1,000,000"), rows)
        + f"\nCalls alone, without registrations: {calls:,.0f} a second and core if a call passes once, half of that\n"
        "if caller and callee are both outside.\n"
    )


TABLES: dict[str, Callable[[Figures, Figures], str]] = {
    "where": where,
    "throughput": throughput,
    "latency": latency,
    "ratios": ratios,
    "growth": growth,
    "capacity": capacity,
}
