# A request: its checks, the way it goes, and what is written. nfqlb.proxy.request (P8-P32), nfqlb.proxy.stamp.

cdef enum:
    MOST_EDITS = ROUTES + 5

cdef frozenset _UNRECORDED = _stamp.RECORD_ROUTED_NEVER
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
        j = 0
        while j < length and LOWER[p[i + j]] == hex[j]:
            j += 1
        if j == length:
            return True
    return False


cdef bint put_loop(FastPath path, Reading *m, const Way *way, bint inside) noexcept:
    """Put the loop part (P24) into `text`, unless a Via seems to hold it already: is that a loop (P12)?"""
    cdef Buffer *work = &path.work
    cdef uint64_t mac[8]
    cdef int i, row, begin = path.text.used
    work.used = 0
    if inside:
        put(work, b"inside", 6)
    else:
        put(work, b"outside", 7)
    put_byte(work, 0)
    put_span(work, m.p, m.uri)
    for i in range(way.count):
        put_byte(work, 0)
        put_span(work, m.p, way.values[i].span)
    if work.overflow:
        return False
    for i in range(path.rules.keys - 1, -1, -1):  # the first key's is what stays
        path.text.used = begin
        digest(&path.rules.loop[i], work.p, work.used, mac)
        put_hex(&path.text, mac, LOOP_BYTES)
        if path.text.overflow:
            return False
        for row in range(m.vias):
            if holds(m.p, m.via[row].a, m.via[row].b, path.text.p + begin, 2 * LOOP_BYTES):
                return False
    return True


cdef int behind_nat(FastPath path, Reading *m, bint differs, const Address *source) noexcept:
    """stamp.is_behind_nat; -1 for the careful path."""
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


cdef void put_path(FastPath path, Door door, const Address *addr, int port) noexcept:
    """stamp.path_row (P25)."""
    cdef Buffer *text = &path.text
    cdef uint64_t mac[8]
    path.work.used = 0
    put_flow(&path.work, addr, port)
    put_byte(&path.work, 0)
    put_bytes(&path.work, door.internal.text)
    digest(&path.rules.path[0], path.work.p, path.work.used, mac)
    put_bytes(text, door.path)
    put_flow(text, addr, port)
    put(text, b";sig=", 5)
    put_hex(text, mac, SIG_BYTES)
    put(text, b">\r\n", 3)


cdef void put_record_route(
    FastPath path, Reading *m, Door door, const Address *addr, int port, bint nat, bint entering
) noexcept:
    """stamp.record_route_rows (P26)."""
    cdef Buffer *text = &path.text
    cdef uint64_t mac[8]
    path.work.used = 0
    put_flow(&path.work, addr, port)
    put_byte(&path.work, 0)
    put_bytes(&path.work, door.internal.text)
    put_byte(&path.work, 0)
    put(&path.work, m.p + m.call_id.a, m.call_id.b - m.call_id.a)
    digest(&path.rules.route[0], path.work.p, path.work.used, mac)
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


cdef bint check(Reading *m, Facts *f):
    """Sections A and B, as far as they pass (P8-P11, P13)."""
    cdef const uint8_t *p = m.p
    if m.vias == 0 or not read_via(p, m.via[0].a, m.via[0].b, &f.via) or not read_facts(m, f):
        return False
    # A branch that is one transaction's alone, and nothing of received or rport that the sender has filled in.
    if f.via.branch.b - f.via.branch.a < 7 or memcmp(p + f.via.branch.a, b"z9hG4bK", 7) != 0:
        return False
    if f.via.received.b or f.via.rport.b or not read_uri(p, m.uri.a, m.uri.b, &f.uri):
        return False
    f.method = METHOD_NUMBERS.get(PyBytes_FromStringAndSize(<char *>p, m.method.b), OTHER)
    if f.method == OPTIONS and not f.uri.has_user:
        return False
    if f.method == ACK and f.to.tag.b - f.to.tag.a >= 3 and memcmp(p + f.to.tag.a, b"nfq", 3) == 0:
        return False
    f.hops = -1
    if m.hops.start:
        f.hops = number(p, m.hops.a, m.hops.b, 3)
        return 0 < f.hops <= MOST_HOPS
    return True


