"""Real packets through the rules, on a host whose administrator drops, masquerades and tracks everything else."""

import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from hostnet import BACKEND, EXTERNAL, FAMILY, INTERNAL, ONE_ARMED, PHONE, Host, heard

from nfqlb.gateway.netfilter import ruleset
from nfqlb.lab import namespaces
from nfqlb.net import datagram
from nfqlb.net.endpoint import Endpoint, pack_host

pytestmark = pytest.mark.root

STRICT = """
*raw
-A PREROUTING -p udp --dport 5060 -j CT --helper sip
COMMIT
*mangle
-A FORWARD -m mark ! --mark 0x0 -j DROP
COMMIT
*nat
-A POSTROUTING -j MASQUERADE
COMMIT
*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT DROP [0:0]
-A INPUT -p icmpv6 -j ACCEPT
-A OUTPUT -p icmpv6 -j ACCEPT
COMMIT
"""
"""Drops whatever nobody else lets pass, and also what still carries a mark; neighbour discovery has to go on."""

PREFIX = {4: 24, 6: 64}

QUIET = 0.4
"""Seconds to wait for what shall not come."""


def strict(host: Host, family: int, backend: str = "nft") -> None:
    text = STRICT if family == 6 else STRICT.replace("icmpv6", "icmp")
    host.restore(text, backend, family)


def forge(host: Host, src: str, dst: str, content: bytes, sport: int = 5060, dport: int = 5060) -> None:
    """Send from the phone's namespace with any source."""
    source, target = Endpoint(packed(src), sport), Endpoint(packed(dst), dport)
    packet = datagram.build(source, target, content, tos=0, ident=1)
    family = FAMILY[source.version]
    opened = host_raw(host, family)
    with opened:
        opened.sendto(packet, (dst, 0))


def host_raw(host: Host, family: int) -> socket.socket:
    return namespaces.inside(host.phone, lambda: socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW))


def packed(text: str) -> bytes:
    found = pack_host(text.encode())
    assert found is not None
    return found


@pytest.mark.parametrize("backend", ["nft", "legacy"])
@pytest.mark.parametrize("family", [4, 6])
def test_our_packets_pass_in_both_directions_and_nothing_else_does(host: Host, family: int, backend: str) -> None:
    strict(host, family, backend)
    host.apply(host.config(more=f'[rules]\nbackend = "{backend}"'))
    host.serve(family)
    phone, farm = host.udp(host.phone, PHONE[family], 5060), host.udp(host.farm, BACKEND[family], 5060)

    phone.sendto(b"in", (EXTERNAL[family], 5060))
    assert heard(farm) == (b"in", INTERNAL[family], 5060)
    farm.sendto(b"out", (INTERNAL[family], 5060))
    assert heard(phone) == (b"out", EXTERNAL[family], 5060)

    farm.settimeout(QUIET)
    phone.sendto(b"past the gateway", (BACKEND[family], 5060))
    assert heard(farm) is None
    assert host.tracked(family) == ""


@pytest.mark.parametrize("family", [4, 6])
def test_a_forged_source_opens_nothing(host: Host, family: int) -> None:
    host.apply(host.config())
    farm = host.udp(host.farm, BACKEND[family], 5060)
    stranger = {4: "198.51.100.77", 6: "2001:db8:1::77"}[family]

    forge(host, stranger, BACKEND[family], b"this host routes")  # or the rest would prove nothing
    assert heard(farm) == (b"this host routes", stranger, 5060)
    farm.settimeout(QUIET)
    for source in (EXTERNAL, INTERNAL):
        forge(host, source[family], BACKEND[family], b"forged, policy ACCEPT")
        assert heard(farm) is None

    host.restore("*filter\n:FORWARD DROP [0:0]\nCOMMIT\n", family=family)
    for source in (EXTERNAL, INTERNAL):
        forge(host, source[family], BACKEND[family], b"forged, policy DROP")
        assert heard(farm) is None

    host.restore("*raw\n-A PREROUTING -j CT --notrack\nCOMMIT\n", family=family)
    for source in (EXTERNAL, INTERNAL):
        forge(host, source[family], BACKEND[family], b"forged, nothing is tracked")
        assert heard(farm) is None


@pytest.mark.parametrize("family", [4, 6])
def test_a_forged_source_that_nothing_stops_before_does_not_pass_the_forward_chain(host: Host, family: int) -> None:
    """The second lock alone: what was not diverted is tracked, and our chain takes only what is not."""
    host.apply(host.config())
    for line in host.saved("nft", family)["*raw"]:
        if "--src-type LOCAL" in line:
            host.restore(f"*raw\n-D {line[3:]}\nCOMMIT\n", family=family)
    farm = host.udp(host.farm, BACKEND[family], 5060)
    forge(host, EXTERNAL[family], BACKEND[family], b"policy ACCEPT")
    assert heard(farm) == (b"policy ACCEPT", EXTERNAL[family], 5060)
    host.restore("*filter\n:FORWARD DROP [0:0]\nCOMMIT\n", family=family)
    # Another port of the backend, or it would belong to the flow that is tracked by now.
    other = host.udp(host.farm, BACKEND[family], 5061, timeout=QUIET)
    forge(host, EXTERNAL[family], BACKEND[family], b"policy DROP", dport=5061)
    assert heard(other) is None


