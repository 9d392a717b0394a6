# What stands in the rows of a message: Via, URI, name-addr, CSeq. As in sip_text.pxi, a reader says no to what is unusual.
#
# Mirrors: nfqlb.sip.via, nfqlb.sip.uri, nfqlb.sip.address


cdef bint read_via(const uint8_t *p, int a, int b, Via *via) noexcept nogil:
    """A row that holds one value. nfqlb.sip.via.parse."""
    cdef int i, begin
    cdef Span name, value
    cdef bint has
    if b - a < 13 or memcmp(p + a, b"SIP/2.0/UDP ", 12) != 0:
        return False
    via.end = b
    i = skip(p, a + 11, b, BLANK)
    if not read_host(p, &i, b, &via.host) or not read_port(p, &i, b, &via.port):
        return False
    if via.port == 0:
        via.port = 5060
    via.branch.a = via.branch.b = via.received.a = via.received.b = 0
    via.rport.a = via.rport.b = via.rport_span.a = via.rport_span.b = 0
    via.asked = False
    while i < b:
        if p[i] != c";":
            return False
        begin = i
        name.a = i + 1
        name.b = i = skip(p, i + 1, b, TOKEN)
        if name.a == i:
            return False
        has = i < b and p[i] == c"="
        value.a = value.b = i
        if has:
            value.a = i + 1
            value.b = i = skip(p, i + 1, b, VALUE)
        if same(p, name, b"branch", 6):
            if via.branch.b or value.a == value.b:
                return False
            via.branch = value
        elif same(p, name, b"received", 8):
            if via.received.b or value.a == value.b:
                return False
            via.received = value
        elif same(p, name, b"rport", 5):
            if via.asked or (has and value.a == value.b):
                return False
            via.asked = True
            if has:
                via.rport = value
            via.rport_span.a, via.rport_span.b = begin, i
        elif same(p, name, b"maddr", 5):
            return False
    return True


cdef bint read_uri(const uint8_t *p, int a, int b, Uri *uri) noexcept nogil:
    """A sip URI. nfqlb.sip.uri.parse."""
    cdef int i = a + 4
    cdef const uint8_t *found
    cdef Span name, value
    cdef bint has, has_r2 = False, has_nat = False, has_received = False, has_sig = False
    if b - a < 5 or memcmp(p + a, b"sip:", 4) != 0:
        return False
    found = <const uint8_t *>memchr(p + i, c"@", b - i)
    uri.has_user = found != NULL
    if uri.has_user:
        uri.user.a, uri.user.b = i, <int>(found - p)
        i = uri.user.b + 1
        if uri.user.a == uri.user.b or skip(p, uri.user.a, uri.user.b, USER) != uri.user.b:
            return False
    if not read_host(p, &i, b, &uri.host) or not read_port(p, &i, b, &uri.port):
        return False
    uri.lr = uri.paired = uri.nat = uri.has_flow = False
    uri.flow.a = uri.flow.b = uri.sig.a = uri.sig.b = 0
    while i < b:
        if p[i] != c";":
            return False
        name.a = i + 1
        value.b = i = skip(p, i + 1, b, URI_VALUE)
        if name.a == i:
            return False
        found = <const uint8_t *>memchr(p + name.a, c"=", i - name.a)
        has = found != NULL
        name.b = <int>(found - p) if has else i
        value.a = name.b + 1 if has else i
        # The first of two of one name wins.
        if same(p, name, b"lr", 2):
            uri.lr = True
        elif same(p, name, b"maddr", 5):
            return False
        elif same(p, name, b"r2", 2):
            if not has_r2:
                uri.paired = value.b - value.a == 2 and memcmp(p + value.a, b"on", 2) == 0
            has_r2 = True
        elif same(p, name, b"nat", 3):
            if not has_nat:
                uri.nat = value.b - value.a == 3 and memcmp(p + value.a, b"yes", 3) == 0
            has_nat = True
        elif same(p, name, b"received", 8):
            if not has_received and has:
                uri.has_flow = True
                uri.flow = value
            has_received = True
        elif same(p, name, b"sig", 3):
            if not has_sig:
                uri.sig = value
            has_sig = True
    return True


cdef bint read_party(const uint8_t *p, int a, int b, Party *party) noexcept nogil:
    """A row that holds one name-addr with its URI in angle brackets. nfqlb.sip.address.parse."""
    cdef int i = a
    cdef const uint8_t *found
    cdef Span name, value
    cdef bint has
    while i < b and p[i] != c"<":
        if p[i] == c'"':
            found = <const uint8_t *>memchr(p + i + 1, c'"', b - i - 1)
            if found == NULL or is_in(p, i + 1, <int>(found - p), c"\\"):
                return False
            i = <int>(found - p)
        elif p[i] == c",":
            return False
        i += 1
    if i >= b:
        return False
    party.uri.a = i + 1
    found = <const uint8_t *>memchr(p + i, c">", b - i)
    if found == NULL:
        return False
    party.uri.b = i = <int>(found - p)
    if party.uri.a == i or is_in(p, party.uri.a, i, c"<"):
        return False
    if CLASS[p[party.uri.a]] & BLANK or CLASS[p[i - 1]] & BLANK:
        return False
    party.tag.a = party.tag.b = 0
    i += 1
    while i < b:
        if p[i] != c";":
            return False
        name.a = i + 1
        name.b = i = skip(p, i + 1, b, TOKEN)
        if name.a == i:
            return False
        has = i < b and p[i] == c"="
        value.a = value.b = i
        if has:
            value.a = i + 1
            if value.a < b and p[value.a] == c'"':
                found = <const uint8_t *>memchr(p + value.a + 1, c'"', b - value.a - 1)
                if found == NULL or is_in(p, value.a + 1, <int>(found - p), c"\\"):
                    return False
                i = <int>(found - p) + 1
                value.b = value.a  # no tag is quoted
            else:
                value.b = i = skip(p, i + 1, b, VALUE)
        if same(p, name, b"tag", 3):
            if party.tag.b or value.a == value.b:
                return False
            party.tag = value
    return True


cdef bint read_cseq(const uint8_t *p, Row *row, Span *digits, Span *method) noexcept nogil:
    """nfqlb.proxy.facts: digits, blanks, a method."""
    cdef int begin = row.a, i = skip(p, row.a, row.b, DIGIT)
    while begin + 1 < i and p[begin] == c"0":
        begin += 1
    if number(p, begin, i, 9) < 0:
        return False
    digits.a, digits.b = begin, i  # as the number is written without zeros in front
    method.a = skip(p, i, row.b, BLANK)
    method.b = skip(p, method.a, row.b, TOKEN)
    return i < method.a < method.b == row.b
