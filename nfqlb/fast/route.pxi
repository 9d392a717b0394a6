# Which way a request goes: its Route, and what `received` says where it leaves. P16, P18.
#
# Mirrors: nfqlb.proxy.route

cdef struct Value:      # of Route
    int row
    Span span           # all of it, as it stands
    Span uri

cdef struct Mine:       # a value that is ours
    int half
    bint paired
    bint has_flow

cdef struct Way:        # nfqlb.proxy.route.Passage
    Value values[VALUES]
    int count
    int consumed
    bint leaving
    bint hairpin
    bint has_next
    Uri next
    int exit            # the number of the door whose value it leaves by; -1: none
    Uri by              # that value


cdef bint read_values(Reading *m, Way *way) noexcept nogil:
    """All Route values, each of the form `<uri>` and nothing besides."""
    cdef const uint8_t *p = m.p
    cdef const uint8_t *found
    cdef Value *value
    cdef int row, i, end
    way.count = 0
    for row in range(m.routes):
        i, end = m.route[row].a, m.route[row].b
        while True:
            if i >= end or p[i] != c"<" or way.count == VALUES:
                return False
            found = <const uint8_t *>memchr(p + i, c">", end - i)
            if found == NULL:
                return False
            value = &way.values[way.count]
            value.row = row
            value.span.a, value.span.b = i, <int>(found - p) + 1
            value.uri.a, value.uri.b = i + 1, value.span.b - 1
            way.count += 1
            i = skip(p, value.span.b, end, BLANK)
            if i == end:
                break
            if p[i] != c",":
                return False
            i = skip(p, i + 1, end, BLANK)
    return True


cdef int entered(const Mine *mine, int count) noexcept nogil:
    """route._enter."""
    cdef int taken = 0, i
    cdef bint before
    while taken < count:
        if mine[taken].half == INTERNAL:
            if not mine[taken].paired or (taken and mine[taken - 1].half == INTERNAL):
                break
        elif mine[taken].half == BOTH and mine[taken].has_flow:
            before = False
            for i in range(taken):
                before = before or mine[i].has_flow
            if before:
                break
        taken += 1
    return taken


cdef int left(const Mine *mine, int count, int start, int *exit) noexcept nogil:
    """route._leave."""
    cdef int taken = start
    exit[0] = -1
    while taken < count and not mine[taken].has_flow:
        taken += 1
    if taken == count:
        return taken
    exit[0] = taken
    taken += 1
    if mine[taken - 1].paired and taken < count and mine[taken].paired and mine[taken].half == EXTERNAL:
        taken += 1
    return taken


cdef bint read_way(Rulebook rules, Reading *m, const Uri *request, bint inside, Way *way):
    """route.read, for who is no strict router and has none before it."""
    cdef const uint8_t *p = m.p
    cdef Mine mine[VALUES]
    cdef Uri uris[VALUES]
    cdef int doors[VALUES]
    cdef int count = 0, at, exit = -1
    cdef Uri *uri
    cdef Own own
    way.has_next = way.hairpin = False
    way.leaving = inside
    way.exit = -1
    way.consumed = way.count = 0
    if m.routes == 0:
        return True
    if request.lr or not read_values(m, way):
        return False
    for at in range(way.count):
        uri = &uris[at]
        if not read_uri(p, way.values[at].uri.a, way.values[at].uri.b, uri):
            return False
        own = None
        if not uri.has_user or (
            uri.user.b - uri.user.a == len(rules.name)
            and memcmp(p + uri.user.a, PyBytes_AS_STRING(rules.name), len(rules.name)) == 0
        ):
            own = rules.own(p, &uri.host, port_of(uri))
        if own is None:
            way.has_next = True
            way.next = uri[0]
            break
        if own.door is None:
            return False
        mine[count].half, mine[count].paired, mine[count].has_flow = own.half, uri.paired, uri.has_flow
        doors[count] = own.door.number
        count += 1
    if way.has_next and not way.next.lr:
        return False
    if inside:
        way.consumed = left(mine, count, 0, &exit)
    else:
        way.consumed = entered(mine, count)
        if way.consumed < count:
            way.consumed = left(mine, count, way.consumed, &exit)
    if way.consumed < count:
        return False  # what stays is ours too, for a later pass
    if exit >= 0:
        way.exit, way.by = doors[exit], uris[exit]
        way.hairpin = not inside
    return True


