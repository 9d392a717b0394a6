# IP and UDP, read and written; and the buffers that what is written is gathered in.
#
# Mirrors: nfqlb.net.datagram, nfqlb.net.checksum

cdef enum:
    HEADERS = 28    # bytes of IPv4 and UDP
    HEADERS6 = 48   # of IPv6 and UDP
    HOPS = 64       # of a fresh packet
    MAX_PACKET = 65535
    ROOM = MAX_PACKET + 4096

cdef struct Packet:
    Address src
    Address dst
    int src_port
    int dst_port
    int tos
    const uint8_t *payload
    int length

cdef struct Buffer:
    uint8_t *p
    int used
    bint overflow

cdef struct Edit:   # raw[a:b] gives way to these bytes
    int a
    int b
    const uint8_t *p
    int length


cdef uint8_t HEX[256][2]
for _byte in range(256):
    HEX[_byte][0], HEX[_byte][1] = (b"%02x" % _byte)[0], (b"%02x" % _byte)[1]


cdef inline void put(Buffer *out, const uint8_t *p, Py_ssize_t length) noexcept nogil:
    if out.used + length > ROOM:
        out.overflow = True
        return
    if length:  # there may be no text at all
        memcpy(out.p + out.used, p, length)
        out.used += <int>length


cdef inline void put_bytes(Buffer *out, bytes text) noexcept:
    put(out, <const uint8_t *><const char *>text, len(text))


cdef inline void put_span(Buffer *out, const uint8_t *p, Span s) noexcept nogil:
    put(out, p + s.a, s.b - s.a)


cdef inline void put_byte(Buffer *out, uint8_t byte) noexcept nogil:
    if out.used >= ROOM:
        out.overflow = True
        return
    out.p[out.used] = byte
    out.used += 1


cdef inline uint8_t *reserve(Buffer *out, int length) noexcept nogil:
    """Where up to `length` bytes can be written; who has done so moves `used`. NULL: there is no room."""
    if out.used + length > ROOM:
        out.overflow = True
        return NULL
    return out.p + out.used


cdef void put_lower(Buffer *out, const uint8_t *p, Span s) noexcept nogil:
    cdef uint8_t *to = reserve(out, s.b - s.a)
    cdef int i
    if to == NULL:
        return
    for i in range(s.b - s.a):
        to[i] = LOWER[p[s.a + i]]
    out.used += s.b - s.a


cdef inline int write_number(uint8_t *to, uint32_t value) noexcept nogil:
    """In decimal; how many digits, up to 10."""
    cdef int digits = 1, i
    cdef uint32_t rest = value
    while rest >= 10:
        rest //= 10
        digits += 1
    for i in range(digits - 1, -1, -1):
        to[i] = <uint8_t>(c"0" + value % 10)
        value //= 10
    return digits


cdef inline void put_number(Buffer *out, uint32_t value) noexcept nogil:
    cdef uint8_t *to = reserve(out, 10)
    if to != NULL:
        out.used += write_number(to, value)


cdef inline void write_hex(uint8_t *to, const uint64_t *digest, int size) noexcept nogil:
    cdef const uint8_t *p = <const uint8_t *>digest
    cdef int i
    for i in range(size):
        memcpy(to + 2 * i, HEX[p[i]], 2)


cdef inline void put_hex(Buffer *out, const uint64_t *digest, int size) noexcept nogil:
    cdef uint8_t *to = reserve(out, 2 * size)
    if to != NULL:
        write_hex(to, digest, size)
        out.used += 2 * size


cdef inline uint32_t big(const uint8_t *p, int size) noexcept nogil:
    cdef uint32_t value = 0
    cdef int i
    for i in range(size):
        value = value << 8 | p[i]
    return value


cdef inline void set_big(uint8_t *p, uint32_t value, int size) noexcept nogil:
    while size:
        size -= 1
        p[size] = <uint8_t>value
        value >>= 8


cdef inline uint64_t word_sum(const uint8_t *p, int length) noexcept nogil:
    """nfqlb.net.checksum.word_sum, but modulo 0xffff not yet. The sum does not depend on the order of bytes in a word,
    other than that its own bytes are swapped [RFC 1071 2(B)].
    """
    cdef uint64_t total = 0
    cdef uint32_t word
    cdef uint16_t half
    cdef int i, words = length >> 2
    for i in range(words):  # the compiler makes vectors of it
        memcpy(&word, p + 4 * i, 4)
        total += word
    if length & 2:
        memcpy(&half, p + 4 * words, 2)
        total += half
    if length & 1:
        total += p[length - 1]
    total %= 0xFFFF
    return (total & 255) << 8 | total >> 8


