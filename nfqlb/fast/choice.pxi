# The backend for a request from outside that no Route sends anywhere.
#
# Mirrors: nfqlb.proxy.choice, nfqlb.proxy.selection, nfqlb.proxy.route_facts

cdef uint64_t TABLE_SLOTS = _tables.SLOTS
cdef int TABLE_COUNT = _tables.COUNT
cdef uint32_t LIFETIME = _recent.LIFETIME
cdef uint32_t INVITE_LIFETIME = _recent.INVITE_LIFETIME


cdef struct Choosing:
    int named           # the backend that the request names, -1: none
    int slot            # the job that says where to look in the table of the pool in hand; when none is named
    int transaction     # the job that says where the request is remembered; when anything is


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
    """selection.key, appended to `work`; 0 for the slow path."""
    cdef Buffer *work = &path.work
    cdef int begin = work.used
    cdef Uri uri
    cdef Party *party
    cdef int how, at
    cdef bint last
    for at in range(len(by)):
        how, last = by[at], at == len(by) - 1
        work.used = begin
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
    """What rules ask of a request (nfqlb.balance.routes.RouteFacts), as long as the fast path has it in its hands."""
    cdef FastPath path
    cdef Reading *m
    cdef Facts *f
    cdef const Address *from_addr
    cdef Door door
    cdef bint unusual       # the answer was not the true one: let the slow path ask
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
        cdef Buffer *work = &self.path.work
        cdef int begin = work.used
        if found is None or not put_key(self.path, self.m, self.f, found.by, self.from_addr):
            self.unusual = True
            return b"?"
        key = PyBytes_FromStringAndSize(<char *>work.p + begin, work.used - begin)
        work.used = begin
        return key

    cdef bytes span(self, Span s):
        return PyBytes_FromStringAndSize(<char *>self.m.p + s.a, s.b - s.a)

    cdef bytes host(self, Party *party):
        cdef Uri uri
        if not read_uri(self.m.p, party.uri.a, party.uri.b, &uri):
            self.unusual = True
            return b""
        return self.span(uri.host.text).lower()


cdef Pool by_rules(FastPath path, Reading *m, Facts *f, Door door, const Address *source):
    """The pool that the rules name, None for the slow path."""
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


cdef int ask_choice(FastPath path, Reading *m, Facts *f, Door door, const Address *source, Choosing *asked) except -1:
    """Choice.choose, up to its hashes; 0 for the slow path."""
    cdef Rulebook rules = path.rules
    cdef Pool pool
    asked.named = -1
    if f.to.tag.b:
        asked.named = rules.backend_at(&f.uri.host, port_of(&f.uri))
        # The slow path refuses one of another IP version, but only once it has remembered it.
        if asked.named >= 0 and rules.targets[asked.named].addr.six != source.six:
            return 0
    if asked.named < 0:
        pool = door.pools[f.method]
        if pool is None:
            pool = by_rules(path, m, f, door, source)
            if pool is None:
                return 0
        path.pool = pool
        asked.slot = begin_job(path, &rules.slot)
        if not put_key(path, m, f, pool.by, source):
            return 0
        end_job(path, asked.slot)
    if rules.recent is not None:
        asked.transaction = begin_job(path, &rules.transaction)
        put_transaction(&path.work, m, f)
        put_byte(&path.work, 0)
        put_span(&path.work, m.p, f.via.branch)
        end_job(path, asked.transaction)
    return 1


cdef int by_table(FastPath path, const Choosing *asked) except -2:
    """Tables.choose, -1 where there is nothing to choose from."""
    cdef const uint8_t *memory = path.rules.table_memory()
    cdef Pool pool = path.pool
    cdef const uint64_t *word = <const uint64_t *>(memory + pool.word)
    cdef uint64_t before, hashed = big_word(<const uint8_t *>path.jobs[asked.slot].mac)
    cdef const uint16_t *table
    cdef int index
    while True:
        before = word_before(word)
        if not before & TABLE_SLOTS:
            return -1
        table = <const uint16_t *>(memory + pool.halves[before >> TABLE_COUNT & 1])
        index = table[hashed % (before & TABLE_SLOTS)]
        if word_after(word) == before:
            return pool.numbers[index] if index < pool.count else -1


cdef int choose(FastPath path, Facts *f, Door door, const Choosing *asked) except -2:
    """Choice.choose, -1 for the slow path; then nothing has been remembered."""
    cdef Rulebook rules = path.rules
    cdef const uint64_t *mac
    cdef uint64_t token
    cdef uint32_t now
    cdef int chosen, before = -1, each
    cdef bint invite
    chosen = asked.named if asked.named >= 0 else by_table(path, asked)
    if rules.recent is None or chosen < 0:
        return chosen
    mac = path.jobs[asked.transaction].mac
    now = rules.tally[NOW] & SECONDS
    token = recall(&rules.cells[0], mac[0], <uint32_t>mac[1], now)
    if token:
        for each in door.owners.get(token, ()):
            if rules.tables.alive(each):
                before = each
                break
    if before < 0:
        if f.method == CANCEL:
            rules.tally[MISSES] += 1
        if f.method != ACK:
            invite = f.method == INVITE or f.method == CANCEL
            if remember(
                &rules.cells[0], mac[0], <uint32_t>mac[1], now, rules.tokens[chosen],
                INVITE_LIFETIME if invite else LIFETIME,
            ):
                rules.tally[EVICTED] += 1
            rules.tally[STORED] += 1
        return chosen
    if rules.backends[chosen] == rules.backends[before]:
        return chosen
    rules.tally[KEPT] += 1
    return before
