"""`nfqlb upgrade`: have the running gateway hand over to the code that is installed now."""

from __future__ import annotations

from pathlib import Path

import click

from nfqlb.cli._common import UserError, ask, config_option, echo_json, errors_in, json_option


@click.command()
@config_option
@json_option
def command(config_path: Path, as_json: bool) -> None:
    """Put newly installed code in force, without losing a packet.

    The gateway starts itself anew beside itself, with the command line that it was started with. When the new workers
    take packets the rules lead to them; the old ones serve what waits for them, and leave. If the new code is not ready
    within 10 seconds nothing changes, and the reason is shown.

    The gateway's pid changes. systemd is told; a shell or a container that waits for the old one sees it end well.

    With --json one object: ok, and pid (of the new one) or errors[].

    Exit status: 0 when the new code runs, 1 when the old one goes on or no gateway runs.

    \b
    Example:
      /opt/nfqlb/bin/pip install /path/to/nfqlb && nfqlb upgrade
    """
    answer = ask(config_path, {"do": "upgrade"}, quiet=as_json)
    if as_json:
        echo_json(answer)
    elif answer["ok"]:
        click.echo(f"the new code runs, as pid {answer['pid']}")
    if not answer["ok"]:
        if as_json:
            raise SystemExit(1)
        raise UserError(f"Nothing has changed, the old code goes on:\n{errors_in(answer)}")
