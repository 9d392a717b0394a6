# What SIP bytes say, as far as the fast path understands them: characters, texts, rows. What stands in the rows is
# read in sip_values.pxi.
#
# Each reader takes a subset of what its model in nfqlb.sip takes, and says no (False) to everything else, be it broken
# or only unusual: folding, blanks in odd places, escapes, quotes. What it says yes to, it reads as the model does. So
# "no" is never a verdict, it only sends the message down the slow path.
#
# Mirrors: nfqlb.sip.message, nfqlb.sip.grammar

from nfqlb.sip import grammar as _grammar
import re as _re

cdef enum:
    TOKEN = 1
    HOST = 2
    DIGIT = 4
    VALUE = 8       # of a header parameter
    URI_VALUE = 16  # of a URI parameter, its name included
    USER = 32
    IN_URI = 64     # in a Request-URI
    BLANK = 128

    VIAS = 12
    ROUTES = 12
    VALUES = 12

cdef uint8_t CLASS[256]
for _set, _bit in (
    (_grammar.TOKEN, TOKEN), (rb"[A-Za-z0-9._\-]", HOST), (rb"[0-9]", DIGIT), (rb'[^\x00-\x20;,"<>]', VALUE),
    (rb'[^;?@<>"\x00-\x20\x7f]', URI_VALUE), (rb'[^@<>"%\x00-\x20\x7f]', USER), (rb"[^\x00-\x20\x7f]", IN_URI),
    (rb"[ \t]", BLANK),
):
    for _byte in range(256):
        if _re.match(_set, bytes((_byte,))):
            CLASS[_byte] |= _bit

cdef uint8_t LOWER[256]
for _byte in range(256):
    LOWER[_byte] = bytes((_byte,)).lower()[0]

cdef struct Span:
    int a
    int b

cdef struct Address:
    uint64_t high   # IPv4: 0
    uint64_t low    # IPv4: all of it
    bint six

cdef struct Host:
    Span text       # as it stands, IPv6 in its brackets
    bint literal    # an address, not a name
    Address addr

cdef struct Row:
    int start
    int a           # of the value, without blanks around it
    int b
    int end

cdef struct Reading:
    const uint8_t *p
    int length
    bint request
    Span method
    int first_header
    int end         # of the message, Content-Length seen to
    Span uri
    Row via[VIAS]
    int vias
    Row route[ROUTES]
    int routes
    Row sender      # From
    Row to
    Row call_id
    Row cseq
    Row hops        # Max-Forwards
    Row contact
    Row agent       # User-Agent
    Row credentials # Authorization
    Row proxy_credentials
    Row content_length

cdef struct Via:
    int end         # of the value
    Host host
    int port
    Span branch     # a == b: not there
    Span received
    Span rport      # the digits
    bint asked      # `rport`, with or without digits
    Span rport_span # with its semicolon

cdef struct Uri:
    Span user
    bint has_user
    Host host
    int port        # 0: none
    bint lr
    bint paired     # r2=on
    bint nat        # nat=yes
    bint has_flow
    Span flow       # the value of `received`
    Span sig

cdef inline int port_of(const Uri *uri) noexcept nogil:
    return uri.port if uri.port else 5060


cdef struct Party:  # From, To, Contact
    Span uri
    Span tag        # a == b: not there


cdef inline bint same(const uint8_t *p, Span s, const char *lower, int length) noexcept nogil:
    """Is it this text, in whatever case? `lower`: in lower case."""
    cdef int i
    if s.b - s.a != length:
        return False
    for i in range(length):
        if LOWER[p[s.a + i]] != <uint8_t>lower[i]:
            return False
    return True


cdef inline int skip(const uint8_t *p, int i, int end, int characters) noexcept nogil:
    """Behind the run of such characters that begins at `i`."""
    while i < end and CLASS[p[i]] & characters:
        i += 1
    return i


cdef inline bint is_in(const uint8_t *p, int a, int b, int character) noexcept nogil:
    return memchr(p + a, character, b - a) != NULL


cdef int number(const uint8_t *p, int a, int b, int digits) noexcept nogil:
    """1 to `digits` (9 at most) digits and nothing else, no zero in front; -1 for all other texts."""
    cdef int value = 0, i
    if not 0 < b - a <= digits or (p[a] == c"0" and b - a > 1):
        return -1
    for i in range(a, b):
        if not CLASS[p[i]] & DIGIT:
            return -1
        value = value * 10 + p[i] - c"0"
    return value


cdef bint read_port(const uint8_t *p, int *at, int end, int *port) noexcept nogil:
    """`:5060` at `at`, or nothing there (port 0)."""
    cdef int begin
    port[0] = 0
    if at[0] < end and p[at[0]] == c":":
        begin = at[0] + 1
        at[0] = skip(p, begin, end, DIGIT)
        port[0] = number(p, begin, at[0], 5)
        return 0 < port[0] < 65536
    return True


