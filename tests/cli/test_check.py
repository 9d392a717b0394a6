"""`nfqlb check` and `nfqlb secret`, and the file of keys that both know."""

import grp
import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NoReturn

import pytest
from click.testing import CliRunner, Result

from nfqlb.cli import main
from nfqlb.config.build import load
from nfqlb.config.model import Config
from nfqlb.config.problems import ConfigError, Problem
from nfqlb.config.secret import KEY_MAX, read_keys, write_new

GOOD = """
[gateway]
secret_file = "secret"
[[listener]]
name = "main"
external = "203.0.113.5:5060"
internal = "192.168.1.5:5060"
aliases = ["sbc.example.org"]
advertise = "198.51.100.7:5060"
[[listener]]
name = "one"
external = "203.0.113.6:5060"
internal = "203.0.113.6:5060"
[[pool]]
name = "registrars"
[[pool.backend]]
name = "reg1"
address = "192.168.1.11:5060"
[[pool.backend]]
name = "reg2"
address = "192.168.1.12:5060"
[[route]]
methods = ["REGISTER"]
sources = ["10.0.0.0/8"]
domains = ["example.org"]
listeners = ["main"]
pool = "registrars"
[[route]]
pool = "registrars"
[workers]
count = 2
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    write_new(tmp_path / "secret")
    path = tmp_path / "nfqlb.toml"
    path.write_text(GOOD)
    return path


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[Problem]], list[Config]]:
    """Stands in for the host: give it the problems to report; it says which configurations it was asked about."""

    def stand_in(found: list[Problem]) -> list[Config]:
        asked: list[Config] = []
        module: Any = ModuleType("nfqlb.gateway.preflight.host")

        def problems(config: Config) -> list[Problem]:
            asked.append(config)
            return found

        module.problems = problems
        monkeypatch.setattr(
            "nfqlb.gateway.preflight.backends.problems", lambda _: [Problem("backend p/a", "no answer", "warning")]
        )
        monkeypatch.setitem(sys.modules, "nfqlb.gateway.preflight.host", module)
        monkeypatch.setattr("nfqlb.gateway.preflight.host", module, raising=False)
        return asked

    return stand_in


def check(path: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["check", "-c", str(path), *options])


def test_a_fine_configuration_is_summed_up(config: Path) -> None:
    result = check(config)
    assert result.exit_code == 0
    words = [line.split() for line in result.output.splitlines()]
    assert words[0] == [str(config), "is", "fine."]
    assert ["main", "203.0.113.5:5060", "198.51.100.7:5060", "192.168.1.5:5060", "sbc.example.org"] in words
    assert ["one", "203.0.113.6:5060", "the", "same", "(one-armed)"] in words
    assert ["registrars", "reg1", "192.168.1.11:5060", "1", "1", "call-id"] in words
    assert ["reg2", "192.168.1.12:5060", "1", "1"] in words
    assert "REGISTER, on main, to example.org, from 10.0.0.0/8" in result.output
    assert ["1", "registrars", "all"] in words
    assert "Path: always. Workers: 2, queues 5060 to 5061." in result.output


def test_every_mistake_is_printed_and_exit_is_1(config: Path) -> None:
    config.write_text(GOOD.replace("count = 2", "count = true").replace("192.168.1.12:5060", "reg2"))
    result = check(config)
    assert result.exit_code == 1
    assert f"{config}: 2 mistakes\n  pool[0].backend[1].address" in result.output
    assert "  workers.count = true: expected a whole number\n" in result.output
    assert "fine" not in result.output


def test_warnings_do_not_fail(config: Path) -> None:
    config.write_text(GOOD.replace("[[route]]\npool", '[[route]]\nmethods = ["INVITE"]\npool'))
    result = check(config)
    assert result.exit_code == 0
    assert f"{config} is fine." in result.output
    assert f"{config}: 1 warning\n  route: requests that match no rule" in result.output


def test_keys_are_checked_with_the_rest(config: Path) -> None:
    (config.parent / "secret").unlink()
    result = check(config)
    assert result.exit_code == 1
    assert f"there is no such file of keys; make it with: nfqlb secret new {config.parent}/secret" in result.output


def test_a_file_that_is_not_there_is_a_mistake(tmp_path: Path) -> None:
    result = check(tmp_path / "none.toml")
    assert result.exit_code == 1
    assert "there is no such file; name another one with -c" in result.output


def test_json_of_a_fine_configuration(config: Path) -> None:
    result = check(config, "--json")
    assert result.exit_code == 0
    found = json.loads(result.output)
    assert (found["file"], found["ok"], found["problems"]) == (str(config), True, [])
    assert found["config"]["pools"][0]["backends"][1] == {
        "name": "reg2",
        "address": "192.168.1.12:5060",
        "weight": 1,
        "priority": 1,
    }
    assert found["config"]["listeners"][0]["advertise"] == "198.51.100.7:5060"
    workers = {"count": 2, "queue": 5060, "queue_length": 8192, "socket_buffer": 8 << 20, "pin": True}
    assert found["config"]["workers"] == workers
    (key,) = read_keys(config.parent / "secret")[0]
    assert key.decode() not in result.output


def test_json_of_a_wrong_one(config: Path) -> None:
    config.write_text(GOOD.replace('"192.168.1.12:5060"', '"[::ffff:192.168.1.12]:5060"'))
    result = check(config, "--json")
    assert result.exit_code == 1
    assert json.loads(result.output) == {
        "file": str(config),
        "ok": False,
        "problems": [
            {
                "place": "pool[0].backend[1].address",
                "severity": "error",
                "text": "an IPv4 address in IPv6 clothing never stands in a packet",
                "value": '"[::ffff:192.168.1.12]:5060"',
                "nearest": "192.168.1.12:5060",
            }
        ],
        "config": None,
    }


def test_live_asks_the_host(config: Path, host: Callable[[list[Problem]], list[Config]]) -> None:
    asked = host([])
    assert check(config).exit_code == 0
    assert asked == []
    result = check(config, "--live")
    assert result.exit_code == 0
    assert asked == [load(config)]
    assert "1 warning\n  backend p/a: no answer\n" in result.output


def test_what_is_wrong_with_the_host_fails(config: Path, host: Callable[[list[Problem]], list[Config]]) -> None:
    host([Problem("sysctl", "ip_forward is off"), Problem("rules", "not applied", severity="warning")])
    result = check(config, "--live")
    assert result.exit_code == 1
    assert "  sysctl: ip_forward is off\n" in result.output
    assert "backend p/a" not in result.output  # nobody is asked from a host that cannot serve
    assert result.output.index("1 warning\n  rules: not applied") < result.output.index("1 mistake\n  sysctl")
    assert json.loads(check(config, "--live", "--json").output)["problems"][0]["place"] == "sysctl"


def test_the_host_is_not_asked_about_a_wrong_configuration(
    config: Path, host: Callable[[list[Problem]], list[Config]]
) -> None:
    asked = host([])
    config.write_text("x = 1")
    assert check(config, "--live").exit_code == 1
    assert asked == []


# The file of keys


def keys_in(tmp_path: Path, content: bytes) -> tuple[tuple[bytes, ...], list[str]]:
    path = tmp_path / "keys"
    path.write_bytes(content)
    path.chmod(0o600)
    keys, problems = read_keys(path)
    return keys, [str(problem).removeprefix(f"{path} ") for problem in problems]


A, B = b"a" * 16, b"b" * 64


def test_keys_one_a_line_with_comments_and_blank_lines(tmp_path: Path) -> None:
    assert keys_in(tmp_path, b"# old and new\n\n" + A + b"\r\n  " + B + b"  \n#" + A) == ((A, B), [])
    assert keys_in(tmp_path, A) == ((A,), [])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (A[1:], "line 1: expected 16 to 64 characters, not 15"),
        (A + b"\n" + B + b"b", "line 2: expected 16 to 64 characters, not 65"),
        (A + b" " + A, "line 1: expected one key of printable ASCII without blanks"),
        (A + b"\xc3\xa4", "line 1: expected one key of printable ASCII without blanks"),
        (A + b"\n#\n" + A, "line 3: the same key as in line 1; remove one of them"),
    ],
)
def test_mistakes_in_the_file_of_keys(tmp_path: Path, content: bytes, said: str) -> None:
    keys, problems = keys_in(tmp_path, content)
    assert (keys, problems) == ((), [said])
    assert "aaaa" not in said


def test_no_key_at_all(tmp_path: Path) -> None:
    keys, problems = keys_in(tmp_path, b"# nothing yet\n")
    assert keys == ()
    assert problems[0].endswith("no key in the file; make one with: openssl rand -hex 32")


def test_no_file_of_keys(tmp_path: Path) -> None:
    assert "cannot be read (Is a directory)" in str(read_keys(tmp_path)[1][0])


def test_keys_that_everybody_can_read_are_warned_of(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_bytes(A)
    path.chmod(0o644)
    keys, (problem,) = read_keys(path)
    assert (keys, problem.severity) == ((A,), "warning")
    path.chmod(0o640)
    assert read_keys(path) == ((A,), [])


def test_setup_reads_the_keys_and_refuses_wrong_ones(config: Path) -> None:
    setup = load(config).setup()
    assert len(setup.keys) == 1
    assert len(setup.keys[0]) == KEY_MAX
    (config.parent / "secret").write_text("short")
    with pytest.raises(ConfigError, match="secret line 1: expected 16 to 64 characters, not 5"):
        load(config).setup()


def no_such_group(name: str) -> NoReturn:
    raise KeyError(name)


def test_secret_new_makes_a_file_for_its_owner_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grp, "getgrnam", no_such_group)
    path = tmp_path / "etc" / "nfqlb" / "secret"
    old = os.umask(0)
    try:
        result = CliRunner().invoke(main, ["secret", "new", str(path)])
    finally:
        os.umask(old)
    assert result.exit_code == 0, result.output
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    keys, problems = read_keys(path)
    assert (len(keys), problems) == (1, [])


@pytest.mark.parametrize("may_give", [True, False], ids=["root", "other"])
def test_where_the_service_has_a_group_it_may_read_the_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, may_give: bool
) -> None:
    given = []

    def fchown(_descriptor: int, *owner: int) -> None:
        if not may_give:
            raise PermissionError(1, "Operation not permitted")
        given.append(owner)

    monkeypatch.setattr(grp, "getgrnam", lambda name: SimpleNamespace(gr_gid={"nfqlb": 4711}[name]))
    monkeypatch.setattr(os, "fchown", fchown)
    write_new(tmp_path / "secret")
    assert given == ([(-1, 4711)] if may_give else [])
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == (0o640 if may_give else 0o600)
    assert len(read_keys(tmp_path / "secret")[0]) == 1


def test_secret_new_never_overwrites(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("mine")
    result = CliRunner().invoke(main, ["secret", "new", str(path)])
    assert result.exit_code == 1
    assert "exists and was left as it is" in result.output
    assert path.read_text() == "mine"
    result = CliRunner().invoke(main, ["secret", "new", str(path / "below")])
    assert (result.exit_code, "cannot be written" in result.output) == (1, True)


def test_two_new_keys_differ(tmp_path: Path) -> None:
    write_new(tmp_path / "a")
    write_new(tmp_path / "b")
    assert read_keys(tmp_path / "a")[0] != read_keys(tmp_path / "b")[0]
