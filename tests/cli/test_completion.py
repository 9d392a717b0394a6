"""`nfqlb completion`: what a shell is answered, and what bash, zsh and fish make of it on a terminal."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.shell_completion import CompletionItem, ShellComplete
from click.testing import CliRunner
from terminal import Terminal
from test_cli import found

from nfqlb.cli import COMMANDS, COMPLETE, completion, main
from nfqlb.cli import SHELLS as SHELLS_THAT_ASK
from nfqlb.cli.completion import BREAKS, LINE, split

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SCRIPTS = {shell: ROOT / "nfqlb" / "cli" / f"completion.{shell}" for shell in completion.PLACES}
WORDBREAKS = " \t\n\"'@><=;|&(:"
"""COMP_WORDBREAKS as bash has it."""

CONFIG = """
[gateway]
run_dir = "{run_dir}"
[[pool]]
name = "registrars"
[[pool.backend]]
name = "reg1"
[[pool.backend]]
name = "reg2"
[[pool]]
name = "proxies"
[[pool.backend]]
name = "proxy1"
[[pool.backend]]
name = "$(reboot)"
"""
"""With mistakes, as a file has that somebody is at work on: names are there nevertheless."""

ROWS = [
    ("registrars", "reg1", "up"),
    ("registrars", "reg2", "draining"),
    ("farm", "far@192.168.1.11", "up"),
    ("farm", "far@[2001:db8::2]", "down"),
    ("farm", "far@[2001:db8::2]:5070", "disabled"),
    ("", "old", "draining"),
    ("farm", "x; reboot", "up"),
]
"""(pool, name, state) of the backends of a gateway that runs."""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "nfqlb.toml"
    path.write_text(CONFIG.format(run_dir=tmp_path))
    return path


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[list[dict[str, object]]]:
    """One that runs with `config`, and answers with ROWS. The requests that it gets."""
    rows = [{"pool": pool, "name": name, "state": state} for pool, name, state in ROWS]
    requests: list[dict[str, object]] = []
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "control"))
        listening.listen()

        def serve() -> None:
            while True:
                try:
                    client = listening.accept()[0]
                except OSError:
                    return
                with client:
                    requests.append(json.loads(client.makefile("rb").readline()))
                    for line in ({"event": "…"}, {"ok": True, "alarms": {}, "backends": rows}):
                        client.sendall(json.dumps(line).encode() + b"\n")

        thread = threading.Thread(target=serve)
        thread.start()
        yield requests
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


def answered(*words: str, shell: str = "zsh", line: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    """What nfqlb says to a shell that asks: zsh and fish send `words`, bash a `line`."""
    return subprocess.run(
        [sys.executable, "-m", "nfqlb", *words],
        env={**os.environ, COMPLETE: shell, LINE: line, BREAKS: WORDBREAKS, **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def offered(*words: str) -> dict[str, str]:
    """Word that could come next → what is said of it; of a word that goes on, with …"""
    result = answered(*words)
    assert (result.returncode, result.stderr) == (0, "")
    lines = [line.partition("\t") for line in result.stdout.splitlines()]
    return {word[1:] + ("…" if word[0] == "=" else ""): text for word, _, text in lines}


def asked(*words: str) -> list[CompletionItem]:
    """The same within this process, as click has it."""
    return ShellComplete(main, {}, "nfqlb", COMPLETE).get_completions(list(words[:-1]), words[-1])


# -- what is offered


def test_commands_are_offered_with_what_they_do() -> None:
    assert offered("") == COMMANDS
    assert list(offered("re")) == ["reload", "replay"]
    assert list(offered("backends", "")) == ["disable", "drain", "enable", "list"]
    assert list(offered("check", "--l")) == ["--live"]
    assert offered("chek", "") == {}


def test_names_are_those_of_the_gateway_that_runs(config: Path, gateway: list[dict[str, object]]) -> None:
    assert offered("backends", "drain", "-c", str(config), "") == {
        "reg1": "registrars, up",
        "reg2": "registrars, draining",
        "far@192.168.1.11": "farm, up",
        "far@[2001:db8::2]": "farm, down",
        "far@[2001:db8::2]:5070": "farm, disabled",
        "old": "draining",
        "registrars/…": "pool",
        "farm/…": "pool",
    }
    assert gateway == [{"do": "backends", "config": str(config)}]
    in_pool = offered("backends", "disable", f"--config={config}", "registrars/")
    assert in_pool == {"registrars/reg1": "up", "registrars/reg2": "draining"}


def test_only_who_was_taken_out_is_brought_back(config: Path, gateway: list[dict[str, object]]) -> None:  # noqa: ARG001
    assert list(offered("backends", "-c", str(config), "enable", "")) == [
        *("reg2", "far@[2001:db8::2]:5070", "old", "registrars/…", "farm/…"),
    ]


def test_without_a_gateway_names_are_those_of_the_configuration(config: Path) -> None:
    for words in (
        ["drain", "-c", str(config)],
        ["-c", str(config), "enable"],
        ["-c", "/none", "drain", "-c", str(config)],
    ):
        assert offered("backends", *words, "") == {
            "reg1": "registrars",
            "reg2": "registrars",
            "proxy1": "proxies",
            "registrars/…": "pool",
            "proxies/…": "pool",
        }


def test_a_gateway_with_another_configuration_is_not_meant(config: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(config.parent / "control"))
        listening.listen()

        def refuse() -> None:
            with listening.accept()[0] as client:
                client.makefile("rb").readline()
                client.sendall(b'{"ok": false, "errors": ["it runs with another one"]}\n')

        thread = threading.Thread(target=refuse)
        thread.start()
        assert "proxy1" in offered("backends", "drain", "-c", str(config), "")
        thread.join()


def test_a_gateway_that_hangs_is_not_waited_for(config: Path) -> None:
    """It has its time, which is less than a person's, and then the file is asked."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(config.parent / "control"))
        listening.listen()
        assert "proxy1" in offered("backends", "drain", "-c", str(config), "")


