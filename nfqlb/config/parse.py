"""From the parsed file to tables, piece by piece, so that a mistake in one hides none in another.

Knows how a wrong piece is named and explained. Does not know what the pieces mean together: a piece that
cannot be read is None in the draft, and whoever compares pieces has to live with that. A wrong optional value
is replaced by its default so that the rest of its table can still be compared; not so in a route rule, which
with a condition less would match more.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeGuard, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from nfqlb.config.problems import Problem, listed, shown
from nfqlb.config.schema.base import Table
from nfqlb.config.schema.ha import HaGroupTable, HaTable
from nfqlb.config.schema.tables import (
    REPEATED,
    SINGLE,
    WITHIN,
    BackendTable,
    DnsTable,
    EgressTable,
    GatewayTable,
    HealthTable,
    LimitsTable,
    ListenerTable,
    LogTable,
    PathTable,
    PoolTable,
    RouteTable,
    RulesTable,
    WorkersTable,
)
from nfqlb.config.schema.types import Expected
from nfqlb.spelling import nearest

T = TypeVar("T", bound=Table)

SENTENCES = {
    "bool_type": "expected true or false, without quotes",
    "finite_number": "expected a number",
    "float_type": "expected a number, without quotes",
    "greater_than_equal": "expected a number of at least {ge}",
    "int_type": "expected a whole number",
    "less_than_equal": "expected a number of at most {le}",
    "missing": "expected, but it is not there",
    "string_type": "expected text in quotes",
    "too_short": "expected at least one; where there is nothing to name, leave the key out",
    "tuple_type": 'expected a list such as ["…", "…"]',
}
"""pydantic's type of error → our sentence."""


@dataclass(frozen=True, slots=True)
class Draft:
    """What could be read. Places are keys; a table that could not be read is None."""

    gateway: GatewayTable | None
    path: PathTable | None
    workers: WorkersTable | None
    health: HealthTable | None
    egress: EgressTable | None
    dns: DnsTable | None
    limits: LimitsTable | None
    rules: RulesTable | None
    log: LogTable | None
    ha: HaTable | None
    """Also when there is none in the file."""
    ha_groups: dict[str, HaGroupTable | None]
    listeners: dict[str, ListenerTable | None]
    pools: dict[str, PoolTable | None]
    backends: dict[str, dict[str, BackendTable | None]]
    """Place of a pool → its backends by their places."""
    pool_health: dict[str, HealthTable | None]
    """Place of a pool → what it says of health, without what [health] says; of those that say something."""
    routes: dict[str, RouteTable | None]
    listener_names: dict[str, str]
    """Place of a listener → its name as written, of those too that could not be read."""
    pool_names: dict[str, str]
    backend_names: dict[str, str]
    pools_named: dict[str, str]
    """Place in a route rule → the pool that it names."""
    listeners_named: dict[str, str]


def read_draft(raw: dict[str, Any], problems: list[Problem]) -> Draft:
    """Read the parsed file; every mistake is added to `problems`."""
    known = (*SINGLE, *REPEATED, *WITHIN)
    misspelt = unknown_keys(raw, known, "", "the file", problems)
    repeated: dict[str, dict[str, Any]] = {}
    for key in REPEATED:
        repeated[key] = pieces(raw, key, key, problems)
        if raw.get(key, []) == [] and key not in misspelt:
            problems.append(Problem(key, f"expected at least one [[{key}]]"))
    backends: dict[str, dict[str, BackendTable | None]] = {}
    backend_names: dict[str, str] = {}
    pool_health: dict[str, HealthTable | None] = {}
    pools: dict[str, PoolTable | None] = {}
    for place, pool in repeated["pool"].items():
        below = ("backend", "health")
        pools[place] = read_table(PoolTable, without(pool, *below), place, problems, more=below)
        if is_table(pool) and "health" in pool:
            pool_health[place] = read_table(HealthTable, pool["health"], f"{place}.health", problems)
        found = pieces(pool, "backend", f"{place}.backend", problems) if is_table(pool) else {}
        backends[place] = read_tables(BackendTable, found, problems)
        backend_names |= texts(found, "name")
        if not found and is_table(pool) and not near_any(pool, "backend"):
            problems.append(Problem(place, "a pool without backends: expected at least one [[pool.backend]]"))
    ha = raw.get("ha")
    ha_groups = pieces(ha, "group", "ha.group", problems) if is_table(ha) else {}
    return Draft(
        gateway=read_table(GatewayTable, raw.get("gateway", {}), "gateway", problems),
        path=read_table(PathTable, raw.get("path", {}), "path", problems),
        workers=read_table(WorkersTable, raw.get("workers", {}), "workers", problems),
        health=read_table(HealthTable, raw.get("health", {}), "health", problems),
        egress=read_table(EgressTable, raw.get("egress", {}), "egress", problems),
        dns=read_table(DnsTable, raw.get("dns", {}), "dns", problems),
        limits=read_table(LimitsTable, raw.get("limits", {}), "limits", problems),
        rules=read_table(RulesTable, raw.get("rules", {}), "rules", problems),
        log=read_table(LogTable, raw.get("log", {}), "log", problems),
        ha=None if ha is None else read_table(HaTable, without(ha, "group"), "ha", problems, more=("group",)),
        ha_groups=read_tables(HaGroupTable, ha_groups, problems),
        listeners=read_tables(ListenerTable, repeated["listener"], problems),
        pools=pools,
        backends=backends,
        pool_health=pool_health,
        routes=read_tables(RouteTable, repeated["route"], problems),
        listener_names=texts(repeated["listener"], "name"),
        pool_names=texts(repeated["pool"], "name"),
        backend_names=backend_names,
        pools_named=texts(repeated["route"], "pool"),
        listeners_named=texts(repeated["route"], "listeners"),
    )


