"""One root of errors: what is below it is told to people, everything else is a bug of ours and keeps its traceback."""

import ast
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

import click
import pytest
from click.testing import CliRunner

import nfqlb
from nfqlb.cli import main, version
from nfqlb.config.problems import ConfigError
from nfqlb.errors import HostError, NfqlbError, NotRunning, PacketError, StateError
from nfqlb.gateway.runtime.job import Refused
from nfqlb.net.datagram import DatagramError, Fault

OTHERS = {
    "nfqlb.balance.pattern.PatternError": "a ValueError, which the reader of a configuration makes a Problem of",
    "nfqlb.cli._common.UserError": "click's: it prints the text and ends with status 1",
    "nfqlb.config.schema.types.Expected": "a ValueError, which the reader of a configuration makes a Problem of",
    "nfqlb.fast.path.Unusual": "says inside one compiled module that the slow path shall decide",
    "nfqlb.gateway.health.scheduler.CannotAsk": "says to the scheduler that nothing was sent; it has no text",
}
"""Exceptions that are no NfqlbError, and why."""

KINDS = {
    "ConfigError", "HostError", "StateError", "Refused", "ControlError", "PeerError", "UnitError", "CaptureError",
    "LabError", "PacketError", "CannotRun", "UnknownBackend", "NoAnswer",
}  # fmt: skip
"""Those right below the root."""

MODULES = [each.name for each in walk_packages(nfqlb.__path__, "nfqlb.") if not each.name.endswith("__main__")]


def all_below(one: type[BaseException]) -> Iterator[type[BaseException]]:
    for each in type.__subclasses__(one):
        yield each
        yield from all_below(each)


@pytest.fixture(scope="module")
def ours() -> dict[str, type[BaseException]]:
    """All exceptions of the package, by name."""
    for name in MODULES:
        import_module(name)
    found = {f"{each.__module__}.{each.__qualname__}": each for each in all_below(BaseException)}
    return {name: each for name, each in found.items() if name.startswith("nfqlb.")}


def test_every_error_has_the_one_root_or_a_reason_to_have_none(ours: dict[str, type[BaseException]]) -> None:
    assert {name for name, each in ours.items() if not issubclass(each, NfqlbError)} - OTHERS.keys() == set()
    assert {name for name in OTHERS if name in ours and issubclass(ours[name], NfqlbError)} == set()
    assert OTHERS.keys() - ours.keys() <= {"nfqlb.fast.path.Unusual"}  # where nothing is compiled


def test_the_kinds_are_these(ours: dict[str, type[BaseException]]) -> None:
    assert {each.__name__ for each in ours.values() if NfqlbError in each.__bases__} == KINDS


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (HostError, {"QueueError", "PrivilegeError", "NoRoute"}),
        (StateError, {"BoardError", "OverridesError", "PidfileError"}),
        (PacketError, {"DatagramError", "NotSip", "QuotingError", "Reject"}),
    ],
)
def test_a_kind_has_below_it(ours: dict[str, type[BaseException]], kind: type[NfqlbError], names: set[str]) -> None:
    assert {each.__name__ for each in ours.values() if kind in each.__bases__} == names


def test_every_error_says_what_it_is_for(ours: dict[str, type[BaseException]]) -> None:
    undocumented = {name for name, each in ours.items() if not each.__doc__}
    assert undocumented - {"nfqlb.fast.path.Unusual"} == set()


def raised(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and node.exc is not None:
            what = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            yield what.attr if isinstance(what, ast.Attribute) else what.id if isinstance(what, ast.Name) else ""


def test_the_root_and_kinds_that_tell_nothing_are_never_raised() -> None:
    files = sorted(Path(nfqlb.__file__).parent.rglob("*.py"))
    found = {(file.name, name) for file in files for name in raised(ast.parse(file.read_bytes()))}
    assert {name for _, name in found} >= {"HostError", "NotRunning", "Refused"}
    assert {each for each in found if each[1] in ("NfqlbError", "StateError", "PacketError", "Exception")} == set()


# -- what becomes of one that no command has caught


def called(monkeypatch: pytest.MonkeyPatch, error: Exception) -> tuple[int, str, BaseException | None]:
    def fails() -> None:
        raise error

    monkeypatch.setattr(version, "command", click.command(fails))
    done = CliRunner().invoke(main, ["version"])
    return done.exit_code, done.stderr, done.exception


@pytest.mark.parametrize(
    "error",
    [HostError("No iptables."), NotRunning("No gateway runs."), Refused("It cannot be.", "Neither can this.")],
    ids=lambda each: type(each).__name__,
)
def test_an_error_is_printed_and_not_its_traceback(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    code, stderr, ended = called(monkeypatch, error)
    assert (code, stderr) == (1, f"Error: {error}\n")
    assert isinstance(ended, SystemExit)


def test_mistakes_in_a_configuration_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert called(monkeypatch, ConfigError(Path("x.toml"), []))[:2] == (1, "Error: x.toml has 0 mistakes:\n")


@pytest.mark.parametrize("error", [KeyError("x"), DatagramError(Fault.BROKEN)], ids=lambda each: type(each).__name__)
def test_what_is_our_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    assert called(monkeypatch, error)[2] is error