cdef bint read_packet(const uint8_t *p, Py_ssize_t size, bint verify, Packet *packet) noexcept nogil:
    """Without IP options or extension headers, not a fragment. nfqlb.net.datagram.parse."""
    cdef int total, length
    if size < HEADERS:
        return False
    if p[0] != 0x45:
        return read_packet6(p, size, verify, packet)
    total = big(p + 2, 2)
    length = big(p + 24, 2)
    if total > size or p[9] != 17 or big(p + 6, 2) & 0x3FFF or length < 8 or 20 + length > total:
        return False
    if verify and big(p + 26, 2):
        if (word_sum(p + 12, 8) + 17 + length + word_sum(p + 20, length)) % 0xFFFF:
            return False
    packet.tos = p[1]
    read_packed(&packet.src, p + 12, False)
    read_packed(&packet.dst, p + 16, False)
    packet.src_port, packet.dst_port = big(p + 20, 2), big(p + 22, 2)
    packet.payload, packet.length = p + HEADERS, length - 8
    return True


cdef bint read_packet6(const uint8_t *p, Py_ssize_t size, bint verify, Packet *packet) noexcept nogil:
    cdef int length
    if size < HEADERS6 or p[0] >> 4 != 6 or p[6] != 17:
        return False
    length = big(p + 44, 2)
    if length < 8 or length > <int>big(p + 4, 2) or 40 + <int>big(p + 4, 2) > size:
        return False
    if verify:
        if not big(p + 46, 2) or (word_sum(p + 8, 32) + 17 + length + word_sum(p + 40, length)) % 0xFFFF:
            return False
    packet.tos = (p[0] & 15) << 4 | p[1] >> 4
    read_packed(&packet.src, p + 8, True)
    read_packed(&packet.dst, p + 24, True)
    packet.src_port, packet.dst_port = big(p + 40, 2), big(p + 42, 2)
    packet.payload, packet.length = p + HEADERS6, length - 8
    return not is_mapped(&packet.src)


cdef void write_headers(uint8_t *p, int total, const Packet *packet, int ident) noexcept nogil:
    """Headers and checksums; the payload is in its place already. nfqlb.net.datagram.build."""
    cdef uint64_t words
    if packet.src.six:
        write_headers6(p, total, packet)
        return
    memset(p, 0, HEADERS)
    p[0], p[1], p[8], p[9] = 0x45, <uint8_t>packet.tos, HOPS, 17
    set_big(p + 2, total, 2)
    set_big(p + 4, ident, 2)
    write_packed(p + 12, &packet.src)
    write_packed(p + 16, &packet.dst)
    words = word_sum(p, 20) % 0xFFFF
    set_big(p + 10, 0xFFFF - <uint32_t>(words if words else 0xFFFF), 2)
    write_udp(p + 20, total - 20, word_sum(p + 12, 8), packet)


cdef void write_headers6(uint8_t *p, int total, const Packet *packet) noexcept nogil:
    memset(p, 0, HEADERS6)
    p[0], p[1], p[6], p[7] = <uint8_t>(0x60 | packet.tos >> 4), <uint8_t>(packet.tos << 4), 17, HOPS
    set_big(p + 4, total - 40, 2)
    write_packed(p + 8, &packet.src)
    write_packed(p + 24, &packet.dst)
    write_udp(p + 40, total - 40, word_sum(p + 8, 32), packet)


cdef inline void write_udp(uint8_t *p, int length, uint64_t addresses, const Packet *packet) noexcept nogil:
    """`addresses`: the sum of their words."""
    set_big(p, packet.src_port, 2)
    set_big(p + 2, packet.dst_port, 2)
    set_big(p + 4, length, 2)
    set_big(p + 6, 0xFFFF - <uint32_t>((addresses + 17 + length + word_sum(p, length)) % 0xFFFF), 2)


cdef void write_edited(Buffer *out, const uint8_t *p, int end, Edit *edits, int count) noexcept nogil:
    """`p[:end]` with the edits made, in the order of their places. nfqlb.sip.edit.apply."""
    cdef int i, j, position = 0
    cdef Edit edit
    for i in range(1, count):
        edit = edits[i]
        j = i
        while j > 0 and edits[j - 1].a > edit.a:
            edits[j] = edits[j - 1]
            j -= 1
        edits[j] = edit
    for i in range(count):
        put(out, p + position, edits[i].a - position)
        put(out, edits[i].p, edits[i].length)
        position = edits[i].b
    put(out, p + position, end - position)
