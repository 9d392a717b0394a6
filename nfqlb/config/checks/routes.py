"""What is wrong with the route rules together: rules that are never reached, that can never hold, that overlap.

Everything told here is sure. What is not told may be wrong all the same: two regular expressions are compared by their
text alone, and that several rules together leave nothing to a later one is not seen.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from itertools import combinations
from typing import TypeVar

from nfqlb.balance.routes import ALL, VOLATILE, RouteRule, conditions
from nfqlb.config.parse import Draft
from nfqlb.config.problems import Problem, shown
from nfqlb.config.schema.tables import RouteTable
from nfqlb.proxy.setup import Network

T = TypeVar("T")

ONE_VALUE = ("methods", "listeners", "domains", "from_domains", "to_domains")
"""Conditions on what a request has one of: two lists with nothing in common keep two rules apart."""

NO_INVITE = (
    "an INVITE need not share it with its CANCEL and ACK, which would go elsewhere; "
    "give the rule methods without INVITE"
)


def routes_of(draft: Draft) -> list[tuple[str, RouteTable]]:
    return [(place, route) for place, route in draft.routes.items() if route is not None]


def followers(draft: Draft) -> Iterator[Problem]:
    """ACK and CANCEL go where their INVITE went (P29), so as conditions they say nothing."""
    for place, route in routes_of(draft):
        methods = route.methods or ()
        for index, method in enumerate(methods):
            if method in ("ACK", "CANCEL"):
                yield Problem(
                    f"{place}.methods[{index}]",
                    f"{method} goes where its INVITE goes; "
                    + ("leave it out" if "INVITE" in methods else "write INVITE instead"),
                    severity="warning" if "INVITE" in methods else "error",
                    value=shown(method),
                )


def volatile_conditions(draft: Draft) -> Iterator[Problem]:
    """What an INVITE may have and its CANCEL may lack is no condition for an INVITE (P29)."""
    for place, route in routes_of(draft):
        for key in VOLATILE:
            if getattr(route, key) is not None and (route.methods is None or "INVITE" in route.methods):
                yield Problem(f"{place}.{key}", NO_INVITE)


def dead_routes(draft: Draft) -> Iterator[Problem]:
    """First match wins, so a rule is dead when an earlier one matches all that it does."""
    for (earlier, before), (later, after) in combinations(_rules(draft), 2):
        if covers(before, after):
            why = "matches all that this one does" if conditions(before) else "matches everything"
            yield Problem(later, f"never reached: {earlier} stands before it and {why}")


def impossible_routes(draft: Draft) -> Iterator[Problem]:
    """A source has the IP version of the listener that it sends to."""
    versions = {listener.name: listener.external.version for listener in draft.listeners.values() if listener}
    if len(versions) < len(draft.listeners):
        return
    for place, rule in _rules(draft):
        heard = {version for name, version in versions.items() if not rule.listeners or name in rule.listeners}
        if heard and rule.sources and not heard & {network.version for network in rule.sources}:
            who = "its listeners have" if rule.listeners else "the listeners have"
            yield Problem(f"{place}.sources", f"never reached: {who} IPv{' and IPv'.join(map(str, heard))} only")


def overlapping_routes(draft: Draft) -> Iterator[Problem]:
    """Rules neither of which is the exception from the other: their order decides, and may not be meant to."""
    rules = _rules(draft)
    for number, (later, after) in enumerate(rules):
        if after.percent == 0:
            yield Problem(f"{later}.percent", "takes nothing as long as it is 0", severity="note", value="0")
        overlapped = [earlier for earlier, before in rules[:number] if overlaps(before, after)]
        if overlapped:
            text = f"what {' or '.join(overlapped)} matches too goes there, as the first rule that holds counts"
            yield Problem(later, text, severity="note")


def unmatched_requests(draft: Draft) -> Iterator[Problem]:
    rules = _rules(draft)
    if rules and len(rules) == len(draft.routes) and all(conditions(rule) for _, rule in rules):
        text = "requests that match no rule are answered 503; a last rule without conditions takes them"
        yield Problem("route", text, severity="warning")


def overlaps(before: RouteRule, after: RouteRule) -> bool:
    """May a request match both, to different ends, without one being the exception from the other, or a canary?"""
    return (
        before.pool != after.pool
        and before.percent == ALL
        and after.percent > 0
        and not disjoint(before, after)
        and not covers(before, after)
        and not covers(replace(after, percent=ALL), before)
    )


def covers(before: RouteRule, after: RouteRule) -> bool:
    """Whether every request that `after` matches is matched by `before`."""
    for key in (*ONE_VALUE, "headers"):
        wide, narrow = getattr(before, key), getattr(after, key)
        if wide and not (narrow and narrow <= wide):
            return False
    for key in ("user_regex", "user_agent_regex"):
        if getattr(before, key) not in (None, getattr(after, key)):
            return False
    if before.percent < ALL and (before.pool != after.pool or before.percent < after.percent):
        return False
    return (
        _each(after.user_prefixes, before.user_prefixes, str.startswith)
        and _each(after.user_agents, before.user_agents, lambda narrow, wide: wide.lower() in narrow.lower())
        and _each(after.sources, before.sources, within)
    )


def disjoint(one: RouteRule, other: RouteRule) -> bool:
    """Whether it is sure that no request matches both."""
    pairs = [(getattr(one, key), getattr(other, key)) for key in ONE_VALUE]
    if any(mine and yours and not mine & yours for mine, yours in pairs):
        return True
    prefixes = [(mine, yours) for mine in one.user_prefixes for yours in other.user_prefixes]
    if prefixes and not any(mine.startswith(yours) or yours.startswith(mine) for mine, yours in prefixes):
        return True
    networks = [(mine, yours) for mine in one.sources for yours in other.sources]
    return bool(networks) and not any(within(mine, yours) or within(yours, mine) for mine, yours in networks)


def within(narrow: Network, wide: Network) -> bool:
    return narrow.version == wide.version and narrow.network_address in wide and narrow.prefixlen >= wide.prefixlen


def _each(narrow: Collection[T], wide: Collection[T], inside: Callable[[T, T], bool]) -> bool:
    """Whether each of `narrow` lies in one of `wide`; none at all means everything."""
    return not wide or (bool(narrow) and all(any(inside(one, other) for other in wide) for one in narrow))


def _rules(draft: Draft) -> list[tuple[str, RouteRule]]:
    return [(place, route.value()) for place, route in routes_of(draft)]
