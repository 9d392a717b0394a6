# A worker's way for plain packets: verdict and counters in one step.
#
# Mirrors: nfqlb.gateway.worker.worker


from cpython.pycapsule cimport PyCapsule_GetContext, PyCapsule_New, PyCapsule_SetContext
from cpython.ref cimport Py_DECREF, Py_INCREF
from nfqlb.fast.direct cimport DIRECT, Direct

cdef int SHED = Reason.SHED

cdef enum:
    LOOK_CLOSER = 16    # while new requests are shed, one in so many is for `otherwise`: it may get an answer


cdef bint follows(const uint8_t *p, int length) noexcept nogil:
    """Is this the method of a request that follows another?"""
    if length == 3:
        return memcmp(p, b"ACK", 3) == 0 or memcmp(p, b"BYE", 3) == 0
    if length == 4:
        return memcmp(p, b"INFO", 4) == 0
    if length == 5:
        return memcmp(p, b"PRACK", 5) == 0
    return length == 6 and (memcmp(p, b"CANCEL", 6) == 0 or memcmp(p, b"UPDATE", 6) == 0)


cdef inline bint is_white(uint8_t byte) noexcept nogil:
    return byte == c" " or byte == c"\t" or byte == c"\r" or byte == c"\n"


cdef int value_end(const uint8_t *p, int i, int end) noexcept nogil:
    """Of the header value that goes on at `i`, folded lines included."""
    while i < end:
        if p[i] != c"\r" and p[i] != c"\n":
            i += 1
        elif i + 2 < end and p[i] == c"\r" and p[i + 1] == c"\n" and CLASS[p[i + 2]] & BLANK:
            i += 3
        else:
            break
    return i


cdef bint has_tag(const uint8_t *p, int i, int end) noexcept nogil:
    """Is there a parameter `tag`?"""
    while i < end:
        i += 1
        if p[i - 1] != c";":
            continue
        while i < end and is_white(p[i]):
            i += 1
        if end - i < 4 or LOWER[p[i]] != c"t" or LOWER[p[i + 1]] != c"a" or LOWER[p[i + 2]] != c"g":
            continue
        i += 3
        while i < end and is_white(p[i]):
            i += 1
        if i < end and p[i] == c"=":
            return True
    return False


cdef bint begins_something(const uint8_t *p, int end) noexcept nogil:
    """A request that belongs to no dialog: nfqlb.proxy.triage."""
    cdef int i = 0, j
    while i + 1 < end and p[i] == c"\r" and p[i + 1] == c"\n":
        i += 2
    j = i
    while j < end and CLASS[p[j]] & IN_URI:
        j += 1
    if j == i or j - i > 32 or j >= end or p[j] != c" " or follows(p + i, j - i):
        return False
    if j - i >= 4 and memcmp(p + i, b"SIP/", 4) == 0:
        return False
    i = 0
    while i + 2 < end:
        if p[i] != c"\r" or p[i + 1] != c"\n" or LOWER[p[i + 2]] != c"t":
            i += 1
            continue
        i = j = i + 3
        if j < end and LOWER[p[j]] == c"o":
            j += 1
        j = skip(p, j, end, BLANK)
        if j < end and p[j] == c":":
            return not has_tag(p, j + 1, value_end(p, j + 1, end))
    return False


