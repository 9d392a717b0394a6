"""The page of a command, from its help: nfqlb(1), nfqlb-backends(1), nfqlb-backends-drain(1) …

Knows how a help text is made up (tests hold them to it), and which files a command has to do with. What a command does
is for its own module to say.
"""

import inspect
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import click

from nfqlb.manual import MANUAL, Page, date, source
from nfqlb.manual.roff import Roff, bold, escaped, italic

CONFIGURATION = "nfqlb.toml(5)"

DOCUMENTATION = "What there is to read beside the manual is installed with nfqlb: `share/doc/nfqlb`, where it was put."

EXIT_STATUS = {"0": "Fine.", "1": "Something is wrong; a message on standard error says what.", "2": "Wrong usage."}
"""What holds for every command that says nothing else."""

ENVIRONMENT = {
    "NFQLB_PURE": "With 1, `nfqlb run` does without the compiled fast path. The same packets take longer.",
    "NO_COLOR": "Set to anything, nothing is coloured.",
    "COLUMNS": "Width of what is printed, instead of that of the terminal.",
}


class File(NamedTuple):
    """What a command reads or writes."""

    path: str
    text: str
    commands: tuple[str, ...]
    """Which have to do with it, as they are typed behind `nfqlb`; those below them, too. None: those with --config."""


FILES = (
    File("/etc/nfqlb/nfqlb.toml", "The configuration, where no other is named: see nfqlb.toml(5).", ()),
    File(
        "/etc/nfqlb/secret",
        "The secret: keys that sign what the gateway writes into headers.",
        ("run", "check", "plan", "reload", "upgrade", "rules", "replay", "explain", "secret", "ha check", "ha digest"),
    ),
    File(
        "/run/nfqlb/control",
        "Socket by which the running gateway is asked and told.",
        (
            "run",
            "reload",
            "upgrade",
            "status",
            "backends",
            "ha check",
            "ha digest",
            "ha resume",
            "ha status",
            "ha yield",
        ),
    ),
    File("/run/nfqlb/board", "What the workers of the running gateway count.", ("run", "stats")),
    File(
        "/var/lib/nfqlb/backends.json",
        "Which backends an operator has drained or disabled.",
        ("run", "backends drain", "backends disable", "backends enable"),
    ),
    File("/etc/keepalived/keepalived.conf", "What keepalived reads.", ("ha check", "ha render", "ha status")),
    File("/etc/systemd/system/nfqlb.service", "The gateway as a service.", ("install-units",)),
    File("/etc/systemd/system/nfqlb-rules.service", "Rules and sysctls as a service.", ("install-units",)),
    File("/etc/sysusers.d/nfqlb.conf", "User of the service.", ("install-units",)),
    File("/etc/tmpfiles.d/nfqlb.conf", "Directories of the service.", ("install-units",)),
)

SEE_ALSO = {
    "rules": ("iptables(8)", "ipset(8)", "sysctl(8)"),
    "bans": ("ipset(8)",),
    "ha": ("keepalived(8)", "keepalived.conf(5)"),
    "install-units": ("systemd.unit(5)", "systemd-sysusers(8)", "systemd-tmpfiles(8)"),
    "lab": ("ip-netns(8)",),
    "replay": ("tcpdump(8)",),
    "explain": ("tcpdump(8)",),
}
"""Pages of others, for a command and those below it."""


def pages(main: click.Group) -> Iterator[Page]:
    """One for `main`, and for each command below it."""
    yield from _pages(click.Context(main, info_name=MANUAL, **main.context_settings))


def _pages(ctx: click.Context) -> Iterator[Page]:
    name = _page_name(ctx.command_path)
    yield Page(name, 1, _Writer(ctx).text())
    for below in _below(ctx):
        yield from _pages(below)


def _below(ctx: click.Context) -> Iterator[click.Context]:
    if isinstance(ctx.command, click.Group):
        for name in ctx.command.list_commands(ctx):
            command = ctx.command.get_command(ctx, name)
            if command is not None and not command.hidden:
                yield click.Context(command, info_name=name, parent=ctx)


def _page_name(command_path: str) -> str:
    return command_path.replace(" ", "-")


class Help(NamedTuple):
    """The help of a command, taken apart."""

    summary: str
    """Its first paragraph, a sentence."""
    paragraphs: tuple[str, ...]
    """All that are prose, the first included."""
    exit_status: dict[str, str]
    """Number → when, for what it says itself."""
    examples: tuple[str, ...]
    """Lines as they are typed."""


def taken_apart(text: str) -> Help:
    """A help text: paragraphs between empty lines, of which one may tell the exit status, and the last are examples."""
    prose: list[str] = []
    status: dict[str, str] = {}
    examples: list[str] = []
    for block in re.split(r"\n\s*\n", inspect.cleandoc(text).strip()):
        if block.startswith("\b"):
            title, *lines = block.lstrip("\b\n").splitlines()
            assert title.startswith("Example"), title
            examples += [line.strip() for line in lines]
        elif block.startswith("Exit status:"):
            told = " ".join(block.split()).removeprefix("Exit status: ").removesuffix(".")
            status = {number: f"{_capital(when)}." for number, when in re.findall(r"(\d+) (.*?)(?=, \d |$)", told)}
        else:
            prose.append(" ".join(block.split()))
    return Help(prose[0], tuple(prose), status, tuple(examples))


