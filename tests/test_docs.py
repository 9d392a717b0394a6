"""What the documentation says is so: its commands parse, its configurations are right, its links lead somewhere.

A block that opens with ```console is a session: lines that begin with `$ ` or (for root) `# ` are commands, the others
output. Every call of nfqlb in it must parse. A block that opens with ```console run is run, too, from the root of the
checkout, and each line of output below a command must be found in what it prints, in that order, `…` standing for
anything. A configuration in ```toml with a listener is right without a warning; one in ```toml warned has a warning on
purpose.
"""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest
from commandlines import assert_parses, nfqlb_calls

from nfqlb.config.build import build

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    line: int
    info: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"

    def commands(self) -> list[tuple[str, list[str]]]:
        """Each command with the lines of output below it; a command may go on after a backslash."""
        found: list[tuple[str, list[str]]] = []
        for line in self.text.replace("\\\n", " ").splitlines():
            if line.startswith(("$ ", "# ")):
                found.append((line[2:], []))
            elif line.strip() and found:
                found[-1][1].append(line)
        return found


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(page, text.count("\n", 0, match.start()) + 1, match[1].strip(), match[2])
        for match in re.finditer(r"^```([^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    ]


BLOCKS = [block for page in PAGES for block in blocks(page)]
SESSIONS = [block for block in BLOCKS if block.info.split()[:1] == ["console"]]
RUNNABLE = [block for block in SESSIONS if block.info.split()[1:] == ["run"]]
CONFIGURATIONS = [block for block in BLOCKS if block.info in ("toml", "toml warned") and "[[listener]]" in block.text]


@pytest.mark.parametrize("block", SESSIONS, ids=str)
def test_commands_parse(block: Block) -> None:
    assert block.info in ("console", "console run")
    assert block.commands(), "a session without a command"
    for command, _ in block.commands():
        assert_parses(command)


@pytest.mark.slow
@pytest.mark.parametrize("block", RUNNABLE, ids=str)
def test_runnable_commands_do_what_the_page_shows(block: Block) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for command, output in block.commands():
        result = subprocess.run(
            ["bash", "-c", command],
            cwd=ROOT,
            env={**os.environ, "PATH": path, "COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        shown = ".*".join(re.escape(_single_spaced(line.strip())).replace("…", ".*") for line in output)
        assert re.search(shown, _single_spaced(result.stdout), re.DOTALL), result.stdout


def _single_spaced(text: str) -> str:
    return re.sub(r"[ \t]+", " ", text)


@pytest.mark.parametrize("block", CONFIGURATIONS, ids=str)
def test_configurations_are_right(block: Block) -> None:
    warnings = build(block.page, tomllib.loads(block.text)).warnings
    assert bool(warnings) == (block.info == "toml warned"), warnings


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_checkout_lead_somewhere(page: Path) -> None:
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", prose):
        assert re.match(r"https?://", target) or (page.parent / target).exists(), target


def test_the_readme_names_every_command_and_every_dependency() -> None:
    from nfqlb.cli import COMMANDS

    readme = (ROOT / "README.md").read_text()
    assert set(re.findall(r"^\| `nfqlb ([\w-]+)` \|", readme, re.MULTILINE)) == set(COMMANDS)
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    required = {re.split(r"[>=<]", each)[0] for each in project["dependencies"]}
    assert required <= set(re.findall(r"^\| ([\w-]+) \|", readme, re.MULTILINE))
    for extra in project["optional-dependencies"].values():
        assert all(re.split(r"[>=<\[]", each)[0] in readme for each in extra)


def test_calls_are_found_in_shell_lines() -> None:
    assert nfqlb_calls("sudo nfqlb rules show --json | grep x > y") == [["rules", "show", "--json"]]
    assert nfqlb_calls("A=1 /opt/bin/nfqlb check 2>/dev/null && nfqlb stats  # now") == [["check"], ["stats"]]
    assert nfqlb_calls("echo nfqlb check") == []
    with pytest.raises(AssertionError):
        assert_parses("nfqlb check --no-such-option")
