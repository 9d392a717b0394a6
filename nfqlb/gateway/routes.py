"""The kernel's answer to `ip route get`, asked over netlink for one packet after another.

Knows the few bytes of one question and its answer (linux/rtnetlink.h). Does not know what a route is asked for. It is
not left to pyroute2 because that takes about a millisecond for each, and a reload asks three times for each backend.
"""

import os
import socket
import struct
from types import TracebackType
from typing import NamedTuple

FAMILY = {4: socket.AF_INET, 16: socket.AF_INET6}
"""By length of an address."""

NETLINK_ROUTE = 0
RTM_NEWROUTE, RTM_GETROUTE = 24, 26
NLMSG_ERROR = 2
NLM_F_REQUEST = 1
RTA_DST, RTA_SRC, RTA_IIF, RTA_OIF = 1, 2, 3, 4

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_ROUTE = struct.Struct("=BBBBBBBBI")  # struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags
_ATTRIBUTE = struct.Struct("=HH")
_WORD = struct.Struct("=I")
_ERROR = struct.Struct("=i")

ANSWER_MAX = 1 << 16
"""Bytes."""


class Answer(NamedTuple):
    link: int
    """Index of the interface that the packet would leave by; 0: by none."""
    kind: int
    """RTN_…"""


class Routes:
    """A netlink socket in the namespace of the thread that makes it."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE)
        self._serial = 0

    def __enter__(self) -> "Routes":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def ask(self, dst: bytes, src: bytes | None = None, came_in_by: int | None = None) -> Answer:
        """Addresses are packed. `came_in_by`: index of an interface, as if the packet had come from there. Raises
        OSError when the kernel would not send it.
        """
        self._serial += 1
        self._socket.send(question(self._serial, dst, src, came_in_by))
        while True:
            data = self._socket.recv(ANSWER_MAX)
            length, what, _, serial, _ = _HEADER.unpack_from(data)
            if serial != self._serial:
                continue
            if what == NLMSG_ERROR:
                (code,) = _ERROR.unpack_from(data, _HEADER.size)
                raise OSError(-code, os.strerror(-code))
            assert what == RTM_NEWROUTE
            return read(data[_HEADER.size : length])


def question(serial: int, dst: bytes, src: bytes | None, came_in_by: int | None) -> bytes:
    attributes = _attribute(RTA_DST, dst)
    if src is not None:
        attributes += _attribute(RTA_SRC, src)
    if came_in_by is not None:
        attributes += _attribute(RTA_IIF, _WORD.pack(came_in_by))
    body = _ROUTE.pack(FAMILY[len(dst)], 8 * len(dst), 8 * len(src or b""), 0, 0, 0, 0, 0, 0) + attributes
    return _HEADER.pack(_HEADER.size + len(body), RTM_GETROUTE, NLM_F_REQUEST, serial, 0) + body


def read(body: bytes) -> Answer:
    """The answer, behind its header."""
    kind, link, at = _ROUTE.unpack_from(body)[7], 0, _ROUTE.size
    while at + _ATTRIBUTE.size <= len(body):
        length, what = _ATTRIBUTE.unpack_from(body, at)
        if what == RTA_OIF:
            (link,) = _WORD.unpack_from(body, at + _ATTRIBUTE.size)
        at += _aligned(length)
    return Answer(link, kind)


def _attribute(what: int, value: bytes) -> bytes:
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, what) + value + bytes(_aligned(length) - length)


def _aligned(length: int) -> int:
    return -(-length // 4) * 4
