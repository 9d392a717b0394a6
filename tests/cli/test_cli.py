"""The command itself: its list, its help, how it ends. What each command does has a test of its own."""

import importlib
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any, get_args

import click
import pytest
from click.testing import CliRunner
from commandlines import assert_parses, nfqlb_calls

import nfqlb
from devtools.bench import __main__ as bench
from devtools.chaos import __main__ as chaos
from nfqlb import cli, fast
from nfqlb.cli import COMMANDS, main
from nfqlb.cli._common import Group, UserError, config_option, json_option
from nfqlb.config.model import LogFormat, LogLevel


def found(*path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """The command that one types as `nfqlb PATH…`, and all below it."""
    command: click.Command = main
    for name in path:
        assert isinstance(command, click.Group)
        below = command.get_command(click.Context(command), name)
        assert below is not None, f"{path} is listed, but is not there"
        command = below
    yield path, command
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            yield from found(*path, name)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nfqlb", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_the_list_is_that_of_the_modules() -> None:
    modules = {info.name for info in pkgutil.iter_modules(cli.__path__)}
    commands = {name.replace("-", "_") for name in COMMANDS}
    assert commands <= modules
    assert {name for name in modules if hasattr(importlib.import_module(f"nfqlb.cli.{name}"), "command")} == commands


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_says_what_the_command_says_of_itself(name: str) -> None:
    _, command = next(found(name))
    assert (command.help or "").split("\n")[0] == COMMANDS[name]


def test_every_group_says_what_was_meant() -> None:
    groups = [command for _, command in found() if isinstance(command, click.Group)]
    assert len(groups) > 5
    for command in (*groups, chaos.main, bench.main):
        assert isinstance(command, Group), command.name


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example_that_parses(name: str) -> None:
    for path, command in found(name):
        result = CliRunner().invoke(main, [*path, "--help"])
        assert result.exit_code == 0, result.output
        lines = (command.help or "").partition("Example")[2].splitlines()
        examples = [line for line in lines if nfqlb_calls(line)]
        assert examples, f"{path}: no example"
        for line in examples:
            assert_parses(line)


def test_help_loads_nothing_heavy() -> None:
    heavy = ["rich", "pydantic", "dpkt", "netfilterqueue", "pyroute2", "scapy", "asyncio", "multiprocessing"]
    script = f"""
import sys
from nfqlb.cli import main
main(["--help"], standalone_mode=False)
print([name for name in {heavy} if name in sys.modules], file=sys.stderr)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert result.stderr.strip() == "[]"
    assert all(name in result.stdout for name in COMMANDS)


def test_python_m_nfqlb_is_the_same_command() -> None:
    assert run("--version").stdout == f"nfqlb {nfqlb.__version__}\n"
    assert run("--help").stdout.startswith("Usage: nfqlb ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["chek"], "Error: No such command 'chek'. Did you mean 'check'?"),
        (["frobnicate"], "Error: No such command 'frobnicate'. See 'nfqlb --help'."),
        (["stauts"], "Error: No such command 'stauts'. Did you mean 'status'?"),
        (["ha", "statsu"], "Error: No such command 'statsu'. Did you mean 'status'?"),
        (["backends", "drian", "reg1"], "Error: No such command 'drian'. Did you mean 'drain'?"),
        (["secret", "nothing"], "Error: No such command 'nothing'. See 'nfqlb secret --help'."),
        (["--verson"], "Error: No such option '--verson'. Did you mean '--version'?"),
        (["check", "--lvie"], "Error: No such option '--lvie'. Did you mean '--live'?"),
        (["ha", "check", "--kepealived", "x"], "Error: No such option '--kepealived'. Did you mean '--keepalived'?"),
        (["check", "--frobnicate"], "Error: No such option '--frobnicate'.\n"),
        (["version", "extra"], "unexpected extra argument"),
    ],
)
def test_wrong_usage_exits_2(arguments: list[str], said: str) -> None:
    result = run(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert said in result.stderr


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module: a command of our own, `nfqlb probe`; a test sets what it does as `module.act`."""
    module: Any = ModuleType("nfqlb.cli.probe")

    @click.command()
    @config_option
    @json_option
    def command(**options: object) -> None:
        module.act(options)

    module.command = command
    monkeypatch.setitem(COMMANDS, "probe", "A probe.")
    monkeypatch.setitem(sys.modules, "nfqlb.cli.probe", module)
    return module


def test_common_options(probe: Any) -> None:
    seen: list[object] = []
    probe.act = seen.append
    for arguments in (["probe"], ["probe", "-c", "x.toml", "--json"]):
        assert CliRunner().invoke(main, arguments).exit_code == 0
    assert [str(each) for each in seen] == [
        "{'config_path': PosixPath('/etc/nfqlb/nfqlb.toml'), 'as_json': False}",
        "{'config_path': PosixPath('x.toml'), 'as_json': True}",
    ]


def test_a_users_mistake_is_a_sentence_and_exits_1(probe: Any) -> None:
    def act(_options: object) -> None:
        raise UserError("The queue is taken. Stop the other one.")

    probe.act = act
    result = CliRunner().invoke(main, ["probe"])
    assert (result.exit_code, result.output) == (1, "Error: The queue is taken. Stop the other one.\n")


def test_ctrl_c_is_no_mistake_to_talk_about(probe: Any) -> None:
    def act(_options: object) -> None:
        raise KeyboardInterrupt

    probe.act = act
    result = CliRunner().invoke(main, ["probe"])
    assert (result.exit_code, result.output) == (130, "")


def test_a_reader_that_has_gone_is_no_mistake_to_talk_about() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "nfqlb", "version"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 141


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [["version"], ["version", "--json"], ["--help"], ["--version"], ["rules", "apply", "--help"]],
    ids=" ".join,
)
def test_a_full_disk_is_told_in_a_sentence(arguments: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        process = subprocess.run(
            [sys.executable, "-m", "nfqlb", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert process.stderr == "Error: The output cannot be written (No space left on device).\n"
    assert process.returncode == 1


def test_an_error_of_ours_is_not_taken_for_a_full_disk(probe: Any) -> None:
    def act(_options: object) -> None:
        raise FileNotFoundError(2, "No such file or directory", "x")

    probe.act = act
    with pytest.raises(FileNotFoundError):
        CliRunner().invoke(main, ["probe"], catch_exceptions=False)


def test_version_names_every_library(monkeypatch: pytest.MonkeyPatch) -> None:
    result = CliRunner().invoke(main, ["version"])
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.output.splitlines()] == [
        *("nfqlb", "fast", "python", "kernel", "click", "dnspython", "dpkt", "google-re2", "netfilterqueue"),
        *("pydantic", "pyroute2", "rich"),
    ]
    assert "missing" not in result.output
    assert f"fast path       {fast.which()}\n" in result.output
    monkeypatch.setenv(fast.PURE, "1")
    assert "pure (NFQLB_PURE is set)" in CliRunner().invoke(main, ["version"]).output

    def nothing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("nfqlb.cli.version.version", nothing)
    assert "missing" in CliRunner().invoke(main, ["version"]).output


def test_the_options_of_the_log_are_those_of_the_file() -> None:
    module = importlib.import_module("nfqlb.cli.run")
    assert get_args(LogLevel) == module.LEVELS
    assert get_args(LogFormat) == module.FORMATS
