"""What the rules of others do to our packets: other iptables rules, the other back end, native nftables, SIP helpers.

Looks and changes nothing. All that it finds is a warning: only the administrator knows what is meant.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nfqlb.config.model import Config
from nfqlb.config.problems import Problem
from nfqlb.errors import HostError
from nfqlb.gateway.host.procfs import PROC
from nfqlb.gateway.netfilter.iptables import BACKENDS, FAMILIES, PATH, Iptables, Ruleset, chain_of, ours
from nfqlb.gateway.netfilter.ruleset import sockets
from nfqlb.net.endpoint import Endpoint

TIMEOUT = 10
"""Seconds for `nft` to list its chains."""

OWN_TABLES = (("ip", "filter"), ("ip6", "filter"))
"""Where iptables-nft keeps the chains that we do open."""


def problems(config: Config, queues: range) -> list[Problem]:
    """Everything of that kind on this host; `queues` are those that our packets go to."""
    found: list[Problem] = []
    for family in FAMILIES:
        own = sockets(config, family)
        if not own:
            continue
        chosen = Iptables(family, config.rules.backend).resolved()
        for backend in BACKENDS:
            command = Iptables(family, backend)
            try:
                present = command.save() if command.installed else {}
            except HostError:
                continue
            place = f"{command.base} ({backend})"
            found += [Problem(place, text, "warning") for text in feeders(present, queues)]
            found += [Problem(place, text, "warning") for text in helpers(present)]
            if backend != chosen and config.rules.forward and drops(present):
                text = (
                    f"its FORWARD chain drops by policy, too, and our rules open only that of {command.base} "
                    f'({chosen}); set [rules] backend = "{backend}", or empty this one'
                )
                found.append(Problem(place, text, "warning"))
        if config.rules.forward:
            found += [Problem("nftables", text, "warning") for text in hurdles(native_chains(), own)]
    return found + sip_module()


def feeders(present: Ruleset, queues: range) -> Iterator[str]:
    """Rules of others that send packets to our queues."""
    for name, table in present.items():
        for rule in table.rules:
            if ours(chain_of(rule)) or not re.search(r" (-j|-g) NFQUEUE\b", rule):
                continue
            found = re.search(r"--queue-(?:num|balance) (\d+)(?::(\d+))?", rule)
            first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
            if first in queues or queues[0] in range(first, last + 1):
                open_door = ", and with --queue-bypass lets through what no worker takes" if "bypass" in rule else ""
                yield f"this rule in {name} sends other packets to our queues{open_door}; give it another queue: {rule}"


def helpers(present: Ruleset) -> Iterator[str]:
    """Rules that hand SIP to the helper of conntrack. Our packets escape it, others on port 5060 do not."""
    for name, table in present.items():
        for rule in table.rules:
            if re.search(r"--helper \"?sip", rule):
                yield f"this rule in {name} lets Linux itself rewrite SIP that is not for our sockets: {rule}"


def drops(present: Ruleset) -> bool:
    return "filter" in present and present["filter"].chains.get("FORWARD") == "DROP"


def native_chains() -> list[dict[str, Any]]:
    """The chains of nftables as `nft --json list chains` gives them; none where there is no nft or no permission."""
    program = shutil.which("nft", path=PATH)
    if program is None:
        return []
    try:
        done = subprocess.run(
            [program, "--json", "list", "chains"], capture_output=True, text=True, timeout=TIMEOUT, check=True
        )
        listing = json.loads(done.stdout)["nftables"]
    except (OSError, subprocess.SubprocessError, ValueError, KeyError):
        return []
    return [each["chain"] for each in listing if "chain" in each]


def hurdles(chains: list[dict[str, Any]], own: list[Endpoint]) -> Iterator[str]:
    """Native chains that drop what is forwarded. In nftables a packet has to pass every chain of a hook: what our rules
    accept in iptables' chain, the next one may still drop.
    """
    version = own[0].version
    ip = {4: "ip", 6: "ip6"}[version]
    for chain in chains:
        family, table, name = chain["family"], chain["table"], chain["name"]
        if chain.get("hook") != "forward" or family not in (ip, "inet"):
            continue
        hosts = ", ".join(dict.fromkeys(socket.host for socket in own))
        ports = ", ".join(dict.fromkeys(str(socket.port) for socket in own))
        if table == "firewalld":
            yield (
                "firewalld rejects what no policy of its own accepts, whatever iptables accepted; give it a policy "
                f"from ANY to ANY that accepts UDP from {hosts}, source port {ports}, and put the interfaces into a "
                "zone: docs/install.md, section 5, has the commands"
            )
        elif chain.get("policy") == "drop" and (family, table) not in OWN_TABLES:
            yield (
                f"chain {name} of table {family} {table} drops what it does not accept, whatever iptables accepted; "
                f"unless it does so already, let our packets pass: nft insert rule {family} {table} {name} "
                f"ct state untracked {ip} saddr '{{ {hosts} }}' udp sport '{{ {ports} }}' accept"
            )


def sip_module(proc: Path = PROC) -> list[Problem]:
    """Whether the SIP helper of conntrack is loaded as a module, or given to port 5060 unasked (before Linux 6.0)."""
    try:
        loaded = "nf_conntrack_sip " in (proc / "modules").read_text()
    except OSError:  # a kernel without modules
        loaded = False
    try:
        unasked = (proc / "sys/net/netfilter/nf_conntrack_helper").read_text().strip() == "1"
    except OSError:
        unasked = False
    if not (loaded or unasked):
        return []
    text = "Linux may rewrite SIP that is not for our sockets"
    if loaded:
        text += "; if nobody needs that: modprobe -r nf_nat_sip nf_conntrack_sip"
    else:
        text += "; switch that off with: sysctl net.netfilter.nf_conntrack_helper=0"
    return [Problem("nf_conntrack_sip", text, "warning")]
