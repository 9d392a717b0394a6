"""`nfqlb version`: what is installed here, for a bug report."""

import platform
from importlib.metadata import PackageNotFoundError, requires, version

import click

from nfqlb import __version__, fast
from nfqlb.cli._common import echo_json, json_option


def libraries() -> dict[str, str]:
    """Name → version of each library that nfqlb needs to run, "missing" where one is not installed."""
    found = {}
    for requirement in requires("nfqlb") or ():
        if "extra ==" in requirement:
            continue
        name = requirement.split(">=")[0]
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


@click.command()
@json_option
def command(as_json: bool) -> None:
    """Versions of nfqlb, Python and the libraries it runs on.

    \b
    Example:
      nfqlb version --json
    """
    versions = {
        "nfqlb": __version__,
        "fast path": fast.which(),
        "python": platform.python_version(),
        "kernel": platform.release(),
        **libraries(),
    }
    if as_json:
        echo_json(versions)
        return
    width = max(map(len, versions))
    for name, text in versions.items():
        click.echo(f"{name:{width}}  {text}")
