"""What pyproject.toml cannot say: the fast path is compiled where Cython and a compiler are there, else left out.

Without it nfqlb does the same, only slower; `nfqlb version` says which one runs.
"""

import hashlib
from pathlib import Path

from setuptools import Extension, setup

FAST = Path("nfqlb", "fast")

try:
    from Cython.Build import cythonize
except ImportError:
    extensions = []
else:
    sources = sorted(each for each in FAST.iterdir() if each.suffix in (".pyx", ".pxi"))
    digest = hashlib.sha256(b"".join(each.read_bytes() for each in sources)).hexdigest()
    extensions = cythonize(
        Extension(
            "nfqlb.fast.path",
            [str(FAST / "path.pyx")],
            depends=[str(each) for each in sources],
            define_macros=[("NFQLB_SOURCES", f'"{digest}"')],
            extra_compile_args=["-O3"],
            optional=True,  # no compiler, no fast path, and no error
        ),
        build_dir="build",
    )

setup(ext_modules=extensions)
