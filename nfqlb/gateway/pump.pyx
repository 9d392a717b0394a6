# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The loop of a queue, compiled: the next packet out of the netlink socket, a decision, its verdict into the socket.

The same as `Queue` does with netfilterqueue alone, with less on the way: one buffer for all that is read, no object for
a packet, and the new bytes go to the kernel from where they are. One packet at a time: a process that is killed costs
the one in its hands. Knows the messages of nfnetlink_queue; binding and configuring the queue is not done here.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

import os

cdef extern from *:
    """
    #ifndef NFQLB_SOURCES
    #define NFQLB_SOURCES ""
    #endif
    """
    const char *NFQLB_SOURCES

cdef extern from "<arpa/inet.h>" nogil:
    uint16_t htons(uint16_t)
    uint32_t htonl(uint32_t)
    uint32_t ntohl(uint32_t)

cdef extern from "<endian.h>" nogil:
    uint64_t be64toh(uint64_t)

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len

cdef extern from "<sys/socket.h>" nogil:
    struct msghdr:
        iovec *msg_iov
        size_t msg_iovlen
    enum:
        MSG_DONTWAIT
    ssize_t recv(int, void *, size_t, int)
    ssize_t sendmsg(int, const msghdr *, int)

cdef extern from "<time.h>" nogil:
    enum:
        CLOCK_MONOTONIC
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int, timespec *)

SOURCES = NFQLB_SOURCES.decode()
"""SHA-256 of what was compiled: this file."""

# linux/netlink.h, linux/netfilter/nfnetlink.h, linux/netfilter/nfnetlink_queue.h, linux/netfilter.h
cdef enum:
    HEADERS = 20  # of a netlink message and of nfnetlink
    PACKET = 3 << 8 | 0
    VERDICT = 3 << 8 | 1
    VERDICT_BATCH = 3 << 8 | 3
    REQUEST = 1
    A_PACKET_HEADER = 1
    A_VERDICT_HEADER = 2
    A_MARK = 3
    A_TIMESTAMP = 4
    A_PAYLOAD = 10
    DROP = 0
    ACCEPT = 1
    LONGEST = 0xFFFF - 4  # queue.MAX_PACKET
    BUFFER = 0x10000 + 0x1000  # queue.RECEIVE_SIZE


cdef packed struct Answer:
    uint32_t length
    uint16_t kind, flags
    uint32_t sequence, port
    uint8_t family, version
    uint16_t queue
    uint16_t header_length, header_kind
    uint32_t verdict, id
    uint16_t mark_length, mark_kind
    uint32_t mark
    uint16_t payload_length, payload_kind


cdef enum:
    TO_VERDICT = 32  # bytes of an Answer up to and with the verdict
    TO_MARK = 40  # and with the mark