cdef class WorkerPath:
    cdef FastPath path
    cdef uint64_t[::1] slot
    cdef int columns[6]         # by number of the Reason: which of a backend's counters; -1: none
    cdef int reasons, backends, width, by_class, longest, longest6, left, every
    cdef object sampled, settle, otherwise
    cdef public bint open       # else new requests are shed
    cdef unsigned int pressed
    cdef object held            # what `otherwise` and the like have answered
    cdef Direct entrance

    def __init__(self, FastPath path, slot, layout, limits, sampled, settle, otherwise):
        """`slot`: the worker's cells. `layout`: cell of the first Reason, of the first backend, cells of a backend, the
        column of each Reason below 6 that forwards, and of them the one that status codes divide. `limits`: bytes of
        the longest packet that is sent, of IPv4 and of IPv6, and one packet in how many is for `sampled`. Longer ones
        are for `settle`.

        Functions of the packet: `sampled` and `otherwise`; `settle` of the packet and its verdict.
        """
        cdef int i
        self.path, self.slot = path, slot
        self.reasons, self.backends, self.width, columns, self.by_class = layout
        for i in range(6):
            self.columns[i] = columns[i]
        self.longest, self.longest6, self.every = limits
        self.left = 1
        self.sampled, self.settle, self.otherwise = sampled, settle, otherwise
        self.open = True
        self.pressed = 0
        self.entrance.decide, self.entrance.worker_path = decide_directly, <void *>self

    @property
    def direct(self):
        """`decide` for a compiled loop: a capsule, which keeps the WorkerPath alive."""
        capsule = PyCapsule_New(&self.entrance, DIRECT, release)
        PyCapsule_SetContext(capsule, <void *>self)
        Py_INCREF(self)
        return capsule

    def is_new(self, bytes packet not None):
        """Triage.is_new, of packets without IP options or extension headers; False for all others."""
        return self._is_new(<const uint8_t *>PyBytes_AS_STRING(packet), len(packet))

    def decide(self, bytes packet not None):
        """Consumer.decide."""
        cdef const uint8_t *answer
        cdef Py_ssize_t size
        if not self._decide(<const uint8_t *>PyBytes_AS_STRING(packet), len(packet), &answer, &size):
            return None
        return PyBytes_FromStringAndSize(<const char *>answer, size)

    cdef bint _is_new(self, const uint8_t *packet, Py_ssize_t size):
        cdef Rulebook rules = self.path.rules
        cdef Packet heard
        cdef Door door
        cdef int at
        if not read_packet(packet, size, False, &heard):
            return False
        at = rules.doors.find(&heard.dst, heard.dst_port)
        if at < 0:
            return False
        door = <Door>rules.by_number[at]
        if door.half == INTERNAL or rules.backend_from(&heard.src, heard.src_port) >= 0:
            return False
        return begins_something(heard.payload, heard.length)

    cdef int _decide(
        self, const uint8_t *packet, Py_ssize_t size, const uint8_t **answer, Py_ssize_t *answer_size
    ) except -1:
        """Whether there is an answer, which stays as it is until the next packet."""
        cdef FastPath path = self.path
        cdef int cell, found
        self.left -= 1
        if self.left == 0:
            self.left = self.every
            return self._hold(self.sampled(copied(packet, size)), answer, answer_size)
        if not self.open and self._is_new(packet, size):
            self.pressed += 1
            if self.pressed % LOOK_CLOSER:
                self.slot[self.reasons + SHED] += 1
                return False
            return self._hold(self.otherwise(copied(packet, size)), answer, answer_size)
        found = path.answer(packet, size)
        if found == SLOW:
            return self._hold(self.otherwise(copied(packet, size)), answer, answer_size)
        if found == DROPPED:
            return self._hold(self.settle(copied(packet, size), DROPS[path.reason]), answer, answer_size)
        if path.out.used > (self.longest6 if path.dst_addr.six else self.longest):
            return self._hold(self.settle(copied(packet, size), path.verdict()), answer, answer_size)
        self.slot[self.reasons + path.reason] += 1
        cell = self.columns[path.reason]
        if path.backend >= 0 and cell >= 0:
            if cell == self.by_class:
                cell += path.status - 1
            self.slot[self.backends + path.backend * self.width + cell] += 1
        answer[0], answer_size[0] = path.out.p, path.out.used
        return True

    cdef int _hold(self, found, const uint8_t **answer, Py_ssize_t *answer_size) except -1:
        self.held = found
        if found is None:
            return False
        if type(found) is not bytes:
            raise TypeError(f"a packet is bytes, not {type(found).__name__}")
        answer[0], answer_size[0] = <const uint8_t *>PyBytes_AS_STRING(found), len(<bytes>found)
        return True


cdef void release(object capsule) noexcept:
    Py_DECREF(<object>PyCapsule_GetContext(capsule))


cdef int decide_directly(
    void *worker_path, const uint8_t *packet, Py_ssize_t size, const uint8_t **answer, Py_ssize_t *answer_size
) except -1:
    return (<WorkerPath>worker_path)._decide(packet, size, answer, answer_size)


cdef inline bytes copied(const uint8_t *packet, Py_ssize_t size):
    return PyBytes_FromStringAndSize(<const char *>packet, size)
