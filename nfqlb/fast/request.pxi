# A request: its checks, the way it goes, and what is written. P8-P32.
#
# Mirrors: nfqlb.proxy.request, nfqlb.proxy.added_headers

cdef enum:
    MOST_EDITS = ROUTES + 5
    LOOP_ROOM = 8           # LOOP_BYTES are no more

cdef frozenset _UNRECORDED = _added_headers.RECORD_ROUTED_NEVER
cdef bint RECORDED[OTHER + 1]
RECORDED[OTHER] = True
for _number, _name in enumerate(METHODS):
    RECORDED[_number] = _name not in _UNRECORDED

cdef int MOST_HOPS = 255
cdef bytes HOPS_ROW = b"Max-Forwards: %d\r\n" % _request.MAX_FORWARDS


cdef bint holds(const uint8_t *p, int a, int b, const uint8_t *hex, int length) noexcept nogil:
    """Does the hex text, in lower case, stand anywhere in there, in whatever case?"""
    cdef int i, j
    for i in range(a, b - length + 1):
        if LOWER[p[i]] != hex[0]:
            continue
        j = 1
        while j < length and LOWER[p[i + j]] == hex[j]:
            j += 1
        if j == length:
            return True
    return False


cdef int ask_loop(FastPath path, Reading *m, const Way *way, bint inside) noexcept:
    """The job that makes the loop part (P24)."""
    cdef Buffer *work = &path.work
    cdef int i, job = begin_job(path, &path.rules.loop[0])
    if inside:
        put(work, b"inside", 6)
    else:
        put(work, b"outside", 7)
    put_byte(work, 0)
    put_span(work, m.p, m.uri)
    for i in range(way.count):
        put_byte(work, 0)
        put_span(work, m.p, way.values[i].span)
    end_job(path, job)
    return job


cdef bint is_new_here(FastPath path, Reading *m, const Job *loop) noexcept:
    """No Via seems to hold that loop part, with any of our keys (P12)."""
    cdef uint64_t mac[8]
    cdef uint8_t text[2 * LOOP_ROOM]
    cdef int key, row
    memcpy(mac, loop.mac, sizeof(mac))
    for key in range(path.rules.keys):
        if key:
            digest(&path.rules.loop[key], path.work.p + loop.begin, loop.length, mac)
        write_hex(text, mac, LOOP_BYTES)
        for row in range(m.vias):
            if holds(m.p, m.via[row].a, m.via[row].b, text, 2 * LOOP_BYTES):
                return False
    return True


cdef int behind_nat(FastPath path, Reading *m, bint differs, const Address *source) noexcept:
    """stamp.is_behind_nat; -1 for the slow path."""
    cdef Party contact
    cdef Uri uri
    if differs:
        return True
    if not m.contact.start:
        return False
    if not read_party(m.p, m.contact.a, m.contact.b, &contact):
        return -1
    if not read_uri(m.p, contact.uri.a, contact.uri.b, &uri):
        return -1
    if not uri.host.literal or same_address(&uri.host.addr, source):
        return False
    return in_networks(&path.rules.private, &uri.host.addr)


cdef void put_path(FastPath path, Door door, const Address *addr, int port, const uint64_t *mac) noexcept:
    """stamp.path_row (P25)."""
    cdef Buffer *text = &path.text
    put_bytes(text, door.path)
    put_flow(text, addr, port)
    put(text, b";sig=", 5)
    put_hex(text, mac, SIG_BYTES)
    put(text, b">\r\n", 3)


cdef void put_record_route(
    FastPath path, Door door, const Address *addr, int port, bint nat, bint entering, const uint64_t *mac
) noexcept:
    """stamp.record_route_rows (P26)."""
    cdef Buffer *text = &path.text
    if not entering:
        put_bytes(text, door.outer_route)
    put_bytes(text, door.route)
    put_flow(text, addr, port)
    put(text, b";sig=", 5)
    put_hex(text, mac, SIG_BYTES)
    if nat:
        put(text, b";nat=yes", 8)
    put(text, b">\r\n", 3)
    if entering:
        put_bytes(text, door.outer_route)


