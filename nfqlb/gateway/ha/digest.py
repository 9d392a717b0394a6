"""What must be the same on both nodes of a pair, as digests that can be shown to anybody and compared.

Knows configurations. Does not know who compares, nor over what. Keys go through the same hash, which is one-way: what
it tells of a key is no more than each signature in a Path does.
"""

from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from hashlib import blake2b
from importlib.resources import files
from importlib.resources.abc import Traversable

from nfqlb import __version__
from nfqlb.config.model import Config
from nfqlb.proxy.setup import Setup

SIZE = 8
"""Bytes of a digest: two nodes that differ by accident do not collide, and nobody gains by an accident of ours."""

SOURCES = (".py", ".pyx", ".pxi", ".pxd")
"""Endings of names. What is compiled from them is another file on each machine."""

NOT_THE_GATEWAY = ("lab", "iptables", "__pycache__")
"""Folders of the package that no packet passes, and a link to a folder whose text is in the rules."""


def digests(config: Config, setup: Setup) -> dict[str, str]:
    """Name for people → digest."""
    pair = config.ha
    together = None if pair is None else (pair.interval, [(g.name, g.listeners, g.router_id) for g in pair.groups])
    parts: dict[str, object] = {
        "keys": setup.keys,
        "listeners": (config.gateway.name, setup.listeners),
        "pools": setup.pools,
        "routes": setup.routes,
        "path and egress": (setup.path_policy, setup.accept_unsigned, setup.egress, config.egress_names),
        "limits": config.limits,
        "health": (config.health, dict(config.pool_health)),
        "pair": together,
    }
    return {name: digest(written(part)) for name, part in parts.items()} | {"code": code()}


def digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=SIZE).hexdigest()


def code() -> str:
    """Of the version and of the files: the same version may have been changed on one node."""
    found = blake2b(digest_size=SIZE)
    for name, content in _sources(files("nfqlb"), ""):
        found.update(f"{name}\0{len(content)}\0".encode() + content)
    return f"{__version__} {found.hexdigest()}"


def _sources(folder: Traversable, prefix: str) -> Iterable[tuple[str, bytes]]:
    for each in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if each.is_dir() and each.name not in NOT_THE_GATEWAY:
            yield from _sources(each, f"{prefix}{each.name}/")
        elif each.name.endswith(SOURCES):
            yield prefix + each.name, each.read_bytes()


def written(value: object) -> str:
    """`value` in one way only, whatever the order of its sets."""
    if isinstance(value, Enum):
        return f"{type(value).__name__}.{value.name}"
    if is_dataclass(value) and not isinstance(value, type):
        inner = ",".join(f"{field.name}={written(getattr(value, field.name))}" for field in fields(value))
        return f"{type(value).__name__}({inner})"
    if isinstance(value, Mapping):
        return "{" + ",".join(sorted(f"{written(key)}:{written(each)}" for key, each in value.items())) + "}"
    if isinstance(value, frozenset | set):
        return "{" + ",".join(sorted(map(written, value))) + "}"
    if isinstance(value, tuple | list):
        return "[" + ",".join(map(written, value)) + "]"
    return repr(value)