def test_what_cannot_be_read_is_no_reason_to_say_a_word(config: Path) -> None:
    for content in ("[gateway", "[gateway]\nrun_dir = 7", "gateway = 1\npool = 3", 'pool = [1, {backend = "x"}]', "\0"):
        config.write_text(content)
        assert offered("backends", "drain", "-c", str(config), "") == {}
    assert offered("backends", "drain", "-c", str(config.parent), "") == {}
    assert offered("backends", "drain", "-c", str(config.parent / "none"), "") == {}


def test_a_variable_or_the_home_directory_in_the_name_of_the_file_means_what_it_does(config: Path) -> None:
    for named in ("~/nfqlb.toml", "$HOME/nfqlb.toml"):
        result = answered("backends", "drain", "-c", named, "prox", HOME=str(config.parent))
        assert result.stdout == "+proxy1\tproxies\n=proxies/\tpool\n"


def test_times_are_offered() -> None:
    assert list(offered("backends", "drain", "--for", "")) == ["10m", "1h", "1d"]
    assert list(offered("bans", "add", "--for=2")) == ["--for=2s", "--for=2m", "--for=2h", "--for=2d"]


def test_bans_are_offered_where_the_kernel_tells_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from nfqlb.gateway.netfilter import ipset

    text = 'add NFQLB-deny4 203.0.113.0/24 timeout 0 comment "scans"\nadd NFQLB-deny4 192.0.2.1 timeout 60\n'
    monkeypatch.setattr(ipset, "entries", lambda: list(ipset.read_entries("deny", text)))
    assert [(each.value, each.help) for each in asked("bans", "remove", "203")] == [("203.0.113.0/24", "scans")]


FILES = ("FILE", "DIR", "IN.pcap", "OUT.pcap", "NEW.toml", "[FILE]")


@pytest.mark.parametrize("name", COMMANDS)
def test_where_a_file_is_meant_files_are_looked_for(name: str) -> None:
    for path, command in found(name):
        for param in command.params:
            metavar = param.metavar or (param.name or "").upper()
            if isinstance(param.type, click.Path) or metavar in FILES:
                words = [*path, *([param.opts[0]] if isinstance(param, click.Option) else []), ""]
                kind = "dir" if metavar == "DIR" else "file"
                assert kind in {item.type for item in asked(*words)}, words


