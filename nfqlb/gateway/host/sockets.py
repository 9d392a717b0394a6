"""Socket options that Python's socket module has no name for, and what is done with them."""

import socket
import struct
from array import array

# asm-generic/socket.h, linux/filter.h, linux/in.h, linux/in6.h
_SO_ATTACH_FILTER = 26
_IP_FREEBIND = 15
_IPV6_FREEBIND = 78

_BPF_RET_K = 0x06


def let_nothing_in(opened: socket.socket) -> None:
    """Attach a filter of one instruction, "keep 0 bytes": no packet is ever held for a reader who never comes."""
    program = array("B", struct.pack("@HBBI", _BPF_RET_K, 0, 0, 0))
    address, _ = program.buffer_info()
    opened.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", 1, address))


def bind_ahead(opened: socket.socket) -> None:
    """Let the socket be bound to an address that is not here yet: on the other node of a pair it may come at any time,
    and the socket is then of use at once.
    """
    if opened.family == socket.AF_INET:
        opened.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
    else:
        opened.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
