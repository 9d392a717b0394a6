"""`nfqlb reload`: have the running gateway read its configuration again."""

from __future__ import annotations

from pathlib import Path

import click

from nfqlb.cli import _screen as screen
from nfqlb.cli._common import UserError, ask, config_option, echo_json, errors_in, json_option


@click.command()
@config_option
@click.option("--force", is_flag=True, help="Replace the workers all the same when nothing has changed.")
@json_option
def command(config_path: Path, force: bool, as_json: bool) -> None:
    """Put a changed configuration in force, without losing a packet.

    The gateway reads and checks the whole file, builds what it needs, and swaps it in all workers; what needs other
    rules of iptables changes together with these. Says what has changed. When anything is wrong, all of it is listed
    and the old configuration goes on.

    When nothing has changed, nothing is done: neither in the meaning of the file (comments and defaults that are
    spelled out mean nothing), nor in the keys, nor in what DNS says of names. Rules and sysctls that somebody else has
    changed are warned of; 'nfqlb rules apply' puts them right.

    A transaction stays with the backend that it began with. A backend that is no longer there gets nothing new, and may
    finish what it has begun for 180 seconds; longer calls end well when its weight was 0 for their time before.

    With --json one object: ok, and changed with changes[], or errors[].

    Exit status: 0 when it is in force, 1 when it was refused or no gateway runs.

    \b
    Example:
      nfqlb check && nfqlb reload
    """
    answer = ask(config_path, {"do": "reload", "force": force}, quiet=as_json)
    if as_json:
        echo_json(answer)
    elif answer["ok"]:
        if not answer.get("changed", True):
            what = "the workers are replaced" if force else "everything goes on as it was"
            click.echo(f"nothing has changed: {what}")
        for line in answer["changes"]:
            screen.tell(line, hang=2)
    if not answer["ok"]:
        if as_json:
            raise SystemExit(1)
        raise UserError(f"Refused, the old configuration goes on:\n{errors_in(answer)}")
