"""What is wrong although every table is right: values that cannot hold together.

Each check is one function from the draft to problems; CHECKS is the list of them. A check skips what could
not be read, so that nobody is told of a consequence beside its cause.
"""

from collections.abc import Callable, Iterator

from nfqlb.config.checks.pair import groups_of_listeners, moving_version, two_nodes
from nfqlb.config.checks.routes import (
    dead_routes,
    followers,
    impossible_routes,
    overlapping_routes,
    routes_of,
    unmatched_requests,
    volatile_conditions,
)
from nfqlb.config.parse import Draft
from nfqlb.config.problems import Problem, shown
from nfqlb.config.schema.tables import BackendTable, HealthTable
from nfqlb.names.target import Target
from nfqlb.net.endpoint import Endpoint
from nfqlb.spelling import nearest

Check = Callable[[Draft], Iterator[Problem]]


def duplicate_names(draft: Draft) -> Iterator[Problem]:
    """Backends share one name space: commands and the board speak of them by name alone."""
    for names in (draft.listener_names, draft.pool_names, draft.backend_names):
        first: dict[str, str] = {}
        for place, name in names.items():
            other = first.setdefault(name, place)
            if other != place:
                table = other.removesuffix(".name")
                yield Problem(place, f"this name is taken by {table}", value=shown(name))


def shared_sockets(draft: Draft) -> Iterator[Problem]:
    """A packet's destination names its listener, so no two may have one socket."""
    taken: dict[Endpoint, str] = {}
    for place, listener in draft.listeners.items():
        if listener is None:
            continue
        for key, socket in listener.sockets.items():
            other = taken.setdefault(socket, f"{place}.{key}")
            if other != f"{place}.{key}":
                yield Problem(f"{place}.{key}", f"this socket is {other} already", value=shown(str(socket)))


def mixed_families(draft: Draft) -> Iterator[Problem]:
    """A packet keeps its IP version on the way through."""
    for place, listener in draft.listeners.items():
        if listener is None:
            continue
        version = listener.external.version
        for key in ("internal", "advertise"):
            socket: Endpoint | None = getattr(listener, key)
            if socket is not None and socket.version != version:
                yield Problem(
                    f"{place}.{key}",
                    f"expected IPv{version} as in external; for the other IP version make a second listener",
                    value=shown(str(socket)),
                )


def one_socket_two_interfaces(draft: Draft) -> Iterator[Problem]:
    """Which side a packet to a one-armed listener is from, its source alone tells."""
    for place, listener in draft.listeners.items():
        if listener is None or listener.internal != listener.external or listener.internal_interface is None:
            continue
        if listener.internal_interface != listener.external_interface:
            text = (
                "a one-armed listener has one socket: expected external_interface alone, or an internal address apart"
            )
            yield Problem(f"{place}.internal_interface", text, value=shown(listener.internal_interface))


def unreachable_backends(draft: Draft) -> Iterator[Problem]:
    """A backend must be reachable from a listener, and must not be the gateway itself."""
    listeners = [listener for listener in draft.listeners.values() if listener is not None]
    all_read = len(listeners) == len(draft.listeners)
    versions = {listener.external.version for listener in listeners}
    ours = {socket.addr for each in listeners for socket in (each.external, each.internal)}
    sockets = {socket for listener in listeners for socket in listener.sockets.values()}
    for place, backend in backends_of(draft):
        address = backend.address
        if isinstance(address, Target):
            continue
        at, value = f"{place}.address", shown(str(address))
        if address in sockets:
            yield Problem(at, "this is a socket of ours: packets would go round in a circle", value=value)
        elif address.addr in ours:
            text = "an address of the gateway itself: what a backend there sends never enters the packet path"
            yield Problem(at, text, value=value)
        elif all_read and versions and address.version not in versions:
            yield Problem(at, f"no listener has IPv{address.version}", value=value)


def repeated_backends(draft: Draft) -> Iterator[Problem]:
    for backends in draft.backends.values():
        taken: dict[Endpoint | Target, str] = {}
        for place, backend in backends.items():
            if backend is None:
                continue
            other = taken.setdefault(backend.address, place)
            if other != place:
                text = f"this pool has that address as {other} already; for a larger share give it more weight"
                yield Problem(f"{place}.address", text, value=shown(str(backend.address)))


def weightless_pools(draft: Draft) -> Iterator[Problem]:
    for place, backends in draft.backends.items():
        if backends and all(backend is not None and backend.weight == 0 for backend in backends.values()):
            yield Problem(place, "every backend has weight 0: expected one that takes requests")


def unknown_names(draft: Draft) -> Iterator[Problem]:
    for kind, named, names in (
        ("pool", draft.pools_named, draft.pool_names.values()),
        ("listener", draft.listeners_named, draft.listener_names.values()),
    ):
        for place, name in named.items():
            if names and name not in names:
                text = f"no {kind} has this name"
                yield Problem(place, text, value=shown(name), nearest=nearest(name, names))


