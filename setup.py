"""What pyproject.toml cannot say: the fast path, and the loop of a queue, are compiled where Cython and a compiler are
there, else left out.

Without it nfqlb does the same, only slower; `nfqlb version` says which one runs.
"""

import hashlib
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

FAST = Path("nfqlb", "fast")
GATEWAY = Path("nfqlb", "gateway")


def extension(name: str, sources: list[Path]) -> Extension:
    """From the .pyx among `sources`. It knows the digest of them all, so a test can tell whether it is out of date."""
    digest = hashlib.sha256(b"".join(each.read_bytes() for each in sources)).hexdigest()
    return Extension(
        name,
        [str(each) for each in sources if each.suffix == ".pyx"],
        depends=[str(each) for each in sources],
        define_macros=[("NFQLB_SOURCES", f'"{digest}"')],
        extra_compile_args=["-O3"],
    )


try:
    from Cython.Build import cythonize
except ImportError:
    extensions = []
else:
    extensions = cythonize(
        [
            extension("nfqlb.fast.path", sorted(each for each in FAST.iterdir() if each.suffix in (".pyx", ".pxi"))),
            extension("nfqlb.gateway.pump", [GATEWAY / "pump.pyx"]),
        ],
        build_dir="build",
    )
    for each in extensions:
        each.optional = True


class BuildWherePossible(build_ext):
    """No compiler, or one that fails: no fast path, and no error."""

    def build_extension(self, ext: Extension) -> None:
        try:  # `optional` forgives what the compiler says, but not that it is missing
            super().build_extension(ext)
        except Exception as error:
            print(f"nfqlb: the fast path was not compiled ({error}), so the pure one will run.", file=sys.stderr)


setup(ext_modules=extensions, cmdclass={"build_ext": BuildWherePossible})
