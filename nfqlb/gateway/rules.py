"""Our iptables rules: rendered from the templates, put in place, compared with the kernel's, taken out again.

Knows the templates in nfqlb/iptables and what stands for their names. Does not know how the commands are called
(iptables), nor which sysctls go with the rules (sysctls), but `apply` and `remove` see to both.

What the rules promise a worker: each packet of a queue is UDP to a socket of a listener, whole (fragments are put
together before), and not tracked by conntrack. It carries a mark, the number of its queue, by which the rules spread
it; the worker sets the mark to 0 with its verdict, so that no policy route or rule further on takes it for its own.
Packets that a worker sends by an IPv6 socket, from an address and port of a listener, pass untracked, too.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Literal, NamedTuple

from nfqlb.config import Config, RulesBackend
from nfqlb.gateway.arrivals import arrivals
from nfqlb.gateway.errors import HostError
from nfqlb.gateway.iptables import (
    BACKENDS,
    FAMILIES,
    Change,
    Family,
    Iptables,
    Ruleset,
    compare,
    own_part,
    parse,
    replacement,
)
from nfqlb.gateway.network import look
from nfqlb.gateway.procfs import CAP_NET_ADMIN, has_capability
from nfqlb.gateway.sysctls import Sysctls
from nfqlb.net.endpoint import Endpoint

TEMPLATES = files("nfqlb") / "iptables"

NOTE = "##"
"""Lines of a template that begin so explain the template; they are not rendered."""


class Difference(NamedTuple):
    """One thing that `apply` or `remove` would change, or has changed."""

    place: str
    """`IPv4 raw` (version and table), or `sysctl`."""
    kind: Literal["add", "remove", "order", "set"]
    text: str
    """The rule; for `order` the rule of somebody else that stands before our jump; for `set` `key: now → wanted`."""

    def __str__(self) -> str:
        sign = {"add": "+ ", "remove": "- ", "order": "this stands before our jump: ", "set": ""}[self.kind]
        return f"{self.place}: {sign}{self.text}"


def render(config: Config) -> dict[Family, str]:
    """IP version → input for `iptables-restore --noflush` on a host that has no rules of ours yet, comments included.

    Only the versions that listeners have. Reads the secret, from which the seed of the spreading is made.
    """
    rendered: dict[Family, str] = {}
    values = {
        "seed": f"{seed(config):#010x}",
        "workers": str(config.workers.count),
        "first_queue": str(config.workers.queue),
    }
    for family in FAMILIES:
        if own := sockets(config, family):
            tables = [*(["filter"] if config.rules.forward else []), "raw"]  # what lets pass before what diverts
            templates = [(TEMPLATES / f"{table}.v{family}").read_text("utf-8") for table in tables]
            rendered[family] = "\n".join(fill(template, own, config.workers.queues, values) for template in templates)
    return rendered


def sockets(config: Config, family: Family) -> list[Endpoint]:
    """The sockets of all listeners of one IP version, external before internal, each once."""
    pairs = ((listener.external, listener.internal) for listener in config.listeners)
    return list(dict.fromkeys(socket for pair in pairs for socket in pair if socket.version == family))


def fill(template: str, own: list[Endpoint], queues: range, values: dict[str, str]) -> str:
    """The template with its names replaced: a line once for each socket or queue that it names."""
    lines = []
    for line in template.splitlines():
        if line.startswith(NOTE):
            continue
        names = Template(line).get_identifiers()
        repeated: list[dict[str, str]] = [{}]
        if "address" in names:
            repeated = [{"address": socket.host, "port": str(socket.port)} for socket in own]
        elif "queue" in names:
            repeated = [{"queue": str(queue)} for queue in queues]
        lines += [Template(line).substitute(values, **more) for more in repeated]
    return "".join(f"{line}\n" for line in lines)


def seed(config: Config) -> int:
    """32 bits for the hash that spreads packets over workers: the same on every node, unknown to everyone else."""
    key = config.setup().keys[0]
    return int.from_bytes(blake2b(b"nfqlb spreading", key=key, digest_size=4).digest(), "big")


class Step(NamedTuple):
    """What one set of iptables commands has to do."""

    command: Iptables
    present: Ruleset
    wanted: Ruleset

    @property
    def differences(self) -> list[Difference]:
        return [in_words(self.command, change) for change in compare(self.present, self.wanted)]


def apply(config: Config) -> list[Difference]:
    """Put rules and sysctls in place; what was put right. What is right already is not touched, nor are its counters.

    All rules are tested before anything is changed. Each table is swapped in one go; if a later one fails, the earlier
    ones get their old rules back. Raises HostError, ConfigError (the secret).
    """
    wanted = {family: parse(text) for family, text in render(config).items()}
    with only_one(config.gateway.run_dir):
        with look() as network:
            where = arrivals(config, network)
        rules = plan(config.rules.backend, wanted)
        for step in rules:
            step.command.restore(replacement(step.present, step.wanted), test=True)
        changes = [Difference("sysctl", "set", str(change)) for change in Sysctls(config.gateway.run_dir).apply(where)]
        return changes + carry_out(rules)


def remove(config: Config) -> list[Difference]:
    """Take out every rule of ours and put the sysctls back; what was changed. Raises HostError.

    Built-in chains that iptables made for us stay, empty: the legacy back end cannot remove them at all.
    """
    return take_out(config.gateway.run_dir, config.rules.backend)


def take_out(run_dir: Path, backend: RulesBackend = "auto") -> list[Difference]:
    """`remove` for when no configuration can be read: all that it needs to know is where the record of sysctls is."""
    with only_one(run_dir):
        changes = carry_out(plan(backend, {}))
        return changes + [Difference("sysctl", "set", str(change)) for change in Sysctls(run_dir).remove()]


def differences(config: Config) -> list[Difference]:
    """What `apply` would put right: empty when all is in place. Raises HostError, ConfigError (the secret)."""
    wanted = {family: parse(text) for family, text in render(config).items()}
    with look() as network:
        where = arrivals(config, network)
    found = [difference for step in plan(config.rules.backend, wanted) for difference in step.differences]
    return found + [
        Difference("sysctl", "set", str(each)) for each in Sysctls(config.gateway.run_dir).differences(where)
    ]


def plan(backend: RulesBackend, wanted: dict[Family, Ruleset]) -> list[Step]:
    """What has to be done for `wanted` to be there, and nothing of ours besides: not for another IP version, nor left
    over in the other back end. The latter goes last, so that a change of back ends lets no packet through.
    """
    if not has_capability(CAP_NET_ADMIN):  # the commands would say so in many ways, or see no rules at all
        raise HostError("Rules can be read and changed by root only (CAP_NET_ADMIN).")
    steps, leftovers = [], []
    for family in FAMILIES:
        chosen = Iptables(family, backend)
        if not chosen.installed and family not in wanted:
            continue
        resolved = chosen.resolved()
        steps.append(Step(chosen, present(chosen, must=family in wanted), wanted.get(family, {})))
        for each in BACKENDS:
            other = Iptables(family, each)
            if other.installed and each != resolved:
                leftovers.append(Step(other, present(other, must=False), {}))
    return [step for step in [*steps, *leftovers] if step.differences]


def present(command: Iptables, *, must: bool) -> Ruleset:
    """The kernel's rules. Where nothing `must` be there, a kernel that has no such tables has no rules of ours."""
    try:
        return command.save()
    except HostError:
        if must:
            raise
        return {}


def carry_out(steps: list[Step]) -> list[Difference]:
    done: list[Step] = []
    try:
        for step in steps:
            done.append(step)
            step.command.restore(replacement(step.present, step.wanted))
    except HostError:
        for step in done:
            if text := replacement(step.command.save(), own_part(step.present)):
                step.command.restore(text)
        raise
    return [difference for step in steps for difference in step.differences]


def in_words(command: Iptables, change: Change) -> Difference:
    kind, table, rule = change
    backend = "" if command.backend == "auto" else f" ({command.backend})"
    return Difference(f"IPv{command.family} {table}{backend}", kind, rule)


@contextmanager
def only_one(run_dir: Path) -> Iterator[None]:
    """Keep others of us out while the host is changed, by a lock on the run directory."""
    try:
        run_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
        directory = os.open(run_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(
            f"{run_dir} cannot be used ({error.strerror}): run this as root, or name another [gateway] run_dir."
        ) from None
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)
