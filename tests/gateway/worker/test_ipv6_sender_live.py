"""Large IPv6 packets leave through a socket and are fragmented by the kernel (P38)."""

import socket
import subprocess

import pytest
import standin
from livenet import Net, until

from nfqlb.gateway.shm.board import Cell
from nfqlb.lab import namespaces
from nfqlb.proxy.verdict import Reason

pytestmark = pytest.mark.root


def by_socket(net: Net) -> int:
    return net.board().slots[0].cells[Cell.SOCKET_SENT]


def received_class(farm: socket.socket) -> tuple[bytes, int]:
    """A datagram and its traffic class."""
    farm.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
    content, ancillary, _, _ = farm.recvmsg(65535, 200)
    return content, next(data[0] for _, kind, data in ancillary if kind == socket.IPV6_TCLASS)


@pytest.mark.parametrize(("size", "sockets"), [(1280, 0), (1281, 1), (1500, 1), (9000, 1)])
def test_p38_packets_over_the_minimum_mtu_leave_by_socket(net: Net, size: int, sockets: int) -> None:
    net.start()
    net.divert(1)
    phone, farm = net.udp(net.phone, 6), net.receiver(6)
    phone.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, 0xB8)
    farm.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
    content = b"pass " + bytes(size - 48 - 5)
    phone.sendto(content, (standin.EXTERNAL[6].host, 5060))
    assert received_class(farm) == (content, 0xB8)
    assert until(lambda: net.counted(Reason.REQUEST_ENTERING) == 1)
    assert by_socket(net) == sockets
    assert net.queue().waiting == 0


def test_p38_a_narrow_path_is_learned_from_packet_too_big(net: Net) -> None:
    """The farm moves behind a router whose farther link carries 1,280 bytes, while the gateway's own carries 1,500."""
    beyond = f"{net.farm}2"
    namespaces.create(beyond)
    try:
        for line in (
            f"-n {net.farm} address del 2001:db8:2::2/64 dev eth",
            f"-n {net.farm} address add 2001:db8:2::9/64 dev eth nodad",
            f"-n {net.farm} link add far type veth peer name eth netns {beyond}",
            f"-n {net.farm} link set far up mtu 1280",
            f"-n {net.farm} address add 2001:db8:3::1/64 dev far nodad",
            f"-n {net.farm} route add 2001:db8:2::2/128 dev far",
            f"-n {beyond} link set eth up mtu 1280",
            f"-n {beyond} address add 2001:db8:2::2/128 dev eth nodad",
            f"-n {beyond} route add default via 2001:db8:3::1 dev eth onlink",
            f"-n {net.gateway} route add 2001:db8:2::2/128 via 2001:db8:2::9",
        ):
            subprocess.run(["ip", *line.split()], check=True, timeout=10)
        namespaces.sysctl(net.farm, {"net/ipv6/conf/all/forwarding": "1"})
        net.start()
        net.divert(1)
        net.farm = beyond
        send, farm = net.sender(6), net.receiver(6)
        farm.settimeout(0.3)
        content = b"pass " + bytes(1400)
        send(content)
        with pytest.raises(TimeoutError):  # the first one is lost, as ever when a path MTU is learned
            farm.recv(65535)
        farm.settimeout(5)
        send(content)
        assert farm.recv(65535) == content
    finally:
        net.farm = net.farm.removesuffix("2")
        namespaces.end_members([beyond])
        namespaces.remove(beyond)


def test_p38_an_endpoint_that_is_taken_is_refused(net: Net) -> None:
    other = net.udp(net.gateway, 6)
    other.bind((standin.INTERNAL[6].host, 5060))
    process = net.start(wait=False)
    refusal = net.refusal(process)
    assert refusal["error"] == "CannotRun"
    assert "[2001:db8:2::1]:5060" in refusal["text"]
    assert "Address already in use" in refusal["text"]
    assert process.wait(5) == 1
    assert net.queues() == {}


def test_p38_what_the_kernel_refuses_is_counted(net: Net) -> None:
    net.start()
    net.divert(1)
    net.sender(6)(b"elsewhere")
    assert until(lambda: net.counted(Reason.SEND_FAILED) == 1)
    assert by_socket(net) == 0
    assert "Network is unreachable" in net.log
    assert net.queue().waiting == 0


def test_p38_the_sockets_keep_nothing_that_comes_in(net: Net) -> None:
    net.start()  # no rules: what comes in meets the socket
    phone, farm = net.udp(net.phone, 6), net.receiver(6)
    for _ in range(50):
        phone.sendto(bytes(500), (standin.EXTERNAL[6].host, 5060))
        farm.sendto(bytes(500), (standin.INTERNAL[6].host, 5060))
    table = namespaces.run(net.gateway, ["cat", "/proc/net/udp6"]).splitlines()[1:]
    assert len(table) == 2
    assert all(row.split()[4] == "00000000:00000000" for row in table)  # bytes waiting to be sent and read
    assert namespaces.run(net.gateway, ["cat", "/proc/net/snmp6"]).count("Udp6InDatagrams") == 1
