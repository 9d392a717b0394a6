"""ICMP errors about what left from the internal socket reach our ear, whoever else has a socket there."""

import select
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
import standin
from livenet import Net, until

from nfqlb.gateway.health.icmp_errors import Complaint, complaints, open_error_socket, open_probe_socket
from nfqlb.gateway.worker.ipv6_sender import Ipv6Sender
from nfqlb.lab import namespaces
from nfqlb.net import datagram
from nfqlb.net.endpoint import Endpoint

pytestmark = pytest.mark.root

CLOSED = {4: Endpoint.parse("10.9.0.2:5099"), 6: Endpoint.parse("[2001:db8:2::2]:5099")}
NOWHERE = {4: Endpoint.parse("10.200.0.1:5060"), 6: Endpoint.parse("[2001:db8:ffff::1]:5060")}


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as closing:
        yield closing


def heard(opened: socket.socket, seconds: float = 3.0) -> list[Complaint]:
    select.select([opened], [], [], seconds)
    return list(complaints(opened))


@pytest.mark.parametrize("first", ["ear", "sender"])
def test_the_ear_hears_of_what_the_sender_sent(net: Net, stack: ExitStack, first: str) -> None:
    inside = standin.INTERNAL[6]

    def work() -> tuple[socket.socket, Ipv6Sender]:
        made: dict[str, Callable[[], object]] = {
            "ear": lambda: open_error_socket(inside),
            "sender": lambda: Ipv6Sender([inside], 1 << 16),
        }
        order = [first, *(each for each in made if each != first)]
        opened = {each: made[each]() for each in order}
        error_socket, sender = opened["ear"], opened["sender"]
        assert isinstance(error_socket, socket.socket)
        assert isinstance(sender, Ipv6Sender)
        return error_socket, sender

    error_socket, sender = namespaces.inside(net.gateway, work)
    stack.callback(error_socket.close)
    stack.callback(sender.close)
    packet = datagram.build(inside, CLOSED[6], b"OPTIONS", tos=0, ident=0)
    sender.send(packet, inside, CLOSED[6])
    assert heard(error_socket) == [Complaint(CLOSED[6], "ICMP: connection refused")]
    sender.send(packet, inside, CLOSED[6])  # no error of the first one is told here, and costs this one
    assert heard(error_socket) == [Complaint(CLOSED[6], "ICMP: connection refused")]


@pytest.mark.parametrize("family", [4, 6])
def test_who_asks_hears_of_its_own_questions(net: Net, stack: ExitStack, family: int) -> None:
    probe_socket = namespaces.inside(net.gateway, lambda: open_probe_socket(standin.INTERNAL[family]))
    stack.callback(probe_socket.close)
    probe_socket.sendto(b"OPTIONS", (CLOSED[family].host, CLOSED[family].port))
    assert heard(probe_socket) == [Complaint(CLOSED[family], "ICMP: connection refused")]
    with pytest.raises(OSError, match="unreachable"):
        probe_socket.sendto(b"OPTIONS", (NOWHERE[family].host, NOWHERE[family].port))
    assert list(complaints(probe_socket)) == []


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("where", [CLOSED, NOWHERE], ids=["no such port", "no such network"])
def test_the_ear_hears_of_forwarded_packets(
    net: Net, stack: ExitStack, family: int, where: dict[int, Endpoint]
) -> None:
    """A worker has sent them from there: here a stand-in, whose backend lives nowhere."""
    process = net.start(how=f"backend={where[family]}")
    net.divert(1)
    error_socket = namespaces.inside(net.gateway, lambda: open_error_socket(standin.INTERNAL[family]))
    stack.callback(error_socket.close)
    net.sender(family)(b"hello")
    assert until(lambda: bool(select.select([error_socket], [], [], 0.1)[0]))
    [complaint] = heard(error_socket)
    assert complaint.about == where[family]
    assert net.end(process) == 0
