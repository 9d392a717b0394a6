"""Our iptables rules: rendered from the templates, put in place, compared with the kernel's, taken out again.

Knows the templates in nfqlb/iptables and what stands for their names. Does not know how the commands are called
(iptables), nor which sysctls go with the rules (sysctl), but `apply` and `remove` see to both.

Each generation of the gateway has a range of queues of its own; every function that takes `queues` takes the numbers
from the configuration unless told. A swap of ranges empties and fills our chain in one commit of the table, so that
each packet meets the old rules or the new ones.

What the rules promise a worker: each packet of a queue is UDP to a socket of a listener, whole (fragments are put
together before), and not tracked by conntrack. It carries a mark, the number of its queue, by which the rules spread
it; the worker sets the mark to 0 with its verdict, so that no policy route or rule further on takes it for its own.
Packets that a worker sends by an IPv6 socket, from an address and port of a listener, pass untracked, too.
"""

import fcntl
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Literal, NamedTuple

from nfqlb.config.model import Config, RulesBackend
from nfqlb.errors import BoardError, HostError, NotRunning
from nfqlb.gateway.host.network import look
from nfqlb.gateway.host.procfs import CAP_NET_ADMIN, alive, has_capability
from nfqlb.gateway.netfilter import hashlimit, ipset
from nfqlb.gateway.netfilter.ingress import find_ingress
from nfqlb.gateway.netfilter.iptables import (
    BACKENDS,
    FAMILIES,
    Change,
    Family,
    Iptables,
    Ruleset,
    Table,
    chain_of,
    compare,
    ours,
    own_part,
    parse,
    replacement,
)
from nfqlb.gateway.netfilter.sysctl import Sysctls
from nfqlb.gateway.shm import board
from nfqlb.net.endpoint import Endpoint

TEMPLATES = files("nfqlb") / "iptables"

NOTE = "##"
"""Lines of a template that begin so explain the template; they are not rendered."""

QUEUE = "NFQLB-QUEUE"
"""The chain that leads to the queues; rates.GUARD leads there through the limits."""


class Difference(NamedTuple):
    """One thing that `apply` or `remove` would change, or has changed."""

    place: str
    """`IPv4 raw` (version and table), `IPv4 sets`, or `sysctl`."""
    kind: Literal["add", "remove", "order", "set"]
    text: str
    """The rule; for `order` the rule of somebody else that stands before our jump; for `set` `key: now → wanted`."""

    def __str__(self) -> str:
        sign = {"add": "+ ", "remove": "- ", "order": "this stands before our jump: ", "set": ""}[self.kind]
        return f"{self.place}: {sign}{self.text}"


def render(config: Config, queues: range | None = None) -> dict[Family, str]:
    """IP version → input for `iptables-restore --noflush` on a host that has no rules of ours yet, comments included.

    Only the versions that listeners have. Reads the secret, from which the seed of the spreading is made; raises
    ConfigError when it cannot.
    """
    rendered: dict[Family, str] = {}
    queues = queues or config.workers.queues
    values = {"seed": f"{seed(config):#010x}", "workers": str(len(queues)), "first_queue": str(queues.start)}
    values |= hashlimit.names(config.limits)
    for family in FAMILIES:
        if own := sockets(config, family):
            tables = [*(["filter"] if config.rules.forward else []), "raw"]  # what lets pass before what diverts
            templates = [(TEMPLATES / f"{table}.v{family}").read_text("utf-8") for table in tables]
            rows = [
                {"address": each.host, "port": str(each.port), "chain": chain(config, each)} | bound(config, each)
                for each in own
            ]
            rendered[family] = "\n".join(fill(template, rows, queues, values) for template in templates)
    return rendered


def render_sets(config: Config) -> dict[Family, str]:
    """IP version → input for `ipset restore`: the sets that the rules look into. None without limits."""
    rendered: dict[Family, str] = {}
    for family in FAMILIES if config.limits.enabled else ():
        if sockets(config, family):
            template = (TEMPLATES / f"sets.v{family}").read_text("utf-8")
            rows = [{"network": str(each)} for each in ipset.allowed(config, family)]
            rendered[family] = fill(template, rows, range(0), {})
    return rendered


def wanted_sysctls(config: Config) -> dict[str, str]:
    """Key → value, as `Sysctls.wanted` has it. Depends on the addresses and routes of this host. Raises HostError."""
    with look() as network:
        return Sysctls(config.gateway.run_dir).wanted(find_ingress(config, network))


