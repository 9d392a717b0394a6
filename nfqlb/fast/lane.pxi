# A worker's way for plain packets: verdict and counters in one step. nfqlb.gateway.worker knows what is counted where.


cdef class Lane:
    cdef FastPath path
    cdef uint64_t[::1] slot
    cdef int columns[6]         # by number of the Reason: which of a backend's counters; -1: none
    cdef int reasons, backends, width, by_class, longest, left, every
    cdef object sampled, settle, otherwise
    cdef public bint open       # else all packets are for `otherwise`

    def __init__(self, FastPath path, slot, layout, limits, sampled, settle, otherwise):
        """`slot`: the worker's cells. `layout`: cell of the first Reason, of the first backend, cells of a backend, the
        column of each Reason below 6 that forwards, and of them the one that status codes divide. `limits`: bytes of
        the longest packet that is sent, and one packet in how many is for `sampled`.

        Functions of the packet: `sampled` and `otherwise`; `settle` of the packet and its verdict.
        """
        cdef int i
        self.path, self.slot = path, slot
        self.reasons, self.backends, self.width, columns, self.by_class = layout
        for i in range(6):
            self.columns[i] = columns[i]
        self.longest, self.every = limits
        self.left = 1
        self.sampled, self.settle, self.otherwise = sampled, settle, otherwise
        self.open = True

    def decide(self, bytes packet not None):
        """Consumer.decide."""
        cdef FastPath path = self.path
        cdef int cell
        self.left -= 1
        if self.left == 0:
            self.left = self.every
            return self.sampled(packet)
        if not self.open:
            return self.otherwise(packet)
        found = path.answer(packet)
        if found is None:
            return self.otherwise(packet)
        if type(found) is not bytes:
            return self.settle(packet, found)
        if len(<bytes>found) > self.longest:
            return self.settle(packet, path.verdict(<bytes>found))
        self.slot[self.reasons + path.reason] += 1
        cell = self.columns[path.reason]
        if path.backend >= 0 and cell >= 0:
            if cell == self.by_class:
                cell += path.status - 1
            self.slot[self.backends + path.backend * self.width + cell] += 1
        return found