cdef object request(FastPath path, Reading *m, Packet *heard, Door door, bint inside, int backend):
    """RequestRules.forward, None for the careful path."""
    cdef Rulebook rules = path.rules
    cdef Facts f
    cdef Way way
    cdef Uri *target
    cdef Packet sent
    cdef Edit edits[MOST_EDITS]
    cdef Door by = door
    cdef bint entering, differs, with_received, with_rport, spare_fits, recorded
    cdef Address addr
    cdef int reason, port = 0, known, nat = False, count, begin, loop, rows_end
    cdef uint64_t mac[8]
    cdef Buffer *text = &path.text
    if not check(m, &f) or not read_way(rules, m, &f.uri, inside, &way):
        return None
    loop = text.used
    if not put_loop(path, m, &way, inside):
        return None
    known = read_flow(path, m, &f, &way, &addr, &port)
    if known < 0:
        return None
    if way.exit >= 0:
        by = rules.by_number[way.exit]
    entering = not way.leaving and not way.hairpin
    recorded = RECORDED[f.method] and not way.hairpin
    differs = not f.via.host.literal or f.via.port != heard.src_port
    differs = differs or not same_address(&f.via.host.addr, &heard.src)
    target = &way.next if way.has_next else &f.uri
    if entering:
        by = door
        if recorded:
            nat = behind_nat(path, m, differs, &heard.src)
            if nat < 0:
                return None
        if f.method == REGISTER and not rules.paths:
            return None
        if way.has_next:
            backend = rules.backend_at(&target.host, port_of(target))
        else:
            backend = choose(path, m, &f, door, &heard.src)
        if backend < 0:
            return None
        found = rules.backends[backend]
        unpack(&addr, found.addr)
        port = found.port
        reason, src, dst = REQUEST_ENTERING, by.internal.socket, found
        sent.src, sent.src_port = by.internal.addr, by.internal.port
    else:
        if known < 2:
            if not target.host.literal or not rules.may_be_peer(&target.host.addr):
                return None
            spare_fits = known == 1 and same_address(&addr, &target.host.addr)
            if not spare_fits and not in_networks(&rules.egress, &target.host.addr):
                return None
            addr, port = target.host.addr, port_of(target)
        nat = not f.uri.host.literal or not same_address(&f.uri.host.addr, &addr) or port_of(&f.uri) != port
        if way.hairpin:
            backend = rules.backend_from(&heard.src, heard.src_port)
        reason = REQUEST_HAIRPIN if way.hairpin else REQUEST_LEAVING
        src, dst = by.external.socket, None
        sent.src, sent.src_port = by.external.addr, by.external.port
    if addr.six != heard.src.six or sent.src.six != heard.src.six:
        return None
    sent.dst, sent.dst_port, sent.tos = addr, port, heard.tos

    with_rport = f.via.asked or door.force == 2 or (differs and door.force == 1)
    with_received = f.via.asked or differs or door.force == 2
    identify(
        &path.work, m, &f, &f.via, &heard.src if with_received else NULL, with_rport, heard.src_port, door.text
    )
    digest(&rules.branch[0], path.work.p, path.work.used, mac)
    begin = text.used
    put_bytes(text, by.via_inside if entering else by.via_outside)
    put_hex(text, mac, BRANCH_BYTES)
    put_byte(text, c".")
    put(text, text.p + loop, 2 * LOOP_BYTES)
    put(text, b"\r\n", 2)
    if entering and f.method == REGISTER:
        put_path(path, by, &heard.src, heard.src_port)
    elif recorded and entering:
        put_record_route(path, m, by, &heard.src, heard.src_port, nat, True)
    elif recorded:
        put_record_route(path, m, by, &addr, port, nat, False)
    if f.hops < 0:
        put_bytes(text, HOPS_ROW)
    rows_end = text.used
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
    return written(path, m, edits, count, &sent, reason, backend, src, dst)


cdef inline void note(Edit *edits, int *count, int a, int b, const Buffer *text, int begin) noexcept nogil:
    """An edit with what stands in `text` from `begin` on."""
    cdef Edit *edit = &edits[count[0]]
    edit.a, edit.b, edit.p, edit.length = a, b, text.p + begin, text.used - begin
    count[0] += 1
