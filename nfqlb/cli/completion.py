"""`nfqlb completion`: the script by which a shell completes nfqlb's command line.

Knows the scripts (completion.bash, .zsh, .fish beside this file) and where each belongs. What they are answered is for
`completing`.
"""

from __future__ import annotations

from importlib.resources import files

import click

PLACES = {
    "bash": "bash-completion/completions/nfqlb",
    "zsh": "zsh/site-functions/_nfqlb",
    "fish": "fish/vendor_completions.d/nfqlb.fish",
}
"""Shell → where it looks for the script, below a `share` directory."""


@click.command()
@click.argument("shell", type=click.Choice(tuple(PLACES)))
def command(shell: str) -> None:
    """Print the script by which a shell completes commands, options and names.

    With it Tab completes names of backends and pools, as the running gateway has them or else the configuration; whom
    'nfqlb bans remove' could let go; and files. docs/completion.md says how to switch it on, for a user and for all.

    \b
    Example:
      nfqlb completion fish > ~/.config/fish/completions/nfqlb.fish
    """
    click.echo(script(shell), nl=False)


def script(shell: str) -> str:
    """One of PLACES."""
    return (files(__package__) / f"completion.{shell}").read_text("utf-8")
