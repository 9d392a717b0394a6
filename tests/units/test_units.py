"""The systemd units: what is written for which host, and that systemd takes it."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from nfqlb import units
from nfqlb.cli import install_units, main
from nfqlb.cli._common import UserError
from nfqlb.units import PLACES, Service, UnitError, closed_to_others, install, quoted, remove, render

DOCS = Path(__file__).parents[2] / "docs"

ANALYZE = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here (sudo tools/test)")


def service(**other: Any) -> Service:
    values = {
        "command": ["/usr/local/bin/nfqlb"],
        "config": Path("/etc/nfqlb/nfqlb.toml"),
        "run_dir": Path("/run/nfqlb"),
        "state_dir": Path("/var/lib/nfqlb"),
        "secret_file": Path("/etc/nfqlb/secret"),
    }
    return Service(**{**values, **other})


def settings(text: str, name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", text, re.MULTILINE)


def test_what_depends_on_the_host_is_filled_in() -> None:
    rendered = render(service(config=Path("/srv/sip/lb.toml"), run_dir=Path("/run/lb"), secret_file=Path("/srv/key")))
    gateway, rules, users, files = (rendered[name] for name in PLACES)
    assert settings(gateway, "ExecStart") == ["/usr/local/bin/nfqlb run -c /srv/sip/lb.toml"]
    assert settings(gateway, "ExecReload") == ["/usr/local/bin/nfqlb reload -c /srv/sip/lb.toml"]
    assert settings(gateway, "RuntimeDirectory") == ["lb"]
    assert settings(rules, "ExecStop") == ["/usr/local/bin/nfqlb rules remove --yes -c /srv/sip/lb.toml"]
    assert 'u nfqlb - "' in users
    assert "d /run/lb 0755 nfqlb nfqlb\n" in files
    assert "z /srv/key 0640 root nfqlb\n" in files
    assert all(text.startswith(units.MARK) for text in rendered.values())
    assert not re.search(r"@\w+@", "".join(rendered.values()))


def test_the_service_has_a_user_of_its_own_and_two_privileges() -> None:
    text = render(service())["nfqlb.service"]
    assert settings(text, "User") == settings(text, "Group") == ["nfqlb"]
    assert settings(text, "CapabilityBoundingSet") == settings(text, "AmbientCapabilities")
    assert settings(text, "AmbientCapabilities") == ["CAP_NET_ADMIN CAP_NET_RAW"]


def test_as_root_it_may_become_somebody_else() -> None:
    text = render(service(as_root=True))["nfqlb.service"]
    assert settings(text, "User") == ["root"]
    capabilities = settings(text, "CapabilityBoundingSet")[0].split()
    assert {"CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SETUID", "CAP_SETGID"} <= set(capabilities)
    assert "CAP_SYS_ADMIN" not in capabilities


@pytest.mark.parametrize(
    ("other", "seen"),
    [
        ({}, "yes"),
        ({"command": ["/home/alice/nfqlb/bin/nfqlb"]}, "read-only"),
        ({"needed": [Path("/root/.pyenv/versions/3.13.0")]}, "read-only"),
        ({"config": Path("/home/alice/nfqlb.toml")}, "read-only"),
    ],
)
def test_homes_are_out_of_sight_unless_we_live_there(other: dict[str, Any], seen: str) -> None:
    assert settings(render(service(**other))["nfqlb.service"], "ProtectHome") == [seen]


def test_a_run_directory_elsewhere_is_refused() -> None:
    for folder in ("/var/lib/nfqlb", "/run/nfqlb/second", "/run"):
        with pytest.raises(UnitError, match=f"run_dir is {folder}"):
            render(service(run_dir=Path(folder)))


@pytest.mark.parametrize(
    ("folder", "line"),
    [
        ("/var/lib/nfqlb", "StateDirectory=nfqlb"),
        ("/var/lib/sip/lb", "StateDirectory=sip/lb"),
        ("/srv/lb state", 'ReadWritePaths="/srv/lb state"'),
        ("/var/lib", "ReadWritePaths=/var/lib"),
    ],
)
def test_the_directory_of_state_can_be_written(folder: str, line: str) -> None:
    assert f"\n{line}\n" in render(service(state_dir=Path(folder)))["nfqlb.service"]


@pytest.mark.parametrize(
    ("word", "written"),
    [
        ("/usr/bin/nfqlb", "/usr/bin/nfqlb"),
        ("/opt/100%/nfqlb", "/opt/100%%/nfqlb"),
        ("/opt/$HOME/nfqlb", "/opt/$$HOME/nfqlb"),
        ("/opt/SIP lb/nfqlb", '"/opt/SIP lb/nfqlb"'),
        ('/opt/"\\/nfqlb', '"/opt/\\"\\\\/nfqlb"'),
    ],
)
def test_words_are_quoted_for_systemd(word: str, written: str) -> None:
    assert quoted(word) == written


def test_what_no_line_can_hold_is_refused() -> None:
    with pytest.raises(UnitError, match="cannot stand in a unit file"):
        quoted("/opt/two\nlines")


# files


def test_it_may_be_repeated(tmp_path: Path) -> None:
    first = install(service(), tmp_path)
    assert [(change.path, change.kind) for change in first] == [(tmp_path / each, "new") for each in PLACES.values()]
    times = {path: path.stat().st_mtime_ns for path, _ in first}
    assert {change.kind for change in install(service(), tmp_path)} == {"unchanged"}
    assert {path: path.stat().st_mtime_ns for path, _ in first} == times
    assert {stat.S_IMODE(path.stat().st_mode) for path, _ in first} == {0o644}
    other = install(service(config=Path("/srv/x")), tmp_path)
    assert [change.kind for change in other] == ["changed", "changed", "unchanged", "unchanged"]
    assert "-c /srv/x" in first[0].path.read_text()


def test_somebody_elses_file_keeps_all_of_ours_out(tmp_path: Path) -> None:
    foreign = tmp_path / PLACES["tmpfiles.conf"]
    foreign.parent.mkdir(parents=True)
    foreign.write_text("d /run/nfqlb\n")
    acts: tuple[Callable[[], object], ...] = (lambda: install(service(), tmp_path), lambda: remove(tmp_path))
    for act in acts:
        with pytest.raises(UnitError, match=r"nfqlb\.conf is not from us"):
            act()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [foreign]


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    assert remove(tmp_path) == []
    install(service(), tmp_path)
    link = tmp_path / units.ENABLED / "nfqlb.service"
    link.parent.mkdir()
    link.symlink_to("/etc/systemd/system/nfqlb.service")
    with pytest.raises(UnitError, match=r"First: systemctl disable --now nfqlb.service$"):
        remove(tmp_path)
    link.unlink()
    assert {change.kind for change in remove(tmp_path)} == {"removed"}
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_where_others_may_not_go(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    base = closed_to_others(tmp_path / "x")  # of the machine that the test runs on
    (tmp_path / "a").chmod(0o750)
    assert closed_to_others(inner / "nfqlb") == (base or tmp_path / "a")
    (tmp_path / "a").chmod(0o711)
    assert closed_to_others(inner / "nfqlb") == base


# the command


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["install-units", *arguments])


def test_the_command(tmp_path: Path) -> None:
    root = str(tmp_path)
    dry = call("--root", root, "--dry-run")
    assert (dry.exit_code, dry.output.count("would be written")) == (0, 4)
    assert not any(tmp_path.iterdir())
    done = json.loads(call("--root", root, "--json").output)
    assert done == [{"file": f"{root}/{place}", "change": "new"} for place in PLACES.values()]
    assert call("--root", root).output.count("as it should be") == 4
    text = (tmp_path / PLACES["nfqlb.service"]).read_text()
    assert settings(text, "ExecStart") == [f"{sys.executable} -m nfqlb run -c /etc/nfqlb/nfqlb.toml"]
    assert call("--root", root, "--remove").output.count(": removed") == 4
    assert call("--root", root, "--remove").output == "There is nothing of ours.\n"


def test_a_configuration_that_is_not_there_is_told(tmp_path: Path) -> None:
    missing = tmp_path / "lb.toml"
    arguments = "-c", str(missing), "--as-root", "--dry-run"
    assert f"Warning: there is no {missing}" in call(*arguments).output
    assert "Warning" not in call(*arguments, "--root", str(tmp_path)).output, "an image has its configuration later"


def test_the_configuration_tells_the_rest(tmp_path: Path) -> None:
    config = tmp_path / "lb.toml"
    example = (DOCS / "nfqlb.example.toml").read_text()
    config.write_text(example.replace('#run_dir = "/run/nfqlb"', 'run_dir = "/run/second"'))
    assert call("-c", str(config), "--root", str(tmp_path / "root")).exit_code == 0
    text = (tmp_path / "root" / PLACES["nfqlb.service"]).read_text()
    assert settings(text, "RuntimeDirectory") == ["second"]
    assert settings(text, "ExecReload")[0].endswith(f" reload -c {config}")
    config.write_text(example.replace("[gateway]", "[gatewy]"))
    wrong = call("-c", str(config), "--root", str(tmp_path / "root"))
    assert (wrong.exit_code, 'did you mean "gateway"?' in wrong.output) == (1, True)


def test_a_pair_may_open_the_device_of_its_lifeline_and_no_other(tmp_path: Path) -> None:
    config = tmp_path / "lb.toml"
    example = (DOCS / "nfqlb.example.toml").read_text()
    for text, wanted in ((example, ([], ["yes"])), (re.sub(r"(?m)^#(?=\[ha\]|address|peer|interface =)", "", example),
                                                   (["/dev/net/tun rw"], []))):  # fmt: skip
        config.write_text(text)
        assert call("-c", str(config), "--root", str(tmp_path / "root")).exit_code == 0
        unit = (tmp_path / "root" / PLACES["nfqlb.service"]).read_text()
        assert (settings(unit, "DeviceAllow"), settings(unit, "PrivateDevices")) == wanted


def test_the_command_is_called_as_it_was_called(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By the link, which may soon lead to a newer version."""
    program = tmp_path / "opt" / "nfqlb"
    program.parent.mkdir()
    program.touch(mode=0o755)
    link = tmp_path / "nfqlb"
    link.symlink_to(program)
    monkeypatch.setattr(sys, "argv", [str(link)])
    assert install_units.own_command() == [str(link)]
    monkeypatch.setattr(sys, "argv", ["nfqlb"])
    monkeypatch.setenv("PATH", str(tmp_path))
    assert install_units.own_command() == [str(link)]
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "__main__.py")])
    assert install_units.own_command() == [sys.executable, "-m", "nfqlb"]