def chain(config: Config, socket: Endpoint) -> str:
    """Where packets to one of our sockets are led to."""
    guarded = config.limits.enabled and any(socket == listener.external for listener in config.listeners)
    return hashlimit.GUARD if guarded else QUEUE


def bound(config: Config, socket: Endpoint) -> dict[str, str]:
    """The interface that packets to one of our sockets must come in by, if the configuration names one."""
    for listener in config.listeners:
        if socket == listener.external and listener.external_interface:
            return {"interface": listener.external_interface}
        if socket == listener.internal and listener.internal_interface:
            return {"interface": listener.internal_interface}
    return {}


def sockets(config: Config, family: Family) -> list[Endpoint]:
    """The sockets of all listeners of one IP version, external before internal, each once."""
    pairs = ((listener.external, listener.internal) for listener in config.listeners)
    return list(dict.fromkeys(socket for pair in pairs for socket in pair if socket.version == family))


def fill(template: str, rows: list[dict[str, str]], queues: range, values: dict[str, str]) -> str:
    """The template with its names replaced: a line once for each row or queue that it names; those that name a limit
    are left out where there are none.
    """
    lines = []
    for line in template.splitlines():
        if line.startswith(NOTE):
            continue
        names = Template(line).get_identifiers()
        repeated: list[dict[str, str]] = [{}]
        if any(name in hashlimit.CHAINS and name not in values for name in names):
            continue
        if not {"address", "network"}.isdisjoint(names):
            repeated = [row for row in rows if "interface" not in names or "interface" in row]
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


def fingerprint(config: Config) -> bytes:
    """A digest of all in `config` that rules and sysctls depend on, but for the numbers of the queues.

    A change between two configurations of one fingerprint and one number of workers needs no `apply`. What depends on
    the host is not in it: its routes and addresses. Raises ConfigError (the secret).
    """
    rules = config.rules
    parts: list[str] = [text for _, text in sorted(render(config, range(1)).items())]
    parts += [rules.backend, *sorted(rules.interfaces or ()), *(config.ha.interfaces if config.ha else ())]
    # Which interfaces need sysctls follows from where each listener has its two sides, and the routes to the backends.
    parts += sorted(f"{listener.external} {listener.internal}" for listener in config.listeners)
    parts += sorted({str(backend.address) for pool in config.pools for backend in pool.backends})
    if config.pools:  # who is asked without them wants to know of rules, not of what is in sets
        parts += map(str, config.limits.allow)
    return blake2b("\0".join(parts).encode(), digest_size=16).digest()


def apply(config: Config, queues: range | None = None) -> list[Difference]:
    """Put sets, rules and sysctls in place; what was put right. What is right already stays, with its counters.

    All rules are tested before anything is changed. Each table is swapped in one go; if a later one fails, the earlier
    ones get their old rules back. Raises HostError, ConfigError (the secret).
    """
    with only_one(config.gateway.run_dir):
        return put_in_place(config, queues)


def apply_live(config: Config) -> list[Difference]:
    """`apply` with the queues of the gateway that runs, also when it changes them at this very moment: it publishes
    them in its board before it asks for the rules.
    """
    with only_one(config.gateway.run_dir):
        return put_in_place(config, live_queues(config))


def put_in_place(config: Config, queues: range | None) -> list[Difference]:
    """What `apply` does; the caller keeps others out."""
    wanted = {family: parse(text) for family, text in render(config, queues).items()}
    with look() as network:
        where = find_ingress(config, network)
    rules, of_sets = plan(config.rules.backend, wanted), render_sets(config)
    changes = in_sets(ipset.differences(of_sets))
    if changes:
        ipset.make(of_sets)
    for step in rules:
        step.command.restore(replacement(step.present, step.wanted), test=True)
    changes += [Difference("sysctl", "set", str(change)) for change in Sysctls(config.gateway.run_dir).apply(where)]
    changes += carry_out(rules)
    ipset.drop(of_sets)
    return changes


def remove(config: Config) -> list[Difference]:
    """Take out every rule of ours, with our sets, and put the sysctls back; what was changed. Raises HostError.

    Built-in chains that iptables made for us stay, empty: the legacy back end cannot remove them at all.
    """
    return take_out(config.gateway.run_dir, config.rules.backend)


def take_out(run_dir: Path, backend: RulesBackend = "auto") -> list[Difference]:
    """`remove` for when no configuration can be read: all that it needs to know is where the record of sysctls is."""
    with only_one(run_dir):
        changes = in_sets(ipset.differences({}))
        changes += carry_out(plan(backend, {}))
        ipset.drop()
        return changes + [Difference("sysctl", "set", str(change)) for change in Sysctls(run_dir).remove()]


