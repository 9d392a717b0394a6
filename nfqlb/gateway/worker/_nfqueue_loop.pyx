# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The loop of a queue, compiled: packets out of the netlink socket, decisions, verdicts into the socket.

The same as `Queue` does with netfilterqueue alone, with less on the way: no object for a packet, and where several
packets wait, one system call reads up to BATCH of them and one takes their verdicts back. Knows the messages of
nfnetlink_queue; binding and configuring the queue is not done here.

What has been read and has no verdict yet lies in memory that outlives the process (`hands`, which whoever serves the
queue inherits from who bound it): a successor finds there what one that was killed had in its hands, and goes on with
it. So a kill costs the packet that was being decided at that moment, and no other. That one is dropped: it may be what
has killed. Those decided but not yet sent are decided again, and counted again.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from nfqlb.fast.direct cimport DIRECT, Direct

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
    struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len
    enum:
        MSG_DONTWAIT
        MSG_WAITFORONE
    int recvmmsg(int, mmsghdr *, unsigned int, int, void *)
    ssize_t send(int, const void *, size_t, int)

cdef extern from "<time.h>" nogil:
    enum:
        CLOCK_MONOTONIC
        CLOCK_MONOTONIC_COARSE
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int, timespec *)

SOURCES = NFQLB_SOURCES.decode()
"""SHA-256 of what was compiled: fast/direct.pxd and this file."""

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
    LETTER = 0x10000 + 0x1000  # queue.RECEIVE_SIZE: room for one message of the kernel's

    BATCH = 8  # twice as many save no more, half as many a third less
    LARGE = 2048  # bytes of a packet whose decision may take so long that the verdicts before it shall not wait for it
    FULL = 0x4000  # bytes of verdicts that are sent without waiting for more
    ANSWERS = FULL + LETTER


cdef struct Hands:
    mmsghdr letters[BATCH]  # the kernel writes msg_len, the bytes that it has put in; 0 when the verdict is out
    unsigned int opened     # one more than the number of the letter that is being decided; 0: none


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


cdef enum:  # how fresh a QueueLoop is
    SERVING
    UNTRIED     # no packet has come to it
    NEW         # nor has it looked what a predecessor has left


cdef struct Decided:
    int letter
    int at          # of its Answer in what is to be sent


cdef size_t FIRST_LETTER = (sizeof(Hands) + 63) // 64 * 64

ROOM = FIRST_LETTER + BATCH * LETTER
"""Bytes of `hands`."""