def test_a_program_that_the_user_of_the_service_cannot_reach_is_told(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    (closed / "bin").mkdir(parents=True)
    closed.chmod(0o700)
    with pytest.raises(UserError, match=r"User nfqlb cannot run .* is closed to others"):
        install_units.enterable(service(command=[str(closed / "bin" / "nfqlb")]))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_without_root_it_says_so() -> None:
    with pytest.raises(UnitError, match="run this as root"):
        install(service(), Path("/"))


# systemd


@pytest.fixture(params=["as usual", "as root", "odd names"])
def written(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """The two units, for a program that exists."""
    program = tmp_path / ("50% SIP $lb" if request.param == "odd names" else "bin") / "nfqlb"
    program.parent.mkdir()
    program.touch(mode=0o755)
    made = service(command=[str(program)], as_root=request.param == "as root")
    return [str(change.path) for change in install(made, tmp_path) if change.path.suffix == ".service"]


@ANALYZE
def test_systemd_finds_nothing_wrong_with_them(written: list[str]) -> None:
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *written], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@ANALYZE
def test_they_are_as_closed_as_the_page_says(tmp_path: Path) -> None:
    page = (DOCS / "service.md").read_text()
    for change in install(service(), tmp_path)[:2]:
        done = subprocess.run(
            ["systemd-analyze", "security", "--offline=true", "--no-pager", str(change.path)],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        (found,) = re.findall(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
        (told,) = re.findall(rf"exposure level for {change.path.name}: ([\d.]+)", page)
        assert float(found) <= float(told) + 0.3  # other versions of systemd weigh a little otherwise
