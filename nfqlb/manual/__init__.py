"""The manual pages: one for each command, and nfqlb.toml(5), in the man macros of troff.

Everything that they say is said elsewhere first: in the help of the commands and in `nfqlb.config.reference.reference`.
setup.py writes them when nfqlb is built, so that they are installed with it; `nfqlb.share` has their places.
"""

import os
import time
from typing import NamedTuple

import nfqlb

MANUAL = "nfqlb"
"""Title of the manual, in the middle above each page."""


class Page(NamedTuple):
    """One page, ready to be written."""

    name: str
    section: int
    text: str

    @property
    def place(self) -> str:
        """Where it lies below a directory of manual pages: `man1/nfqlb.1`"""
        return f"man{self.section}/{self.name}.{self.section}"


def date() -> str:
    """Of the pages: that of the sources, where who builds them tells it [https://reproducible-builds.org], or today."""
    return time.strftime("%Y-%m-%d", time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH") or time.time())))


def source() -> str:
    """What is below each page, at the left."""
    return f"nfqlb {nfqlb.__version__}"
