"""docs/architecture.md leads where it says: every path on it exists, every name stands in the file beside it, and no
package is left out. So do the paths of docs/contributing.md. The README has a line for each package and top folder.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "architecture.md").read_text()
CONTRIBUTING = (ROOT / "docs" / "contributing.md").read_text()
README = (ROOT / "README.md").read_text()
SUFFIXES = ("md", "py", "pyi", "pyx", "pxi", "pxd", "sh", "toml", "service", "v4", "v6", "cfg", "json", "jsonl", "pcap")

PACKAGES = sorted(str(file.parent.relative_to(ROOT)) for file in (ROOT / "nfqlb").rglob("__init__.py"))[1:]
"""`nfqlb/balance` …, without `nfqlb` itself."""


def is_path(code: str) -> bool:
    """Whether a piece of code on a page is a path in the checkout. Those on a host begin with `/`
    or `<run_dir>`, and what a build makes with a dot.
    """
    return not code.startswith(("<", "/", "[", ".", "*")) and ("/" in code or code.rpartition(".")[2] in SUFFIXES)


def codes(text: str) -> list[str]:
    """The first word of each: `tools/fuzz twins` is the path of a command."""
    return [code.split()[0] for code in re.findall(r"`([^`\n]+)`", text)]


def paths(text: str) -> list[str]:
    return [code for code in codes(text) if is_path(code)]


def lacking(text: str) -> list[str]:
    """The names of a row (`Reason`, `Changes.reload`) that stand in none of the files of that row."""
    contents = [(ROOT / path).read_text() for path in paths(text)]
    named = [code for code in codes(text) if re.fullmatch(r"[A-Za-z_][\w.]*", code) and not is_path(code)]
    names = [part for code in named for part in code.split(".")]
    return [name for name in names if not any(re.search(rf"\b{name}\b", content) for content in contents)]


ANSWERS = re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", PAGE.partition("## I want to change …")[2], re.MULTILINE)[1:]

LIVES = re.findall(r"^\*\*(Of .*?)\n\n", PAGE, re.MULTILINE | re.DOTALL)


def test_a_path_and_a_name_are_told_apart() -> None:
    text = "`tools/no-such` `nowhere.py` `<run_dir>/board` `/proc` `tools/fuzz twins` `nfqlb/engine.py`: `nfqlb run`"
    assert paths(text) == ["tools/no-such", "nowhere.py", "tools/fuzz", "nfqlb/engine.py"]
    assert lacking("`nfqlb/engine.py`: `Engine.procces`") == ["procces"]


def test_every_path_exists() -> None:
    assert [path for path in paths(PAGE + CONTRIBUTING) if not (ROOT / path).exists()] == []
    assert len(set(paths(PAGE))) > 100
    assert len(set(paths(CONTRIBUTING))) > 40


def test_every_package_is_named() -> None:
    assert set(PACKAGES) - set(paths(PAGE)) == set()


@pytest.mark.parametrize(("question", "answer"), ANSWERS, ids=[question for question, _ in ANSWERS])
def test_an_answer_names_a_file_and_what_is_in_it(question: str, answer: str) -> None:
    assert paths(answer), question
    assert lacking(answer) == []


@pytest.mark.parametrize("life", LIVES, ids=lambda life: life.split(".**")[0])
def test_a_life_names_what_is_in_its_files(life: str) -> None:
    assert paths(life)
    assert lacking(life) == []


def test_there_are_many_answers() -> None:
    """And the page still has the form by which they are found here."""
    assert len(ANSWERS) >= 40
    assert len(LIVES) == 5


def test_the_readme_has_a_line_for_each_package_and_each_top_folder() -> None:
    """A stranger has `git ls-files` and the README, and shall find the file."""
    listed = set(re.findall(r"^\| `([\w/.]+)` \|", README.partition("## Where things are")[2], re.MULTILINE))
    folders = {place.name for place in ROOT.iterdir() if place.is_dir() and not place.name.startswith(".")}
    made = {"build", "dist", "nfqlb.egg-info", "__pycache__"}
    assert {*folders, *PACKAGES} - {"nfqlb", *made, *listed} == set()
    assert [path for path in listed if not (ROOT / path).exists()] == []
