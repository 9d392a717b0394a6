"""The package as it is installed: what is in it, what it needs, and that it says so."""

import ast
import re
import sys
import tomllib
from fnmatch import fnmatch
from importlib.metadata import distribution, packages_distributions
from importlib.resources import files
from pathlib import Path

import pytest

import nfqlb

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "nfqlb"
SOURCES = sorted(PACKAGE.rglob("*.py"))
DEVTOOLS = ROOT / "tools" / "devtools"
TOOLS = sorted(DEVTOOLS.rglob("*.py"))
"""Not installed, and held to the same rules."""
TYPED = [*SOURCES, *sorted((ROOT / "tools").rglob("*.py")), *sorted((ROOT / "tests").rglob("*.py"))]
"""What mypy reads."""

with (ROOT / "pyproject.toml").open("rb") as pyproject:
    PROJECT = tomllib.load(pyproject)


def imported(source: Path) -> set[str]:
    """The top-level packages that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def test_every_import_is_declared() -> None:
    """What only benchmarks import is declared by the extra of that name."""
    bench = {source for source in TOOLS if source.parent == DEVTOOLS / "bench"}
    extra = {each.partition(">=")[0] for each in PROJECT["project"]["optional-dependencies"]["bench"]}
    of_bench = {name for source in bench for name in imported(source)}
    rest = {name for source in (*SOURCES, *TOOLS) if source not in bench for name in imported(source)}
    foreign = (rest | of_bench - extra) - sys.stdlib_module_names - {"nfqlb", "devtools"}
    assert extra <= of_bench
    owners = packages_distributions()
    needed = {owners[name][0].lower() for name in foreign}
    # pydantic brings pydantic_core, of the very version it wants; it is not ours to require.
    declared = {each.partition(">=")[0] for each in PROJECT["project"]["dependencies"]} | {"pydantic_core"}
    assert needed <= declared
    assert declared - needed <= {"pydantic_core"}, "declared, but not used"


COMPILED = (".pxd", ".pxi", ".pyx")
"""What only a compiler reads stands in the source distribution; of the wheel, see test_wheel."""


def test_everything_that_is_no_python_is_installed_too() -> None:
    data = {
        path.relative_to(PACKAGE)
        for path in PACKAGE.rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc", ".so", *COMPILED)
    } | {Path("iptables", path.name) for path in (ROOT / "iptables").iterdir()}
    patterns = [
        f"{package.replace('.', '/')}/{pattern}"
        for package, found in PROJECT["tool"]["setuptools"]["package-data"].items()
        for pattern in found
    ]
    assert data
    for path in data:
        assert any(fnmatch(f"nfqlb/{path}", pattern) for pattern in patterns), path
    for pattern in patterns:
        assert any(fnmatch(f"nfqlb/{path}", pattern) for path in data), f"nothing is like {pattern}"


def test_every_directory_with_python_is_a_package() -> None:
    assert {source.parent for source in SOURCES} == {
        source.parent for source in SOURCES if source.name == "__init__.py"
    }


def test_templates_are_found_where_the_package_is() -> None:
    names = {entry.name for entry in (files("nfqlb") / "iptables").iterdir()}
    assert {path.name for path in (ROOT / "iptables").iterdir()} <= names


def test_the_version_is_that_of_the_package() -> None:
    assert distribution("nfqlb").version == nfqlb.__version__


@pytest.mark.parametrize("source", [*SOURCES, *TOOLS], ids=lambda source: str(source.relative_to(ROOT)))
def test_house_rules_of_a_module(source: Path) -> None:
    text = source.read_text()
    if not text.strip():
        return
    assert ast.get_docstring(ast.parse(text)), "a module opens with what it knows and what it does not"
    assert text.count("\n") <= 400, "longer than one sitting reads"


def test_an_error_that_mypy_shall_ignore_is_named_and_explained() -> None:
    """`# type: ignore[code]  # why`, in one line."""
    mark = "# type: " + "ignore"
    lines = [(source, line) for source in TYPED for line in source.read_text().splitlines() if mark in line]
    assert lines
    explained = re.compile(re.escape(mark) + r"\[[a-z-]+(, [a-z-]+)*\]  # \w")
    assert [(source.name, line.strip()) for source, line in lines if not explained.search(line)] == []
