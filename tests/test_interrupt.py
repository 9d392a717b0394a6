"""Ctrl-C at many moments while modules load, and in the places where Python cannot raise it."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent

MOMENTS = 8
"""For each command; all together 40."""

COMMANDS = (
    ["status", "-c", "{config}"],
    ["check", "-c", "{config}"],
    ["rules", "show", "-c", "{config}"],
    ["replay", "-c", "{config}", "{pcap}", "--diff"],
    ["version"],
)

RUN = """
import atexit, os, runpy, signal, sys

at, seen, armed = int(sys.argv.pop(1)), 0, False

def hook(event, details):
    global seen, armed
    if event == "import":
        armed = armed or details[0] == "nfqlb.cli"
        seen += armed
        if armed and seen == at:
            os.kill(os.getpid(), signal.SIGINT)

if not at:
    atexit.register(lambda: print(seen, file=sys.stderr))
sys.addaudithook(hook)
runpy.run_module("nfqlb", run_name="__main__", alter_sys=True)
"""
"""`nfqlb` that gets a SIGINT when it imports the nth module, counted from nfqlb.cli on; with 0 it says at its end how
many there were.
"""


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", *words], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command[:2]))
def test_while_modules_load_it_ends_without_a_word(command: list[str]) -> None:
    folder = ROOT / "pcaps/two-armed"
    words = [each.format(config=folder / "nfqlb.toml", pcap=folder / "exchange.pcap") for each in command]
    total = int(run(RUN, "0", *words).stderr.split()[-1])
    assert total > MOMENTS
    for moment in range(1, total, total // MOMENTS):
        done = run(RUN, str(moment), *words)
        assert done.stderr == "", f"at import {moment} of {total}"
        # To a shell the same. (Python sends the signal on to itself at its end when it caught it inside an exec(), as
        # dataclasses use it.)
        assert done.returncode in (130, -2), f"at import {moment} of {total}"


def test_what_cannot_be_raised_where_it_comes_is_raised_soon_after() -> None:
    script = """
import os, signal, time
from nfqlb import interrupt

class Closing:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        while True:
            pass

interrupt.at_once()
interrupt.as_exception()
Closing()
try:
    time.sleep(50)
except KeyboardInterrupt:
    print("raised")
"""
    done = run(script)
    assert (done.stdout, done.stderr, done.returncode) == ("raised\n", "", 0)


def test_other_errors_that_cannot_be_raised_are_told() -> None:
    script = """
from nfqlb import interrupt

class Closing:
    def __del__(self):
        raise ValueError("a bug")

interrupt.at_once()
interrupt.as_exception()
Closing()
"""
    assert "ValueError: a bug" in run(script).stderr


@pytest.mark.parametrize(
    ("before", "begun", "status"),
    [
        ("signal.default_int_handler", "", 130),
        ("signal.default_int_handler", "interrupt.as_exception()", 7),
        ("signal.default_int_handler", "interrupt.as_exception(); interrupt.over()", 130),
        ("signal.SIG_IGN", "", 0),
        ("signal.SIG_IGN", "interrupt.as_exception(); interrupt.over()", 0),
    ],
)
def test_when_it_ends_the_process_and_when_it_is_an_exception(before: str, begun: str, status: int) -> None:
    script = f"""
import os, signal, sys
from nfqlb import interrupt
signal.signal(signal.SIGINT, {before})
interrupt.at_once()
{begun}
try:
    os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    sys.exit(7)
"""
    done = run(script)
    assert (done.returncode, done.stderr) == (status, "")


def test_every_way_in_sees_to_it_first() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"nfqlb": "nfqlb.__main__:main"}
    heads = "\n".join(
        f"{path.parent.name}: {path.read_text()[:400]}"
        for path in [ROOT / "nfqlb/__main__.py", *ROOT.glob("tools/devtools/*/__main__.py")]
    )
    for name in ("nfqlb", "chaos", "bench", "fuzz"):
        head = heads.partition(f"{name}: ")[2]
        imports = [line for line in head.splitlines() if line.startswith(("import ", "from "))]
        assert imports[0] == "from nfqlb import interrupt", name
        assert head.index("interrupt.at_once()") < head.index(imports[1]), name
