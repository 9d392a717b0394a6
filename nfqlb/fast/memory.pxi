# The memory of recent choices (P31), read and written where it is. nfqlb.balance.recent has the layout and the reasons.

cdef enum:
    CELLS_OF_SET = 8
    SECONDS = 0xFFFFFF

cdef uint32_t SETS = _recent.SETS
cdef uint32_t HORIZON = _recent.HORIZON
cdef int HEADER_CELLS = _recent.HEADER_CELLS


cdef inline uint64_t *set_of(uint64_t *cells, uint32_t place) noexcept nogil:
    return cells + HEADER_CELLS + CELLS_OF_SET * <uint64_t>(place % SETS)


cdef uint64_t recall(uint64_t *cells, uint64_t check, uint32_t place, uint32_t now) noexcept nogil:
    """Recent.find."""
    cdef uint64_t *entry = set_of(cells, place)
    cdef uint64_t value
    cdef int at
    for at in range(0, CELLS_OF_SET, 2):
        value = entry[at + 1]
        if entry[at] ^ value == check:
            return value >> 24 if (<uint32_t>value - now) & SECONDS <= HORIZON else 0
    return 0


cdef bint remember(
    uint64_t *cells, uint64_t check, uint32_t place, uint32_t now, uint64_t token, uint32_t lifetime
) noexcept nogil:
    """Recent.store; whether another was driven out."""
    cdef uint64_t *entry = set_of(cells, place)
    cdef uint64_t value
    cdef int64_t left, shortest = SECONDS
    cdef int at, best = 0
    for at in range(0, CELLS_OF_SET, 2):
        value = entry[at + 1]
        if entry[at] ^ value == check:
            best, shortest = at, -1
            break
        left = (<uint32_t>value - now) & SECONDS
        if left > HORIZON or not value:
            left = -1
        if left < shortest:
            best, shortest = at, left
    value = token << 24 | ((now + lifetime) & SECONDS)
    entry[best] = check ^ value
    entry[best + 1] = value
    return shortest >= 0
