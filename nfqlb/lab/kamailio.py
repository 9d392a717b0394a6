"""The backends of the lab: real Kamailio, as registrars and proxies.

REGISTERs go to the registrars, hashed by Call-ID as the gateway does by default, so phones are spread over them. As a
call's Call-ID is another one, any registrar must know every phone: each hands a copy of a REGISTER to its sibling
(`t_replicate`), as platforms do that have no database between them. Everything else goes to the proxies; they relay
to a registrar, which looks the phone up and sends to its Path, that is, through the gateway.

Knows Kamailio's command line and configuration; does not know the gateway.
"""

from importlib.resources import files
from pathlib import Path

from nfqlb.lab.topology import Node, Plan

DOMAIN = "example.org"
PLAIN_DOMAIN = "plain.example.org"
"""Calls to this domain are relayed without Record-Route."""

SHARED_MEMORY_MB, PRIVATE_MEMORY_MB = 64, 4


def render(plan: Plan, node: Node) -> str:
    """Kamailio's configuration for one backend of the plan."""
    registrar = node in plan.registrar_nodes
    siblings = [other for other in plan.registrar_nodes if other != node]
    kept = {"#registrar": registrar, "#proxy": not registrar, "#sibling": registrar and bool(siblings)}
    values = {
        "NAME": node.role,
        "HOST": node.host,
        "REGISTRAR": plan.registrar_nodes[0].host,
        "SIBLING": siblings[0].host if siblings else "",
        "PLAIN_DOMAIN": PLAIN_DOMAIN,
    }
    lines = []
    for line in files(__package__).joinpath("kamailio.cfg").read_text().splitlines():
        word, _, rest = line.partition(" ")
        if kept.get(word, True):
            lines.append(rest if word in kept else line)
    text = "\n".join(lines) + "\n"
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text


def command(config: Path, run_dir: Path) -> list[str]:
    """The command line: in the foreground, logging to stderr, all files in `run_dir`.

    Kamailio asks for the address of the host's own name before it binds a socket, and there is no DNS in the lab to say
    that it does not know; so it runs under a name that /etc/hosts has on any machine, in a UTS namespace of its own.
    """
    return [
        *("unshare", "--uts", "sh", "-c", 'hostname localhost && exec "$@"', "sh"),
        "kamailio",
        *("-f", str(config)),
        *("-m", str(SHARED_MEMORY_MB), "-M", str(PRIVATE_MEMORY_MB)),
        *("-Y", str(run_dir), "-P", str(run_dir / "kamailio.pid")),
        *("-DD", "-E"),
    ]