def unused_pools(draft: Draft) -> Iterator[Problem]:
    if None in draft.routes.values() or not draft.routes:
        return
    used = {route.pool for _, route in routes_of(draft)}
    for place, pool in draft.pools.items():
        if pool is not None and pool.name not in used:
            text = "no [[route]] leads to this pool; it gets no new requests"
            yield Problem(f"{place}.name", text, severity="warning", value=shown(pool.name))


def stranded_listeners(draft: Draft) -> Iterator[Problem]:
    """A packet keeps its IP version, so a pool serves a listener only with backends of that version."""
    listeners = {listener.name: listener.external.version for listener in draft.listeners.values() if listener}
    pools = {pool.name: draft.backends[place] for place, pool in draft.pools.items() if pool is not None}
    for place, route in routes_of(draft):
        backends = pools.get(route.pool, {}).values()
        if None in backends or not backends:
            continue
        takers = [each.address for each in backends if each and each.weight]
        served = {address.version for address in takers if isinstance(address, Endpoint)}
        if any(isinstance(address, Target) for address in takers):
            continue  # what a name leads to is known when it is looked up
        for name in route.listeners or listeners:
            if served and name in listeners and (version := listeners[name]) not in served:
                text = f"its pool {route.pool} has no IPv{version} backend, so listener {name} answers 503 here"
                yield Problem(place, text, severity="warning")


def queue_range(draft: Draft) -> Iterator[Problem]:
    workers = draft.workers
    if workers is not None and workers.queue + max(workers.count, 1) > 1 << 16:
        text = f"the queues of {workers.count} workers end beyond 65535: expected a lower first number"
        yield Problem("workers.queue", text, value=shown(workers.queue))


def crossed_ttls(draft: Draft) -> Iterator[Problem]:
    if draft.dns is not None and draft.dns.min_ttl > draft.dns.max_ttl:
        text = f"expected at most max_ttl, {draft.dns.max_ttl}"
        yield Problem("dns.min_ttl", text, value=shown(draft.dns.min_ttl))


def ban_below_limit(draft: Draft) -> Iterator[Problem]:
    """What a source may send must not be what it is banned for."""
    limits = draft.limits
    if limits is not None and limits.ban_above < limits.requests:
        text = f"expected at least requests, {limits.requests}: nobody is banned for what may pass"
        yield Problem("limits.ban_above", text, value=shown(limits.ban_above))
    if limits is not None and limits.replies < limits.replies_per_network:
        text = f"expected at least replies_per_network, {limits.replies_per_network}: one network is a part of all"
        yield Problem("limits.replies", text, value=shown(limits.replies))


def min_up_out_of_reach(draft: Draft) -> Iterator[Problem]:
    for place, pool in draft.pools.items():
        backends = draft.backends[place].values()
        if pool is None or None in backends:
            continue
        takers = sum(backend is not None and backend.weight > 0 for backend in backends)
        if any(each is not None and isinstance(each.address, Target) for each in backends):
            continue  # who knows how many it stands for
        if pool.min_up > takers > 0:
            text = f"the alarm would never end: only {takers} of this pool can take requests"
            yield Problem(f"{place}.min_up", text, value=shown(pool.min_up))


def piling_probes(draft: Draft) -> Iterator[Problem]:
    """A backend is asked anew only when the last question is answered or given up."""
    if draft.health is None:
        return
    if draft.health.timeout > draft.health.interval:
        yield _too_long("health", draft.health)
    for place, table in draft.pool_health.items():
        if table is not None and table.told.keys() & {"timeout", "interval"}:
            effective = draft.health.model_copy(update=table.told)
            if effective.timeout > effective.interval:
                yield _too_long(f"{place}.health", effective)


def _too_long(place: str, health: HealthTable) -> Problem:
    text = f"expected at most the interval, {health.interval:g}: probes do not pile up"
    return Problem(f"{place}.timeout", text, value=shown(health.timeout))


CHECKS: tuple[Check, ...] = (
    duplicate_names,
    shared_sockets,
    mixed_families,
    one_socket_two_interfaces,
    unreachable_backends,
    repeated_backends,
    weightless_pools,
    unknown_names,
    followers,
    volatile_conditions,
    dead_routes,
    impossible_routes,
    overlapping_routes,
    unmatched_requests,
    unused_pools,
    stranded_listeners,
    queue_range,
    two_nodes,
    moving_version,
    groups_of_listeners,
    crossed_ttls,
    ban_below_limit,
    min_up_out_of_reach,
    piling_probes,
)


def contradictions(draft: Draft) -> list[Problem]:
    """Everything that does not hold together, in the order of CHECKS."""
    return [problem for check in CHECKS for problem in check(draft)]


def backends_of(draft: Draft) -> Iterator[tuple[str, BackendTable]]:
    for backends in draft.backends.values():
        for place, backend in backends.items():
            if backend is not None:
                yield place, backend
