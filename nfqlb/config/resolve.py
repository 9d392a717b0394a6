"""A configuration with names becomes one with addresses: for who starts a gateway, and for who only looks at one.

Knows in which order of preference answers are taken. Takes as long as DNS does, once for all names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfqlb.names import remembered
from nfqlb.names.target import Known, Target, merged

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from nfqlb.config.model import Config


def answers_for(config: Config, *, known: Mapping[Target, Known] | None = None) -> dict[Target, Known]:
    """What DNS says now of the names of all backends. Where it is silent, or says that there is no address: what is
    `known`, or else remembered. To be called in a child, or by a command that will end.
    """
    wanted = targets(config)
    if not wanted:
        return {}
    import asyncio

    from nfqlb.names.lookup import find_all  # a library comes with it

    past = {**remembered.read(config.gateway.state_dir), **(known or {})}
    found = asyncio.run(find_all(wanted, config.dns, config.versions))
    return {target: merged(past.get(target), each.known) for target, each in found.items()}


def at_hand(config: Config) -> Config:
    """With what the gateway on this host has found out last; only other names are looked up, or all of them where it
    has not asked for the addresses of an IP version that this configuration uses.
    """
    state_dir, wanted = config.gateway.state_dir, targets(config)
    past = remembered.read(state_dir)
    if not past.keys() >= set(wanted) or not remembered.versions(state_dir) >= config.versions:
        past = answers_for(config)
    return config.with_addresses({target: past[target] for target in wanted})


def targets(config: Config) -> tuple[Target, ...]:
    """Each once."""
    return tuple(dict.fromkeys(named.address for named in config.names))


def unused(config: Config, answers: Mapping[Target, Known]) -> Iterable[str]:
    """Which addresses of which backends are not used, and why, a sentence for each."""
    return (f"backend {named.pool}/{named.name}: {why}" for named, why in config.dismissed(answers))


def unanswered(answers: Mapping[Target, Known]) -> Iterable[str]:
    """What is wrong, a sentence for each."""
    return (
        f"{target}: {known.error}" + ("; the last good answer stands" if known.addresses else "")
        for target, known in answers.items()
        if known.error
    )
