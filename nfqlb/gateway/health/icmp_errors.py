"""ICMP errors about what we have sent: forwarded packets and probes alike.

Knows the error queue of a UDP socket (ip(7), IP_RECVERR): the kernel looks a socket up by the addresses that an error
quotes, and a packet that a worker has rewritten bears the addresses of our internal socket. So a socket that is bound
there hears of it, without any privilege, and without ever getting a packet: those are diverted before. That goes for
errors of the kernel itself, too: no route, or nobody at that address of the network.

Does not know what becomes of a backend that is complained about.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

from nfqlb.gateway.host.sockets import bind_ahead, let_nothing_in
from nfqlb.net.endpoint import Endpoint

# linux/in.h, linux/in6.h, linux/errqueue.h: constants that Python's socket module does not have.
_IP_RECVERR = 11
_IPV6_RECVERR = 25
_EXTENDED_ERROR = struct.Struct("@IBBBxII")
_ORIGIN_ICMP = (2, 3)
"""SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6: not what the local stack says of its own sends."""

BATCH = 64
"""Errors that are read at a time."""

_QUOTED = 512
"""Bytes of what an error quotes that are read: a probe's first headers, where an error has so much."""

UNREACHABLE = frozenset(
    (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EACCES, errno.ENOPROTOOPT)
)
"""What the kernel makes of ICMP's codes for "it has not arrived": port, host, network, prohibited, protocol."""

FROM_ICMP = UNREACHABLE | {errno.EMSGSIZE, errno.ENONET, errno.EOPNOTSUPP, errno.EPROTO}
"""What it makes of any ICMP error (icmp_err_convert in net/ipv4/icmp.c, tab_unreach in net/ipv6/icmp.c): too big, host
isolated, source route failed, a header it does not like. A send that fails with one of these may tell of an earlier
one.
"""

NO_ROUTE = frozenset((errno.ENETUNREACH, errno.EHOSTUNREACH))
"""What a send fails with when there is no way to where it goes; other errors say something of this host alone."""


class Complaint(NamedTuple):
    about: Endpoint
    """Where the packet was to go."""
    text: str
    """For people: "ICMP: connection refused"."""


def open_error_socket(endpoint: Endpoint) -> socket.socket:
    """Open a socket that receives only ICMP errors for packets sent from `endpoint`. Raises OSError.

    It is alone there as far as the kernel's choice goes: of several sockets it takes one that does not share its port
    by SO_REUSEPORT first, and those of `worker.ipv6_sender` do.
    """
    error_socket = _socket(endpoint)
    try:
        error_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bind_ahead(error_socket)
        let_nothing_in(error_socket)
        error_socket.bind((endpoint.host, endpoint.port))
    except BaseException:
        error_socket.close()
        raise
    return error_socket


def open_probe_socket(host: Endpoint) -> socket.socket:
    """Open a socket to send probes from, on a port of its own at that host. It receives ICMP errors, too.

    Raises OSError.
    """
    probe_socket = _socket(host)
    try:
        probe_socket.bind((host.host, 0))
    except BaseException:
        probe_socket.close()
        raise
    return probe_socket


def complaints(opened: socket.socket) -> Iterator[Complaint]:
    """The errors that have come, BATCH at most."""
    for _ in range(BATCH):
        try:
            _, ancillary, _, address = opened.recvmsg(_QUOTED, 512, socket.MSG_ERRQUEUE)
        except BlockingIOError:
            return
        except OSError:  # the error that waits on the socket itself; what stands in the queue comes after it
            continue
        for level, kind, content in ancillary:
            if (level, kind) in ((socket.IPPROTO_IP, _IP_RECVERR), (socket.IPPROTO_IPV6, _IPV6_RECVERR)):
                number, origin, *_ = _EXTENDED_ERROR.unpack_from(content)
                if origin in _ORIGIN_ICMP and number in UNREACHABLE:
                    family = opened.family
                    yield Complaint(
                        Endpoint(socket.inet_pton(family, address[0].partition("%")[0]), address[1]),
                        f"ICMP: {os.strerror(number).lower()}",
                    )


def _socket(endpoint: Endpoint) -> socket.socket:
    opened = socket.socket(socket.AF_INET if endpoint.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
    opened.setblocking(False)
    if endpoint.version == 4:
        opened.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
    else:
        opened.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return opened
