"""`tools/fuzz`: its options, its output, its exit status. The work is done by the modules beside it."""

from nfqlb import interrupt

if __name__ == "__main__":
    interrupt.at_once()  # before the modules are loaded that take their time

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import click

from devtools.fuzz.campaign import Plan, Result, run
from devtools.fuzz.process import has_atheris
from nfqlb.gateway.ha.digest import code


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("what", nargs=-1, metavar="[TARGET…] [FILE…]")
@click.option("--list", "listed", is_flag=True, help="List targets and what must hold.")
@click.option("--seconds", default=60.0, show_default=True, type=click.FloatRange(1, 604_800), help="Of all.")
@click.option("--runs", default=0, type=click.IntRange(0), help="Executions of each process, instead of --seconds.")
@click.option("--jobs", default=0, type=click.IntRange(0, 256), help="Processes at once.  [default: one for each core]")
@click.option("--seed", default=None, type=click.IntRange(0), help="Of chance.  [default: drawn]")
@click.option(
    "--kind",
    type=click.Choice(["both", "guided", "blind"]),
    default=None,
    help="Guided by coverage, blind and fast, or one after the other.  [default: both, blind without atheris]",
)
@click.option(
    "--dir",
    "folder",
    default=".fuzz",
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="For corpus, findings and account.jsonl.",
)
@click.option("--json", "as_json", is_flag=True, help="The results as JSON.")  # fmt: skip
def main(
    what: tuple[str, ...], listed: bool, seconds: float, runs: int, jobs: int, seed: int | None, kind: str | None,
    folder: Path, as_json: bool,
) -> None:  # fmt: skip
    """Hostile bytes into the engine and each reader; looks for what must never happen.

    Without TARGET, all of them. What breaks is kept as a file; `tools/fuzz TARGET FILE` tries it again. Exit status: 0
    when all held, 1 when something broke.

    \b
    Example:
      tools/fuzz --seconds 60 --jobs 2
      tools/fuzz engine .fuzz/findings/engine/untouched-0123456789ab
    """
    from devtools.fuzz.targets import TARGETS

    if listed:
        sys.exit(show_list(as_json))
    targets = [each for each in what if each in TARGETS]
    files = [Path(each) for each in what if each not in TARGETS]
    for file in files:
        if not file.is_file():
            raise click.UsageError(f"{file} is neither a target ({', '.join(TARGETS)}) nor a file.")
    if files:
        if len(targets) != 1:
            raise click.UsageError("Say which target the file is for: tools/fuzz TARGET FILE.")
        sys.exit(repeat(targets[0], files))
    if kind in ("both", "guided") and not has_atheris():
        raise click.ClickException("atheris is not installed. Install it with: .venv/bin/pip install -e '.[fuzz]'")
    if kind is None:
        kind = "both" if has_atheris() else "blind"
        if kind == "blind":
            click.echo("· atheris is not installed: not guided by coverage (pip install -e '.[fuzz]')", err=True)
    plan = Plan(
        targets or [*TARGETS], {"both": (True, False), "guided": (True,), "blind": (False,)}[kind],
        604_800.0 if runs else seconds, runs, jobs or os.cpu_count() or 1,
        int.from_bytes(os.urandom(4), "big") if seed is None else seed, folder.absolute(),
    )  # fmt: skip
    # Also where the shell that started us has SIGINT ignored, as it does in the background.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    progress = Progress()
    results, interrupted = run(plan, progress.show)
    progress.clear()
    account(folder, results)
    tell(results, as_json)
    if any(each.violations or each.problem for each in results):
        sys.exit(1)
    if interrupted:
        sys.exit(130)


def stop(number: int, frame: object) -> NoReturn:  # noqa: ARG001  (the signal module's shape)
    raise KeyboardInterrupt


def show_list(as_json: bool) -> int:
    from devtools.fuzz.invariants import INVARIANTS
    from devtools.fuzz.targets import TARGETS

    if as_json:
        about = {name: target.about for name, target in TARGETS.items()}
        click.echo(json.dumps({"targets": about, "invariants": INVARIANTS}, ensure_ascii=False, indent=2))
        return 0
    click.echo("Targets:")
    for name, target in TARGETS.items():
        click.echo(f"  {name:22} {target.about}")
    click.echo("What must hold:")
    for name, text in INVARIANTS.items():
        click.echo(f"  {name:22} {text}")
    return 0


def repeat(name: str, files: Sequence[Path]) -> int:
    """Try stored inputs again; 1 when something breaks."""
    from devtools.fuzz.findings import attempt
    from devtools.fuzz.targets import TARGETS

    target = TARGETS[name]()
    broke = 0
    for file in files:
        data = file.read_bytes()
        shape, found = attempt(target, data)
        if found is None:
            click.echo(f"{file}: holds ({shape})")
        else:
            broke = 1
            click.echo(f"{file}: {found.text}\n{data!r}")
    return broke


class Progress:
    """One line that is written over, on a terminal only."""

    def __init__(self) -> None:
        self._shown = 0.0

    def show(self, done: Sequence[Result], running: Sequence[Result]) -> None:
        now = time.monotonic()
        if not sys.stderr.isatty() or now - self._shown < 1:
            return
        self._shown = now
        everyone = [*done, *running]
        parts = [
            f"{each.target} {each.kind} {each.executions:,} ({each.rate:,.0f}/s, new {each.new}"
            + (f", cov {each.coverage}" if each.coverage else "") + ")"
            for each in running
        ]  # fmt: skip
        total, broken = sum(each.executions for each in everyone), sum(each.violations for each in everyone)
        click.echo(f"\r\x1b[K{total:,} executions, {broken} violations · {' · '.join(parts)}"[:250], nl=False, err=True)

    def clear(self) -> None:
        if self._shown:
            click.echo("\r\x1b[K", nl=False, err=True)


def account(folder: Path, results: Sequence[Result]) -> None:
    """A line of JSON for each process that ran, in `account.jsonl`. Lines with the same `code` are of the same code."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "account.jsonl").open("a") as file:
        for each in results:
            line = {"ended": int(time.time()), "code": code(), **each.as_dict()}
            file.write(json.dumps(line) + "\n")


def tell(results: Sequence[Result], as_json: bool) -> None:
    total = {
        "executions": sum(each.executions for each in results),
        "violations": sum(each.violations for each in results),
    }
    if as_json:
        click.echo(json.dumps({**total, "results": [each.as_dict() for each in results]}, indent=2))
        return
    click.echo(f"{'target':10} {'kind':7} {'executions':>12} {'exec/s':>8} {'coverage':>8} {'new':>6} {'broke':>6}")
    for each in results:
        click.echo(
            f"{each.target:10} {each.kind:7} {each.executions:12,} {each.rate:8,.0f} {each.coverage or '-':>8} "
            f"{each.new:6,} {each.violations:6,}"
        )
    for each in results:
        if each.problem:
            click.echo(f"{each.target}: {each.problem}", err=True)
        for found in each.findings:
            click.echo(f"{each.target} broke {found['invariant']}: {found['detail'][:300]}")
            click.echo(f"  again: tools/fuzz {each.target} {found['file']}")
    click.echo(f"{total['executions']:,} executions, {total['violations']:,} violations (seed {results[0].seed})")


if __name__ == "__main__":
    main(prog_name="tools/fuzz")
