"""What pyproject.toml cannot say: what is compiled, and what is written by the code itself.

The fast path, and the loop of a queue, are compiled where Cython and a compiler are there, else left out. Without them
nfqlb does the same, only slower; `nfqlb version` says which one runs.

The manual pages, the completions and the schema of the configuration are made by `nfqlb.share`, and installed as data.
"""

import hashlib
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from shutil import rmtree

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

FAST = Path("nfqlb", "fast")
WORKER = Path("nfqlb", "gateway", "worker")


def extension(name: str, sources: list[Path]) -> Extension:
    """From the .pyx among `sources`. It knows the digest of them all, so a test can tell whether it is out of date."""
    digest = hashlib.sha256(b"".join(each.read_bytes() for each in sources)).hexdigest()
    return Extension(
        name,
        [str(each) for each in sources if each.suffix == ".pyx"],
        depends=[str(each) for each in sources],
        define_macros=[("NFQLB_SOURCES", f'"{digest}"')],
        extra_compile_args=["-O3", "-g0"],  # a third of the compiler's time goes into what a debugger would read
    )


try:
    from Cython.Build import cythonize
except ImportError:
    extensions = []
else:
    extensions = cythonize(
        [
            extension(
                "nfqlb.fast.path", sorted(each for each in FAST.iterdir() if each.suffix in (".pyx", ".pxi", ".pxd"))
            ),
            extension("nfqlb.gateway.worker._nfqueue_loop", [FAST / "direct.pxd", WORKER / "_nfqueue_loop.pyx"]),
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


class BuildShare(build_py):
    """The Python files, and beside them what the code writes for `share`: more data files for pyproject.toml's."""

    NEEDED = ("click", "pydantic")
    """By what is run for that. They are required to build, but not everybody builds as pip does."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:  # installs no data files
            return
        if missing := [name for name in self.NEEDED if find_spec(name) is None]:
            print(f"nfqlb: without {' and '.join(missing)} there is no manual to install.", file=sys.stderr)
            return
        made = Path(self.get_finalized_command("build").build_base, "share")
        rmtree(made, ignore_errors=True)
        subprocess.run(
            [sys.executable, "-B", "-m", "nfqlb.share", made.absolute()], cwd=Path(__file__).parent, check=True
        )
        for path in sorted(made.rglob("*")):
            if path.is_file():
                self.distribution.data_files.append((str("share" / path.relative_to(made).parent), [str(path)]))


setup(ext_modules=extensions, cmdclass={"build_ext": BuildWherePossible, "build_py": BuildShare})
