"""What the kernel has stopped at the door: packets dropped by limits and bans, and sources that are banned now.

Reads the counters of our rules and the sizes of our sets, and changes nothing. Only root may look there.
"""

import re

from nfqlb.config.model import Config
from nfqlb.errors import HostError
from nfqlb.gateway.host.procfs import CAP_NET_ADMIN, has_capability
from nfqlb.gateway.netfilter import ipset
from nfqlb.gateway.netfilter.iptables import FAMILIES, Iptables

RULES = {
    "banned": re.compile(r"^\[(\d+):\d+\] -A NFQLB-GUARD .*--match-set NFQLB-ban\d src -j DROP$", re.MULTILINE),
    "denied": re.compile(r"^\[(\d+):\d+\] -A NFQLB-GUARD .*--match-set NFQLB-deny\d src -j DROP$", re.MULTILINE),
    "limited": re.compile(r"^\[(\d+):\d+\] -A NFQLB-(?:OVER|GUARD .*--hashlimit-above .*) -j DROP$", re.MULTILINE),
    "junk": re.compile(r"^\[(\d+):\d+\] -A NFQLB-JUNK -j DROP$", re.MULTILINE),
    "shed": re.compile(r"^\[(\d+):\d+\] -A NFQLB-SHED -j DROP$", re.MULTILINE),
}
"""What is counted → the rules that drop for it."""


def look(config: Config) -> tuple[int, dict[str, int]] | None:
    """How many sources are banned, and how many packets were dropped since the rules were changed last: `banned` by the
    gateway, `denied` by an operator, `limited` for more than the permitted rate, `junk` for what is not SIP, `shed`
    because all workers had more than they could do. None where that cannot be known.
    """
    if not config.limits.enabled or not has_capability(CAP_NET_ADMIN):
        return None
    texts = []
    for family in FAMILIES:
        command = Iptables(family, config.rules.backend)
        try:
            texts.append(command.counters("raw") if command.installed else "")
        except HostError:
            return None
    return ipset.count(), counted("".join(texts))


def counted(text: str) -> dict[str, int]:
    """From what `iptables-save --counters` printed."""
    return {name: sum(map(int, rule.findall(text))) for name, rule in RULES.items()}
