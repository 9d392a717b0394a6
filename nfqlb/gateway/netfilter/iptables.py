"""The iptables commands as a store: read the rules of one IP version, compare, change them in one go.

Knows the text of iptables-save and iptables-restore, both back ends (nft, legacy), and that whatever begins with
NFQLB- is ours. Does not know what our rules say or why.
"""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from ipaddress import ip_network
from typing import Literal

from nfqlb.errors import HostError
from nfqlb.gateway.host.procfs import CAP_NET_ADMIN, has_capability

Family = Literal[4, 6]
Backend = Literal["nft", "legacy"]

FAMILIES: tuple[Family, ...] = (4, 6)
BACKENDS: tuple[Backend, ...] = ("nft", "legacy")

PREFIX = "NFQLB-"
"""Every chain of ours begins so, and nobody else's does."""

LOCK_WAIT = 10
"""Seconds to wait for the xtables lock; `ufw reload` on a slow machine holds it for about two."""

TIMEOUT = 30
"""Seconds that one command may take; a large foreign rule set takes the legacy back end about one."""

PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
"""Where the commands are: an unprivileged shell has no sbin in its PATH."""


@dataclass(slots=True)
class Table:
    """One table as iptables-save prints it, without counters."""

    chains: dict[str, str] = field(default_factory=dict)
    """Chain → its policy, "-" for one that is not built in."""
    rules: list[str] = field(default_factory=list)
    """In the order of their chains: `-A CHAIN …`."""

    def of_chain(self, chain: str) -> list[str]:
        return [rule for rule in self.rules if chain_of(rule) == chain]

    def jumps(self) -> list[str]:
        """Rules outside our chains that lead into one of them."""
        return [rule for rule in self.rules if not ours(chain_of(rule)) and leads_to_ours(rule)]

    def own(self) -> list[str]:
        """The rules of our chains, and the jumps into them."""
        return [rule for rule in self.rules if ours(chain_of(rule)) or leads_to_ours(rule)]


Ruleset = dict[str, Table]
"""Name of a table → table."""


@dataclass(frozen=True, slots=True)
class Iptables:
    """The commands of one IP version and back end; "auto" is what the plain names mean on this host."""

    family: Family
    backend: Literal["auto", "nft", "legacy"] = "auto"

    @property
    def base(self) -> str:
        return {4: "iptables", 6: "ip6tables"}[self.family]

    def name(self, command: Literal["save", "restore"]) -> str:
        return "-".join([self.base, *([] if self.backend == "auto" else [self.backend]), command])

    @property
    def installed(self) -> bool:
        return all(shutil.which(self.name(command), path=PATH) for command in ("save", "restore"))

    def resolved(self) -> Backend:
        """The back end behind the plain names, as `iptables-restore --version` tells it."""
        if self.backend != "auto":
            return self.backend
        return "nft" if "nf_tables" in self._run("restore", ["--version"]) else "legacy"

    def save(self) -> Ruleset:
        """What the kernel holds now."""
        return parse(self._run("save", []))

    def counters(self, table: str) -> str:
        """One table as iptables-save prints it, each rule behind `[packets:bytes]`."""
        return self._run("save", ["--counters", "--table", table])

    def restore(self, text: str, *, test: bool = False) -> None:
        """Change the kernel's rules by `text`, each table at once or not at all. `test`: only try whether it reads."""
        options = ["--noflush", "--wait", str(LOCK_WAIT), *(["--test"] if test else [])]
        self._run("restore", options, text)

    def rehearse(self, text: str, before: Sequence[str] = ()) -> None:
        """Try whether this kernel takes `text`, in a network namespace of its own that ends with the command; `before`
        is a command that makes what `text` needs there, and then becomes the one behind it. Where we may make no
        namespace (that needs CAP_SYS_ADMIN), only `test`, which asks the kernel less; and of no set, which may be
        missing yet.
        """
        prefix = [shutil.which("unshare", path=PATH) or "unshare", "--net", *before]
        try:
            self._run("restore", ["--noflush"], text, prefix)
        except HostError as error:
            if "unshare" not in str(error):
                raise
            self.restore("".join(f"{line}\n" for line in text.splitlines() if "-set NFQLB-" not in line), test=True)

    def _run(
        self, command: Literal["save", "restore"], options: list[str], text: str = "", prefix: Sequence[str] = ()
    ) -> str:
        name = self.name(command)
        program = shutil.which(name, path=PATH)
        if program is None:
            raise HostError(f"{name} is not installed; install the Debian package iptables.")
        try:
            done = subprocess.run(
                [*prefix, program, *options], input=text, capture_output=True, text=True, timeout=TIMEOUT, check=False
            )
        except subprocess.TimeoutExpired:
            raise HostError(f"{name} did not end within {TIMEOUT} s; who holds /run/xtables.lock?") from None
        if done.returncode:
            raise HostError(refusal(name, done.stderr, text))
        return done.stdout


def refusal(name: str, stderr: str, text: str) -> str:
    """A sentence from what an iptables command said when it failed; with the line of `text` that it means."""
    said = " ".join(line.strip() for line in stderr.splitlines() if line.strip() and "--help" not in line)
    if "open socket to ipset" in said:
        return (
            f"{name} was refused: rules that look into sets of addresses want CAP_NET_RAW, too. Run this as root; for "
            "the service, write the units anew with: nfqlb install-units"
        )
    if "Permission denied" in said or "you must be root" in said:
        if has_capability(CAP_NET_ADMIN):  # which is enough for the other back end
            return (
                f"{name} was refused: iptables-legacy is for root only. Run this as root; for the service, write the "
                "units with: nfqlb install-units --as-root"
            )
        return f"{name} was refused: run this as root (CAP_NET_ADMIN)."
    found = re.search(r"line:? (\d+)", said)
    lines = text.splitlines()
    number = int(found.group(1)) if found else 0
    rule = f" ({lines[number - 1]})" if 0 < number <= len(lines) else ""
    return f"{name} failed: {said or 'it gave no reason'}{rule}"


