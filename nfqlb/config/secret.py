"""The secret file: keys that sign what we write into headers and verify it when it comes back.

Knows the file's form: one key a line, `#` comments and blank lines between. Does not know what is signed.
No key ever stands in a message of ours.
"""

import grp
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from nfqlb import SERVICE_USER
from nfqlb.config.problems import Problem

KEY_MIN = 16
"""Bytes: 128 bits if they are random."""

KEY_MAX = 64
"""Bytes: what BLAKE2b takes as its key [RFC 7693 2.1]."""


def read_keys(path: Path) -> tuple[tuple[bytes, ...], list[Problem]]:
    """The keys in the order of the file, and what is wrong with the file. With an error there are no keys."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return (), [Problem(str(path), f"there is no such file of keys; make it with: nfqlb secret new {path}")]
    except OSError as error:
        hint = "it is for root and the service; or name a copy that you may read in a copy of the configuration"
        return (), [Problem(str(path), f"the file of keys cannot be read ({error.strerror}): {hint}")]
    problems = []
    places: dict[bytes, str] = {}
    for number, line in enumerate(lines, 1):
        key = line.strip()
        if not key or key.startswith(b"#"):
            continue
        place = f"{path} line {number}"
        if not all(0x21 <= byte <= 0x7E for byte in key):
            problems.append(Problem(place, "expected one key of printable ASCII without blanks"))
        elif not KEY_MIN <= len(key) <= KEY_MAX:
            problems.append(Problem(place, f"expected {KEY_MIN} to {KEY_MAX} characters, not {len(key)}"))
        elif key in places:
            problems.append(Problem(place, f"the same key as in {places[key]}; remove one of them"))
        else:
            places[key] = f"line {number}"
    if not places and not problems:
        problems.append(Problem(str(path), "no key in the file; make one with: openssl rand -hex 32"))
    keys = () if problems else tuple(places)
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        text = "everybody on this machine can read the keys; take that away with chmod o= and renew them"
        problems.append(Problem(str(path), text, severity="warning"))
    return keys, problems


def new_key() -> str:
    """256 random bits as 64 characters."""
    return secrets.token_hex(KEY_MAX // 2)


def write_new(path: Path) -> None:
    """Make a file with one new key, for its owner, and for the service where this host has its group.

    Raises FileExistsError rather than overwrite one.
    """
    if not path.parent.exists():
        path.parent.mkdir(mode=0o755, parents=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        with suppress(KeyError, PermissionError):  # no such group; or not root, who alone may give to any group
            os.fchown(file.fileno(), -1, grp.getgrnam(SERVICE_USER).gr_gid)
            os.fchmod(file.fileno(), 0o640)
        file.write("# Keys of nfqlb, one a line: the first signs, all verify. The same on every node.\n")
        file.write(f"{new_key()}\n")