cdef int remove_values(Reading *m, const Way *way, Edit *edits) noexcept nogil:
    """edit.remove_values of what is consumed; the number of edits."""
    cdef int at, row, first, last, made = 0
    at = 0
    while at < way.consumed:
        row, first, last = way.values[at].row, at, at
        while last + 1 < way.count and way.values[last + 1].row == row:
            last += 1
        if last < way.consumed:
            edits[made].a, edits[made].b = m.route[row].start, m.route[row].end
        else:
            edits[made].a, edits[made].b = way.values[first].span.a, way.values[way.consumed].span.a
        edits[made].p, edits[made].length = NULL, 0
        made += 1
        at = last + 1
    return made


cdef struct Flow:       # what a value that is ours says of the way out
    bint given
    Address addr
    int port
    int job             # its signature, as a Record-Route's
    bint in_dialog      # it is signed by our first key, for this Call-ID

cdef bint is_signed(FastPath path, const Hash *hashes, int keys, const Job *job, int length, const uint8_t *sig) noexcept:
    """Is this hex text what one of these makes of the first `length` bytes of the job?"""
    cdef uint64_t mac[8]
    cdef int i
    for i in range(keys):
        digest(&hashes[i], path.work.p + job.begin, length, mac)
        if is_hex(mac, SIG_BYTES, sig):
            return True
    return False


cdef int ask_row(FastPath path, Reading *m, Door door, const Address *addr, int port, bint to_path) noexcept:
    """The job that signs the flow in a Path, or in a Record-Route, whose signature is bound to the Call-ID besides."""
    cdef int job = begin_job(path, &path.rules.path[0] if to_path else &path.rules.route[0])
    put_flow(&path.work, addr, port)
    put_byte(&path.work, 0)
    put_bytes(&path.work, door.internal.text)
    if not to_path:
        put_byte(&path.work, 0)
        put(&path.work, m.p + m.call_id.a, m.call_id.b - m.call_id.a)
    end_job(path, job)
    return job


cdef bint ask_flow(FastPath path, Reading *m, const Way *way, Flow *flow) noexcept:
    """The flow that a request leaves by, if any; False for the slow path."""
    cdef const uint8_t *p = m.p
    cdef Span s
    cdef Host host
    cdef int at
    flow.in_dialog = False
    flow.given = way.exit >= 0
    if not flow.given:
        return True
    s = way.by.flow
    if s.b - s.a < 5 or memcmp(p + s.a, b"sip:", 4) != 0 or way.by.sig.b - way.by.sig.a != 2 * SIG_BYTES:
        return False
    at = s.a + 4
    if not read_host(p, &at, s.b, &host) or not host.literal:
        return False
    if not read_port(p, &at, s.b, &flow.port) or at != s.b or not flow.port:
        return False
    flow.addr = host.addr
    flow.job = ask_row(path, m, <Door>path.rules.by_number[way.exit], &flow.addr, flow.port, False)
    return True


cdef int read_flow(FastPath path, Reading *m, Facts *f, const Way *way, Flow *flow) noexcept:
    """RequestRules._flow: 2 where the signed flow is the destination, 1 where it is if nothing better is known, 0 where
    there is none, -1 for the slow path. P18.
    """
    cdef Rulebook rules = path.rules
    cdef const uint8_t *sig
    cdef const Job *job
    cdef bint in_dialog, to_path = False
    if not flow.given:
        return 0
    job, sig = &path.jobs[flow.job], m.p + way.by.sig.a
    flow.in_dialog = in_dialog = is_hex(job.mac, SIG_BYTES, sig)
    if not in_dialog:
        in_dialog = is_signed(path, rules.route + 1, rules.keys - 1, job, job.length, sig)
    if not in_dialog and not way.hairpin and not way.by.paired:
        # What a Path's is made of is the same, without the Call-ID.
        to_path = is_signed(path, rules.path, rules.keys, job, job.length - 1 - (m.call_id.b - m.call_id.a), sig)
    if not (in_dialog or to_path) or (way.hairpin and not f.to.tag.b):
        return -1
    if in_dialog and not way.hairpin and not way.by.nat:
        return 1
    return 2 if rules.may_be_peer(&flow.addr) else -1
