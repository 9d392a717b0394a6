"""Socket options that Python's socket module has no name for, and what is done with them."""

import socket
import struct
from array import array

# asm-generic/socket.h, linux/filter.h
_SO_ATTACH_FILTER = 26

_BPF_RET_K = 0x06


def let_nothing_in(opened: socket.socket) -> None:
    """Attach a filter of one instruction, "keep 0 bytes": no packet is ever held for a reader who never comes."""
    program = array("B", struct.pack("@HBBI", _BPF_RET_K, 0, 0, 0))
    address, _ = program.buffer_info()
    opened.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", 1, address))
