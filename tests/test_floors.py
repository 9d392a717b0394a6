"""The house: lower floors know nothing of higher ones, and the pure ones know no clock, no chance and no I/O."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import nfqlb

ROOT = Path(nfqlb.__file__).parent
PURE = ("sip", "net", "balance", "proxy", "engine")

ALLOWED = {
    "net": {"net"},
    "sip": {"sip", "net"},
    "balance": {"balance", "net"},
    "proxy": {"proxy", "sip", "net", "balance"},
    "engine": {"engine", "fast", "proxy", "sip", "net", "balance"},
}
"""What each floor may import of nfqlb: itself and what lies below."""

STDLIB = {
    "__future__", "array", "collections", "copy", "dataclasses", "enum", "functools", "hashlib", "hmac", "ipaddress",
    "math", "re", "re2", "struct", "typing", "urllib.parse",
    "zlib",
}  # fmt: skip
"""All that the pure floors take from elsewhere: nothing of it reads a file, a clock, a socket or chance. re2 is no part
of the standard library; it stands in for re.
"""


def files_of(floor: str) -> list[Path]:
    single = ROOT / f"{floor}.py"
    return [single] if single.exists() else sorted((ROOT / floor).glob("*.py"))


def imports_of(file: Path) -> set[str]:
    """Every module named by an import anywhere in the file, functions included."""
    found = set()
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            assert node.module
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("floor", PURE)
def test_a_floor_imports_itself_lower_floors_and_pure_libraries(floor: str) -> None:
    files = files_of(floor)
    assert files
    for file in files:
        for name in imports_of(file):
            package, _, rest = name.partition(".")
            if package == "nfqlb":
                assert rest.partition(".")[0] in ALLOWED[floor], f"{file.name} reaches up: {name}"
            else:
                assert {package, name.rpartition(".")[0]} & STDLIB, f"{file.name} imports {name}"


@pytest.mark.parametrize("floor", PURE)
def test_a_floor_opens_nothing_and_runs_nothing(floor: str) -> None:
    for file in files_of(floor):
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