@pytest.mark.parametrize("family", [4, 6])
def test_fragments_are_put_together(host: Host, family: int) -> None:
    """Without conntrack, too: the filter table is left alone, so nothing but our own rules asks for it."""
    host.apply(host.config(more="[rules]\nforward = false"))
    host.serve(family)
    phone, farm = host.udp(host.phone, PHONE[family], 5060), host.udp(host.farm, BACKEND[family], 5060)
    content = bytes(range(256)) * 234
    phone.sendto(content, (EXTERNAL[family], 5060))
    assert heard(farm) == (content, INTERNAL[family], 5060)
    assert sum(host.queued()) == 1
    assert host.tracked(family) == ""
    # Nothing is tracked at all on such a host.
    phone.sendto(b"past the gateway", (BACKEND[family], 5060))
    assert heard(farm) == (b"past the gateway", PHONE[family], 5060)
    assert host.tracked(family) == ""


@pytest.mark.parametrize("family", [4, 6])
def test_one_address_with_many_ports_is_spread_over_the_workers(host: Host, family: int) -> None:
    host.apply(host.config())
    host.serve(family)
    farm = host.udp(host.farm, BACKEND[family], 5060)
    for port in range(20000, 20200):
        with host.udp(host.phone, PHONE[family], port) as trunk:
            for _ in range(2):
                trunk.sendto(b"%d" % port, (EXTERNAL[family], 5060))
    for _ in range(400):
        assert heard(farm)
    queued = host.queued()
    assert sum(queued) == 400
    assert all(count % 2 == 0 for count in queued)  # what comes from one port goes to one worker
    assert min(queued) > 160


def test_while_nobody_takes_the_packets_they_are_dropped(host: Host) -> None:
    """Fail closed."""
    host.apply(host.config())
    local = host.udp(host.gateway, EXTERNAL[4], 5060, timeout=QUIET)
    phone, farm = host.udp(host.phone, PHONE[4], 5060), host.udp(host.farm, BACKEND[4], 5060, timeout=QUIET)
    phone.sendto(b"nobody", (EXTERNAL[4], 5060))
    assert heard(farm) is None
    assert heard(local) is None


@pytest.mark.parametrize("backend", ["nft", "legacy"])
def test_a_swap_under_traffic_loses_and_leaks_nothing(host: Host, backend: str) -> None:
    # A process at the external socket hears every packet that is let through as it came.
    local = host.udp(host.gateway, EXTERNAL[4], 5060, timeout=QUIET)
    settings = f'[rules]\nbackend = "{backend}"'
    host.apply(host.config(more=settings))
    host.serve(4)
    phone, farm = host.udp(host.phone, PHONE[4]), host.udp(host.farm, BACKEND[4], 5060)
    sent = 0
    ending = threading.Event()

    def send() -> None:
        nonlocal sent
        while not ending.wait(0.001):
            phone.sendto(b"x", (EXTERNAL[4], 5060))
            sent += 1

    thread = threading.Thread(target=send)
    thread.start()
    try:
        for workers in (1, 2, 1, 2, 1, 2):
            assert host.apply(host.config(more=settings, workers=workers))
    finally:
        ending.set()
        thread.join()
    farm.settimeout(1)
    arrived = 0
    while heard(farm):
        arrived += 1
    assert sent > 50
    assert arrived == sent
    assert heard(local) is None


@pytest.mark.parametrize("backend", ["nft", "legacy"])
def test_a_swap_of_queue_ranges_under_traffic_loses_and_leaks_nothing(host: Host, backend: str) -> None:
    """Two generations of different size, both ready; the rules of others and their counters stay."""
    local = host.udp(host.gateway, EXTERNAL[4], 5060, timeout=QUIET)
    host.restore("*raw\n-A PREROUTING -p udp --dport 5060\nCOMMIT\n", backend)
    config = host.config(more=f'[rules]\nbackend = "{backend}"')
    old, new = range(5060, 5062), range(5062, 5065)
    host.apply(config, old)
    host.serve(4, len(old), first=old.start)
    host.serve(4, len(new), first=new.start)
    phones = [host.udp(host.phone, PHONE[4]) for _ in range(20)]
    farm = host.udp(host.farm, BACKEND[4], 5060, timeout=1)
    sent: list[bytes] = []
    ending = threading.Event()

    def send() -> None:
        while not ending.wait(0.001):
            sent.append(b"%d" % len(sent))
            phones[len(sent) % len(phones)].sendto(sent[-1], (EXTERNAL[4], 5060))

    thread = threading.Thread(target=send)
    thread.start()
    try:
        for queues in (new, old, new, old, new):
            assert {each.place for each in host.apply(config, queues)} == {f"IPv{n} raw ({backend})" for n in (4, 6)}
            assert host.here(lambda: ruleset.queues_in_place(config)) == queues
    finally:
        ending.set()
        thread.join()
    arrived = []
    while got := heard(farm):
        arrived.append(got[0])
    assert len(sent) > 50
    assert sorted(arrived, key=int) == sent
    assert all(host.queued())
    assert heard(local) is None
    command = {"nft": "iptables-nft", "legacy": "iptables-legacy"}[backend]
    (foreign,) = (
        line for line in host.run(f"{command}-save", "-c", "-t", "raw").splitlines() if "-A PREROUTING -p" in line
    )
    assert foreign.startswith("[0:0]")  # our jump is before it, and takes them all, at every moment


