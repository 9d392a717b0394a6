"""What is other in one configuration than in another, in lines for a person who has just changed it.

Knows the fields of a Config and how they are written in the file. What a change means for packets is not told here.
Keys are compared, never shown.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from difflib import SequenceMatcher
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

from nfqlb.balance.routes import conditions
from nfqlb.config.model import Config
from nfqlb.config.pair import Pair
from nfqlb.config.status_codes import written_codes
from nfqlb.names.target import Target
from nfqlb.net.endpoint import Endpoint
from nfqlb.proxy.setup import RouteRule, Setup

NOTHING = "nothing"
PLAIN = str | int | float | Path | Endpoint | Target | IPv4Address | IPv6Address | IPv4Network | IPv6Network


def differences(old: Config, new: Config) -> Iterator[str]:
    """The changes from `old` to `new`, a line each, in the order of the file."""
    yield from _fields("gateway", old.gateway, new.gateway)
    yield from _named("listener", _by_name(old.listeners), _by_name(new.listeners))
    if _in_another_order(old.listeners, new.listeners):
        yield "the listeners stand in another order"
    yield from _pools(_by_name(old.pools), _by_name(new.pools))
    yield from _names(old, new)
    for name in dict.fromkeys((*old.pool_health, *new.pool_health)):
        if name in _by_name(new.pools):
            yield from _fields(f"pool {name}: health", old.check(name), new.check(name))
    yield from _routes(old, new)
    yield from _value("path.policy", old.path_policy, new.path_policy)
    yield from _value("path.accept_unsigned", old.accept_unsigned, new.accept_unsigned)
    yield from _fields("workers", old.workers, new.workers)
    yield from _fields("health", old.health, new.health)
    yield from _value("egress.networks", old.egress, new.egress)
    yield from _value("egress.names", old.egress_names, new.egress_names)
    yield from _fields("dns", old.dns, new.dns)
    yield from _fields("limits", old.limits, new.limits)
    yield from _fields("rules", old.rules, new.rules)
    yield from _fields("log", old.log, new.log)
    yield from _pair(old.ha, new.ha)


def _pair(old: Pair | None, new: Pair | None) -> Iterator[str]:
    if old is None or new is None:
        if old is not new:
            yield f"ha: {'added' if old is None else 'removed'}"
        return
    yield from _fields("ha", old, new, "groups")
    yield from _named("ha.group", _by_name(old.groups), _by_name(new.groups))


def key_differences(old: Setup, new: Setup) -> Iterator[str]:
    """What is other in the keys, by number and without a word of them."""
    added, removed = len(set(new.keys) - set(old.keys)), len(set(old.keys) - set(new.keys))
    if added or removed:
        yield f"secret: {added} keys added, {removed} removed"
    if old.keys[0] != new.keys[0]:
        yield "secret: another key signs from now on"
    elif not (added or removed) and old.keys != new.keys:
        yield "secret: the keys stand in another order"


def _pools(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    yield from _named("pool", old, new, skip="backends")
    if _in_another_order(tuple(old.values()), tuple(new.values())):
        yield "the pools stand in another order, which changes nothing"
    for name, pool in new.items():
        before: Mapping[str, Any] = _by_name(old[name].backends) if name in old else {}
        yield from _named(f"pool {name}: backend", before, _by_name(pool.backends))
        if name in old and _in_another_order(old[name].backends, pool.backends):
            yield f"pool {name}: its backends stand in another order, which changes nothing"


def _names(old: Config, new: Config) -> Iterator[str]:
    """Backends that have a name for an address; the addresses it stands for are told of as backends of their own."""
    for pool in dict.fromkeys(each.pool for each in (*old.names, *new.names)):
        before, after = ([each for each in config.names if each.pool == pool] for config in (old, new))
        yield from _named(f"pool {pool}: backend", _by_name(tuple(before)), _by_name(tuple(after)), skip="pool")
        if _in_another_order(before, after):
            yield f"pool {pool}: its backends that have names stand in another order"


def _routes(old: Config, new: Config) -> Iterator[str]:
    """Routes have no names: what counts is their order. A number is the place in the new file, unless it is removed."""
    same = SequenceMatcher(a=old.routes, b=new.routes, autojunk=False)
    for kind, first, end, new_first, new_end in same.get_opcodes():
        if kind == "replace" and end - first == new_end - new_first:
            for index in range(new_first, new_end):
                yield from _fields(f"route[{index}]", old.routes[first + index - new_first], new.routes[index])
        elif kind != "equal":
            for index in range(first, end):
                yield f"route[{index}] of before: removed ({_rule(old.routes[index])})"
            for index in range(new_first, new_end):
                yield f"route[{index}]: added ({_rule(new.routes[index])})"


def _rule(rule: RouteRule) -> str:
    return f"{', '.join(conditions(rule)) or 'everything'}: pool {rule.pool}"


def _named(kind: str, old: Mapping[str, Any], new: Mapping[str, Any], skip: str = "") -> Iterator[str]:
    for name in old:
        if name not in new:
            yield f"{kind} {name}: removed"
    for name, each in new.items():
        if name in old:
            yield from _fields(f"{kind} {name}:", old[name], each, skip)
        else:
            yield f"{kind} {name}: added{_how(each)}"


def _in_another_order(old: Sequence[Any], new: Sequence[Any]) -> bool:
    before, after = [each.name for each in old], [each.name for each in new]
    return before != after and sorted(before) == sorted(after)


def _how(added: Any) -> str:
    """What an added table says, in brackets; the backends of a pool have lines of their own."""
    settings = ", ".join(_settings(added))
    return f" ({settings})" if settings else ""


def _settings(added: Any) -> Iterator[str]:
    for field in fields(added):
        value = getattr(added, field.name)
        if field.name not in ("name", "pool", "backends") and value != field.default:
            yield f"{field.name} {_shown(value)}"


def _fields(place: str, old: Any, new: Any, skip: str = "") -> Iterator[str]:
    assert is_dataclass(old)
    for field in fields(old):
        if field.name not in ("name", skip) or place == "gateway":
            joint = " " if place.endswith(":") else "."
            yield from _value(f"{place}{joint}{field.name}", getattr(old, field.name), getattr(new, field.name))


def _value(place: str, old: Any, new: Any) -> Iterator[str]:
    if old != new:
        yield f"{place}: {_shown(old)} → {_shown(new)}"


def _shown(value: Any) -> str:
    if value is None or value in ((), frozenset()):
        return NOTHING
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, frozenset) and all(isinstance(each, int) for each in value):
        return ", ".join(written_codes(value))
    if isinstance(value, tuple | frozenset) and not isinstance(value, Endpoint | Target):
        texts = [_shown(each) for each in value]
        return ", ".join(sorted(texts) if isinstance(value, frozenset) else texts)
    assert isinstance(value, PLAIN), type(value)
    return str(value)


def _by_name(items: tuple[Any, ...]) -> dict[str, Any]:
    return {item.name: item for item in items}