class _Writer:
    """One page."""

    def __init__(self, ctx: click.Context) -> None:
        self._ctx, self._command = ctx, ctx.command
        self._path = ctx.command_path
        self._typed = self._path.partition(" ")[2]
        """What stands behind `nfqlb`."""
        self._help = taken_apart(ctx.command.help or "")
        self._below = list(_below(ctx))
        self._page = Roff(_page_name(self._path), 1, date=date(), source=source(), manual=MANUAL)

    def text(self) -> str:
        self._name()
        self._synopsis()
        self._description()
        self._options()
        self._commands()
        self._exit_status()
        if not self._typed:
            self._table("ENVIRONMENT", ENVIRONMENT)
        self._page.heading("EXAMPLES")
        self._page.verbatim(self._help.examples)
        self._table("FILES", {file.path: file.text for file in FILES if self._uses(file)}, italics=True)
        self._see_also()
        return self._page.text()

    def _name(self) -> None:
        self._page.heading("NAME")
        summary = self._help.summary.removesuffix(".")
        if re.match(r"[A-Z][a-z]*[ ,]", summary):  # no name of somebody, nor an abbreviation
            summary = summary[0].lower() + summary[1:]
        # Plain, because programs that list pages read it.
        self._page.pieces(map(escaped, f"{_page_name(self._path)} - {summary}".split(" ")))

    def _synopsis(self) -> None:
        self._page.heading("SYNOPSIS")
        words = [bold(self._path)]
        for names, _ in _options(self._ctx):
            name, _, value = names.partition(", ")[0].partition(" ")
            value = value or names.rpartition(" ")[2] if "," in names and not names.endswith(name) else value
            if name not in ("-h", "--help"):
                words.append(f"[{bold(name)}{f' {italic(value)}' if _is_value(value) else ''}]")
        for piece in self._command.collect_usage_pieces(self._ctx):
            if piece != self._command.options_metavar:
                words.append(italic(piece))
        self._page.pieces(words)

    def _description(self) -> None:
        self._page.heading("DESCRIPTION")
        for paragraph in self._help.paragraphs:
            self._page.prose(paragraph)

    def _options(self) -> None:
        self._page.heading("OPTIONS")
        for names, text in _options(self._ctx):
            tags = []
            for each in names.split(", "):
                name, _, value = each.partition(" ")
                tags.append(bold(name) + (f" {italic(value)}" if value else ""))
            self._page.tagged(", ".join(tags), text)

    def _commands(self) -> None:
        if self._below:
            self._page.heading("COMMANDS")
            for ctx in self._below:
                summary = taken_apart(ctx.command.help or "").summary
                self._page.tagged(bold(str(ctx.info_name)), f"{summary} See {_page_name(ctx.command_path)}(1).")

    def _exit_status(self) -> None:
        self._page.heading("EXIT STATUS")
        for number, when in (EXIT_STATUS | self._help.exit_status).items():
            self._page.tagged(bold(number), when)

    def _table(self, title: str, rows: dict[str, str], *, italics: bool = False) -> None:
        if rows:
            self._page.heading(title)
            for name, text in rows.items():
                self._page.tagged(italic(name) if italics else bold(name), text)

    def _see_also(self) -> None:
        self._page.heading("SEE ALSO")
        parent = self._ctx.parent
        found = [] if parent is None else [f"{_page_name(parent.command_path)}(1)"]
        found += [f"{_page_name(ctx.command_path)}(1)" for ctx in self._below]
        if parent is not None and parent.parent is not None:
            found += [f"{_page_name(ctx.command_path)}(1)" for ctx in _below(parent) if ctx.command_path != self._path]
        if self._has_config or self._typed.split(" ")[0] in ("", "config"):
            found.append(CONFIGURATION)
        found += SEE_ALSO.get(self._typed.split(" ")[0], ())
        self._page.pieces(listing(found))
        if not self._typed:
            self._page.prose(DOCUMENTATION)

    @property
    def _has_config(self) -> bool:
        return any(param.name == "config_path" for param in self._command.params)

    def _uses(self, file: File) -> bool:
        if not self._typed:
            return True
        if not file.commands:
            return self._has_config
        return any(f"{self._typed} ".startswith(f"{each} ") for each in file.commands)


def _options(ctx: click.Context) -> Iterator[tuple[str, str]]:
    """Each option as --help shows it: `-c, --config FILE`, and its text, with what stands in brackets as a sentence."""
    for param in ctx.command.get_params(ctx):
        record = param.get_help_record(ctx)
        if isinstance(param, click.Option) and record is not None:
            names, text = record
            text, _, more = text.partition("  [")
            yield names, " ".join([text, *(_sentence(each) for each in more.removesuffix("]").split("; ") if each)])


def _sentence(told: str) -> str:
    """What click says of an option in brackets."""
    if told.startswith("default: "):
        return f"Default: {told.removeprefix('default: ').strip('()')}."
    if found := re.fullmatch(r"(\S+)<=x<=(\S+)", told):
        return f"From {found[1]} to {found[2]}."
    if found := re.fullmatch(r"x>=(\S+)", told):
        return f"At least {found[1]}."
    return f"{_capital(told)}."


def _is_value(text: str) -> bool:
    return bool(text) and not text.startswith("-")


def listing(pages: Iterable[str]) -> list[str]:
    """`nfqlb(1), …`, the names in bold; pieces of troff."""
    found = []
    for page in pages:
        name, _, section = page.partition("(")
        found.append(f"{bold(name)}({section},")
    return [*found[:-1], found[-1].removesuffix(",")]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
