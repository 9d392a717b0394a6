"""`nfqlb status`: what runs here, asked of the gateway itself."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import click

from nfqlb.cli import _screen as screen
from nfqlb.cli._common import UserError, ask, config_option, echo_json, errors_in, json_option


@click.command()
@config_option
@json_option
def command(config_path: Path, as_json: bool) -> None:
    """Which gateway runs here: version, configuration, workers.

    Asks the gateway itself, which also says since when it runs, and what changes at the moment. What it has done is
    told by 'nfqlb stats'.

    Exit status: 0 when one runs and all workers take packets, 1 otherwise.

    \b
    Example:
      nfqlb status
    """
    answer = ask(config_path, {"do": "status"}, quiet=as_json, timeout=10)
    if as_json:
        echo_json(answer)
    if not answer["ok"]:
        raise UserError(errors_in(answer))
    if not as_json:
        since = datetime.fromtimestamp(answer["started"]).astimezone().isoformat(sep=" ", timespec="seconds")
        alarms = answer.get("alarms", {})
        workers = ", ".join(
            f"{each['pid']}" + ("" if each["ready"] else " (not ready)") if each["pid"] else "none"
            for each in answer["workers"]
        )
        rows = [
            ("nfqlb", f"{answer['version']}, {answer['state']} since {since}, pid {answer['pid']}"),
            ("configuration", answer["config"]),
            ("generation", f"{answer['generation']}" + (f" ({answer['changing']})" if answer["changing"] else "")),
            ("workers", f"{workers}; queues {', '.join(map(str, answer['queues']))}"),
            ("backends", ", ".join(answer["backends"])),
        ]
        rows += [("DNS", text) for text in unanswered(answer)]
        if alarms:
            rows.append(("ALARM", "; ".join(f"pool {pool}: {text}" for pool, text in alarms.items())))
        for name, value in rows:
            screen.tell(f"{name + ':':15}{value}", hang=15)
    if not all(each["pid"] and each["ready"] for each in answer["workers"]):
        raise SystemExit(1)


def unanswered(answer: dict[str, Any]) -> list[str]:
    """What is wrong with the names of backends."""
    return [
        f"{each['name']}: {each['error']}" + ("; the last good answer stands" if each["addresses"] else "")
        for each in answer.get("names", {}).get("known", ())
        if each["error"]
    ]
