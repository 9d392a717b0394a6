"""Is this host ready for a configuration? Everything that is wrong or looks wrong, for `nfqlb run` and `check --live`.

Looks and changes nothing. An error is what keeps packets from passing at all; a warning is what may be meant, or what
`nfqlb rules apply` puts right. What other people's rules do to our packets is in `netfilter.conflicts`.
"""

from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path

from nfqlb.config.dns_backends import base
from nfqlb.config.model import Config
from nfqlb.config.problems import ConfigError, Problem, shown
from nfqlb.errors import BoardError, HostError
from nfqlb.gateway.host.network import RTN_LOCAL, RTN_UNICAST, Network, NoRoute, look
from nfqlb.gateway.host.procfs import CAP_NET_ADMIN, PROC, alive, has_capability, processes_with
from nfqlb.gateway.netfilter import conflicts, ipset, ruleset
from nfqlb.gateway.netfilter.ingress import UNCABLED, towards
from nfqlb.gateway.netfilter.iptables import FAMILIES, Iptables
from nfqlb.gateway.runtime.pidfile import FILE_NAME
from nfqlb.gateway.shm import board
from nfqlb.net.endpoint import Endpoint
from nfqlb.proxy.setup import Listener

WILDCARDS = (bytes(4), bytes(16))
"""0.0.0.0 and ::, to which a process binds that wants the packets to every address."""


def problems(config: Config) -> list[Problem]:
    """All that keeps this host from serving `config`, or may. Mistakes in the secret are not told here.

    Without CAP_NET_ADMIN, nothing can be said of rules: that is then the error.
    """
    with look() as network:
        found = [*addresses(config, network), *pair(config, network), *backends(config, network)]
        found += bound_sockets(config)
        found += library()
        if not has_capability(CAP_NET_ADMIN):
            text = "this process may not change the network; start it as root or with CAP_NET_ADMIN"
            return [Problem("privilege", text), *found]
        found += kernel(config)
        if not any(problem.severity == "error" for problem in found):
            queues = ruleset.live_queues(config)
            found += in_place(config, network, queues)
            found += conflicts.problems(config, queues)
    return found


def addresses(config: Config, network: Network) -> Iterator[Problem]:
    """Whether every address of a listener is this host's, and usable."""
    for place, socket in sockets(config):
        value = shown(str(socket))
        carriers = network.carriers(socket.addr)
        if not carriers and config.ha is None and not is_local(network, socket):
            text = "this host does not have the address; add it to an interface, or correct the configuration"
            yield Problem(place, text, value=value)
        for carrier in carriers:
            if carrier.duplicate:
                text = f"another host has the address, too, so Linux does not use it on {carrier.link}"
                yield Problem(place, text, value=value)
            elif carrier.tentative:
                text = f"Linux still makes sure that nobody else has the address on {carrier.link}; try again in 2 s"
                yield Problem(place, text, value=value)
            if not network.links[carrier.link].up:
                text = f"its interface {carrier.link} is down; switch it on with: ip link set {carrier.link} up"
                yield Problem(place, text, value=value)


def pair(config: Config, network: Network) -> Iterator[Problem]:
    """Whether this host has what a node of a pair needs of its own; the floating addresses may be on the other one."""
    from nfqlb.gateway.ha import keepalived, watch

    if config.ha is None:
        return
    for key, name in (("interface", config.ha.interface), ("outside", config.ha.outside), ("inside", config.ha.inside)):
        if name not in network.links:
            there = ", ".join(sorted(network.links))
            yield Problem(f"ha.{key}", f"this host has no such interface, but {there}", value=shown(name))
            return
        if not network.links[name].up:
            yield Problem(f"ha.{key}", f"it is down; switch it on with: ip link set {name} up", value=shown(name))
    own = str(config.ha.address)
    if not any(address.link == config.ha.interface for address in network.carriers(config.ha.address.packed)):
        text = f"{config.ha.interface} does not have the address; it belongs to this node and does not move"
        yield Problem("ha.address", text, value=shown(own))
    if text := keepalived.outdated(config):
        yield Problem("ha.keepalived_conf", text, "warning")
    elif text := watch.unwatched(config.gateway.run_dir):
        yield Problem("ha", text, "warning")


