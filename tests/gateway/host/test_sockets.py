"""Socket options by number: that they mean what their names here say."""

import socket

import pytest

from nfqlb.gateway.host.sockets import bind_ahead, let_nothing_in

ELSEWHERE = {socket.AF_INET: "192.0.2.77", socket.AF_INET6: "2001:db8::77"}
HERE = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


@pytest.mark.parametrize("family", ELSEWHERE)
@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_an_address_that_is_not_here_can_be_bound(family: socket.AddressFamily, kind: socket.SocketKind) -> None:
    with socket.socket(family, kind) as opened:
        with pytest.raises(OSError, match="Cannot assign"):
            opened.bind((ELSEWHERE[family], 0))
        bind_ahead(opened)
        opened.bind((ELSEWHERE[family], 0))
        assert opened.getsockname()[0] == ELSEWHERE[family]


@pytest.mark.parametrize("family", HERE)
def test_no_packet_comes_in(family: socket.AddressFamily) -> None:
    with socket.socket(family, socket.SOCK_DGRAM) as opened:
        opened.setblocking(False)
        opened.bind((HERE[family], 0))
        opened.sendto(b"one", opened.getsockname())
        assert opened.recv(10) == b"one"
        let_nothing_in(opened)
        opened.sendto(b"two", opened.getsockname())
        with pytest.raises(BlockingIOError):
            opened.recv(10)
