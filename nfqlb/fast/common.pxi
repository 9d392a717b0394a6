# What requests and responses have in common: who they belong to, the branch that says so, and the packet that goes out.
#
# Mirrors: nfqlb.proxy.facts, nfqlb.proxy.identity

cdef object new_tuple = tuple.__new__

cdef struct Facts:      # nfqlb.proxy.facts.Facts, and what goes with them
    Via via
    Party sender
    Party to
    Span cseq
    Uri uri
    int method
    int hops            # -1: no Max-Forwards


cdef bint read_facts(Reading *m, Facts *f) noexcept nogil:
    """All but Via and Request-URI; a CSeq that names another method than the request line is none."""
    cdef const uint8_t *p = m.p
    cdef Span method
    if m.call_id.a == m.call_id.b or is_in(p, m.call_id.a, m.call_id.b, c" "):
        return False
    if is_in(p, m.call_id.a, m.call_id.b, c"\t") or not read_cseq(p, &m.cseq, &f.cseq, &method):
        return False
    if m.request and (
        method.b - method.a != m.method.b - m.method.a
        or memcmp(p + method.a, p + m.method.a, method.b - method.a) != 0
    ):
        return False
    return read_party(p, m.sender.a, m.sender.b, &f.sender) and read_party(p, m.to.a, m.to.b, &f.to)


cdef void put_transaction(Buffer *work, Reading *m, Facts *f) noexcept nogil:
    """Facts.transaction."""
    put(work, m.p + m.call_id.a, m.call_id.b - m.call_id.a)
    put_byte(work, 0)
    put_span(work, m.p, f.sender.tag)
    put_byte(work, 0)
    put_span(work, m.p, f.cseq)


cdef inline int begin_job(FastPath path, const Hash *hash) noexcept nogil:
    """Its number. What is put into `work` from now on, until `end_job`, is what is to be hashed."""
    cdef Job *job = &path.jobs[path.asked]
    job.hash, job.begin = hash, path.work.used
    path.asked += 1
    return path.asked - 1


cdef inline void end_job(FastPath path, int number) noexcept nogil:
    cdef Job *job = &path.jobs[number]
    cdef uint8_t *to = reserve(&path.work, BLOCK)
    cdef int rest
    job.length = path.work.used - job.begin
    rest = -job.length & BLOCK - 1
    if to != NULL:
        memset(to, 0, BLOCK)
        path.work.used += rest


cdef inline bint is_hex(const uint64_t *mac, int size, const uint8_t *text) noexcept nogil:
    """Is this the hex text, in lower case, of the first `size` bytes?"""
    cdef const uint8_t *bytes = <const uint8_t *>mac
    cdef int i
    for i in range(size):
        if memcmp(HEX[bytes[i]], text + 2 * i, 2) != 0:
            return False
    return True


cdef void identify(
    Buffer *work, Reading *m, Facts *f, const Via *via, const Address *received, bint rport, int port, bytes socket
) noexcept:
    """What our branch is made of (P24): Via.identity with what stands or will stand in received (NULL: nothing) and
    rport, the transaction, our socket."""
    cdef const uint8_t *p = m.p
    put_host(work, p, &via.host)
    put_byte(work, c" ")
    put_number(work, via.port)
    put_byte(work, c" ")
    put_span(work, p, via.branch)
    put_byte(work, c" ")
    if received != NULL:
        put_address(work, received)
    put_byte(work, c" ")
    if rport:
        put_number(work, port)
    put(work, b" \0", 2)  # behind the blank: no maddr
    put_transaction(work, m, f)
    put_byte(work, 0)
    put_bytes(work, socket)


cdef int written(
    FastPath path, Reading *m, Edit *edits, int count, Packet *sent, int reason, int backend, object src, object dst
) noexcept:
    """SENT: the packet, and what else there is to its verdict, stand in `path`. SLOW when it would be too large.
    `dst`: None for one to be made."""
    cdef Buffer *out = &path.out
    out.used = HEADERS6 if sent.src.six else HEADERS
    write_edited(out, m.p, m.end, edits, count)
    # The length in a header of IPv6 is without that header.
    if out.overflow or path.text.overflow or path.work.overflow or out.used > MAX_PACKET + 40 * sent.src.six:
        return SLOW
    path.ident = path.ident + 1 & 0xFFFF
    write_headers(out.p, out.used, sent, path.ident)
    path.reason, path.backend, path.src, path.dst = reason, backend, src, dst
    path.dst_addr, path.dst_port, path.status = sent.dst, sent.dst_port, m.p[8] - c"0"
    return SENT