def parse(text: str) -> Ruleset:
    """Read what iptables-save printed, or what iptables-restore takes (then -I counts as -A)."""
    tables: Ruleset = {}
    table = Table()
    for line in text.splitlines():
        if line.startswith("*"):
            table = tables.setdefault(line[1:].strip(), Table())
        elif line.startswith(":"):
            chain, policy = line[1:].split()[:2]
            table.chains[chain] = policy
        elif line.startswith(("-A ", "-I ")):
            table.rules.append("-A " + line[3:])
    return tables


def ours(chain: str) -> bool:
    return chain.startswith(PREFIX)


def chain_of(rule: str) -> str:
    return rule.split(maxsplit=2)[1]


def leads_to_ours(rule: str) -> bool:
    return bool(re.search(rf" (-j|-g|--jump|--goto) {PREFIX}", rule))


def replacement(present: Ruleset, wanted: Ruleset) -> str:
    """iptables-restore input that puts `wanted` (chains of ours and jumps into them) in place of all that is ours.

    Empty when nothing of ours is there or wanted. Rules of others are not named in it. Tables in which nothing of ours
    is to stay come first, filter last of them: no packet shall be diverted that nothing lets pass. The order of the
    others is that of `wanted`.
    """
    leaving = sorted((name for name in present if name not in wanted), key=lambda name: name == "filter")
    lines: list[str] = []
    for name in [*leaving, *wanted]:
        table, new = present.get(name, Table()), wanted.get(name, Table())
        old_chains = [chain for chain in table.chains if ours(chain) and chain not in new.chains]
        jumps = table.jumps()
        if not (old_chains or jumps or new.rules or new.chains):
            continue
        lines += [f"*{name}", *("-D " + rule[3:] for rule in jumps)]
        lines += [f":{chain} - [0:0]" for chain in [*old_chains, *new.chains]]  # empties a chain that is there
        lines += [f"-X {chain}" for chain in old_chains]
        into_others = [rule for rule in new.rules if not ours(chain_of(rule))]
        lines += [rule for rule in new.rules if ours(chain_of(rule))]
        lines += ["-I " + rule[3:] for rule in reversed(into_others)]
        lines.append("COMMIT")
    return "".join(f"{line}\n" for line in lines)


def own_part(present: Ruleset) -> Ruleset:
    """Only what is ours of it: a Ruleset that `replacement` can put back."""
    return {
        name: Table({chain: "-" for chain in table.chains if ours(chain)}, table.own())
        for name, table in present.items()
        if table.own() or any(map(ours, table.chains))
    }


Change = tuple[Literal["add", "remove", "order"], str, str]
"""What is to be done, table, rule."""


def compare(present: Ruleset, wanted: Ruleset) -> Iterator[Change]:
    """Where the kernel's rules differ from `wanted`, as far as they are ours.

    A jump of ours has to be the first rule of its chain: `order` names the rule that stands before it.
    """
    for name in [*wanted, *(name for name in present if name not in wanted)]:
        table, new = present.get(name, Table()), wanted.get(name, Table())
        chains = [*new.chains, *(chain for chain in table.chains if ours(chain) and chain not in new.chains)]
        chains += dict.fromkeys(map(chain_of, [*new.jumps(), *table.jumps()]))
        for chain in chains:
            if ours(chain) and chain not in table.chains and not new.of_chain(chain):
                yield "add", name, f"-N {chain}"
            if ours(chain) and chain not in new.chains and not table.of_chain(chain):
                yield "remove", name, f"-N {chain}"
            have = [rule for rule in table.own() if chain_of(rule) == chain]
            want = [rule for rule in new.own() if chain_of(rule) == chain]
            for sign, rule in changed(have, want):
                yield sign, name, rule
            everything = table.of_chain(chain)
            if not ours(chain) and have and not leads_to_ours(everything[0]):
                yield "order", name, everything[0]


def changed(have: list[str], want: list[str]) -> Iterator[tuple[Literal["add", "remove"], str]]:
    matcher = SequenceMatcher(None, [*map(canonical, have)], [*map(canonical, want)], autojunk=False)
    for _, have_from, have_to, want_from, want_to in (op for op in matcher.get_opcodes() if op[0] != "equal"):
        yield from (("remove", rule) for rule in have[have_from:have_to])
        yield from (("add", rule) for rule in want[want_from:want_to])


def canonical(rule: str) -> tuple[tuple[str, ...], ...]:
    """What a rule means, however it is written: in iptables-save's way (of either back end) or in ours."""
    options: list[list[str]] = []
    negated: list[str] = []
    for token in shlex.split(rule):
        if token == "!":
            negated = ["!"]
        elif token.startswith("-"):
            options.append([*negated, token])
            negated = []
        elif options:
            options[-1].append(plain(token, address=options[-1][-1] in ("-s", "-d")))
    return tuple(sorted(tuple(option) for option in options if option != ["-m", "udp"]))  # -p udp implies it


def plain(value: str, *, address: bool) -> str:
    if address:
        return str(ip_network(value, strict=False))
    try:
        return str(int(value, 0))
    except ValueError:
        return value
