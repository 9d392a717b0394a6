"""The `nfqlb` command: a group that knows its commands by name and imports each one only when it is called.

Knows the list of commands with a line for each, and how a run ends (exit status, broken pipe, Ctrl-C). Does
not know what any command does: `nfqlb NAME` is `command` in nfqlb/cli/NAME.py, with _ for -. Nothing heavy may be
imported here, because `nfqlb --help` has to answer at once.
"""

from __future__ import annotations

import errno
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from nfqlb import __version__, interrupt
from nfqlb.cli._common import Group

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

COMMANDS = {
    "run": "The gateway, in the foreground (systemd starts it).",
    "check": "Check the configuration; with --live also this host.",
    "config": "An example of the configuration, its JSON Schema, and what a file amounts to.",
    "plan": "What a changed configuration would do, before it does it.",
    "reload": "Put a changed configuration in force, without losing a packet.",
    "upgrade": "Put newly installed code in force, without losing a packet.",
    "status": "Which gateway runs here: version, configuration, workers.",
    "rules": "Show, apply, remove or compare the iptables rules.",
    "backends": "State, load and health of the backends; take one out, or bring it back.",
    "bans": "Who is banned; ban a source, or let it go.",
    "stats": "Queues, workers, backends and reasons, from the running gateway.",
    "replay": "Stored packets through the engine; needs no root.",
    "explain": "Why a packet went where it went, rule by rule.",
    "ha": "The pair: two gateways, whose addresses move from one to the other.",
    "lab": "The whole thing in network namespaces on one machine.",
    "install-units": "Write the systemd units, for this host and this configuration.",
    "secret": "Make the file of keys that signs what we write into headers.",
    "completion": "Print the script by which a shell completes commands, options and names.",
    "version": "Versions of nfqlb, Python and the libraries it runs on.",
}
"""Name → the line that `nfqlb --help` shows: the first line of the command's own help (a test compares)."""

PIPE_CLOSED = 128 + 13
"""Exit status when the reader of our output has gone (`nfqlb replay … | head`): SIGPIPE's."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What keeps a file from taking the output that was sent there (`nfqlb rules show > FILE`)."""


COMPLETE = "_NFQLB_COMPLETE"
"""In the environment of a shell that asks what could come next: its name. See nfqlb/cli/completion.py."""

SHELLS = ("bash", "zsh", "fish")


class LazyGroup(Group):
    """A group whose commands are modules of this package."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  (click's signature)
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        command = import_module(f"{__name__}.{cmd_name.replace('-', '_')}").command
        interrupt.as_exception()
        assert isinstance(command, click.Command)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        found = [CompletionItem(name, help=text) for name, text in COMMANDS.items() if name.startswith(incomplete)]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]  # not Group's, which imports them all

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except KeyboardInterrupt:
            ctx.exit(interrupt.INTERRUPTED)
        except BrokenPipeError:
            # What is still buffered would raise once more when Python closes stdout.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(PIPE_CLOSED)
        finally:
            interrupt.over()
        return result

    def main(self, *args: Any, **extra: Any) -> Any:
        if os.environ.get(COMPLETE) in SHELLS:
            from nfqlb.cli.completion import answer

            answer(self)
            sys.exit()
        try:
            return super().main(*args, **extra)
        except OSError as error:
            # Whoever opens files tells of them himself, by their names; what is left is our own output, help included.
            if error.filename is not None or error.errno not in FULL:
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            click.echo(f"Error: The output cannot be written ({error.strerror}).", err=True)
            sys.exit(1)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, "--version", prog_name="nfqlb", message="%(prog)s %(version)s")
def main() -> None:
    """A SIP load balancer in the packet path of a Linux gateway.

    Every command has its own --help, and a manual page: nfqlb-check(1), nfqlb-backends-drain(1).

    Exit status: 0 fine, 1 something is wrong, 2 wrong usage.

    \b
    Example:
      nfqlb check -c /etc/nfqlb/nfqlb.toml
    """
