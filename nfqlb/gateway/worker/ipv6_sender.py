"""The way out for large IPv6 packets (P38): UDP sockets bound to our own source endpoints.

A router must not fragment IPv6, but a host may: a datagram sent by a socket is cut by the kernel to fit the path.
Knows sockets and the fields of an IPv6 header. Does not know why a packet goes out, and never receives.
"""

import socket
import struct
from collections.abc import Iterable

from nfqlb.gateway.host.sockets import bind_ahead, let_nothing_in
from nfqlb.net.endpoint import Endpoint

IPV6_MINIMUM_MTU = 1280
"""Bytes that every IPv6 link carries without fragmentation [RFC 8200 5]."""

_HEADERS = 40 + 8
"""Bytes of IPv6 header and UDP header in front of the datagram's content."""

# asm-generic/socket.h: a name that Python's socket module lacks.
_SO_SNDBUFFORCE = 32


class Ipv6Sender:
    """Sends from a fixed set of IPv6 endpoints. Made before the fork, used by the workers side by side."""

    def __init__(self, sources: Iterable[Endpoint], send_buffer: int) -> None:
        """Open one socket for each IPv6 endpoint of `sources`; `send_buffer` is in bytes.

        Raises OSError, with the endpoint as its filename, when one is not an address of this host.
        """
        self._sockets: dict[Endpoint, socket.socket] = {}
        for source in dict.fromkeys(sources):
            if source.version == 6:
                try:
                    self._sockets[source] = _open(source, send_buffer)
                except OSError as error:
                    self.close()
                    raise OSError(error.errno, error.strerror, str(source)) from error

    def send(self, packet: bytes, source: Endpoint, destination: Endpoint) -> None:
        """Send the UDP datagram that `packet` (IPv6 without extension headers) carries, with its traffic class.

        Raises OSError when the kernel refuses it, also when the send buffer is full: a worker does not wait.
        Raises KeyError when `source` is none of ours.
        """
        traffic_class = int.from_bytes(packet[:2], "big") >> 4 & 0xFF
        self._sockets[source].sendmsg(
            [memoryview(packet)[_HEADERS:]],
            [(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, struct.pack("@i", traffic_class))],
            socket.MSG_DONTWAIT,
            (destination.host, destination.port),
        )

    @property
    def filenos(self) -> list[int]:
        return [opened.fileno() for opened in self._sockets.values()]

    def close(self) -> None:
        for opened in self._sockets.values():
            opened.close()
        self._sockets.clear()


def _open(source: Endpoint, send_buffer: int) -> socket.socket:
    opened = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    try:
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # The next generation of us binds the same endpoints while this one still runs.
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            opened.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, send_buffer)
        except PermissionError:  # no privilege over the host's limits (a container): as much as it allows
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        let_nothing_in(opened)
        bind_ahead(opened)
        # Bound but not connected, on purpose: the kernel looks a socket up by the addresses quoted in a Packet Too
        # Big, and learns the path MTU only when it finds one.
        opened.bind((source.host, source.port))
    except BaseException:
        opened.close()
        raise
    return opened
