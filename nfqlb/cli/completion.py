"""`nfqlb completion`: the script by which a shell completes nfqlb's command line, and what the shell is answered then:
commands, options, names, or that it should look for files.

Knows the scripts (completion.bash, .zsh, .fish beside this file), where each belongs, the words that they send and
understand, and where names of backends and bans come from. An answer comes at once or is empty: nothing that goes wrong
is told, for it would be told into somebody's prompt.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from nfqlb import RUN_DIR
from nfqlb.cli import COMPLETE
from nfqlb.cli._common import DEFAULT_CONFIG

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

PLACES = {
    "bash": "bash-completion/completions/nfqlb",
    "zsh": "zsh/site-functions/_nfqlb",
    "fish": "fish/vendor_completions.d/nfqlb.fish",
}
"""Shell → where it looks for the script, below a `share` directory."""

LINE = "_NFQLB_LINE"
"""bash: the command line up to the cursor, with what was quoted."""
BREAKS = "_NFQLB_BREAKS"
"""bash: characters behind which it takes another word to begin."""

PATIENCE = 0.5
"""Seconds that a gateway may take to answer."""

NAME = re.compile(r"[A-Za-z0-9][\w.@:/\[\]-]*", re.ASCII)
"""A name that means nothing but itself to a shell. Others are not offered, whoever wrote them into a file."""

KINDS = {"file": "files", "dir": "directories"}
"""click's word for what a shell completes itself → ours."""


def answer(main: click.Group) -> None:
    """Print what could come next to stdout, a line each; nothing when anything goes wrong."""
    with suppress(Exception):
        shell = os.environ[COMPLETE]
        words, done = split(os.environ[LINE], os.environ[BREAKS]) if shell == "bash" else (["", *sys.argv[1:]], 0)
        lines = list(_lines(main, words[1:], done, shell))
        sys.stdout.write("".join(f"{line}\n" for line in lines))
        sys.stdout.flush()


def _lines(main: click.Group, words: list[str], done: int, shell: str) -> Iterator[str]:
    """`done`: characters of the last word that the shell does not want to be told again."""
    from click.shell_completion import ShellComplete

    *before, word = words
    option = re.match(r"--[^=]*=", word)
    for item in ShellComplete(main, {}, "nfqlb", COMPLETE).get_completions(before, word):
        if item.type in KINDS:
            yield KINDS[item.type]
            continue
        whole = (option[0] if option else "") + str(item.value)
        sign = "=" if whole.endswith("/") else "+"
        if shell == "bash":
            yield sign + re.sub(r"([\[\]])", r"\\\1", whole[done:])
        else:
            text = "".join(each for each in item.help or "" if each.isprintable())
            yield f"{sign}{whole}\t{text}" if text else sign + whole


def split(line: str, breaks: str) -> tuple[list[str], int]:
    """The words of a command line as bash reads them, of which the last is the unfinished one; and how many characters
    of that bash takes to be another word, since one of `breaks` stands behind them.
    """
    words, word, done = [], "", 0
    quote, escaped, begun = "", False, False
    for each in line:
        if escaped:
            word, escaped = word + each, False
        elif each == "\\" and quote != "'":
            escaped = begun = True
        elif quote:
            quote, word = ("", word) if each == quote else (quote, word + each)
        elif each in "'\"":
            quote, begun, done = each, True, len(word)
        elif each.isspace():
            if begun or word:
                words.append(word)
            word, begun, done = "", False, 0
        else:
            word += each
            if each in breaks:
                done = len(word) - (each in "@$")  # these belong to the word that they begin
    return [*words, word], done


# -- what can be named


def files(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


def durations(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Of a number the units, else some to choose from."""
    offered = [f"{incomplete}{unit}" for unit in "smhd"] if incomplete.isdecimal() else ["10m", "1h", "1d"]
    return [each for each in offered if each.startswith(incomplete)]


def backends(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """NAME of each, and POOL/ or POOL/NAME."""
    return _named(known(config_of(ctx)), incomplete)


def taken_out(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Those of them that an operator has taken out, as far as a gateway tells."""
    found = known(config_of(ctx))
    return _named([each for each in found if each.state in ("", "draining", "disabled")], incomplete)


def banned(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Sources, where the kernel tells: only root."""
    from click.shell_completion import CompletionItem

    from nfqlb.gateway.netfilter import ipset

    return [
        CompletionItem(each.source, help=each.why or None)
        for each in ipset.entries()
        if each.source.startswith(incomplete)
    ]


class Known(NamedTuple):
    """A backend that can be named."""

    pool: str
    """Empty for one that is leaving."""
    name: str
    state: str
    """Empty where only a configuration tells of it."""


def known(config_path: Path) -> list[Known]:
    """The backends of the gateway that runs with this configuration, or else those in it."""
    raw = _read(config_path)
    try:
        return list(_running(raw, config_path))
    except Exception:  # whatever it is, the file is there to be asked
        return [
            Known(str(pool.get("name", "")), str(backend.get("name", "")), "")
            for pool in _tables(raw, "pool")
            for backend in _tables(pool, "backend")
        ]


def config_of(ctx: click.Context) -> Path:
    """The configuration that the command line names, before the cursor."""
    from click.core import ParameterSource

    at: click.Context | None = ctx
    while at is not None:
        if at.get_parameter_source("config_path") is ParameterSource.COMMANDLINE and at.params["config_path"]:
            return Path(os.path.expandvars(at.params["config_path"])).expanduser()
        at = at.parent
    return DEFAULT_CONFIG


def _running(raw: dict[str, Any], config_path: Path) -> Iterator[Known]:
    from nfqlb.gateway.runtime import control_socket

    run_dir = Path(raw.get("gateway", {}).get("run_dir", RUN_DIR))
    request = {"do": "backends", "config": str(config_path.absolute())}
    for row in control_socket.ask(run_dir, request, timeout=PATIENCE)["backends"]:
        yield Known(row["pool"], row["name"], row["state"])


def _read(config_path: Path) -> dict[str, Any]:
    """The file as plain values, empty when it cannot be read. `nfqlb.config` would do it, and take far longer."""
    import tomllib

    try:
        return tomllib.loads(config_path.read_text("utf-8-sig"))
    except (OSError, ValueError):
        return {}


def _tables(raw: dict[str, Any], key: str) -> Iterator[dict[str, Any]]:
    found = raw.get(key)
    yield from (each for each in found if isinstance(each, dict)) if isinstance(found, list) else ()


def _named(found: Iterable[Known], incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    # A pool is a way to its backends: as with directories, its name alone is offered first.
    offered: dict[str, str] = {}
    for each in found:
        offered.setdefault(each.name, ", ".join(filter(None, (each.pool, each.state))))
    for each in found:
        if each.pool:
            whole = incomplete.startswith(f"{each.pool}/")
            offered.setdefault(f"{each.pool}/{each.name if whole else ''}", each.state if whole else "pool")
    return [
        CompletionItem(name, help=text or None)
        for name, text in offered.items()
        if name.startswith(incomplete) and NAME.fullmatch(name)
    ]


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
    return (resources.files(__package__) / f"completion.{shell}").read_text("utf-8")