def read_tables(model: type[T], raw: dict[str, Any], problems: list[Problem]) -> dict[str, T | None]:
    return {place: read_table(model, each, place, problems) for place, each in raw.items()}


def read_table(
    model: type[T], raw: object, place: str, problems: list[Problem], *, more: tuple[str, ...] = ()
) -> T | None:
    """`raw` as a `model`, or None with all its mistakes added to `problems`. `more`: keys read elsewhere."""
    if not is_table(raw):
        expected = f"expected one table, [{place}]" if place in SINGLE else "expected a table"
        problems.append(Problem(place, expected, value=shown(raw)))
        return None
    known = (*model.model_fields, *more)
    misspelt = unknown_keys(raw, known, place, f"this table (of {listed(known)})", problems)
    values = {key: value for key, value in raw.items() if key in known}
    try:
        table = model.model_validate(values)
        return None if model is RouteTable and len(values) < len(raw) else table
    except ValidationError as error:
        wrong = {details["loc"][0] for details in error.errors(include_url=False)}
        for details in error.errors(include_url=False):
            told = details["type"] == "missing" and details["loc"][0] in misspelt
            told |= details["type"] == "too_short" and bool(details["input"])  # its items were wrong
            if not told:
                problems.append(explained(details, place))
    if model is RouteTable or any(model.model_fields[str(key)].is_required() for key in wrong):
        return None
    return model.model_validate({key: value for key, value in values.items() if key not in wrong})


def pieces(raw: dict[str, Any], key: str, place: str, problems: list[Problem]) -> dict[str, Any]:
    """The repeated tables `[[key]]` in `raw`, by their places."""
    value = raw.get(key, [])
    if not isinstance(value, list):
        name = re.sub(r"\[\d+\]", "", place)
        problems.append(Problem(place, f"expected tables in double brackets, [[{name}]]", value=shown(value)))
        return {}
    return {f"{place}[{index}]": each for index, each in enumerate(value)}


def unknown_keys(
    raw: dict[str, Any], known: tuple[str, ...], place: str, where: str, problems: list[Problem]
) -> set[str]:
    """Report each key that is not `known`; the known ones that were probably meant."""
    meant = set()
    for key in raw:
        if key in known:
            continue
        near = nearest(key, known)
        text = "unknown key" if near else f"unknown key in {where}"
        problems.append(Problem(joined(place, key), text, nearest=near))
        if near:
            meant.add(near)
    return meant


def without(raw: object, *keys: str) -> object:
    """A table without what is read elsewhere."""
    return {key: value for key, value in raw.items() if key not in keys} if is_table(raw) else raw


def near_any(raw: Iterable[str], key: str) -> bool:
    """Whether one of the keys is `key`, or so near to it that it has been reported as a slip for it."""
    return any(nearest(each, (key,)) for each in raw)


def explained(details: ErrorDetails, place: str) -> Problem:
    """pydantic's report of one wrong value in our words."""
    context = details.get("ctx", {})
    value = None if details["type"] == "missing" else shown(details["input"])
    meant = None
    if details["type"] == "literal_error":
        choices = re.findall(r"'([^']*)'", context["expected"])
        text = f"expected {listed(choices)}"
        if isinstance(details["input"], str):
            meant = nearest(details["input"], choices)
    elif isinstance(error := context.get("error"), Expected):
        text, meant = str(error), error.meant
    else:
        text = SENTENCES.get(details["type"], details["msg"]).format(**context)
    for key in details["loc"]:
        place = joined(place, key)
    return Problem(place, text, value=value, nearest=meant)


def joined(place: str, key: str | int) -> str:
    """`place` and a key or an index below it."""
    if isinstance(key, int):
        return f"{place}[{key}]"
    text = key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else shown(key)
    return f"{place}.{text}" if place else text


def texts(raw: dict[str, Any], key: str) -> dict[str, str]:
    """Place → text of what stands under `key` in each table: one text, or each of a list of them."""
    found: dict[str, str] = {}
    for place, table in raw.items():
        value = table.get(key) if is_table(table) else None
        at = joined(place, key)
        items = (
            {joined(at, index): each for index, each in enumerate(value)} if isinstance(value, list) else {at: value}
        )
        found |= {place: each for place, each in items.items() if isinstance(each, str)}
    return found


def is_table(raw: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(raw, dict)