# -- what goes wrong


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_nothing_that_goes_wrong_is_told_into_a_prompt(shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("what nobody thought of")

    monkeypatch.setattr("click.shell_completion.ShellComplete.get_completions", broken)
    monkeypatch.setattr(sys, "argv", ["nfqlb", ""])
    result = CliRunner().invoke(main, env={COMPLETE: shell, LINE: "nfqlb ", BREAKS: WORDBREAKS})
    assert (result.exit_code, result.output) == (0, "")


@pytest.mark.parametrize("line", ["nfqlb 'ba", "", "nfqlb", "nfqlb \\", "nfqlb \xff '"])
def test_whatever_line_bash_has_is_answered(line: str) -> None:
    result = answered(shell="bash", line=line)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("line", "words", "rest"),
    [
        ("nfqlb backends ", ["nfqlb", "backends", ""], ""),
        ("nfqlb  back", ["nfqlb", "back"], "back"),
        ("nfqlb a\\ b 'c d' \"e f\" g", ["nfqlb", "a b", "c d", "e f", "g"], "g"),
        ("nfqlb '' x", ["nfqlb", "", "x"], "x"),
        ("nfqlb --for=10", ["nfqlb", "--for=10"], "10"),
        ("nfqlb reg@19", ["nfqlb", "reg@19"], "@19"),
        ("nfqlb reg@[2001:db8::2]:50", ["nfqlb", "reg@[2001:db8::2]:50"], "50"),
        ("nfqlb reg@\\[2001\\:db", ["nfqlb", "reg@[2001:db"], "@[2001:db"),
        ('nfqlb "reg:1', ["nfqlb", "reg:1"], "reg:1"),
        ("nfqlb 'it''s", ["nfqlb", "its"], "s"),
    ],
)
def test_a_line_is_read_as_bash_reads_it(line: str, words: list[str], rest: str) -> None:
    """`rest`: of the last word, what bash holds for the word."""
    assert split(line, WORDBREAKS) == (words, len(words[-1]) - len(rest))


def test_it_loads_nothing_heavy(config: Path) -> None:
    """A person waits for it at each Tab."""
    heavy = ["rich", "pydantic", "dpkt", "netfilterqueue", "pyroute2", "nfqlb.config", "asyncio", "multiprocessing"]
    code = f"""
import sys
sys.argv = ["nfqlb", "backends", "drain", "-c", {str(config)!r}, ""]
from nfqlb.cli import main
try:
    main()
finally:
    print([name for name in {heavy} if name in sys.modules], file=sys.stderr)
"""
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, COMPLETE: "zsh"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert result.stderr == "[]\n"
    assert "+proxy1\tproxies\n" in result.stdout


# -- the scripts


@pytest.mark.parametrize("shell", completion.PLACES)
def test_the_command_prints_the_script(shell: str) -> None:
    assert shell in SHELLS_THAT_ASK
    result = CliRunner().invoke(main, ["completion", shell])
    assert (result.exit_code, result.output) == (0, SCRIPTS[shell].read_text())


def has(program: str) -> pytest.MarkDecorator:
    missing = shutil.which(program) is None
    return pytest.mark.skipif(missing, reason=f"{program} is not installed (sudo tools/test does)")


SHELLS = [pytest.param(shell, marks=has(shell)) for shell in completion.PLACES]


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_is_right_by_its_shell(shell: str) -> None:
    subprocess.run([shell, "-n", SCRIPTS[shell]], check=True, timeout=60)


@has("shellcheck")
def test_shellcheck_finds_nothing() -> None:
    subprocess.run(["shellcheck", SCRIPTS["bash"]], check=True, timeout=60)


READY = "ready> "
BEGIN = {
    "bash": (
        ["bash", "--norc", "--noprofile", "-i"],
        "bind 'set enable-bracketed-paste off'; source <(nfqlb completion bash); PS1='rea''dy> '",
    ),
    "zsh": (
        ["zsh", "-f", "-i"],
        "bindkey -e; autoload -U compinit && compinit -u -D; source <(nfqlb completion zsh); PS1='rea''dy> '",
    ),
}
"""How each begins without anybody's own settings, and is made ready."""

