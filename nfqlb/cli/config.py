"""`nfqlb config`: the configuration file itself: an example of it, its JSON Schema, and what one amounts to.

Writes nothing itself: `nfqlb.config.reference.example`, `schema` and `effective` do. Whether a configuration is right
is for `nfqlb check`.
"""

from __future__ import annotations

import json
from pathlib import Path

import click

from nfqlb.cli._common import Group, config_option, echo_json, json_option


@click.group(cls=Group)
def command() -> None:
    """An example of the configuration, its JSON Schema, and what a file amounts to.

    The keys are explained in nfqlb.toml(5), too.

    \b
    Example:
      nfqlb config example | less
    """


@command.command()
def example() -> None:
    """Print a configuration with every key, explained.

    It is valid as it stands, for a gateway with three pools; what is not in force there is commented out. To begin with
    it, write it to a file and take out what you do not need.

    \b
    Example:
      nfqlb config example > nfqlb.toml
    """
    from nfqlb.config.reference.example import example as text

    click.echo(text(), nl=False)


@command.command()
def schema() -> None:
    """Print the JSON Schema of the configuration, for editors.

    With it an editor explains, completes and checks the file while it is written: put '#:schema ./nfqlb.schema.json' on
    its first line, for Taplo and Even Better TOML. What a schema cannot say is left to 'nfqlb check'.

    \b
    Example:
      nfqlb config schema > /etc/nfqlb/nfqlb.schema.json
    """
    from nfqlb.config.reference.json_schema import schema as made

    click.echo(json.dumps(made(), ensure_ascii=False, indent=2))


@command.command()
@config_option
@json_option
def show(config_path: Path, as_json: bool) -> None:
    """Print a configuration as it takes effect, with every default.

    What is printed is itself a configuration, which amounts to the same. Where a key is not in it, nfqlb.toml(5) says
    what holds without it. The secret is not shown, only the name of its file. With --json the same as one object.

    Exit status: 0 when it is printed, 1 when the configuration has mistakes.

    \b
    Example:
      nfqlb config show -c /etc/nfqlb/nfqlb.toml
    """
    from nfqlb.config.reference import toml
    from nfqlb.config.reference.effective import effective

    found = effective(config_path)
    if as_json:
        echo_json(found)
    else:
        click.echo(toml.document(found), nl=False)
