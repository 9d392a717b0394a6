# A worker's way for plain packets: verdict and counters in one step. nfqlb.gateway.worker knows what is counted where.


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


cdef class Lane:
    cdef FastPath path
    cdef uint64_t[::1] slot
    cdef int columns[6]         # by number of the Reason: which of a backend's counters; -1: none
    cdef int reasons, backends, width, by_class, longest, longest6, left, every
    cdef object sampled, settle, otherwise
    cdef public bint open       # else new requests are shed
    cdef unsigned int pressed

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

    def is_new(self, bytes packet not None):
        """Triage.is_new, of packets without IP options or extension headers; False for all others."""
        cdef Rulebook rules = self.path.rules
        cdef Packet heard
        cdef Door door
        if not read_packet(<const uint8_t *>PyBytes_AS_STRING(packet), len(packet), False, &heard):
            return False
        door = rules.doors.get(place(&heard.dst, heard.dst_port))
        if door is None or door.half == INTERNAL or rules.backend_from(&heard.src, heard.src_port) >= 0:
            return False
        return begins_something(heard.payload, heard.length)

    def decide(self, bytes packet not None):
        """Consumer.decide."""
        cdef FastPath path = self.path
        cdef int cell
        self.left -= 1
        if self.left == 0:
            self.left = self.every
            return self.sampled(packet)
        if not self.open and self.is_new(packet):
            self.pressed += 1
            if self.pressed % LOOK_CLOSER:
                self.slot[self.reasons + SHED] += 1
                return None
            return self.otherwise(packet)
        found = path.answer(packet)
        if found is None:
            return self.otherwise(packet)
        if type(found) is not bytes:
            return self.settle(packet, found)
        if len(<bytes>found) > (self.longest6 if path.dst_addr.six else self.longest):
            return self.settle(packet, path.verdict(<bytes>found))
        self.slot[self.reasons + path.reason] += 1
        cell = self.columns[path.reason]
        if path.backend >= 0 and cell >= 0:
            if cell == self.by_class:
                cell += path.status - 1
            self.slot[self.backends + path.backend * self.width + cell] += 1
        return found
