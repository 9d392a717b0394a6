"""`nfqlb reload`: have the running gateway read its configuration anew."""

from __future__ import annotations

from pathlib import Path

import click

from nfqlb.cli import screen
from nfqlb.cli.common import UserError, config_option, echo_json, json_option


@click.command()
@config_option
@json_option
def command(config_path: Path, as_json: bool) -> None:
    """Put a changed configuration in force, without losing a packet.

    The gateway reads and checks the whole file, builds what it needs, and swaps it in all workers; what needs other
    rules of iptables changes together with these. Says what has changed. When anything is wrong, all of it is listed
    and the old configuration goes on.

    A transaction stays with the backend that it began with. A backend that is no longer there gets nothing new, and may
    finish what it has begun for 180 seconds; longer calls end well when its weight was 0 for their time before.

    With --json one object: ok, and changes[] or errors[].

    Exit status: 0 when it is in force, 1 when it was refused or no gateway runs.

    \b
    Example:
      nfqlb check && nfqlb reload
    """
    from nfqlb.cli.steering import ask, errors_in

    answer = ask(config_path, {"do": "reload"}, quiet=as_json)
    if as_json:
        echo_json(answer)
    elif answer["ok"]:
        if all(line.startswith("warning: ") for line in answer["changes"]):
            click.echo("nothing has changed")
        for line in answer["changes"]:
            screen.tell(line, hang=2)
    if not answer["ok"]:
        if as_json:
            raise SystemExit(1)
        raise UserError(f"Refused, the old configuration goes on:\n{errors_in(answer)}")
