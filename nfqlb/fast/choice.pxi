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
    put_lower(work, m.p, uri.host.text)
    return True


cdef bint put_credentials(Buffer *work, Reading *m, Facts *f):
    """The user whom the credentials name, if any: selection._auth_user."""
    cdef Row *found
    cdef int at
    if f.method == INVITE or f.method == ACK or f.method == CANCEL:
        return False
    for at in range(2):
        found = &m.proxy_credentials if at else &m.credentials
        if found.start:
            username = _selection.username(PyBytes_FromStringAndSize(<char *>m.p + found.a, found.b - found.a))
            if username:
                put_bytes(work, username)
                return True
    return False


cdef int put_key(FastPath path, Reading *m, Facts *f, list by, const Address *source) except -1:
    """selection.key into `work`; 0 for the careful path."""
    cdef Buffer *work = &path.work
    cdef Uri uri
    cdef Party *party
    cdef int how, at
    cdef bint last
    for at in range(len(by)):
        how, last = by[at], at == len(by) - 1
        work.used = 0
        if how == BY_CALL_ID:
            put(work, m.p + m.call_id.a, m.call_id.b - m.call_id.a)
            return 1
        if how == BY_SOURCE:
            put_bytes(work, packed(source))
            return 1
        if how == BY_REQUEST:
            if f.uri.has_user:
                put_span(work, m.p, f.uri.user)
                return 1
            if last:
                return put_user(work, m, &f.to)
            continue
        if how == BY_CREDENTIALS and put_credentials(work, m, f):
            return 1
        party = &f.to if how == BY_TO else &f.sender
        if not read_uri(m.p, party.uri.a, party.uri.b, &uri):
            return 0
        if how == BY_CREDENTIALS:
            # Without credentials, or in an INVITE and what belongs to it: the user of From, then all of it.
            if uri.has_user and (last or f.method == INVITE or f.method == ACK or f.method == CANCEL):
                put_span(work, m.p, uri.user)
                return 1
            if last:
                put_span(work, m.p, party.uri)
                return 1
        elif last or uri.has_user:
            return put_user(work, m, party)
    return 0


cdef class Asked:
    """What rules ask of a request (nfqlb.balance.rules.Asked), as long as the fast path has it in its hands."""
    cdef FastPath path
    cdef Reading *m
    cdef Facts *f
    cdef const Address *from_addr
    cdef Door door
    cdef bint unusual       # the answer was not the true one: let the careful path ask
    cdef readonly bytes method
    cdef readonly str listener

    @property
    def source(self):
        return packed(self.from_addr)

    @property
    def domain(self):
        return self.span(self.f.uri.host.text).lower()

    @property
    def from_domain(self):
        return self.host(&self.f.sender)

    @property
    def to_domain(self):
        return self.host(&self.f.to)

    @property
    def user(self):
        return self.span(self.f.uri.user) if self.f.uri.has_user else b""

    @property
    def user_agent(self):
        cdef Span agent
        agent.a, agent.b = self.m.agent.a, self.m.agent.b
        return self.span(agent) if self.m.agent.start else b""

    @property
    def headers(self):
        self.unusual = True
        return ()

    def key(self, pool):
        cdef Pool found = self.door.served[pool]
        if found is None or not put_key(self.path, self.m, self.f, found.by, self.from_addr):
            self.unusual = True
            return b"?"
        return PyBytes_FromStringAndSize(<char *>self.path.work.p, self.path.work.used)

    cdef bytes span(self, Span s):
        return PyBytes_FromStringAndSize(<char *>self.m.p + s.a, s.b - s.a)

    cdef bytes host(self, Party *party):
        cdef Uri uri
        if not read_uri(self.m.p, party.uri.a, party.uri.b, &uri):
            self.unusual = True
            return b""
        return self.span(uri.host.text).lower()


cdef Pool by_rules(FastPath path, Reading *m, Facts *f, Door door, const Address *source):
    """The pool that the rules name, None for the careful path."""
    cdef Asked asked = Asked.__new__(Asked)
    asked.path, asked.m, asked.f, asked.from_addr, asked.door, asked.listener = path, m, f, source, door, door.name
    if f.method == ACK or f.method == CANCEL:
        asked.method = b"INVITE"
    else:
        asked.method = PyBytes_FromStringAndSize(<char *>m.p, m.method.b)
    rules = path.rules.choice.rules
    rule = rules.first(asked)
    if asked.unusual or rule < 0:
        return None
    return door.served[rules.pool(rule)]


cdef int by_table(FastPath path, Reading *m, Facts *f, Door door, const Address *source) except -2:
    """Choice._stateless, -1 for the careful path."""
    cdef Rulebook rules = path.rules
    cdef Buffer *work = &path.work
    cdef uint64_t mac[8]
    cdef uint64_t word, hashed = 0
    cdef Pool pool
    cdef int i
    if f.to.tag.b:
        i = rules.backend_at(&f.uri.host, port_of(&f.uri))
        if i >= 0:
            # The careful path refuses one of another IP version, but only once it has remembered it.
            return i if rules.is_of(i, source.six) else -1
    pool = door.pools[f.method]
    if pool is None:
        pool = by_rules(path, m, f, door, source)
        if pool is None:
            return -1
    if not put_key(path, m, f, pool.by, source):
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


cdef int choose(FastPath path, Reading *m, Facts *f, Door door, const Address *source) except -2:
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
        for each in door.owners.get(token, ()):
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
