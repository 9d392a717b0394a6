"""`nfqlb secret`: make the file of keys."""

from pathlib import Path

import click

from nfqlb.cli._common import Group, UserError


@click.group(cls=Group)
def command() -> None:
    """Make the file of keys that signs what we write into headers.

    \b
    Example:
      nfqlb secret new
    """


@command.command()
@click.argument("file", type=click.Path(path_type=Path), default=Path("/etc/nfqlb/secret"))
def new(file: Path) -> None:
    """Make FILE (/etc/nfqlb/secret) with one new random key, readable by its owner only.

    Where this host has the group nfqlb ('nfqlb install-units'), the service may read it, too.

    Copy it to the other nodes: all nodes need the same keys. To change the key later, put a new line above
    the old one, and take the old one out when every phone has registered again.

    \b
    Example:
      nfqlb secret new /etc/nfqlb/secret
    """
    from nfqlb.config.secret import write_new

    try:
        write_new(file)
    except FileExistsError:
        raise UserError(f"{file} exists and was left as it is. Keys in use are not overwritten.") from None
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}.") from None
    click.echo(f"Made {file}. Copy it to every node of the pair.")
