# A response: is its top Via ours, and where does the one below want it? P33-P36.
#
# Mirrors: nfqlb.proxy.response


cdef Door entered_at(
    FastPath path, Reading *m, Facts *f, Via *below, const Address *received, int port, const uint8_t *hash, Door door
):
    """The door that the request came in by: the one for which the keyed hash holds (P33)."""
    cdef Door tried = door.other
    cdef uint64_t mac[8]
    cdef int i, key
    for i in range(-1, len(path.rules.by_number)):
        if i >= 0:
            tried = path.rules.by_number[i]
        path.work.used = 0
        identify(&path.work, m, f, below, received, below.rport.b != 0, port, tried.text)
        if path.work.overflow:
            return None
        for key in range(path.rules.keys):
            digest(&path.rules.branch[key], path.work.p, path.work.used, mac)
            if is_hex(mac, BRANCH_BYTES, hash):
                return tried
    return None


cdef int response(FastPath path, Reading *m, Packet *heard, Door door, bint inside, int backend) except -1:
    """nfqlb.proxy.response."""
    cdef Rulebook rules = path.rules
    cdef const uint8_t *p = m.p
    cdef Facts f
    cdef Via below
    cdef Packet sent
    cdef Edit edit
    cdef Span hash            # its hex text in the branch
    cdef const Address *received = NULL
    cdef int port = 0, i
    cdef Own own
    cdef Door entered
    if m.vias < 2 or not read_via(p, m.via[0].a, m.via[0].b, &f.via):
        return SLOW
    if not read_via(p, m.via[1].a, m.via[1].b, &below) or not read_facts(m, &f):
        return SLOW
    own = rules.own(p, &f.via.host, f.via.port)
    if own is None:
        return path.drop(STRAY_RESPONSE)
    if own.door is not door:
        return SLOW
    hash.a = f.via.branch.a + MARK
    hash.b = hash.a + 2 * BRANCH_BYTES
    if hash.b > f.via.branch.b or memcmp(p + f.via.branch.a, PyBytes_AS_STRING(MARKER), MARK) != 0:
        return path.drop(STRAY_RESPONSE)
    if hash.b < f.via.branch.b and p[hash.b] != c".":
        return SLOW
    for i in range(hash.a, hash.b):
        if LOWER[p[i]] != p[i]:
            return SLOW
    # Where it goes: received, else sent-by; rport, else the port of sent-by (P35).
    if below.branch.b == 0:
        return SLOW
    if below.received.b:
        if not read_address(p, below.received, &sent.dst):
            return SLOW
        received = &sent.dst
    elif below.host.literal:
        sent.dst = below.host.addr
    else:
        return SLOW
    port = below.port
    if below.rport.b:
        port = number(p, below.rport.a, below.rport.b, 5)
    if not 0 < port < 65536 or not rules.may_be_peer(&sent.dst):
        return SLOW
    entered = entered_at(path, m, &f, &below, received, port, p + hash.a, door)
    if entered is None:
        return path.drop(STRAY_RESPONSE) if rules.complete and not path.work.overflow else SLOW
    if sent.dst.six != heard.src.six or entered.addr.six != heard.src.six:
        return SLOW
    edit.a, edit.b, edit.p, edit.length = m.via[0].start, m.via[0].end, NULL, 0
    sent.src, sent.src_port = entered.addr, entered.port
    sent.dst_port, sent.tos = port, heard.tos
    if inside:
        return written(path, m, &edit, 1, &sent, RESPONSE_LEAVING, backend, entered.socket, None)
    if entered.half != EXTERNAL:
        backend = rules.backend_from(&sent.dst, port)
        if entered.half == INTERNAL or backend >= 0:
            return written(path, m, &edit, 1, &sent, RESPONSE_ENTERING, backend, entered.socket, None)
    return written(path, m, &edit, 1, &sent, RESPONSE_HAIRPIN, -1, entered.socket, None)
