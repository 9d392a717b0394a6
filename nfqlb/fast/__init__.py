"""The fast path: a compiled module that gives the verdict on plain packets. All others, and all where it is missing, go
the slow path, which is nfqlb.proxy and says the same.

Knows whether there is one: it is built at installation where there is a compiler, and NFQLB_PURE=1 in the environment
does without.
"""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nfqlb.balance.recent import Recent
    from nfqlb.fast.path import FastPath
    from nfqlb.proxy.proxy import Proxy
    from nfqlb.proxy.setup import Setup

PURE = "NFQLB_PURE"
"""Set to 1, the environment asks for the slow path alone."""


def which() -> str:
    """`compiled`, or `pure` and why."""
    if os.environ.get(PURE, "0") not in ("", "0"):
        return f"pure ({PURE} is set)"
    try:
        import nfqlb.fast.path  # noqa: F401
    except ImportError:
        return "pure (not compiled)"
    return "compiled"


def make(setup: "Setup", proxy: "Proxy", recent: "Recent | None", *, verify: bool, ident: int) -> "FastPath | None":
    """None where there is none, or the Setup is none for it: with more keys than four, a name of over 64 bytes, or over
    64 networks of one IP version to send to.
    """
    if which() != "compiled":
        return None
    from nfqlb.fast.path import FastPath, Unusual

    try:
        return FastPath(setup, proxy.identity, proxy.choice, recent, verify, ident)
    except Unusual:
        return None