cdef bint check(Reading *m, Facts *f) noexcept nogil:
    """Sections A and B, as far as they pass (P8-P11, P13)."""
    cdef const uint8_t *p = m.p
    if m.vias == 0 or not read_via(p, m.via[0].a, m.via[0].b, &f.via) or not read_facts(m, f):
        return False
    # A branch that is one transaction's alone, and nothing of received or rport that the sender has filled in.
    if f.via.branch.b - f.via.branch.a < 7 or memcmp(p + f.via.branch.a, b"z9hG4bK", 7) != 0:
        return False
    if f.via.received.b or f.via.rport.b or not read_uri(p, m.uri.a, m.uri.b, &f.uri):
        return False
    f.method = method_number(p, m.method.b)
    if f.method == OPTIONS and not f.uri.has_user:
        return False
    if f.method == ACK and f.to.tag.b - f.to.tag.a >= 3 and memcmp(p + f.to.tag.a, b"nfq", 3) == 0:
        return False
    f.hops = -1
    if m.hops.start:
        f.hops = number(p, m.hops.a, m.hops.b, 3)
        return 0 < f.hops <= MOST_HOPS
    return True


cdef int request(FastPath path, Reading *m, Packet *heard, Door door, bint inside, int backend) except -1:
    """RequestRules.forward."""
    cdef Rulebook rules = path.rules
    cdef Facts f
    cdef Way way
    cdef Flow flow
    cdef Choosing choosing
    cdef Uri *target
    cdef Packet sent
    cdef Edit edits[MOST_EDITS]
    cdef Door by = door
    cdef bint entering, differs, with_received, with_rport, spare_fits, recorded, registered
    cdef Address addr
    cdef int reason, port = 0, known, nat = False, count, begin, loop, branch, row = -1
    cdef Buffer *text = &path.text
    dst = None
    if not check(m, &f) or not read_way(rules, m, &f.uri, inside, &way):
        return SLOW
    if way.exit >= 0:
        by = <Door>rules.by_number[way.exit]
    entering = not way.leaving and not way.hairpin
    registered = entering and f.method == REGISTER
    if registered and not rules.paths:
        return SLOW
    recorded = RECORDED[f.method] and not way.hairpin
    differs = not f.via.host.literal or f.via.port != heard.src_port
    differs = differs or not same_address(&f.via.host.addr, &heard.src)
    with_rport = f.via.asked or door.force == 2 or (differs and door.force == 1)
    with_received = f.via.asked or differs or door.force == 2

    # All that is to be hashed, where it is known already: the longest first.
    path.asked = path.work.used = 0
    branch = begin_job(path, &rules.branch[0])
    identify(
        &path.work, m, &f, &f.via, &heard.src if with_received else NULL, with_rport, heard.src_port, door.text
    )
    end_job(path, branch)
    if entering and not way.has_next and not ask_choice(path, m, &f, door, &heard.src, &choosing):
        return SLOW
    if not ask_flow(path, m, &way, &flow):
        return SLOW
    loop = ask_loop(path, m, &way, inside)
    if registered or (entering and recorded):
        row = ask_row(path, m, door, &heard.src, heard.src_port, registered)
    if path.work.overflow:
        return SLOW
    digests(path.jobs, path.asked, path.work.p)
    if entering and not way.has_next and rules.recent is not None:
        prefetch(set_of(&rules.cells[0], <uint32_t>path.jobs[choosing.transaction].mac[1]))
    if not is_new_here(path, m, &path.jobs[loop]):
        return SLOW

    known = read_flow(path, m, &f, &way, &flow)
    if known < 0:
        return SLOW
    target = &way.next if way.has_next else &f.uri
    if entering:
        by = door
        if recorded:
            nat = behind_nat(path, m, differs, &heard.src)
            if nat < 0:
                return SLOW
        reason, src = REQUEST_ENTERING, by.internal.socket
        sent.src, sent.src_port = by.internal.addr, by.internal.port
    else:
        if known == 2:
            addr, port = flow.addr, flow.port
        else:
            if not target.host.literal or not rules.may_be_peer(&target.host.addr):
                return SLOW
            spare_fits = known == 1 and same_address(&flow.addr, &target.host.addr)
            if not spare_fits and not in_networks(&rules.egress, &target.host.addr):
                return SLOW
            addr, port = target.host.addr, port_of(target)
        nat = not f.uri.host.literal or not same_address(&f.uri.host.addr, &addr) or port_of(&f.uri) != port
        if way.hairpin:
            backend = rules.backend_from(&heard.src, heard.src_port)
        reason = REQUEST_HAIRPIN if way.hairpin else REQUEST_LEAVING
        src = by.external.socket
        sent.src, sent.src_port = by.external.addr, by.external.port

    begin = text.used
    put_bytes(text, by.via_inside if entering else by.via_outside)
    put_hex(text, path.jobs[branch].mac, BRANCH_BYTES)
    put_byte(text, c".")
    put_hex(text, path.jobs[loop].mac, LOOP_BYTES)
    put(text, b"\r\n", 2)
    if registered:
        put_path(path, by, &heard.src, heard.src_port, path.jobs[row].mac)
    elif recorded and entering:
        put_record_route(path, by, &heard.src, heard.src_port, nat, True, path.jobs[row].mac)
    elif recorded:
        if flow.in_dialog and flow.port == port and same_address(&flow.addr, &addr):
            row = flow.job  # the very signature that it has come with
        else:
            row = path.asked
            ask_row(path, m, by, &addr, port, False)
            if path.work.overflow:
                return SLOW
            digests(path.jobs + row, 1, path.work.p)
        put_record_route(path, by, &addr, port, nat, False, path.jobs[row].mac)
    if f.hops < 0:
        put_bytes(text, HOPS_ROW)
    count = 0
    note(edits, &count, m.first_header, m.first_header, text, begin)
    count += remove_values(m, &way, edits + count)
    begin = text.used
    if with_received:
        put(text, b";received=", 10)
        put_address(text, &heard.src)
        note(edits, &count, f.via.end, f.via.end, text, begin)
    begin = text.used
    if with_rport:
        put(text, b";rport=", 7)
        put_number(text, heard.src_port)
        if f.via.asked:
            note(edits, &count, f.via.rport_span.a, f.via.rport_span.b, text, begin)
        else:
            note(edits, &count, f.via.end, f.via.end, text, begin)
    begin = text.used
    if f.hops >= 0:
        put_number(text, f.hops - 1)
        note(edits, &count, m.hops.a, m.hops.b, text, begin)
    if entering:  # not before: what is asked for the choice has been fetched meanwhile
        if way.has_next:
            backend = rules.backend_at(&target.host, port_of(target))
        else:
            backend = choose(path, &f, door, &choosing)
        if backend < 0:
            return SLOW
        addr, port, dst = rules.targets[backend].addr, rules.targets[backend].port, rules.backends[backend]
    if addr.six != heard.src.six or sent.src.six != heard.src.six:
        return SLOW
    sent.dst, sent.dst_port, sent.tos = addr, port, heard.tos
    return written(path, m, edits, count, &sent, reason, backend, src, dst)


cdef inline void note(Edit *edits, int *count, int a, int b, const Buffer *text, int begin) noexcept nogil:
    """An edit with what stands in `text` from `begin` on."""
    cdef Edit *edit = &edits[count[0]]
    edit.a, edit.b, edit.p, edit.length = a, b, text.p + begin, text.used - begin
    count[0] += 1
