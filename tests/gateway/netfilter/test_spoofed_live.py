"""Who stands outside and writes a backend's address as its source: sides bound to interfaces refuse it."""

import subprocess

import pytest
import standin
from livehost import CONFIG, Host, request
from livenet import Net

from nfqlb.lab import namespaces

pytestmark = pytest.mark.root

BOUND = CONFIG.replace('internal = "', 'external_interface = "out"\ninternal_interface = "in"\ninternal = "')
VICTIM = 5070


@pytest.fixture
def host(net: Net) -> Host:
    return Host(net)


def become_the_backend(net: Net, family: int) -> None:
    """Give the phone's host the backend's address, and the way to the internal socket through the gateway."""
    backend, inside = standin.BACKEND[family].host, standin.INTERNAL[family].host
    gateway = {4: "198.51.100.1", 6: "2001:db8:1::1"}[family]
    for line in (
        "link set lo up",
        f"address add {backend}/{32 if family == 4 else 128} dev lo",
        f"route add {inside} via {gateway} dev eth",
    ):
        subprocess.run(["ip", "-n", net.phone, *line.split()], check=True, timeout=10)


def relayed(net: Net, family: int) -> bool:
    """Whether a request to I, sent from outside as if by the backend, is sent on to a third party."""
    attacker, victim = net.udp(net.phone, family), net.udp(net.phone, family)
    phone, farm = net.phone_socket(family), net.receiver(family)
    try:
        attacker.bind((standin.BACKEND[family].host, 5060))
        own = {4: "198.51.100.2", 6: "2001:db8:1::2"}[family]
        victim.bind((own, VICTIM))
        written = f"[{own}]" if family == 6 else own
        spoofed = request(attacker, "spoofed", "MESSAGE").replace(
            b"sip:alice@example.org SIP", f"sip:victim@{written}:{VICTIM} SIP".encode()
        )
        for _ in range(3):
            attacker.sendto(spoofed, (standin.INTERNAL[family].host, 5060))
        # What was not dropped by the kernel at once, a worker has in hand by the time it has this one in hand, or soon.
        for number in range(5):
            phone.send(request(phone, f"served{number}"))
            assert farm.recv(65535).startswith(b"REGISTER ")
        victim.settimeout(1)
        try:
            return victim.recv(65535).startswith(b"MESSAGE sip:victim@")
        except TimeoutError:
            return False
    finally:
        for each in (attacker, victim, phone, farm):
            each.close()


@pytest.mark.parametrize("family", [4, 6])
def test_a_backend_that_comes_from_outside_is_believed_only_without_the_binding(host: Host, family: int) -> None:
    become_the_backend(host.net, family)
    host.write(CONFIG)
    host.start("--apply-rules")
    assert relayed(host.net, family), "the attack is none: nothing is proved"
    host.write(BOUND)
    done = host.call("reload")
    assert done.returncode == 0, done.stderr
    assert not relayed(host.net, family)
    done = host.call("rules", "diff")
    assert done.returncode == 0, done.stdout


def test_an_interface_that_is_not_there_is_refused_with_its_name(host: Host) -> None:
    host.write(BOUND.replace('"in"', '"eth9"'))
    done = host.call("rules", "apply")
    assert done.returncode == 1
    assert "listener four: this host has no interface eth9, but in, lo, out." in done.stderr
    assert namespaces.run(host.net.gateway, ["iptables-save"]).count("NFQLB") == 0
