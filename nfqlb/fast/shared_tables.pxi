# Memory that processes share: recent choices (P31) and tables, read and written where they are. The layouts
# and their reasons stand in what this mirrors.
#
# Mirrors: nfqlb.balance.recent, nfqlb.balance.tables

cdef extern from *:
    """
    /* Others write what is read here: a word of a table is read before and after the table, in this order. */
    static inline uint64_t word_before(const uint64_t *word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
    static inline uint64_t word_after(const uint64_t *word)
    {
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        return __atomic_load_n(word, __ATOMIC_RELAXED);
    }
    """
    void prefetch "__builtin_prefetch" (const void *) noexcept nogil
    uint64_t word_before(const uint64_t *) noexcept nogil
    uint64_t word_after(const uint64_t *) noexcept nogil

cdef enum:
    NOW = 0             # in a Recent's `tally`
    STORED = 1
    KEPT = 2
    MISSES = 3
    EVICTED = 4

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
