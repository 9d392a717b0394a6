# Where something is found by its address and port: a table with open addressing, made once and never changed. What a
# dictionary would ask of each packet is a number or some bytes as objects, three times over.
#
# Mirrors: dict

cdef struct Spot:
    Address addr
    int port
    int value       # -1: the spot is free


cdef class Places:
    """Small numbers by address and port; port 0 for an address alone."""
    cdef Spot *spots
    cdef uint32_t mask

    def __cinit__(self, dict found):
        """`found`: numbers of 0 or more by (packed address, port)."""
        cdef Address addr
        cdef uint32_t at, room = 16
        while room < 4 * len(found):
            room *= 2
        self.mask = room - 1
        self.spots = <Spot *>PyMem_Malloc(room * sizeof(Spot))
        if self.spots == NULL:
            raise MemoryError
        for at in range(room):
            self.spots[at].value = -1
        for (host, port), value in found.items():
            unpack(&addr, host)
            at = spread(&addr, port) & self.mask
            while self.spots[at].value >= 0:
                at = at + 1 & self.mask
            self.spots[at].addr, self.spots[at].port, self.spots[at].value = addr, port, value

    def __dealloc__(self):
        PyMem_Free(self.spots)

    cdef inline int find(self, const Address *addr, int port) noexcept nogil:
        """-1: nothing is there."""
        cdef uint32_t at = spread(addr, port) & self.mask
        while self.spots[at].value >= 0:
            if self.spots[at].port == port and same_address(&self.spots[at].addr, addr):
                break
            at = at + 1 & self.mask
        return self.spots[at].value


cdef inline uint32_t spread(const Address *addr, int port) noexcept nogil:
    """By multiplication [Knuth, The Art of Computer Programming 3, 6.4]: what the table holds is the configuration's,
    so nobody can make it long to look into.
    """
    cdef uint64_t mixed = (addr.high * <uint64_t>0xC2B2AE3D27D4EB4F ^ addr.low) + <uint64_t>port
    return <uint32_t>(mixed * <uint64_t>0x9E3779B97F4A7C15 >> 32)
