"""What commands share: groups and common options, their errors, questions to the gateway that runs, JSON and the rich
console.

Imports nothing heavy at module level; rich and the configuration come when a command asks for them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from nfqlb.errors import NfqlbError, PacketError
from nfqlb.spelling import nearest

if TYPE_CHECKING:
    from rich.console import Console

    from nfqlb.config.model import Config

DEFAULT_CONFIG = Path("/etc/nfqlb/nfqlb.toml")

F = TypeVar("F", bound=Callable[..., Any])


class UserError(click.ClickException):
    """Something is wrong that a person can put right: `Error: …` on stderr, exit status 1, no traceback.

    The message is one or two sentences that say what to do.
    """

    exit_code = 1


class Group(click.Group):
    """A group that says which command or option was probably meant, and what went wrong, for itself and all commands
    below it: whatever is below NfqlbError and not caught becomes a UserError.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        with _meant():
            return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        names = self.list_commands(ctx)
        if args and args[0] not in names and not args[0].startswith("-"):
            near = nearest(args[0], names)
            hint = f"Did you mean {near!r}?" if near else f"See '{ctx.command_path} --help'."
            ctx.fail(f"No such command {args[0]!r}. {hint}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _meant():
                return super().invoke(ctx)
        except PacketError:
            raise  # it should have become the fate of a packet: our bug, with its traceback
        except NfqlbError as error:
            raise UserError(str(error)) from None


@contextmanager
def _meant() -> Iterator[None]:
    """An unknown option is told in our words: click's own depend on its version, and name what difflib finds."""
    try:
        yield
    except click.NoSuchOption as error:
        options = {} if error.ctx is None else {each.lstrip("-"): each for each in _options(error.ctx)}
        near = nearest(error.option_name.lstrip("-"), options)
        hint = f" Did you mean {options[near]!r}?" if near else ""
        raise click.UsageError(f"No such option {error.option_name!r}.{hint}", error.ctx) from None


def _options(ctx: click.Context) -> Iterator[str]:
    """The long options of a command, as they are typed."""
    for param in ctx.command.get_params(ctx):
        if isinstance(param, click.Option) and not param.hidden:
            yield from (each for each in (*param.opts, *param.secondary_opts) if each.startswith("--"))


def config_option(function: F) -> F:
    """Give a command `-c/--config`; it receives `config_path: Path`."""
    return click.option(
        "-c",
        "--config",
        "config_path",
        type=click.Path(path_type=Path),
        default=DEFAULT_CONFIG,
        show_default=True,
        metavar="FILE",
        help="The configuration.",
    )(function)


def json_option(function: F) -> F:
    """Give a command `--json`; it receives `as_json: bool`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")(function)


def load_config(path: Path) -> Config:
    """The configuration in `path`; every mistake in it becomes one UserError that lists them all."""
    from nfqlb.config.build import load
    from nfqlb.config.problems import ConfigError

    try:
        return load(path)
    except ConfigError as error:
        raise UserError(str(error)) from None


def load_settled(path: Path) -> Config:
    """`load_config`, with addresses for the names in it: those that the gateway here has, or else what DNS says now."""
    from nfqlb.config.resolve import at_hand

    return at_hand(load_config(path))


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


def echo_json(value: object) -> None:
    """Print `value` as one line of JSON."""
    click.echo(json.dumps(value, ensure_ascii=False))


def console(*, stderr: bool = False) -> Console:
    """A rich console: colours on a terminal only, and no guessing of markup or highlights in our texts."""
    from rich.console import Console

    class Ours(Console):
        def on_broken_pipe(self) -> None:
            """Rich would end us with exit status 1."""
            raise BrokenPipeError

    plain = bool(os.environ.get("NO_COLOR"))  # https://no-color.org; rich would still print bold
    system: Literal["auto"] | None = None if plain else "auto"
    return Ours(stderr=stderr, color_system=system, highlight=False, markup=False, emoji=False)
