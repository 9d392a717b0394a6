"""The systemd units of the gateway: rendered for a host, compared with what is there, written, taken away.

Knows the templates beside this file and where systemd looks for what they become. Does not talk to systemd: that is
left to the administrator, who is told the commands.

A template is the file as it will be, with @name@ for what depends on the host.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal, NamedTuple

from nfqlb import SERVICE_USER
from nfqlb.errors import NfqlbError
from nfqlb.files import replace_file

MARK = "# Written by: nfqlb install-units"
"""A file of ours begins so. Another one of the same name is somebody's own, and is left alone."""

PLACES = {
    "nfqlb.service": "etc/systemd/system/nfqlb.service",
    "nfqlb-rules.service": "etc/systemd/system/nfqlb-rules.service",
    "sysusers.conf": "etc/sysusers.d/nfqlb.conf",
    "tmpfiles.conf": "etc/tmpfiles.d/nfqlb.conf",
}
"""Template → where it goes, below the root directory."""

ENABLED = "etc/systemd/system/multi-user.target.wants"
"""Where a unit has a link while it is enabled."""

STATES = Path("/var/lib")
"""Where systemd makes directories of state, and gives them to the service's user."""

HOMES = ("/home", "/root", "/run/user")
"""What a service does not see with ProtectHome=yes."""

TMPS = ("/tmp", "/var/tmp")
"""What a service does not see with PrivateTmp=yes."""

LEAST = ("CAP_NET_ADMIN", "CAP_NET_RAW")
"""Of the supervisor: it changes rules and sets; and iptables asks for sets of addresses by a raw socket."""

AS_ROOT = ("CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_CHOWN", "CAP_KILL", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID")
"""What the supervisor needs besides as root: the control socket goes to its group;
workers become somebody else, and are still told to stop."""


LIFELINE = """\
# The lifeline of a pair is a TUN device; no other device is open to it.
DevicePolicy=closed
DeviceAllow=/dev/net/tun rw"""


class UnitError(NfqlbError):
    """The units cannot be made or written as they should; the text says why and what to do."""


@dataclass(frozen=True)
class Service:
    """What the units depend on."""

    command: Sequence[str]
    """The words that call nfqlb; the first is the absolute path of a program."""
    config: Path
    run_dir: Path
    state_dir: Path
    secret_file: Path
    needed: Sequence[Path] = ()
    """Directories that the program is installed in."""
    as_root: bool = False
    pair: bool = False
    """The gateway is one half of a pair, and has a lifeline."""


class Change(NamedTuple):
    path: Path
    kind: Literal["new", "changed", "unchanged", "removed"]


def render(service: Service) -> dict[str, str]:
    """Name of each template → what it becomes. Raises UnitError."""
    parent, run = os.path.split(service.run_dir)
    if parent != "/run" or not run:
        raise UnitError(f"systemd makes run directories only as /run/NAME: [gateway] run_dir is {service.run_dir}.")
    below = service.state_dir.is_relative_to(STATES) and service.state_dir != STATES
    state = quoted(str(service.state_dir.relative_to(STATES) if below else service.state_dir), expanded=False)
    seen = (Path(service.command[0]), service.config, service.secret_file, *service.needed)
    at_home = any(each.is_relative_to(home) for each in seen for home in HOMES)
    in_tmp = any(each.is_relative_to(place) for each in seen for place in TMPS)
    values = {
        "nfqlb": " ".join([quoted(service.command[0], expanded=False), *map(quoted, service.command[1:])]),
        "config": quoted(str(service.config)),
        "user": "root" if service.as_root else SERVICE_USER,
        "account": SERVICE_USER,
        "capabilities": " ".join(AS_ROOT if service.as_root else LEAST),
        "run": quoted(run, expanded=False),
        "state": f"StateDirectory={state}" if below else f"ReadWritePaths={state}",
        "secret": quoted(str(service.secret_file), expanded=False),
        "home": "read-only" if at_home else "yes",
        "tmp": "no" if in_tmp else "yes",
        "devices": LIFELINE if service.pair else "PrivateDevices=yes",
    }

    def value(found: re.Match[str]) -> str:
        return values[found[1]]

    templates = files(__name__)
    return {name: re.sub(r"@(\w+)@", value, (templates / name).read_text("utf-8")) for name in PLACES}


def quoted(text: str, *, expanded: bool = True) -> str:
    """One word of a unit file [systemd.service(5), "Command lines"; systemd.unit(5), "Specifiers"].

    `expanded`: variables are looked for in it, as in all words of a command but the first. Raises UnitError for what no
    line can hold.
    """
    if not text.isprintable():
        raise UnitError(f"{text!r} cannot stand in a unit file.")
    text = text.replace("%", "%%")
    if expanded:
        text = text.replace("$", "$$")
    if re.search(r"[\s\"'\\;]", text):
        escaped = text.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return text


def closed_to_others(path: Path) -> Path | None:
    """The first directory on the way to `path` that only its owner or group may enter."""
    for folder in reversed(path.parents):
        if folder.is_dir() and not folder.stat().st_mode & 0o001:
            return folder
    return None


def install(service: Service, root: Path, *, act: bool = True) -> list[Change]:
    """Write what is not as it should be below `root`; without `act` only say so. Raises UnitError.

    All is read before anything is written: somebody else's file keeps all of ours out.
    """
    rendered = render(service)
    changes = []
    for name, text in rendered.items():
        path = root / PLACES[name]
        present = _ours(path)
        kind: Literal["new", "changed", "unchanged"]
        kind = "new" if present is None else "unchanged" if present == text else "changed"
        changes.append(Change(path, kind))
    if act:
        for change, text in zip(changes, rendered.values(), strict=True):
            if change.kind != "unchanged":
                _write(change.path, text)
    return changes


def remove(root: Path, *, act: bool = True) -> list[Change]:
    """Take our files away. Raises UnitError, also while a unit is enabled: later it could not be disabled any more."""
    names = [Path(place).name for place in PLACES.values()]
    enabled = [name for name in names if (root / ENABLED / name).is_symlink()]
    if enabled:
        raise UnitError(f"They are enabled. First: systemctl disable --now {' '.join(enabled)}")
    changes = [Change(root / place, "removed") for place in PLACES.values() if _ours(root / place) is not None]
    for change in changes if act else ():
        try:
            change.path.unlink()
        except OSError as error:
            raise UnitError(f"{change.path} cannot be removed ({error.strerror}): run this as root.") from None
    return changes


def _ours(path: Path) -> str | None:
    """What stands in a file of ours; None when there is none."""
    try:
        text = path.read_text("utf-8", "replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UnitError(f"{path} cannot be read ({error.strerror}).") from None
    if not text.startswith(MARK):
        raise UnitError(f"{path} is not from us, and was left as it is. Move it away, then call this again.")
    return text


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, text, 0o644)
    except OSError as error:
        raise UnitError(f"{path} cannot be written ({error.strerror}): run this as root.") from None
