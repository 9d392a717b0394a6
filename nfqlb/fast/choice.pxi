# The backend for a request from outside that no Route sends anywhere. nfqlb.proxy.choice, nfqlb.proxy.selection.

cdef uint64_t TABLE_SLOTS = _tables.SLOTS
cdef int TABLE_COUNT = _tables.COUNT
cdef uint32_t LIFETIME = _recent.LIFETIME
cdef uint32_t INVITE_LIFETIME = _recent.INVITE_LIFETIME


cdef bint put_user(Buffer *work, Reading *m, Party *party) noexcept nogil:
    """selection._identity."""
    cdef Uri uri
    if not read_uri(m.p, party.uri.a, party.uri.b, &uri):
        return False
    if uri.has_user:
        put_span(work, m.p, uri.user)
    put_byte(work, c"@")
    put_lower(work, m.p, uri.host)
    return True


cdef int by_table(FastPath path, Reading *m, Facts *f, Door door, uint32_t source) except -2:
    """Choice._stateless, -1 for the careful path."""
    cdef Rulebook rules = path.rules
    cdef Buffer *work = &path.work
    cdef uint64_t mac[8]
    cdef uint8_t packed_source[4]
    cdef uint64_t word, hashed = 0
    cdef Pool pool
    cdef int i
    if f.to.tag.b and f.uri.ipv4:
        found = rules.by_endpoint.get(place(f.uri.addr, port_of(&f.uri)))
        if found is not None:
            return found
    pool = door.pools[f.method]
    if pool is None:
        return -1
    work.used = 0
    if pool.how == BY_CALL_ID:
        put(work, m.p + m.call_id.a, m.call_id.b - m.call_id.a)
    elif pool.how == BY_SOURCE:
        set_big(packed_source, source, 4)
        put(work, packed_source, 4)
    elif not put_user(work, m, &f.sender if pool.how == BY_FROM else &f.to):
        return -1
    digest(&rules.slot, work.p, work.used, mac)
    for i in range(8):
        hashed = hashed << 8 | (<uint8_t *>mac)[i]
    tables = rules.tables
    words, cell = tables.words, pool.pair.word
    while True:
        word = words[cell]
        if not word & TABLE_SLOTS:
            return -1
        index = tables.halves[cell][word >> TABLE_COUNT & 1][hashed % (word & TABLE_SLOTS)]
        if words[cell] == word:
            return pool.pair.numbers[index]


cdef int choose(FastPath path, Reading *m, Facts *f, Door door, uint32_t source) except -2:
    """Choice.choose, -1 for the careful path; then nothing has been remembered."""
    cdef Rulebook rules = path.rules
    cdef Buffer *work = &path.work
    cdef uint64_t mac[8]
    cdef uint64_t token
    cdef uint32_t now
    cdef int chosen, before = -1, each
    cdef bint invite
    chosen = by_table(path, m, f, door, source)
    if rules.recent is None:
        return chosen
    work.used = 0
    put_transaction(work, m, f)
    put_byte(work, 0)
    put_span(work, m.p, f.via.branch)
    digest(&rules.transaction, work.p, work.used, mac)
    now = rules.recent.now & SECONDS
    token = recall(&rules.cells[0], mac[0], <uint32_t>mac[1], now)
    if token:
        for each in rules.owners.get(token, ()):
            if rules.tables.alive(each):
                before = each
                break
    if before < 0:
        if chosen < 0:
            return -1
        if f.method == CANCEL:
            rules.recent.misses += 1
        if f.method != ACK:
            invite = f.method == INVITE or f.method == CANCEL
            if remember(
                &rules.cells[0], mac[0], <uint32_t>mac[1], now, rules.tokens[chosen],
                INVITE_LIFETIME if invite else LIFETIME,
            ):
                rules.recent.evicted += 1
            rules.recent.stored += 1
        return chosen
    if chosen < 0:
        return -1
    if rules.backends[chosen] == rules.backends[before]:
        return chosen
    rules.recent.kept += 1
    return before