def backends(config: Config, network: Network) -> Iterator[Problem]:
    """Whether each backend can be reached from the inside of each listener of its IP version."""
    for pool_index, pool in enumerate(config.pools):
        for index, backend in enumerate(pool.backends):
            place, value = f"pool[{pool_index}].backend[{index}].address", shown(str(backend.address))
            if named := base(backend.name) != backend.name:
                place = f"backend {backend.name}"
            for listener in config.listeners:
                if listener.internal.version == backend.address.version:
                    for text, severe in way(network, listener, backend.address):
                        # What DNS says is no mistake in the configuration, and may be another tomorrow.
                        yield Problem(place, text, "error" if severe and not named else "warning", value)


def way(network: Network, listener: Listener, backend: Endpoint) -> Iterator[tuple[str, bool]]:
    """What is wrong with the way from the inside of `listener` to `backend`, and whether packets cannot pass."""
    carriers = {address.link for address in network.carriers(listener.internal.addr)}
    inside = listener.internal.host
    try:
        route = network.route(backend.addr, src=listener.internal.addr if carriers else None)
    except NoRoute as error:
        yield f"there is no route to it from {inside} ({error})", True
        return
    if route.kind == RTN_LOCAL:
        yield "an address of this very host: what a backend here sends never enters the packet path", True
    elif route.kind != RTN_UNICAST:
        yield "the route to it leads nowhere (blackhole, unreachable or prohibit)", True
    elif carriers and route.link not in carriers and any(network.links[link].kind not in UNCABLED for link in carriers):
        where = " and ".join(sorted(carriers))
        yield f"packets to it leave by {route.link}, but {inside} is on {where}: is that the interface you mean?", False


def library() -> Iterator[Problem]:
    """Whether netfilterqueue is there, with the C library that it was built for: one may go without the other."""
    try:
        import_module("netfilterqueue")
    except ImportError as error:
        yield Problem("netfilterqueue", f"cannot be loaded ({error}); install the Debian package libnetfilter-queue1")


def kernel(config: Config) -> Iterator[Problem]:
    """Whether the commands are there and the kernel takes our rules, tried apart from the real ones."""
    try:
        rendered, of_sets = ruleset.render(config), ruleset.render_sets(config)
    except ConfigError:
        return
    for family, text in rendered.items():
        command = Iptables(family, config.rules.backend)
        try:
            command.rehearse(text, ipset.command_with_sets(of_sets[family]) if family in of_sets else ())
        except HostError as error:
            yield Problem(f"IPv{family} rules", str(error))


def in_place(config: Config, network: Network, queues: range) -> Iterator[Problem]:
    """Whether rules and sysctls are in place, and packets that come in find their way through."""
    try:
        differences = ruleset.differences(config, queues)
    except ConfigError:
        return
    except HostError as error:
        yield Problem("rules", str(error))
        return
    places: dict[str, list[ruleset.Difference]] = {}
    for difference in differences:
        places.setdefault("sysctls" if difference.kind == "set" else "rules", []).append(difference)
    for place, found in places.items():
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        text = f"not in place ({found[0]}{more}); put that right with: nfqlb rules apply -c {config.path}"
        yield Problem(place, text, "warning")
    if "sysctls" not in places:
        yield from passage(config, network)


def passage(config: Config, network: Network) -> Iterator[Problem]:
    """Whether the kernel would route a rewritten packet: asked as if it came in by the interface of each listener."""
    for listener in config.listeners:
        for name in sorted(towards(network, listener.external)):
            refused: dict[str, list[str]] = {}
            for backend in (backend for pool in config.pools for backend in pool.backends):
                if backend.address.version != listener.internal.version:
                    continue
                try:
                    network.route(backend.address.addr, src=listener.internal.addr, came_in_by=name)
                except NoRoute as error:
                    refused.setdefault(str(error), []).append(backend.name)
            for reason, names in refused.items():
                text = (
                    f"Linux would not pass a packet on that comes in here, from {listener.internal.host} to "
                    f"{', '.join(names)} ({reason}); look at rp_filter, at 'ip rule' and at the routes"
                )
                yield Problem(f"interface {name}", text, "warning")


