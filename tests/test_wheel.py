"""What `pip install` brings, by a wheel that is built from a copy of this checkout."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path, PurePosixPath

import pytest

from nfqlb import share
from nfqlb.config.reference.example import example

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
LEFT_OUT = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "*.so", "tests")
DATE = "1700000000"
DOCUMENTS = PurePosixPath("share/doc/nfqlb")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the package, and with what goes below the prefix."""
    place = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, place / "checkout", symlinks=True, ignore=LEFT_OUT)
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps"),
            *("--no-index", "--no-build-isolation", "--wheel-dir", place, place / "checkout"),
        ],
        env={**os.environ, "SOURCE_DATE_EPOCH": DATE},
        check=True,
        timeout=110,
    )
    (wheel,) = place.glob("*.whl")
    with zipfile.ZipFile(wheel) as content:
        content.extractall(place / "installed")
    (data,) = (place / "installed").glob("*.data/data")
    data.rename(place / "installed" / "prefix")
    return place / "installed"


def nfqlb(installed: Path, *words: str) -> str:
    """What the installed one prints, far from the checkout."""
    code = f"import nfqlb.cli; assert nfqlb.__file__.startswith({str(installed)!r}); nfqlb.cli.main()"
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=installed.parent,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout


def test_the_commands_need_no_checkout(installed: Path) -> None:
    assert nfqlb(installed, "config", "example") == example()
    assert json.loads(nfqlb(installed, "config", "schema"))["title"] == "nfqlb.toml"
    assert "complete -" in nfqlb(installed, "completion", "bash")


def test_only_what_runs_comes_along(installed: Path) -> None:
    """No tools of developers, and nothing that only a compiler reads."""
    there = {path.relative_to(installed) for path in installed.rglob("*") if path.is_file()}
    packages = {path.parts[0] for path in there} - {"prefix"}
    assert {name for name in packages if not name.endswith(".dist-info")} == {"nfqlb"}
    parts = {part for path in there if path.parts[0] == "nfqlb" for part in path.parts}
    assert parts & {"chaos", "bench", "fuzz", "devtools"} == set()
    assert {path.suffix for path in there} & {".pxd", ".pxi", ".pyx"} == set()


def test_manual_completions_and_schema_come_along(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", DATE)
    for place, text in share.files():
        assert (installed / "prefix" / "share" / place).read_text() == text


def test_the_documentation_comes_along_and_its_links_lead_somewhere(installed: Path) -> None:
    prefix = installed / "prefix"
    documents = {path.relative_to(prefix) for path in (prefix / DOCUMENTS).rglob("*") if path.is_file()}
    wanted = ["README.md", "CHANGELOG.md", "SECURITY.md", "docs/nfqlb.example.toml"]
    wanted += [f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")]
    assert {Path(DOCUMENTS, path) for path in wanted} <= documents
    for document in documents:
        if document.suffix == ".md":
            text = re.sub(r"^```.*?^```$", "", (prefix / document).read_text(), flags=re.MULTILINE | re.DOTALL)
            for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text):
                there = (prefix / document.parent / target).exists()
                of_the_sources = target.startswith(("../findings/", "../nfqlb/", "../pcaps/", "../tools/"))
                assert there or of_the_sources or target.startswith("https://"), (document, target)


def test_what_builds_it_is_what_it_needs() -> None:
    """To write the manual, commands and tables are imported: with what they need to run."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)
    needed = {each for each in project["project"]["dependencies"] if each.startswith(("click", "pydantic"))}
    assert len(needed) == 2
    assert needed <= set(project["build-system"]["requires"])
