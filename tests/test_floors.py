"""The house: lower floors know nothing of higher ones, and the pure ones know no clock, no chance and no I/O.

A room is a package or a single module. HOUSE lists them from the ground up, each with all that it may import; whoever
wants another import adds a word here, and cannot add one that runs upward.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import nfqlb

ROOT = Path(nfqlb.__file__).parent

HOUSE: dict[str, str] = {
    # the package itself: version and user
    "nfqlb": "",
    "errors": "",
    "files": "",
    "spelling": "",
    "interrupt": "",
    "layout": "",
    # bytes and values in, values out
    "net": "errors",
    "sip": "errors net",
    "balance": "net",
    "proxy": "balance errors net sip",
    "fast": "balance net proxy sip",
    "engine": "balance fast net proxy",
    # names and configuration
    "names": "errors files net",
    "config": "balance errors names net nfqlb proxy sip spelling",
    "config.checks": "balance config names net proxy spelling",
    "config.build": "config config.checks nfqlb proxy",
    "config.resolve": "config names",
    "config.reference": "config config.build",
    # stored packets
    "capture": "errors net",
    "offline": "balance capture engine net proxy sip",
    # the running gateway
    "gateway": "",
    "gateway.host": "errors",
    "gateway.bans.offences": "proxy",
    "gateway.shm": "balance errors files proxy",
    "gateway.runtime": "config errors gateway.host nfqlb",
    "gateway.stats": "balance errors gateway.host gateway.shm proxy",
    "gateway.netfilter": "config errors files gateway.bans.offences gateway.host gateway.shm net proxy",
    "gateway.worker": (
        "balance engine errors fast gateway.bans.offences gateway.host gateway.runtime gateway.shm net proxy"
    ),
    "gateway.health": "balance gateway.host gateway.runtime gateway.shm net sip",
    "gateway.dns": "balance config gateway.runtime gateway.shm names net proxy",
    "gateway.bans": "config errors gateway.bans.offences gateway.netfilter gateway.runtime gateway.shm proxy",
    "gateway.ha": "config errors files gateway.host gateway.netfilter gateway.runtime net nfqlb proxy",
    "gateway.backends": (
        "balance config errors files gateway.health gateway.runtime gateway.shm gateway.stats net proxy spelling"
    ),
    "gateway.preflight": (
        "config errors gateway.backends gateway.ha gateway.health gateway.host gateway.netfilter gateway.runtime "
        "gateway.shm net proxy"
    ),
    "gateway.plan": (
        "balance config config.build config.resolve engine errors gateway.backends gateway.bans gateway.dns "
        "gateway.ha gateway.netfilter gateway.preflight gateway.runtime gateway.shm gateway.worker names net "
        "proxy"
    ),
    "gateway.supervisor": (
        "balance errors gateway.backends gateway.bans gateway.dns gateway.ha gateway.host gateway.plan "
        "gateway.runtime gateway.shm gateway.worker names nfqlb"
    ),
    # what people call
    "units": "errors files nfqlb",
    "lab": "capture errors gateway.host layout net offline proxy",
    "manual": "config config.reference nfqlb",
    "cli": (
        "balance capture config config.build config.reference config.resolve errors fast gateway.ha gateway.host "
        "gateway.netfilter gateway.plan gateway.preflight gateway.runtime gateway.stats gateway.supervisor "
        "interrupt lab layout names nfqlb offline proxy spelling units"
    ),
    "share": "cli config.reference manual",
    "__main__": "cli interrupt",
}

PURE = ("errors", "net", "sip", "balance", "proxy", "engine")
"""Rooms that do no I/O. Their imports of the standard library are in STDLIB."""

STDLIB = {
    "__future__", "array", "collections", "copy", "dataclasses", "enum", "functools", "hashlib", "hmac", "ipaddress",
    "math", "re", "re2", "struct", "typing", "urllib.parse",
    "zlib",
}  # fmt: skip
"""All that the pure floors take from elsewhere: nothing of it reads a file, a clock, a socket or chance. re2 is no part
of the standard library; it stands in for re.
"""

MOST_MODULES = 18
"""In a folder: more than that nobody overlooks."""
MORE = {"cli": 25}
"""One for each command."""

ENDINGS = (".py", ".pyi", ".pyx", ".pxi", ".pxd")
CYTHON = re.compile(r"^\s*from (nfqlb[\w.]*) c?import (.+)$", re.MULTILINE)


class Import(NamedTuple):
    """Of one of our modules by another, both without `nfqlb.` before them."""

    file: Path
    room: str
    wanted: str

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT.parent)} imports {self.wanted}"


FILES = sorted(path for path in ROOT.rglob("*") if path.suffix in ENDINGS)


def module_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "nfqlb"


MODULES = {module_of(file) for file in FILES}


def room_of(module: str) -> str:
    """The room that a module is in: of those whose name begins its own the nearest, empty for none."""
    while module and module not in HOUSE:
        module = module.rpartition(".")[0]
    return module


def imports_of(file: Path) -> set[str]:
    """Every name that an import takes, anywhere in the file, functions included."""
    text = file.read_text()
    if file.suffix not in (".py", ".pyi"):
        rows = ((found[1], found[2].split(",")) for found in CYTHON.finditer(text))
        return {f"{module}.{name.split()[0]}" for module, names in rows for name in names}
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            assert node.module
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def ours(file: Path) -> Iterator[Import]:
    """What a file imports of other rooms."""
    room = room_of(module_of(file))
    for name in sorted(imports_of(file)):
        if name.partition(".")[0] == "nfqlb":
            wanted = name.partition(".")[2]
            while wanted and wanted not in MODULES:
                wanted = wanted.rpartition(".")[0]
            if room_of(wanted or "nfqlb") != room:
                yield Import(file, room, wanted or "nfqlb")


IMPORTS = [each for file in FILES for each in ours(file)]


def test_every_module_has_a_room() -> None:
    assert {module for module in MODULES if not room_of(module)} == set()
    assert {room for room in HOUSE if not any(room_of(module) == room for module in MODULES)} == set()


def test_nothing_is_imported_that_the_house_does_not_allow() -> None:
    assert [str(each) for each in IMPORTS if room_of(each.wanted) not in HOUSE[each.room].split()] == []


def test_nothing_is_allowed_that_nobody_imports() -> None:
    used = {(each.room, room_of(each.wanted)) for each in IMPORTS}
    assert {(room, other) for room, allowed in HOUSE.items() for other in allowed.split()} == used


def test_no_room_may_import_one_above_it() -> None:
    """So there is no circle of packages either."""
    floors = list(HOUSE)
    for number, room in enumerate(floors):
        assert set(HOUSE[room].split()) <= set(floors[:number]), room


def test_a_package_of_the_gateway_says_what_it_is_and_nothing_else() -> None:
    """What it re-exported, every worker would have in memory."""
    for file in [*ROOT.glob("gateway/**/__init__.py"), *ROOT.glob("config/**/__init__.py")]:
        (docstring,) = ast.parse(file.read_text()).body
        assert isinstance(docstring, ast.Expr), file


def test_no_folder_is_too_full_to_overlook() -> None:
    for folder in {file.parent for file in FILES}:
        modules = {file.stem for file in folder.iterdir() if file.suffix in ENDINGS and file.stem != "__init__"}
        assert len(modules) <= MORE.get(folder.name, MOST_MODULES), folder


def files_of(room: str) -> list[Path]:
    return [file for file in FILES if file.suffix == ".py" and room_of(module_of(file)) == room]


@pytest.mark.parametrize("room", PURE)
def test_a_pure_room_takes_only_pure_libraries(room: str) -> None:
    files = files_of(room)
    assert files
    for file in files:
        for name in imports_of(file):
            package = name.partition(".")[0]
            assert package == "nfqlb" or {package, name.rpartition(".")[0]} & STDLIB, f"{file.name} imports {name}"


@pytest.mark.parametrize("room", PURE)
def test_a_pure_room_opens_nothing_and_runs_nothing(room: str) -> None:
    for file in files_of(room):
        called = {
            node.func.id
            for node in ast.walk(ast.parse(file.read_bytes()))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert not called & {"open", "print", "input", "eval", "exec", "__import__", "hash", "id"}, file.name


def test_importing_the_engine_brings_in_no_sockets_clocks_or_queues() -> None:
    """What the interpreter has loaded, beyond what it loads for itself (with -S -I: no site, no environment)."""
    code = (
        "import sys; bare = set(sys.modules); sys.path.insert(0, sys.argv[1]); import nfqlb.engine;"
        "print(*sorted(set(sys.modules) - bare), sep='\\n')"
    )
    ran = subprocess.run(
        [sys.executable, "-S", "-I", "-c", code, str(ROOT.parent)], capture_output=True, text=True, check=True
    )
    loaded = {name.partition(".")[0] for name in ran.stdout.split()}
    assert "nfqlb" in loaded
    assert not loaded & {
        "socket", "_socket", "select", "selectors", "ssl", "logging", "random", "secrets", "threading", "subprocess",
        "asyncio", "netfilterqueue", "dpkt", "scapy", "pydantic", "click", "rich", "pyroute2", "datetime", "tempfile",
    }  # fmt: skip
