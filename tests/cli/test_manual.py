"""The manual pages: what is on them, that troff and mandoc find nothing wrong, and that they are read as meant."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import click
import pytest
from commandlines import nfqlb_calls
from test_cli import found

from nfqlb import share
from nfqlb.cli import COMMANDS, main
from nfqlb.config.build import build
from nfqlb.config.reference.reference import sections
from nfqlb.config.schema.tables import GatewayTable
from nfqlb.manual import Page, commands, configuration
from nfqlb.manual.commands import FILES, SEE_ALSO, taken_apart
from nfqlb.manual.roff import Roff
from nfqlb.units import PLACES

pytestmark = pytest.mark.slow

CONFIGURATION = configuration.page()
PAGES = {page.name: page for page in (*commands.pages(main), CONFIGURATION)}
EVERY = [("nfqlb",), *(path for name in COMMANDS for path, _ in found(name))]
"""Each command, as it is typed behind nfqlb."""


def has(program: str) -> pytest.MarkDecorator:
    missing = shutil.which(program) is None
    return pytest.mark.skipif(missing, reason=f"{program} is not installed (sudo tools/test does)")


def man_db() -> bool:
    """Whether man is what it should be: minimal images of Ubuntu have a program of that name which only says so."""
    if shutil.which("man") is None:
        return False
    done = subprocess.run(["man", "--version"], capture_output=True, text=True, timeout=60, check=False)
    return done.stdout.startswith("man ")


HAS_MAN = pytest.mark.skipif(not man_db(), reason="man-db is not installed (sudo tools/test does)")


def page_of(path: tuple[str, ...]) -> Page:
    return PAGES["-".join(path if path == ("nfqlb",) else ("nfqlb", *path))]


def command_of(path: tuple[str, ...]) -> click.Command:
    return main if path == ("nfqlb",) else next(found(*path))[1]


def read(page: Page, tmp_path: Path, columns: int = 100) -> str:
    """As `man` shows it, without bold and underlining."""
    path = tmp_path / page.name
    path.write_text(page.text)
    env = {**os.environ, "MANWIDTH": str(columns), "LC_ALL": "C.UTF-8", "MANROFFOPT": "-c"}
    done = subprocess.run(
        ["man", "--warnings", "-E", "UTF-8", "-l", "-P", "cat", path],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == ""
    return re.sub(".\b", "", done.stdout)


# -- what is on them


def test_every_command_has_its_page() -> None:
    assert set(PAGES) == {"nfqlb.toml", "nfqlb", *("-".join(("nfqlb", *path)) for path in EVERY[1:])}
    assert all(page.text.isascii() for page in PAGES.values())


@pytest.mark.parametrize("path", EVERY, ids=" ".join)
def test_a_page_has_what_a_page_has(path: tuple[str, ...]) -> None:
    titles = re.findall(r'^\.SH "(.*)"$', page_of(path).text, re.MULTILINE)
    optional = {"COMMANDS", "ENVIRONMENT", "FILES"}
    must = ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "EXAMPLES", "SEE ALSO"]
    assert [title for title in titles if title not in optional] == must
    command = command_of(path)
    if any(param.name == "config_path" for param in command.params):
        assert "FILES" in titles
    assert ("COMMANDS" in titles) == isinstance(command, click.Group)


@pytest.mark.parametrize("path", EVERY, ids=" ".join)
def test_a_help_text_is_made_up_as_pages_need_it(path: tuple[str, ...]) -> None:
    text = taken_apart(command_of(path).help or "")
    assert text.examples
    assert all(nfqlb_calls(line) for line in text.examples)
    assert text.summary.endswith(".")
    assert "xit status" not in " ".join(text.paragraphs), "a paragraph of its own: Exit status: 0 when …, 1 when …."
    assert not text.exit_status or {"0", "1"} <= set(text.exit_status)


@HAS_MAN
@pytest.mark.parametrize("path", EVERY, ids=" ".join)
def test_a_page_says_what_the_help_says(path: tuple[str, ...], tmp_path: Path) -> None:
    told = " ".join(read(page_of(path), tmp_path).split())
    command = command_of(path)
    text = taken_apart(command.help or "")
    for paragraph in text.paragraphs:
        assert plain(paragraph) in told
    for line in text.examples:
        assert " ".join(line.split()) in told
    for param in command.params:
        if isinstance(param, click.Option) and param.help:
            assert plain(param.help) in told
            assert all(name in told for name in param.opts)


def plain(text: str) -> str:
    """Without the marks that become bold."""
    return re.sub(r"`([^`]+)`|'(nfqlb [^']+)'", r"\1\2", " ".join(text.split()))


def test_the_page_of_the_configuration_explains_every_key(tmp_path: Path) -> None:
    for section in sections():
        assert f'.SS "{section.header}"' in CONFIGURATION.text
    if man_db():
        told = " ".join(read(CONFIGURATION, tmp_path).split())
        for section in sections():
            for key in section.keys:
                assert plain(key.text) in told


def test_the_least_configuration_is_right() -> None:
    assert build(Path("x"), tomllib.loads(configuration.MINIMAL)).warnings == ()


def test_files_and_references_are_what_there_is() -> None:
    names = {" ".join(path) for path in EVERY}
    assert {name for file in FILES for name in file.commands} <= names
    assert set(SEE_ALSO) <= set(COMMANDS)
    paths = {file.path for file in FILES}
    default = GatewayTable()
    assert {default.secret_file, f"{default.run_dir}/control", f"{default.run_dir}/board"} <= paths
    assert f"{default.state_dir}/backends.json" in paths
    assert {f"/{place}" for place in PLACES.values()} <= paths
    for page in PAGES.values():
        for name in re.findall(r"\\fB(nfqlb[\w.\\-]*)\\fR\(\d\)|(nfqlb[\w.\\-]*)\(\d\)", page.text):
            assert "".join(name).replace("\\-", "-") in PAGES


# -- that they are right


@has("mandoc")
def test_mandoc_finds_nothing(tmp_path: Path) -> None:
    share.write(tmp_path)
    files = sorted((tmp_path / "man").rglob("*.[15]"))
    assert len(files) == len(PAGES)
    done = subprocess.run(["mandoc", "-Tlint", *files], capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@has("lexgrog")
def test_whatis_finds_names(tmp_path: Path) -> None:
    share.write(tmp_path)
    files = sorted((tmp_path / "man").rglob("*.[15]"))
    done = subprocess.run(["lexgrog", *files], capture_output=True, text=True, timeout=100, check=True)
    listed = [line.partition(': "')[2].partition(" - ")[0] for line in done.stdout.splitlines()]
    assert sorted(listed) == sorted(PAGES)


@HAS_MAN
def test_characters_that_mean_something_to_troff_are_shown(tmp_path: Path) -> None:
    nasty = ".TH 'x' \"y\" \\fB -z ~ ^ … → é a--b \\n"
    page = Roff("x", 1, date="2026-01-01", source="x", manual="y")
    page.heading("NAME")
    page.prose("x - y")
    page.heading("OTHER")
    page.prose(nasty)
    page.verbatim([nasty, "'quoted' at the `beginning`", ".dot", ""])
    page.tagged("tag", f"A sentence. {nasty} And 'nfqlb check' or `this`.")
    told = " ".join(read(Page("x", 1, page.text()), tmp_path).split())
    assert told.count(nasty) == 3
    assert "And nfqlb check or this." in told
    assert "'quoted' at the `beginning` .dot" in told


def test_pages_are_reproducible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    first, second = list(share.files()), list(share.files())
    assert first == second
    pages = [text for place, text in first if place.startswith("man/")]
    assert len(pages) == len(PAGES)
    assert all(re.match(r"\.TH \S+ [15] 2023-11-14 ", text) for text in pages)
