"""tools/: the scripts are clean, and the set-up does what it says, with stand-ins for apt, dpkg and Python."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = [
    path
    for path in [*(ROOT / "tools").iterdir(), ROOT / ".ci" / "run"]
    if path.is_file() and b"bash" in path.read_bytes().partition(b"\n")[0]
]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_scripts_are_strict_and_run_as_they_are(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True, timeout=60)
    if script.suffix != ".sh":
        assert "\nset -euo pipefail\n" in script.read_text()
        assert os.access(script, os.X_OK)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed (sudo tools/test does)")
def test_shellcheck_finds_nothing() -> None:
    result = subprocess.run(
        ["shellcheck", "-x", *SCRIPTS], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    assert (result.returncode, result.stdout) == (0, "")


COMPILED = (
    "pyproject.toml",
    "setup.py",
    "nfqlb/fast/path.pyx",
    "nfqlb/fast/sip_text.pxi",
    "nfqlb/fast/direct.pxd",
    "nfqlb/gateway/worker/_nfqueue_loop.pyx",
)
"""What an environment is made of."""


class Checkout:
    """A copy of the set-up script in a directory of its own, with stand-ins that log what they were asked."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bin = root / "bin"
        self.log = root / "log"
        (root / "co" / "tools").mkdir(parents=True)
        self.bin.mkdir()
        self.log.touch()
        shutil.copy(ROOT / "tools" / "setup.sh", root / "co" / "tools")
        for name in COMPILED:
            (root / "co" / name).parent.mkdir(parents=True, exist_ok=True)
            (root / "co" / name).write_text("one")
        self.stand_in("dpkg-query", 'case " $INSTALLED " in *" $3 "*) printf installed;; *) exit 1;; esac')
        for name in ("apt-get", "update-rc.d", "service", "systemctl"):
            self.stand_in(name, f'echo "{name} $*" >>"{self.log}"')
        self.stand_in(
            "python3",
            f"""
case "$1 $2" in
    "-m venv") mkdir -p "$4/bin"; touch "$4/pyvenv.cfg"; cp "$0" "$4/bin/python"; echo "venv $4" >>"{self.log}" ;;
    "-m pip") [[ $3 == --version ]] || echo "pip ${{*:3}}" >>"{self.log}" ;;
    "-c import sys; print"*) echo "${{VERSION:-3.11}}" ;;
esac""",
        )

    def stand_in(self, name: str, body: str) -> None:
        path = self.bin / name
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(0o755)

    def run(self, script: str, *, root: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run `script` after the set-up functions; `log` then says what was done to the machine."""
        self.log.write_text("")
        prelude = f"set -euo pipefail; source tools/setup.sh; is_root() {{ {'true' if root else 'false'}; }}"
        return subprocess.run(
            ["bash", "-c", f"{prelude}; {script}", "tools/x"],
            cwd=self.root / "co",
            env={"PATH": f"{self.bin}:/usr/bin:/bin", "INSTALLED": "", **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def done(self) -> list[str]:
        return self.log.read_text().splitlines()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


APT = "apt-get -q -o DPkg::Lock::Timeout=300"


def test_only_what_is_missing_is_installed(checkout: Checkout) -> None:
    assert checkout.run("need_packages a b c", INSTALLED="a c").returncode == 0
    assert checkout.done() == [f"{APT} update", f"{APT} install -y --no-install-recommends b"]
    assert checkout.run("need_packages a b c", INSTALLED="a b c").returncode == 0
    assert checkout.done() == []


def test_without_root_it_says_what_to_install(checkout: Checkout) -> None:
    result = checkout.run("need_packages a b c", root=False, INSTALLED="a")
    assert (result.returncode, checkout.done()) == (1, [])
    assert result.stderr == "tools/x: Debian packages are missing. Install them with: sudo apt-get install b c\n"


def test_apt_cannot_ask_and_may_fail(checkout: Checkout) -> None:
    checkout.stand_in("apt-get", f'echo "$DEBIAN_FRONTEND $NEEDRESTART_MODE" >>"{checkout.log}"; exit 100')
    result = checkout.run("need_packages a")
    assert (result.returncode, checkout.done()) == (1, ["noninteractive l"] * 2)
    assert result.stderr.endswith("apt-get could not install what is needed. Its messages above say why.\n")


def test_elsewhere_it_names_the_packages(checkout: Checkout) -> None:
    (checkout.bin / "dpkg-query").unlink()
    result = checkout.run(f'PATH="{checkout.bin}"; need_packages a b')
    assert result.returncode == 1
    assert result.stderr.endswith("Elsewhere, install the likes of: a b\n")


def test_no_daemon_is_left_behind(checkout: Checkout) -> None:
    # The branch is that of this machine; either way the service is disabled, and nothing stays masked.
    systemd = Path("/run/systemd/system").is_dir()
    assert checkout.run("need_packages kamailio x").returncode == 0
    done = checkout.done()
    install = f"{APT} install -y --no-install-recommends kamailio x"
    if systemd:
        mask, unmask = (f"systemctl {word} --quiet --runtime kamailio.service" for word in ("mask", "unmask"))
        assert done == [mask, f"{APT} update", install, "update-rc.d kamailio disable", unmask]
    else:
        assert done == [f"{APT} update", install, "service kamailio stop", "update-rc.d kamailio disable"]


def test_a_service_that_was_there_is_left_alone(checkout: Checkout) -> None:
    assert checkout.run("need_packages kamailio x", INSTALLED="kamailio").returncode == 0
    assert checkout.done() == [f"{APT} update", f"{APT} install -y --no-install-recommends x"]


ENV = 'BUILD_PACKAGES=(); need_venv dev; echo "$VENV"'


def test_the_environment_is_made_once(checkout: Checkout) -> None:
    place = f"{checkout.root}/co/.venv"
    result = checkout.run(ENV)
    assert (result.returncode, result.stdout) == (0, f"{place}\n"), result.stderr
    made = [f"venv {place}", "pip install --quiet --config-settings editable_mode=compat --editable .[dev]"]
    assert [line.replace("--disable-pip-version-check ", "") for line in checkout.done()] == made
    assert checkout.run(ENV).returncode == 0
    assert checkout.done() == []


def test_the_demo_goes_without_what_tests_need_unless_it_is_there(checkout: Checkout) -> None:
    def pip(script: str) -> list[str]:
        assert checkout.run(f"BUILD_PACKAGES=(); {script}").returncode == 0
        return [line.split()[-1] for line in checkout.done() if line.startswith("pip ")]

    assert pip("need_venv run") == ["."]
    assert pip("need_venv run") == []
    assert pip("need_venv dev") == [".[dev]"]
    assert pip("need_venv run; need_venv dev") == []
    (checkout.root / "co" / "setup.py").write_text("two")
    assert pip("need_venv run") == [".[dev]"]


def test_the_lists_of_packages_are_fetched_once(checkout: Checkout) -> None:
    assert checkout.run("need_packages a; need_packages b").returncode == 0
    install = f"{APT} install -y --no-install-recommends"
    assert checkout.done() == [f"{APT} update", f"{install} a", f"{install} b"]


@pytest.mark.parametrize("name", COMPILED)
def test_what_has_changed_is_installed_into_the_same_environment(checkout: Checkout, name: str) -> None:
    checkout.run(ENV)
    (checkout.root / "co" / name).write_text("two")
    assert checkout.run(ENV).returncode == 0
    assert [line.split()[0] for line in checkout.done()] == ["pip"]


@pytest.mark.parametrize("harm", ["broken", "other python"])
def test_a_broken_environment_is_made_anew(checkout: Checkout, harm: str) -> None:
    checkout.run(ENV)
    python = checkout.root / "co" / ".venv" / "bin" / "python"
    python.write_text("#!/bin/bash\nexit 1\n" if harm == "broken" else '#!/bin/bash\n[[ $1 != -c ]] || echo "3.9"\n')
    assert checkout.run(ENV).returncode == 0
    assert [line.split()[0] for line in checkout.done()] == ["venv", "pip"]


def test_what_is_no_environment_is_not_touched(checkout: Checkout) -> None:
    (checkout.root / "mine").mkdir()
    result = checkout.run(ENV, NFQLB_VENV="../mine")
    assert (result.returncode, checkout.done()) == (1, [])
    assert f"{checkout.root}/mine is no Python environment and was left as it is." in result.stderr


def test_a_failed_installation_is_tried_again(checkout: Checkout) -> None:
    checkout.run(ENV)
    (checkout.root / "co" / "pyproject.toml").write_text("two")
    python = checkout.root / "co" / ".venv" / "bin" / "python"
    good = python.read_text()
    python.write_text(good.replace('"-m pip") ', '"-m pip") [[ $3 == --version ]] || exit 1; '))
    result = checkout.run(ENV)
    assert result.returncode == 1
    assert result.stderr.endswith("pip could not install what is needed. Its messages above say why.\n")
    python.write_text(good)
    assert checkout.run(ENV).returncode == 0
    assert [line.split()[0] for line in checkout.done()] == ["pip"]


def test_an_old_python_is_told(checkout: Checkout) -> None:
    checkout.stand_in("python3", '[[ $2 != *"version_info < (3, 11)"* ]]')
    result = checkout.run(ENV)
    assert result.returncode == 1
    assert "Python 3.11 or later is needed; python3 is older." in result.stderr


class Suite:
    """tools/test in such a checkout, with stand-ins for ruff, mypy and pytest that log how they were called."""

    def __init__(self, checkout: Checkout) -> None:
        self.checkout = checkout
        shutil.copy(ROOT / "tools" / "test", checkout.root / "co" / "tools")
        checkout.stand_in("nproc", "echo 3")
        assert checkout.run("BUILD_PACKAGES=(); need_venv dev").returncode == 0
        for name in ("ruff", "mypy", "pytest"):
            self.ends(name, 0)

    def ends(self, name: str, status: int) -> None:
        log = self.checkout.log
        body = f'echo {name} "$(printf \'[%s]\' "$@")" >>{log}; exit {status}'
        self.checkout.stand_in(f"../co/.venv/bin/{name}", body)

    def run(self, *arguments: str, root: bool) -> subprocess.CompletedProcess[str]:
        """`is_root` is told as the last line of the set-up: who runs these tests may be root, or not."""
        setup = self.checkout.root / "co" / "tools" / "setup.sh"
        setup.write_text(
            (ROOT / "tools" / "setup.sh").read_text() + f"is_root() {{ {'true' if root else 'false'}; }}\n"
        )
        return self.checkout.run(f"bash tools/test {' '.join(arguments)}")


@pytest.fixture
def suite(checkout: Checkout) -> Suite:
    return Suite(checkout)


def test_quick_runs_what_is_quick_and_says_what_it_left_out(suite: Suite) -> None:
    for root in (True, False):
        result = suite.run("--quick", "-k", "word", root=root)
        assert result.returncode == 0, result.stderr
        assert suite.checkout.done() == [
            "ruff [check][.]",
            "ruff [format][--check][.]",
            "pytest [-n][3][--dist][loadfile][--no-loadscope-reorder][-m][not root and not slow][-k][word]",
        ]
        assert "NOT RUN: mypy, and the tests that are marked root or slow" in result.stderr
        assert "All of them: sudo tools/test" in result.stderr


def test_all_is_run_unless_told_otherwise(suite: Suite) -> None:
    for root in (True, False):
        result = suite.run("-k", "word", root=root)
        assert result.returncode == 0, result.stderr
        calls = [line for line in suite.checkout.done() if not line.startswith(("apt-get", "systemctl", "update-rc.d"))]
        assert [line for line in calls if not line.startswith("service")] == [
            "ruff [check][.]",
            "ruff [format][--check][.]",
            "mypy []",
            "pytest [-n][9][--dist][loadfile][--no-loadscope-reorder][-k][word]",
        ]
        assert ("NOT RUN: the tests that need root" in result.stderr) is not root


@pytest.mark.parametrize("name", ["ruff", "pytest"])
def test_quick_fails_when_a_check_does(suite: Suite, name: str) -> None:
    suite.ends(name, 1)
    assert suite.run("--quick", root=False).returncode == 1
    assert [line.split()[0] for line in suite.checkout.done()] == ["ruff", "ruff", "pytest"]
