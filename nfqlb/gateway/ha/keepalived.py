"""The configuration of keepalived for this node of a pair.

Knows keepalived.conf (5) of 2.2 and later, and where it is on this host. Does not know who starts keepalived.

One VRRP instance carries all addresses of a group, of both sides and both IP versions. That is what sync groups are
for, but with two instances, which may disagree when one network is cut and the other is not; and in a sync group
keepalived takes no weights from what it tracks.
"""

from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

from nfqlb.config.model import Config
from nfqlb.config.pair import Group, Pair
from nfqlb.files import replace_file
from nfqlb.gateway.ha.manager import WELL
from nfqlb.gateway.ha.protocol import DEAD, LIFELINE, TRACK_FILE
from nfqlb.net.endpoint import Endpoint

HEAD = """\
# keepalived's configuration for node {address} of a pair of nfqlb gateways.
# Rendered from {config} by: nfqlb ha render
# Do not change it by hand; change [ha] there, render it anew on both nodes, and: systemctl reload-or-restart keepalived

global_defs {{
    router_id nfqlb_{address}
    vrrp_version 3
    # The lifeline comes and goes with the gateway.
    dynamic_interfaces allow_if_changes
    # Advertisements go out on time also when the host is busy.
    vrrp_priority -20
    # Neighbours are told where an address is when it comes, and every second: a switch or a host that missed it, or
    # that heard of another place while the two nodes did not see each other, learns it soon.
    vrrp_garp_master_repeat 5
    vrrp_garp_master_refresh 1
    vrrp_garp_extra_if all 1
    vrrp_garp_lower_prio_repeat 5
    vrrp_garp_lower_prio_delay 1
}}

# What the gateway thinks of itself: {well} when all is well, less when it is not or when it was asked to yield.
# keepalived takes 0, which is unwell, as long as the file is not there; and also when its directory is not the one that
# was there when keepalived read this ('nfqlb ha check' tells; a reload of keepalived helps).
track_file nfqlb {{
    file "{track_file}"
    weight 1
}}
"""

INSTANCE = """
# Listeners: {listeners}
vrrp_instance nfqlb_{name} {{
    # Who is there first has the addresses. With equal priorities they stay where they are; with other ones they go back
    # to the higher one. Either way a node that is unwell gives them to one that is well. The {well} that make the
    # {full} of [ha] come from the track file.
    state BACKUP
    interface {interface}
    virtual_router_id {router_id}
    priority {priority}
    advert_int {interval:g}
    unicast_src_ip {address}
    unicast_peer {{
        {peer}
    }}
    track_file {{
        nfqlb
    }}
    track_interface {{
{tracked}        # The gateway's lifeline: gone when its last process is, however that ended.
        {lifeline} weight {dead}
    }}
{addresses}}}
"""


TRACKED = """\
        # Without a cable on one side this node is of no use; that of `interface` counts in any case.
        {}
"""


def render(config: Config) -> str:
    """keepalived.conf. `config` has a [ha]."""
    pair = config.ha
    assert pair is not None
    track_file = config.gateway.run_dir / TRACK_FILE
    head = HEAD.format(address=pair.address, config=config.path, track_file=track_file, well=WELL)
    return head + "".join(instance(config, pair, group) for group in pair.groups)


def outdated(config: Config, file: Path | None = None) -> str:
    """What is wrong with what keepalived on this node reads, and what to do; empty when it says what `render` says.
    `file`: instead of [ha] keepalived_conf. `config` has a [ha].

    Whether keepalived has read it since, it does not tell.
    """
    pair = config.ha
    assert pair is not None
    file = file or pair.keepalived_conf
    anew = f"nfqlb ha render -c {config.path} --write"
    if file != pair.keepalived_conf:
        anew = f"nfqlb ha render -c {config.path} > {file}"
    try:
        text = file.read_text(errors="replace")
    except FileNotFoundError:
        return (
            f"{file} is not there, so nothing moves the addresses. "
            f"Put that right with: {anew} && systemctl reload-or-restart keepalived"
        )
    except OSError as error:
        return f"{file} cannot be read ({error.strerror}), so nobody knows whether it fits [ha] and the listeners"
    if effective(text) == effective(render(config)):
        return ""
    return (
        f"{file} is not what [ha] and the listeners ask for now, and keepalived goes by it. "
        f"Put that right with: {anew} && systemctl reload-or-restart keepalived"
    )


def write(config: Config) -> bool:
    """Put what `render` says where keepalived reads it, whole or not at all; whether that was something new. Makes the
    directory of the track file, which has to be there when keepalived does. Raises OSError.
    """
    assert config.ha is not None
    config.gateway.run_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
    file = config.ha.keepalived_conf.resolve()
    text = render(config)
    if file.exists() and file.read_bytes() == text.encode():
        return False
    replace_file(file, text, 0o644)
    return True


def effective(text: str) -> list[str]:
    """The lines that mean something to keepalived."""
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith(("#", "!"))]


def instance(config: Config, pair: Pair, group: Group) -> str:
    own = floating(config, pair, group)
    advertised = [each for each in own if each[0].version == pair.address.version]
    excluded = [each for each in own if each not in advertised]
    blocks = ""
    if advertised:
        # Only one of them stands in advertisements, so that their size does not grow.
        blocks += block("virtual_ipaddress", advertised[:1], pair)
        excluded = advertised[1:] + excluded
    if excluded:
        blocks += block("virtual_ipaddress_excluded", excluded, pair)
    return INSTANCE.format(
        name=group.name.replace("-", "_").replace(".", "_"),
        listeners=", ".join(group.listeners),
        interface=pair.interface,
        router_id=group.router_id,
        priority=group.priority - WELL,
        full=group.priority,
        well=WELL,
        interval=pair.interval,
        address=pair.address,
        peer=pair.peer,
        tracked="".join(TRACKED.format(each) for each in pair.interfaces if each != pair.interface),
        lifeline=LIFELINE,
        dead=DEAD,
        addresses=blocks,
    )


def floating(config: Config, pair: Pair, group: Group) -> list[tuple[Endpoint, str]]:
    """The addresses of a group, each once, and the interface that each is to be on."""
    found: dict[bytes, tuple[Endpoint, str]] = {}
    for listener in config.listeners:
        if listener.name in group.listeners:
            found.setdefault(listener.internal.addr, (listener.internal, pair.inside))
            found.setdefault(listener.external.addr, (listener.external, pair.outside))
    return list(found.values())


def block(name: str, addresses: list[tuple[Endpoint, str]], pair: Pair) -> str:
    lines = "".join(f"        {line}\n" for line in written(addresses, pair))
    return f"    {name} {{\n{lines}    }}\n"


def written(addresses: list[tuple[Endpoint, str]], pair: Pair) -> Iterator[str]:
    for socket, interface in addresses:
        length = next((net.prefixlen for net in pair.networks if ip_address(socket.addr) in net), len(socket.addr) * 8)
        # IPv6: deprecated means that nothing takes it as its source by itself, as probes must not.
        more = " preferred_lft 0" if socket.version == 6 else ""
        yield f"{socket.host}/{length} dev {interface}{more}"