def test_large_ipv6_from_a_socket_of_ours_leaves_untracked(host: Host) -> None:
    """P38: through OUTPUT with policy DROP, and past MASQUERADE. Nothing else of this host gets out."""
    strict(host, 6)
    host.apply(host.config())
    farm = host.udp(host.farm, BACKEND[6], 5060)
    ours = host.udp(host.gateway, INTERNAL[6], 5060)
    ours.sendto(bytes(3000), (BACKEND[6], 5060))
    assert heard(farm) == (bytes(3000), INTERNAL[6], 5060)
    assert host.tracked(6) == ""
    other = host.udp(host.gateway, INTERNAL[6], 5061)
    farm.settimeout(QUIET)
    with pytest.raises(PermissionError):
        other.sendto(b"not ours", (BACKEND[6], 5060))
    assert heard(farm) is None


@pytest.mark.parametrize("family", [4, 6])
def test_one_armed(host: Host, family: int) -> None:
    """In and out by one interface, without telling anybody of a shorter way."""
    near = {4: "198.51.100.3", 6: "2001:db8:1::3"}[family]
    host.run("ip", "-n", host.phone, "address", "add", f"{near}/{PREFIX[family]}", "dev", "eth")
    strict(host, family)
    host.apply(host.config(ONE_ARMED, backends=("198.51.100.3:5060", "[2001:db8:1::3]:5060")))
    around: dict[str, Any] = {EXTERNAL[family]: (EXTERNAL[family], near)}
    host.serve(family, **around)
    phone, farm = host.udp(host.phone, PHONE[family], 5062), host.udp(host.phone, near, 5060)
    for _ in range(3):
        phone.sendto(b"turn", (EXTERNAL[family], 5060))
        assert heard(farm) == (b"turn", EXTERNAL[family], 5060)
    if family == 4:
        assert redirects(host) == 0


def redirects(host: Host) -> int:
    """ICMP redirects that the gateway has sent."""
    text = host.here(lambda: Path("/proc/thread-self/net/snmp").read_text())
    names, values = (line.split() for line in text.splitlines() if line.startswith("Icmp:"))
    return int(dict(zip(names, values, strict=True))["OutRedirects"])


def test_an_address_on_the_loopback_interface(host: Host) -> None:
    """As with anycast: packets to it come in by any interface."""
    host.run("ip", "address", "del", "198.51.100.5/24", "dev", "out")
    host.run("ip", "address", "add", "198.51.100.5/32", "dev", "lo")
    host.apply(host.config())
    host.serve(4)
    farm = host.udp(host.farm, BACKEND[4], 5060)
    host.run("ip", "-n", host.phone, "route", "add", "198.51.100.5/32", "via", "10.7.0.1")
    with host.udp(host.phone, "10.7.0.2", 5060) as phone:
        phone.sendto(b"by SIP/2.0", (EXTERNAL[4], 5060))
        assert heard(farm) == (b"by SIP/2.0", INTERNAL[4], 5060)


def test_multicast_of_the_host_itself_still_comes_back_to_it(host: Host) -> None:
    """Its echo arrives with an address of this host as its source, and is no forgery."""
    host.apply(host.config())
    group, own = "239.1.2.3", "198.51.100.1"
    listener = host.udp(host.gateway, "", 6000, timeout=1)
    membership = socket.inet_aton(group) + socket.inet_aton(own)
    listener.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
    sender = host.udp(host.gateway, own)
    sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(own))
    sender.sendto(b"hello", (group, 6000))
    assert (heard(listener) or ("nothing",))[0] == b"hello"


def test_the_loose_filter_is_needed_and_enough(host: Host) -> None:
    """The measured fact behind the sysctls: with the strict one, nothing arrives."""
    host.apply(host.config())
    host.serve(4)
    phone, farm = host.udp(host.phone, PHONE[4]), host.udp(host.farm, BACKEND[4], 5060)
    for value, expected in (("1", None), ("2", b"2"), ("0", b"0")):
        host.run("sysctl", "-qw", f"net.ipv4.conf.out.rp_filter={value}")
        host.run("sysctl", "-qw", f"net.ipv4.conf.all.rp_filter={0 if value == '0' else 1}")
        farm.settimeout(3 if expected else QUIET)
        phone.sendto(value.encode(), (EXTERNAL[4], 5060))
        got = heard(farm)
        assert (got and got[0]) == expected