Completed = Callable[[str], str]


@pytest.fixture(params=SHELLS)
def completed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Completed]:
    """A function: type this and Tab, and the last word that the command would then get."""
    env = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "TERM": "xterm",
        "LANG": "C.UTF-8",
    }
    if request.param == "fish":
        yield lambda line: completed_by_fish(line, env)
        return
    command, setting = BEGIN[request.param]
    with Terminal(*command, env=env) as terminal:
        terminal.type(f"{setting}\r")
        terminal.until(READY)

        def word(line: str) -> str:
            terminal.type(f"{line}\t\x01printf '<%s>' \r")  # back to the beginning, to see what has become of it
            return terminal.until(rf"<nfqlb>(?:<[^>]*>)*<([^>]*)>[^<]*{READY}")[1]

        yield word


def completed_by_fish(line: str, env: dict[str, str]) -> str:
    """It tells what it would offer. On a terminal it would lose keys that are typed before it has found that."""
    first, tab, rest = line.partition("\t")
    if tab:
        line = f"{first.rpartition(' ')[0]} {completed_by_fish(first, env)}{rest}"
    script = "nfqlb completion fish | source; complete --do-complete $argv[1]"
    done = subprocess.run(
        ["fish", "--no-config", "-c", script, line], env=env, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr == ""
    words = [each.partition("\t")[0] for each in done.stdout.splitlines()]
    return (words[0] if len(words) == 1 else line.rpartition(" ")[2]).replace("~", env["HOME"])


@has("fish")
def test_fish_completes_on_a_terminal(tmp_path: Path) -> None:
    env = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(tmp_path), "TERM": "xterm"}
    with Terminal("fish", "--no-config", "-i", env=env) as terminal:
        terminal.type("nfqlb completion fish | source; function fish_prompt; echo -n 'rea''dy> '; end\r")
        terminal.until(READY)
        terminal.type("nfqlb insta\t")
        terminal.until("install-units")


def test_a_shell_completes(completed: Completed, config: Path, gateway: list[dict[str, object]]) -> None:  # noqa: ARG001
    drain = f"nfqlb backends drain -c {config}"
    for line, last in [
        ("nfqlb insta", "install-units"),
        ("nfqlb check --li", "--live"),
        (f"{drain} reg1", "reg1"),
        (f"{drain} ol", "old"),
        (f"{drain} far", "far"),  # which of them?
        (f"{drain} far@1", "far@192.168.1.11"),
        (f"{drain} far@[2001:db8::2]:5", "far@[2001:db8::2]:5070"),
        (f"{drain} far@\\[2001:db8::2\\]:5", "far@[2001:db8::2]:5070"),
        (f"{drain} regi", "registrars/"),
        (f"{drain} regi\treg1", "registrars/reg1"),  # behind a pool it goes on
        (f"{drain} farm/far@1", "farm/far@192.168.1.11"),
        (f"{drain} x", "x"),
        ("nfqlb chek --liv", "--liv"),
    ]:
        assert completed(line) == last, line


def test_a_shell_completes_files(completed: Completed, config: Path) -> None:
    (config.parent / "one file.toml").touch()
    (config.parent / "folder").mkdir()
    for line, last in [
        (f"nfqlb check -c {config.parent}/on", f"{config.parent}/one file.toml"),
        (f"nfqlb check --config={config.parent}/on", f"--config={config.parent}/one file.toml"),
        ("nfqlb check -c ~/nfq", str(config)),
        (f"nfqlb replay {config.parent}/on", f"{config.parent}/one file.toml"),
        (f"nfqlb install-units --root {config.parent}/fo", f"{config.parent}/folder"),
    ]:
        assert completed(line).rstrip("/") == last, line


def test_a_shell_says_nothing_where_nothing_can_be_said(completed: Completed, config: Path) -> None:
    """Neither of a file that is none, nor of a gateway that cannot be asked."""
    config.write_text("[gateway")
    assert completed(f"nfqlb backends drain -c {config} re") == "re"
    config.chmod(0)
    assert completed(f"nfqlb backends drain -c {config} re") == "re"