cdef class QueueLoop:
    """Serves one bound queue. `fd` is its netlink socket, with SO_RCVTIMEO set, and `number` the queue's. `hands`: ROOM
    bytes of zeros at first, which all who serve the queue one after another share.

    `consumer`: a queue.Consumer.
    """

    cdef int _fd
    cdef object _decide, _failed, _capsule, _given
    cdef Direct *_direct
    cdef Py_buffer _memory
    cdef Hands *_hands
    cdef uint8_t *_letters
    cdef iovec _parts[BATCH]
    cdef uint8_t *_answers
    cdef int _used
    cdef Decided _decided[BATCH]
    cdef int _count
    cdef long _begun, _second
    cdef Answer _answer
    cdef int _fresh
    cdef bint _stopping
    cdef double _deadline
    cdef readonly double stamp
    """When the packet in hand came to this host, in seconds since 1970; 0.0 if it bears no time."""

    def __cinit__(self, int fd, int number, consumer, hands):
        cdef int i
        self._fd = fd
        self._decide, self._failed = consumer.decide, consumer.failed
        self._direct = NULL
        self._capsule = getattr(consumer, "direct", None)
        if self._capsule is not None:
            self._direct = <Direct *> PyCapsule_GetPointer(self._capsule, DIRECT)
        PyObject_GetBuffer(hands, &self._memory, PyBUF_SIMPLE | PyBUF_WRITABLE)
        if <size_t> self._memory.len < FIRST_LETTER + BATCH * LETTER:
            raise ValueError(f"hands of {self._memory.len} bytes are too small")
        self._hands = <Hands *> self._memory.buf
        self._letters = <uint8_t *> self._memory.buf + FIRST_LETTER
        self._answers = <uint8_t *> PyMem_Malloc(ANSWERS)
        if self._answers is NULL:
            raise MemoryError()
        for i in range(BATCH):
            self._parts[i].iov_base, self._parts[i].iov_len = self._letters + i * LETTER, LETTER
        self._used = self._count = 0
        self._second = 0
        self._fresh = NEW
        self._stopping = False
        memset(&self._answer, 0, sizeof(Answer))
        self._answer.flags = REQUEST
        self._answer.queue = htons(<uint16_t> number)
        self._answer.header_length, self._answer.header_kind = 12, A_VERDICT_HEADER
        # The mark chose the queue; routing shall not see it.
        self._answer.mark_length, self._answer.mark_kind = 8, A_MARK
        self._answer.payload_kind = A_PAYLOAD

    def __dealloc__(self):
        PyMem_Free(self._answers)
        PyBuffer_Release(&self._memory)

    def stop(self, double deadline):
        """Have `run` return when nothing waits, or at `deadline` (seconds of CLOCK_MONOTONIC). For signal handlers."""
        self._deadline = deadline
        self._stopping = True

    def run(self):
        """Serve until nothing has come for the socket's timeout, or another second has begun, or as `stop` says."""
        cdef int count, flags
        cdef long second
        cdef timespec now
        if self._fresh == NEW:
            self._inherit()
            self._fresh = UNTRIED
        while True:
            PyErr_CheckSignals()
            flags = MSG_WAITFORONE
            if self._stopping:
                clock_gettime(CLOCK_MONOTONIC, &now)
                if now.tv_sec + now.tv_nsec * 1e-9 >= self._deadline:
                    return
                flags = MSG_DONTWAIT
            with nogil:
                count = recvmmsg(self._fd, self._hands.letters, BATCH, flags, NULL)
            if count < 0:
                if errno == EINTR:
                    continue
                if errno == EAGAIN:
                    return
                raise OSError(errno, os.strerror(errno))
            second = self._second
            self._serve(0, count)
            if self._second != second and not self._stopping:
                return

    cdef int _inherit(self) except -1:
        """Go on with what a predecessor has left."""
        cdef mmsghdr *letter
        cdef const uint8_t *held, *payload = NULL
        cdef size_t size = 0
        cdef uint32_t packet_id = 0
        cdef int i, opened = <int> self._hands.opened - 1
        for i in range(BATCH):
            letter = &self._hands.letters[i]
            memset(&letter.msg_hdr, 0, sizeof(msghdr))
            letter.msg_hdr.msg_iov, letter.msg_hdr.msg_iovlen = &self._parts[i], 1
            letter.msg_len = min(letter.msg_len, <unsigned int> LETTER)
        if 0 <= opened < BATCH:
            self._serve(0, opened)
            held = self._letters + opened * LETTER + HEADERS
            if self._attributes(held, LETTER - HEADERS, &packet_id, &payload, &size):
                self._drop(opened, packet_id)
                self._flush()
        self._serve(0, BATCH)
        return 0

    cdef int _serve(self, int first, int end) except -1:
        """Decide about letters, and send the verdicts."""
        cdef timespec now
        cdef int i
        clock_gettime(CLOCK_MONOTONIC_COARSE, &now)
        self._begun, self._second = now.tv_nsec, now.tv_sec
        for i in range(first, end):
            if self._hands.letters[i].msg_len:
                self._hands.opened = i + 1
                self._read(i, self._letters + i * LETTER, self._hands.letters[i].msg_len)
        self._hands.opened = 0
        self._flush()
        for i in range(first, end):
            self._hands.letters[i].msg_len = 0  # of those, too, that held no packet
        return 0

    cdef int _read(self, int letter, const uint8_t *letters, size_t size) except -1:
        """All messages of a datagram."""
        cdef size_t at = 0
        cdef uint32_t length
        cdef uint16_t kind
        while at + HEADERS <= size:
            memcpy(&length, letters + at, 4)
            memcpy(&kind, letters + at + 4, 2)
            if length < HEADERS or at + length > size:
                break
            if kind == PACKET:
                self._packet(letter, letters + at + HEADERS, length - HEADERS)
            at += (length + 3) & ~<size_t> 3
        return 0

    cdef int _packet(self, int letter, const uint8_t *at, size_t size) except -1:
        cdef const uint8_t *payload = NULL
        cdef size_t payload_size = 0
        cdef uint32_t packet_id = 0
        cdef const uint8_t *answer = NULL
        cdef Py_ssize_t answer_size = 0
        cdef timespec now
        if not self._attributes(at, size, &packet_id, &payload, &payload_size):
            return 0
        if self._fresh == UNTRIED:
            # Older ids than the first that comes to us were read by a predecessor who died with them in its hands.
            self._fresh = SERVING
            self._add(letter, VERDICT_BATCH, DROP, htonl(ntohl(packet_id) - 1), TO_VERDICT, NULL, 0)
        if payload_size > LARGE:
            self._flush()
        try:
            if not self._ask(payload, payload_size, &answer, &answer_size):
                answer = NULL
            elif not 0 < answer_size <= LONGEST:
                raise ValueError(f"a packet of {answer_size} bytes cannot be sent")
        except BaseException as error:
            self._drop(letter, packet_id)
            self._failed(PyBytes_FromStringAndSize(<const char *> payload, payload_size), error)
            return 0
        if answer is NULL:
            self._drop(letter, packet_id)
        else:
            self._add(letter, VERDICT, ACCEPT, packet_id, sizeof(Answer), <const char *> answer, answer_size)
        clock_gettime(CLOCK_MONOTONIC_COARSE, &now)
        if now.tv_nsec != self._begun:  # it takes milliseconds: the verdicts that there are shall not wait any longer
            self._begun = now.tv_nsec
            self._flush()
        return 0

    cdef int _ask(
        self, const uint8_t *payload, size_t size, const uint8_t **answer, Py_ssize_t *answer_size
    ) except -1:
        """Whether the consumer has an answer, which stays as it is until the next packet."""
        if self._direct is not NULL:
            return self._direct.decide(self._direct.worker_path, payload, size, answer, answer_size)
        # b"" when it came without
        self._given = given = self._decide(PyBytes_FromStringAndSize(<const char *> payload, size))
        if given is None:
            return False
        if not PyBytes_CheckExact(given):
            raise TypeError(f"a packet is bytes, not {type(given).__name__}")
        answer[0], answer_size[0] = <const uint8_t *> PyBytes_AS_STRING(given), PyBytes_GET_SIZE(given)
        return True

    cdef bint _attributes(
        self, const uint8_t *at, size_t size, uint32_t *packet_id, const uint8_t **payload, size_t *payload_size
    ) noexcept:
        """Of a packet's message; whether it has an id, which is given in network order."""
        cdef const uint8_t *end = at + size
        cdef uint16_t length, kind
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
                memcpy(packet_id, at + 4, 4)
                known = True
            elif kind == A_PAYLOAD:
                payload[0], payload_size[0] = at + 4, length - 4
            elif kind == A_TIMESTAMP and length >= 20:
                memcpy(&seconds, at + 4, 8)
                memcpy(&microseconds, at + 12, 8)
                self.stamp = be64toh(seconds) + be64toh(microseconds) * 1e-6
            length = (length + 3) & 0xFFFC
            if not length or length > end - at:
                break
            at += length
        return known

    cdef int _drop(self, int letter, uint32_t packet_id) except -1:
        """Without a verdict it would count against the queue's length for ever. Whoever comes after us need not decide
        about it again: as an older one than the first that comes to him, it would be dropped."""
        self._add(letter, VERDICT, DROP, packet_id, TO_VERDICT, NULL, 0)
        self._hands.letters[letter].msg_len = 0
        return 0

    cdef int _add(
        self, int letter, int kind, uint32_t verdict, uint32_t packet_id, size_t head, const char *payload, size_t size
    ) except -1:
        """A verdict to those that are to be sent."""
        cdef size_t length = head + size
        if self._count == BATCH or (self._count and self._used + length > FULL):
            self._flush()
        self._answer.length, self._answer.kind = <uint32_t> length, <uint16_t> kind
        self._answer.verdict, self._answer.id = htonl(verdict), packet_id
        self._answer.payload_length = <uint16_t> (4 + size)
        memcpy(self._answers + self._used, &self._answer, head)
        if size:  # a verdict to drop has no payload
            memcpy(self._answers + self._used + head, payload, size)
        self._decided[self._count].letter, self._decided[self._count].at = letter, self._used
        self._count += 1
        self._used += <int> length
        while self._used & 3:
            self._answers[self._used] = 0
            self._used += 1
        return 0

    cdef int _flush(self) except -1:
        """Send the verdicts; where the kernel does not take them together, one by one."""
        cdef Answer *answer
        cdef int i
        if not self._count:
            return 0
        if self._send(self._answers, self._used):
            for i in range(self._count):
                answer = <Answer *> (self._answers + self._decided[i].at)
                if self._send(answer, answer.length):
                    self._refused(answer, self._decided[i].letter)
        for i in range(self._count):
            self._hands.letters[self._decided[i].letter].msg_len = 0
        self._used = self._count = 0
        return 0

    cdef int _refused(self, Answer *answer, int letter) except -1:
        """The kernel does not take this one: the packet is dropped."""
        cdef const uint8_t *payload = NULL
        cdef size_t size = 0
        cdef uint32_t packet_id = 0
        error = OSError(errno, os.strerror(errno))
        answer.length, answer.verdict = TO_VERDICT, htonl(DROP)
        self._send(answer, TO_VERDICT)
        self._attributes(self._letters + letter * LETTER + HEADERS, LETTER - HEADERS, &packet_id, &payload, &size)
        self._failed(PyBytes_FromStringAndSize(<const char *> payload, size), error)
        return 0

    cdef int _send(self, const void *answers, size_t size) noexcept:
        """0, or -1 with errno."""
        while send(self._fd, answers, size, 0) < 0:
            if errno != EINTR:
                return -1
        return 0