def differences(config: Config, queues: range | None = None) -> list[Difference]:
    """What `apply` would put right: empty when all is in place. Raises HostError, ConfigError (the secret)."""
    wanted = {family: parse(text) for family, text in render(config, queues).items()}
    with look() as network:
        where = find_ingress(config, network)
    found = in_sets(ipset.differences(render_sets(config)))
    found += [difference for step in plan(config.rules.backend, wanted) for difference in step.differences]
    return found + [
        Difference("sysctl", "set", str(each)) for each in Sysctls(config.gateway.run_dir).differences(where)
    ]


def foreseen(old: Config, new: Config, queues: range) -> list[Difference]:
    """What a change from `old` to `new` would change, where `old` is in place with these queues. Needs no privilege.

    If `new` has as many workers, they are told with the same numbers, though others may be taken. Raises ConfigError
    (the secret), HostError.
    """
    before = {family: parse(text) for family, text in render(old, queues).items()}
    numbers = range(queues.start, queues.start + new.workers.count)
    after = {family: parse(text) for family, text in render(new, numbers).items()}
    found = in_sets(ipset.compare(render_sets(old), render_sets(new)))
    for family in sorted({*before, *after}):
        command = Iptables(family, new.rules.backend)
        found += [in_words(command, change) for change in compare(before.get(family, {}), after.get(family, {}))]
    with look() as network:
        then, now = find_ingress(new, network), find_ingress(old, network)
    sysctls = Sysctls(old.gateway.run_dir)
    missing = set(sysctls.differences(now))
    return found + [Difference("sysctl", "set", str(each)) for each in sysctls.differences(then) if each not in missing]


def plan(backend: RulesBackend, wanted: dict[Family, Ruleset]) -> list[Step]:
    """What has to be done for `wanted` to be there, and nothing of ours besides: not for another IP version, nor left
    over in the other back end. The latter goes last, so that a change of back ends lets no packet through.
    """
    need_privilege()
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


def need_privilege() -> None:
    """Without it, the commands would say so in many ways, or see no rules at all."""
    if not has_capability(CAP_NET_ADMIN):
        raise HostError("Rules can be read and changed by root only (CAP_NET_ADMIN).")


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


def live_queues(config: Config) -> range:
    """The queues that packets are to go to now: those of the gateway that runs, else those of the configuration.

    A gateway whose supervisor was killed runs as long as one of its workers. Where its board is one of another version
    of nfqlb, the rules in the kernel tell. Raises HostError.
    """
    try:
        snapshot = board.read(config.gateway.run_dir / board.FILE_NAME)
    except NotRunning:
        return config.workers.queues
    except BoardError:
        return queues_in_place(config) or config.workers.queues
    if not alive_of(snapshot):
        return config.workers.queues
    return range(snapshot.about.queues[0], snapshot.about.queues[-1] + 1)


def alive_of(snapshot: board.Snapshot) -> list[int]:
    """Processes of a gateway that live: its supervisor's first."""
    pids = [snapshot.pid, *(slot.cells[board.Cell.PID] for slot in snapshot.slots)]
    return [pid for pid in pids if pid and alive(pid)]


def queues_in_place(config: Config) -> range | None:
    """The queues that our rules in the kernel lead to now; None when they lead nowhere, or not all to the same ones, or
    are missing for an IP version of a listener. Raises HostError.
    """
    need_privilege()
    found: set[tuple[int, ...]] = set()
    for family in FAMILIES:
        here = {led_to(present(Iptables(family, backend), must=False)) for backend in BACKENDS} - {()}
        found |= here or ({()} if sockets(config, family) else set())
    numbers = found.pop() if len(found) == 1 else ()
    queues = range(numbers[0], numbers[0] + len(numbers)) if numbers else range(0)
    return queues if queues and tuple(queues) == numbers else None


def led_to(present: Ruleset) -> tuple[int, ...]:
    """Numbers of the queues that packets reach by our rules in one rule set."""
    raw = present.get("raw", Table())
    if not any(chain_of(jump) == "PREROUTING" for jump in raw.jumps()):
        return ()
    rules = (rule for rule in raw.rules if ours(chain_of(rule)))
    return tuple(int(number) for rule in rules for number in re.findall(r" NFQUEUE --queue-num (\d+)", rule))


def in_sets(changes: Iterable[ipset.Change]) -> list[Difference]:
    return [Difference(f"IPv{family} sets", kind, text) for family, kind, text in changes]


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
