"""The kernel's sets of addresses that our rules look into: who is never limited, who is banned, what is relieved.

Knows the ipset command, and the text that its save prints and its restore takes. What the sets are for is told by the
templates (nfqlb/iptables/sets.*); which rules use them is for `ruleset`.

Sets outlive rules, workers and supervisors: after a reload or an upgrade the same sources are banned.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network
from typing import TYPE_CHECKING, Literal, NamedTuple

from nfqlb.errors import HostError
from nfqlb.gateway.netfilter.iptables import FAMILIES, PATH, TIMEOUT, Family

if TYPE_CHECKING:
    from nfqlb.config.model import Config
    from nfqlb.proxy.setup import Network

Kind = Literal["allow", "deny", "ban", "junk", "flood", "shed"]
KINDS: tuple[Kind, ...] = ("allow", "deny", "ban", "junk", "flood", "shed")
"""Never limited or banned; banned by an operator; banned by kernel and gateway; of these, the ones that the kernel has
just banned by itself, for junk or for a flood; addresses of ours that are relieved."""

NOTICES: tuple[Kind, ...] = ("junk", "flood")
"""What the kernel bans for. It can write no comment, so it notes the source in a set of that name, too; the gateway
takes it out there (`kernel_bans`)."""

SOURCE_BITS = {4: 32, 6: 64}
"""Of an address: they tell one source from another."""

LONGEST = 2_147_483
"""Seconds that an entry with an end may last: the kernel counts 2³¹ milliseconds, some 24.8 days
(linux/netfilter/ipset/ip_set_timeout.h, IPSET_MAX_TIMEOUT)."""

RELEASED_WITHIN = 3.0
"""Seconds that the kernel may take to let go of a set when the last rule with it is gone: the nft back end frees rules
some time after they have left."""

Change = tuple[Family, Literal["add", "remove"], str]
"""IP version, what is to be done, and to which set or entry: a line as in a template."""


class Entry(NamedTuple):
    """What a set holds."""

    kind: Kind
    network: Network
    left: int | None
    """Seconds; None: for ever."""
    packets: int
    """That were stopped by it."""
    bytes: int
    """Of these, with their IP headers."""
    why: str

    @property
    def source(self) -> str:
        """The network as people write it: a single address without its length."""
        whole = self.network.prefixlen == self.network.max_prefixlen
        return str(self.network.network_address if whole else self.network)


def name_of(kind: Kind, family: int) -> str:
    return f"NFQLB-{kind}{family}"


def allowed(config: Config, family: Family) -> list[Network]:
    """Who is never limited or banned: whom [limits] allow names, the backends, and the other node of a pair."""
    hosts = [str(backend.address.host) for pool in config.pools for backend in pool.backends]
    hosts += [str(each) for each in ((config.ha.address, config.ha.peer) if config.ha else ())]
    networks = [*config.limits.allow, *map(ip_network, hosts)]
    found: list[Network]
    if family == 4:
        found = list(collapse_addresses(each for each in networks if isinstance(each, IPv4Network)))
    else:
        found = list(collapse_addresses(each for each in networks if isinstance(each, IPv6Network)))
    return [part for each in found for part in holdable(each)]


def holdable(network: Network) -> list[Network]:
    """The same addresses as a set can hold them: no set takes a network of all addresses, but its two halves."""
    return list(network.subnets()) if network.prefixlen == 0 else [network]


# -- sets as a whole


def differences(wanted: Mapping[Family, str]) -> list[Change]:
    """What `make` and `drop` would change, for `wanted`, rendered templates. Of who is banned nothing is wanted.
    Raises HostError.
    """
    present: dict[Family, str] = {}
    names = _names()
    for family in FAMILIES:
        mine = [name_of(kind, family) for kind in KINDS if name_of(kind, family) in names]
        lines = [f"create {name}" for name in mine]
        if name_of("allow", family) in mine:
            lines += _save(name_of("allow", family)).splitlines()
        present[family] = "\n".join(lines)
    return list(compare(present, wanted))


def compare(present: Mapping[Family, str], wanted: Mapping[Family, str]) -> Iterator[Change]:
    """The changes from one text to another, IP version by IP version."""
    for family in FAMILIES:
        have, want = _read(present.get(family, "")), _read(wanted.get(family, ""))
        yield from ((family, "remove", f"create {name}") for name in have.names if name not in want.names)
        yield from ((family, "add", want.names[name]) for name in want.names if name not in have.names)
        if want.names:
            allow = name_of("allow", family)
            yield from (
                (family, "remove", f"add {allow} {each}") for each in have.networks if each not in want.networks
            )
            yield from ((family, "add", f"add {allow} {each}") for each in want.networks if each not in have.networks)


def make(wanted: Mapping[Family, str]) -> None:
    """Make the sets that are missing, and replace those who are never limited in one step. Before the rules that look
    into the sets. Raises HostError.
    """
    for family, text in wanted.items():
        want, allow = _read(text), name_of("allow", family)
        fresh = f"{allow}-next"
        lines = [*want.names.values(), want.names[allow].replace(allow, fresh), f"flush {fresh}"]
        lines += [f"add {fresh} {each}" for each in want.networks]
        lines += [f"swap {fresh} {allow}", f"destroy {fresh}"]
        _ipset("restore", "-exist", text="".join(f"{line}\n" for line in lines))


def drop(kept: Iterable[Family] = ()) -> None:
    """Take away our sets of all other IP versions, with who is in them, after the rules. Raises HostError."""
    kept = tuple(kept)
    for name in _names():
        if any(name.startswith(name_of(kind, family)) for kind in KINDS for family in FAMILIES if family not in kept):
            _destroy(name)


def present() -> bool:
    return any(name_of(kind, family) in _names() for kind in KINDS for family in FAMILIES)


def command_with_sets(text: str) -> list[str]:
    """A command that makes these sets and then becomes the command behind it: to try rules in a network namespace."""
    return ["sh", "-c", 'printf "%s" "$1" | "$2" restore && shift 2 && exec "$@"', "sh", text, _program()]


# -- entries


def entries(kinds: Iterable[Kind] = ("deny", "ban")) -> list[Entry]:
    """What is in the sets. Raises HostError, also when there are none."""
    there = _names()
    names = [(kind, name_of(kind, family)) for kind in kinds for family in FAMILIES]
    if not any(name in there for _, name in names):
        raise HostError(
            "There are no sets of ours in the kernel. Unless [limits] enabled = false does without them, put them and "
            "the rules in place with: nfqlb rules apply"
        )
    found = [entry for kind, name in names if name in there for entry in read_entries(kind, _save(name))]
    if any(entry.kind == "ban" and not entry.why for entry in found):
        noted = [(kind, name_of(kind, family)) for kind in NOTICES for family in FAMILIES]
        why = {
            entry.network: kind for kind, name in noted if name in there for entry in read_entries(kind, _save(name))
        }
        found = [
            entry._replace(why=why.get(entry.network, "")) if entry.kind == "ban" and not entry.why else entry
            for entry in found
        ]
    return found


def count() -> int:
    """How many sources are banned. Those whose time has just ended count until the kernel has forgotten them."""
    there = _names()
    names = [name_of(kind, family) for kind in ("deny", "ban") for family in FAMILIES]
    texts = [_ipset("list", "-terse", name) for name in names if name in there]
    return sum(int(number) for text in texts for number in re.findall(r"^Number of entries: (\d+)", text, re.MULTILINE))


def read_entries(kind: Kind, text: str) -> Iterator[Entry]:
    """From what `ipset save` printed."""
    for line in text.splitlines():
        if line.startswith("add "):
            network, *options = shlex.split(line)[2:]
            values = dict(zip(options[::2], options[1::2], strict=True))
            left = int(values.get("timeout", 0))
            found: Network = ip_network(network)
            if kind in ("ban", *NOTICES) and found.version == 6:
                found = ip_network((found.network_address, SOURCE_BITS[6]))
            packets, size = int(values.get("packets", 0)), int(values.get("bytes", 0))
            yield Entry(kind, found, left or None, packets, size, values.get("comment", ""))


def ban(networks: Iterable[Network], seconds: int, why: str | None) -> None:
    """An operator's: for so many seconds, LONGEST at most, or for ever with 0. One that is there gets the new time, and
    keeps its counters, and its reason where `why` is None. Raises HostError.
    """
    parts = [part for each in networks for part in holdable(each)]
    # The kernel forgets the comment of an entry that is added again without one.
    before = {entry.network: entry.why for entry in entries(["deny"])} if why is None else {}
    lines = []
    for each in parts:
        reason = _harmless(before.get(each, "") if why is None else why)
        comment = f' comment "{reason}"' if reason else ""
        lines.append(f"add {name_of('deny', each.version)} {each} timeout {seconds}{comment}\n")
    _ipset("restore", "-exist", text="".join(lines))


def unban(entry: Entry) -> None:
    """Raises HostError."""
    address = entry.network if entry.kind != "ban" else entry.network.network_address
    _ipset("restore", "-exist", text=f"del {name_of(entry.kind, entry.network.version)} {address}\n")


def _harmless(text: str) -> str:
    """What may stand in a comment: 255 bytes, and no quotation mark."""
    return re.sub(r'["\\\x00-\x1f]', " ", text).encode()[:255].decode(errors="ignore")


# -- the command


class _Sets(NamedTuple):
    names: dict[str, str]
    """Name → the line that makes it."""
    networks: list[str]
    """In the set of those who are never limited."""


def _read(text: str) -> _Sets:
    lines = [line.split() for line in text.splitlines()]
    names = {words[1]: " ".join(words) for words in lines if words[:1] == ["create"]}
    return _Sets(names, [str(ip_network(words[2])) for words in lines if words[:1] == ["add"]])


def _names() -> list[str]:
    """All sets of this network namespace; none where there is no command or the kernel knows no sets."""
    if shutil.which("ipset", path=PATH) is None:
        return []
    try:
        return _ipset("list", "-name").split()
    except HostError:
        return []


def _save(name: str) -> str:
    return _ipset("save", name)


def _destroy(name: str) -> None:
    deadline = time.monotonic() + RELEASED_WITHIN
    while True:
        try:
            _ipset("destroy", name)
        except HostError as error:
            if "in use" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def _program() -> str:
    program = shutil.which("ipset", path=PATH)
    if program is None:
        raise HostError(
            "ipset is not installed, by which sources are limited: install the Debian package ipset, or do without: "
            "[limits] enabled = false."
        )
    return program


def _ipset(*arguments: str, text: str = "") -> str:
    command = [_program(), *arguments]
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        raise HostError(f"ipset {arguments[0]} did not end within {TIMEOUT} s.") from None
    if done.returncode:
        said = " ".join(line.strip() for line in done.stderr.splitlines() if line.strip()) or "it gave no reason"
        found = re.search(r"Error in line (\d+)", said)
        lines = text.splitlines()
        meant = f" ({lines[int(found.group(1)) - 1]})" if found and 0 < int(found.group(1)) <= len(lines) else ""
        raise HostError(f"ipset {' '.join(arguments)} failed: {said}{meant}")
    return done.stdout
