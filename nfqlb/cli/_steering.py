"""What the commands share that ask the gateway which runs, by its control socket."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from nfqlb.cli._common import UserError


def ask(config_path: Path, request: dict[str, Any], *, quiet: bool = False, timeout: float = 120.0) -> dict[str, Any]:
    """Ask the gateway of that configuration; how far it is goes to stderr, its answer is returned.

    The file may have mistakes: only where the run directory is matters. Raises UserError.
    """
    from nfqlb.config.build import run_dir_in
    from nfqlb.errors import NotRunning
    from nfqlb.gateway.runtime import control_socket
    from nfqlb.gateway.runtime.control_socket import ControlError

    def told(text: str) -> None:
        if not quiet:
            click.echo(text, err=True)

    try:
        return control_socket.ask(
            run_dir_in(config_path), {**request, "config": str(config_path.absolute())}, told, timeout
        )
    except NotRunning as error:
        raise UserError(f"{error} Start it with: nfqlb run -c {config_path}") from None
    except ControlError as error:
        raise UserError(str(error)) from None


def errors_in(answer: dict[str, Any]) -> str:
    return "\n".join(map(str, answer.get("errors", ["the gateway gives no reason"])))