cdef class Pump:
    """Serves one bound queue. `fd` is its netlink socket, with SO_RCVTIMEO set, and `number` the queue's.

    `consumer`: a queue.Consumer.
    """

    cdef int _fd
    cdef object _decide, _failed
    cdef uint8_t *_buffer
    cdef Answer _answer
    cdef bint _fresh
    cdef bint _stopping
    cdef double _deadline
    cdef readonly double stamp
    """When the packet in hand came to this host, in seconds since 1970; 0.0 if it bears no time."""

    def __cinit__(self, int fd, int number, consumer):
        self._fd = fd
        self._decide, self._failed = consumer.decide, consumer.failed
        self._buffer = <uint8_t *> PyMem_Malloc(BUFFER)
        if self._buffer is NULL:
            raise MemoryError()
        self._fresh = True
        self._stopping = False
        memset(&self._answer, 0, sizeof(Answer))
        self._answer.flags = REQUEST
        self._answer.queue = htons(<uint16_t> number)
        self._answer.header_length, self._answer.header_kind = 12, A_VERDICT_HEADER
        # The mark chose the queue; routing shall not see it.
        self._answer.mark_length, self._answer.mark_kind = 8, A_MARK
        self._answer.payload_kind = A_PAYLOAD

    def __dealloc__(self):
        PyMem_Free(self._buffer)

    def stop(self, double deadline):
        """Have `run` return when nothing waits, or at `deadline` (seconds of CLOCK_MONOTONIC). For signal handlers."""
        self._deadline = deadline
        self._stopping = True

    def run(self):
        """Serve until nothing has come for the socket's timeout, or as `stop` says."""
        cdef ssize_t size
        cdef int flags
        cdef timespec now
        while True:
            PyErr_CheckSignals()
            flags = 0
            if self._stopping:
                clock_gettime(CLOCK_MONOTONIC, &now)
                if now.tv_sec + now.tv_nsec * 1e-9 >= self._deadline:
                    return
                flags = MSG_DONTWAIT
            with nogil:
                size = recv(self._fd, self._buffer, BUFFER, flags)
            if size < 0:
                if errno == EINTR:
                    continue
                if errno == EAGAIN:
                    return
                raise OSError(errno, os.strerror(errno))
            self._read(<size_t> size)

    cdef int _read(self, size_t size) except -1:
        """All messages of a datagram."""
        cdef size_t at = 0
        cdef uint32_t length
        cdef uint16_t kind
        while at + HEADERS <= size:
            memcpy(&length, self._buffer + at, 4)
            memcpy(&kind, self._buffer + at + 4, 2)
            if length < HEADERS or at + length > size:
                break
            if kind == PACKET:
                self._packet(self._buffer + at + HEADERS, length - HEADERS)
            at += (length + 3) & ~<size_t> 3
        return 0

    cdef int _packet(self, const uint8_t *at, size_t size) except -1:
        cdef const uint8_t *end = at + size
        cdef const uint8_t *payload = NULL
        cdef uint16_t length, kind
        cdef size_t payload_size = 0
        cdef uint32_t packet_id = 0
        cdef uint64_t seconds, microseconds
        cdef bint known = False
        self.stamp = 0.0
        while end - at >= 4:
            memcpy(&length, at, 2)
            memcpy(&kind, at + 2, 2)
            if length < 4 or length > end - at:
                break
            kind &= 0x3FFF
            if kind == A_PACKET_HEADER and length >= 8:
                memcpy(&packet_id, at + 4, 4)
                known = True
            elif kind == A_PAYLOAD:
                payload, payload_size = at + 4, length - 4
            elif kind == A_TIMESTAMP and length >= 20:
                memcpy(&seconds, at + 4, 8)
                memcpy(&microseconds, at + 12, 8)
                self.stamp = be64toh(seconds) + be64toh(microseconds) * 1e-6
            length = (length + 3) & 0xFFFC
            if not length or length > end - at:
                break
            at += length
        if not known:
            return 0
        if self._fresh:
            # Older ids than the first that we see were read by a predecessor who died with them in its hands.
            self._fresh = False
            self._answer.kind = VERDICT_BATCH
            self._send(DROP, htonl(ntohl(packet_id) - 1), TO_VERDICT, NULL, 0)
        self._answer.kind = VERDICT
        content = PyBytes_FromStringAndSize(<const char *> payload, payload_size)  # b"" when it came without
        try:
            answer = self._decide(content)
            if answer is None:
                self._send(DROP, packet_id, TO_VERDICT, NULL, 0)
                return 0
            if not PyBytes_CheckExact(answer):
                raise TypeError(f"a packet is bytes, not {type(answer).__name__}")
            if not 0 < PyBytes_GET_SIZE(answer) <= LONGEST:
                raise ValueError(f"a packet of {PyBytes_GET_SIZE(answer)} bytes cannot be sent")
            if self._send(ACCEPT, packet_id, sizeof(Answer), PyBytes_AS_STRING(answer), PyBytes_GET_SIZE(answer)):
                raise OSError(errno, os.strerror(errno))
        except BaseException as error:
            # Without a verdict it would count against the queue's length for ever.
            self._send(DROP, packet_id, TO_VERDICT, NULL, 0)
            self._failed(content, error)
        return 0

    cdef int _send(self, uint32_t verdict, uint32_t packet_id, size_t head, char *payload, size_t size):
        """A verdict; 0, or -1 with errno. `packet_id` in network order."""
        cdef iovec parts[2]
        cdef msghdr message
        memset(&message, 0, sizeof(msghdr))
        self._answer.length = <uint32_t> (head + size)
        self._answer.verdict, self._answer.id = htonl(verdict), packet_id
        self._answer.payload_length = <uint16_t> (4 + size)
        parts[0].iov_base, parts[0].iov_len = &self._answer, head
        parts[1].iov_base, parts[1].iov_len = payload, size
        message.msg_iov, message.msg_iovlen = parts, 2 if size else 1
        while sendmsg(self._fd, &message, 0) < 0:
            if errno != EINTR:
                return -1
        return 0