cdef bint read_message(Reading *m) noexcept nogil:
    """Start line and rows of `m.p`, `m.length` bytes. nfqlb.sip.message.parse."""
    cdef const uint8_t *p = m.p
    cdef const uint8_t *found
    cdef int i, end = m.length, value, stop, first, body, count
    cdef Row row
    m.request = not (end > 12 and memcmp(p, b"SIP/2.0 ", 8) == 0)
    if m.request:
        m.method.a, m.method.b = 0, skip(p, 0, end, TOKEN)
        i = m.method.b
        if i == 0 or i >= end or p[i] != c" ":
            return False
        m.uri.a = i + 1
        m.uri.b = i = skip(p, i + 1, end, IN_URI)
        if m.uri.a == i or end - i < 10 or memcmp(p + i, b" SIP/2.0\r\n", 10) != 0:
            return False
        i += 10
    else:
        if not (c"1" <= p[8] <= c"6" and CLASS[p[9]] & DIGIT and CLASS[p[10]] & DIGIT):
            return False
        if p[11] != c" " and p[11] != c"\r":
            return False
        found = <const uint8_t *>memchr(p + 11, c"\n", end - 11)
        if found == NULL or (found - 1)[0] != c"\r" or is_in(p, 11, <int>(found - p) - 1, c"\r"):
            return False
        i = <int>(found - p) + 1
    m.first_header = i
    m.vias = m.routes = 0
    m.sender.start = m.to.start = m.call_id.start = m.cseq.start = 0
    m.hops.start = m.contact.start = m.agent.start = m.content_length.start = 0
    m.credentials.start = m.proxy_credentials.start = 0
    while True:
        row.start = i
        i = skip(p, i, end, TOKEN)
        if i >= end:
            return False
        if i == row.start:
            break
        if p[i] != c":":
            return False
        value = i + 1
        found = <const uint8_t *>memchr(p + value, c"\n", end - value)
        if found == NULL or (found - 1)[0] != c"\r":
            return False
        i = <int>(found - p) + 1
        stop = i - 2
        if is_in(p, value, stop, c"\r"):
            return False
        first = LOWER[p[row.start]]
        count = value - 1 - row.start
        # Only the names that matter, by length: all others are nobody's business (P6).
        if count not in (1, 2, 3, 4, 5, 7, 10, 12, 13, 14, 19):
            continue
        row.end = i
        row.a = skip(p, value, stop, BLANK)
        row.b = stop
        while row.b > row.a and CLASS[p[row.b - 1]] & BLANK:
            row.b -= 1
        if not keep(m, &row, first, count):
            return False
    if end - i < 2 or p[i] != c"\r" or p[i + 1] != c"\n" or is_in(p, 0, i, 0):
        return False
    body = i + 2
    m.end = end
    if m.content_length.start:
        count = number(p, m.content_length.a, m.content_length.b, 5)
        if count < 0 or body + count > end:
            return False
        m.end = body + count
    return m.vias != 0 and m.sender.start != 0 and m.to.start != 0 and m.call_id.start != 0 and m.cseq.start != 0


cdef inline bint once(Row *place, Row *row) noexcept nogil:
    if place.start:
        return False
    place[0] = row[0]
    return True


cdef inline void first_only(Row *place, Row *row) noexcept nogil:
    if not place.start:
        place[0] = row[0]


cdef bint keep(Reading *m, Row *row, int first, int length) noexcept nogil:
    """Note the row if it is one that we use, by its name's first character (in lower case) and length."""
    cdef Span name
    name.a, name.b = row.start, row.start + length
    if (length == 1 and first == c"v") or (length == 3 and same(m.p, name, b"via", 3)):
        if m.vias == VIAS:
            return False
        m.via[m.vias] = row[0]
        m.vias += 1
    elif (length == 1 and first == c"f") or (length == 4 and same(m.p, name, b"from", 4)):
        return once(&m.sender, row)
    elif (length == 1 and first == c"t") or (length == 2 and same(m.p, name, b"to", 2)):
        return once(&m.to, row)
    elif (length == 1 and first == c"i") or (length == 7 and same(m.p, name, b"call-id", 7)):
        return once(&m.call_id, row)
    elif length == 4 and same(m.p, name, b"cseq", 4):
        return once(&m.cseq, row)
    elif length == 12 and same(m.p, name, b"max-forwards", 12):
        return once(&m.hops, row)
    elif (length == 1 and first == c"m") or (length == 7 and same(m.p, name, b"contact", 7)):
        first_only(&m.contact, row)
    elif (length == 1 and first == c"l") or (length == 14 and same(m.p, name, b"content-length", 14)):
        return once(&m.content_length, row)
    elif length == 5 and same(m.p, name, b"route", 5):
        if m.routes == ROUTES:
            return False
        m.route[m.routes] = row[0]
        m.routes += 1
    elif length == 10 and same(m.p, name, b"user-agent", 10):
        first_only(&m.agent, row)
    elif length == 13 and same(m.p, name, b"authorization", 13):
        first_only(&m.credentials, row)
    elif length == 19 and same(m.p, name, b"proxy-authorization", 19):
        first_only(&m.proxy_credentials, row)
    elif length == 13 and same(m.p, name, b"proxy-require", 13):
        return False
    elif m.request and length == 4 and same(m.p, name, b"path", 4):
        return False
    return True