def bound_sockets(config: Config, proc: Path = PROC) -> Iterator[Problem]:
    """Processes that wait at one of our sockets. Not our own, which send from there."""
    own = running(config.gateway.run_dir, proc)
    user = user_of(config.gateway.run_dir) if own else 0
    for version in FAMILIES:
        for local, inode, uid in udp_sockets(proc, version):
            taken = [socket for _, socket in sockets(config) if meets(local, socket)]
            holders = processes_with(f"socket:[{inode}]", proc) if taken else ()
            if not taken or any(holder.pid == own or holder.name.startswith("nfqlb") for holder in holders):
                continue
            if user and uid == user and not holders:  # our own processes let nobody but root look at them
                continue
            who = ", ".join(map(str, holders)) or "a process that we may not look at"
            text = (
                f"{who} is bound to it, but packets to {' and '.join(map(str, taken))} go to our workers and never "
                "there. Harmless if it serves other addresses, too; else stop it"
            )
            yield Problem(f"UDP {local}", text, "warning")


def user_of(run_dir: Path) -> int:
    """Whose the gateway in `run_dir` is; 0 for root's, or none."""
    try:
        return (run_dir / FILE_NAME).stat().st_uid
    except OSError:
        return 0


def running(run_dir: Path, proc: Path = PROC) -> int:
    """Process id of the gateway that runs in `run_dir`; 0 for none."""
    try:
        pid = int((run_dir / FILE_NAME).read_text("ascii"))
    except (OSError, ValueError):
        return 0
    return pid if alive(pid, proc) else 0


def serving(run_dir: Path) -> int:
    """Process id of the gateway that takes packets there, or of one of its workers if the supervisor was killed; 0 for
    none.
    """
    if pid := running(run_dir):
        return pid
    try:
        return next(iter(ruleset.alive_of(board.read(run_dir / board.FILE_NAME))), 0)
    except BoardError:  # there is none, or one of another version of nfqlb
        return 0


def udp_sockets(proc: Path, version: int) -> Iterator[tuple[Endpoint, str, int]]:
    """Local endpoint, inode and user of each UDP socket [proc_net_tcp.txt: addresses are words of the host's byte
    order].
    """
    try:
        lines = (proc / "thread-self/net" / {4: "udp", 6: "udp6"}[version]).read_text("ascii").splitlines()
    except FileNotFoundError:  # a kernel without IPv6
        return
    for line in lines[1:]:
        fields = line.split()
        words, _, port = fields[1].partition(":")
        packed = b"".join(bytes.fromhex(words[at : at + 8])[::-1] for at in range(0, len(words), 8))
        yield Endpoint(packed, int(port, 16)), fields[9], int(fields[7])


def meets(local: Endpoint, socket: Endpoint) -> bool:
    """Would a process bound to `local` expect the packets to `socket`? One bound to :: may mean IPv4 as well."""
    same_family = len(local.addr) >= len(socket.addr)
    return local.port == socket.port and (local.addr == socket.addr or (local.addr in WILDCARDS and same_family))


def sockets(config: Config) -> Iterable[tuple[str, Endpoint]]:
    """Place in the configuration and socket; that of a one-armed listener once."""
    for index, listener in enumerate(config.listeners):
        yield f"listener[{index}].external", listener.external
        if not listener.one_armed:
            yield f"listener[{index}].internal", listener.internal


def is_local(network: Network, socket: Endpoint) -> bool:
    """Whether the kernel takes packets to it although no interface has the address (`ip route add local …`)."""
    try:
        return network.route(socket.addr).kind == RTN_LOCAL
    except NoRoute:
        return False
