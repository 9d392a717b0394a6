# Addresses of both IP versions: numbers to compare and to look up, texts that are read and written.
#
# Mirrors: nfqlb.net.endpoint, nfqlb.net.networks

cdef enum:
    MOST_NETWORKS = 64      # of each IP version
    LONGEST_IPV6 = 39       # bytes of its text

cdef struct Networks:
    int fours
    int sixes
    uint32_t masks[MOST_NETWORKS]
    uint32_t bases[MOST_NETWORKS]
    Address masks6[MOST_NETWORKS]
    Address bases6[MOST_NETWORKS]


cdef inline bint same_address(const Address *one, const Address *other) noexcept nogil:
    return one.low == other.low and one.high == other.high and one.six == other.six


cdef inline bint is_mapped(const Address *addr) noexcept nogil:
    """An IPv4 address inside of IPv6 [RFC 4291 2.5.5.2]. It has two texts, and which one is written depends on the
    version of Python; no peer has one (P18)."""
    return addr.six and addr.high == 0 and addr.low >> 32 == 0xFFFF


cdef bint in_networks(const Networks *networks, const Address *addr) noexcept nogil:
    cdef int i
    if not addr.six:
        for i in range(networks.fours):
            if <uint32_t>addr.low & networks.masks[i] == networks.bases[i]:
                return True
        return False
    for i in range(networks.sixes):
        if (
            addr.high & networks.masks6[i].high == networks.bases6[i].high
            and addr.low & networks.masks6[i].low == networks.bases6[i].low
        ):
            return True
    return False


cdef int fill_networks(Networks *networks, found) except -1:
    """Those in a NetworkSet."""
    networks.fours = networks.sixes = 0
    for length, mask, base in found.networks:
        if (networks.fours if length == 4 else networks.sixes) == MOST_NETWORKS:
            raise Unusual
        if length == 4:
            networks.masks[networks.fours], networks.bases[networks.fours] = mask, base
            networks.fours += 1
        else:
            unpack(&networks.masks6[networks.sixes], mask.to_bytes(16, "big"))
            unpack(&networks.bases6[networks.sixes], base.to_bytes(16, "big"))
            networks.sixes += 1
    return 0


# -- as packets have it

cdef inline uint64_t big_word(const uint8_t *p) noexcept nogil:
    return <uint64_t>big(p, 4) << 32 | big(p + 4, 4)


cdef inline void set_big_word(uint8_t *p, uint64_t value) noexcept nogil:
    set_big(p, <uint32_t>(value >> 32), 4)
    set_big(p + 4, <uint32_t>value, 4)


cdef inline void read_packed(Address *addr, const uint8_t *p, bint six) noexcept nogil:
    addr.six = six
    if six:
        addr.high, addr.low = big_word(p), big_word(p + 8)
    else:
        addr.high, addr.low = 0, big(p, 4)


cdef inline void write_packed(uint8_t *p, const Address *addr) noexcept nogil:
    if addr.six:
        set_big_word(p, addr.high)
        set_big_word(p + 8, addr.low)
    else:
        set_big(p, <uint32_t>addr.low, 4)


cdef inline void unpack(Address *addr, bytes packed) noexcept:
    """An Endpoint's `addr`."""
    read_packed(addr, <const uint8_t *>PyBytes_AS_STRING(packed), len(packed) == 16)


cdef bytes packed(const Address *addr):
    cdef uint8_t text[16]
    write_packed(text, addr)
    return PyBytes_FromStringAndSize(<char *>text, 16 if addr.six else 4)


cdef object endpoint(const Address *addr, int port):
    return new_tuple(Endpoint, (packed(addr), port))


# -- as text

cdef bint read_ipv4(const uint8_t *p, int a, int b, Address *addr) noexcept nogil:
    """As ipaddress.IPv4Address reads it: one text for each address, so that equal texts are equal addresses."""
    cdef int octet, value, i = a, begin
    cdef uint32_t read = 0
    for octet in range(4):
        begin = i
        i = skip(p, i, b, DIGIT)
        value = number(p, begin, i, 3)
        if value < 0 or value > 255 or (octet < 3 and (i >= b or p[i] != c".")):
            return False
        read = read << 8 | <uint32_t>value
        i += octet < 3
    addr.high, addr.low, addr.six = 0, read, False
    return i == b


cdef inline int hex_digit(uint8_t byte) noexcept nogil:
    """Its value, 16 for what is none."""
    byte = LOWER[byte]
    if c"0" <= byte <= c"9":
        return byte - c"0"
    return byte - c"a" + 10 if c"a" <= byte <= c"f" else 16


cdef bint read_ipv6(const uint8_t *p, int a, int b, Address *addr) noexcept nogil:
    """As ipaddress.IPv6Address reads it, without brackets, a zone or an IPv4 address inside."""
    cdef uint64_t groups[8]
    cdef uint64_t words[2]
    cdef uint64_t group
    cdef int i = a, count = 0, gap = -1, begin, digit, at
    if b - a >= 2 and p[a] == c":" and p[a + 1] == c":":
        gap, i = 0, a + 2
    elif a == b:
        return False
    while i < b:
        begin, group = i, 0
        while i < b and i - begin < 5:
            digit = hex_digit(p[i])
            if digit == 16:
                break
            group = group << 4 | <uint64_t>digit
            i += 1
        if i == begin or i - begin == 5 or count == 8:
            return False
        groups[count] = group
        count += 1
        if i == b:
            break
        if p[i] != c":" or i + 1 == b:
            return False
        i += 1
        if p[i] == c":":
            if gap >= 0:
                return False
            gap = count
            i += 1
    if count != 8 if gap < 0 else count == 8:  # `::` stands for one group at least
        return False
    words[0] = words[1] = 0
    for i in range(count):
        at = i if gap < 0 or i < gap else 8 - count + i
        words[at >> 2] |= groups[i] << 16 * (3 - (at & 3))
    addr.high, addr.low, addr.six = words[0], words[1], True
    return not is_mapped(addr)


cdef bint read_address(const uint8_t *p, Span s, Address *addr) noexcept nogil:
    """As a Via's `received` names it, IPv6 with or without brackets (P22). endpoint.pack_host."""
    if s.a < s.b and p[s.a] == c"[":
        return p[s.b - 1] == c"]" and read_ipv6(p, s.a + 1, s.b - 1, addr)
    return read_ipv6(p, s.a, s.b, addr) if is_in(p, s.a, s.b, c":") else read_ipv4(p, s.a, s.b, addr)


cdef bint read_host(const uint8_t *p, int *at, int end, Host *host) noexcept nogil:
    """A name, an IPv4 address or a bracketed IPv6 address at `at`."""
    cdef const uint8_t *found
    host.text.a = at[0]
    if at[0] < end and p[at[0]] == c"[":
        found = <const uint8_t *>memchr(p + at[0], c"]", end - at[0])
        if found == NULL:
            return False
        host.text.b = at[0] = <int>(found - p) + 1
        host.literal = True
        return read_ipv6(p, host.text.a + 1, host.text.b - 1, &host.addr)
    host.text.b = at[0] = skip(p, at[0], end, HOST)
    host.literal = read_ipv4(p, host.text.a, host.text.b, &host.addr)
    return host.text.a != host.text.b


cdef void put_ipv4(Buffer *out, uint32_t addr) noexcept nogil:
    cdef uint8_t *to = reserve(out, 16)
    cdef int shift, used = 0
    if to == NULL:
        return
    for shift in range(24, -1, -8):
        used += write_number(to + used, addr >> shift & 255)
        to[used] = c"."
        used += 1
    out.used += used - 1  # without the last dot


cdef void put_ipv6(Buffer *out, const Address *addr) noexcept nogil:
    """In its canonical form: of the longest runs of zero groups, if any has two, the first is `::` [RFC 5952 4]."""
    cdef uint32_t groups[8]
    cdef uint8_t text[LONGEST_IPV6]
    cdef int i, shift, run = 0, longest = 1, gap = 8, used = 0
    for i in range(8):
        groups[i] = <uint32_t>((addr.high if i < 4 else addr.low) >> 16 * (3 - (i & 3))) & 0xFFFF
        run = 0 if groups[i] else run + 1
        if run > longest:
            longest, gap = run, i + 1 - run
    i = 0
    while i < 8:
        if i == gap:
            text[used] = text[used + 1] = c":"
            used += 2
            i += longest
            continue
        if i and i != gap + longest:
            text[used] = c":"
            used += 1
        for shift in range(12, -1, -4):
            if groups[i] >> shift or not shift:
                text[used] = b"0123456789abcdef"[groups[i] >> shift & 15]
                used += 1
        i += 1
    put(out, text, used)


cdef inline void put_address(Buffer *out, const Address *addr) noexcept nogil:
    """endpoint.host_text."""
    if addr.six:
        put_ipv6(out, addr)
    else:
        put_ipv4(out, <uint32_t>addr.low)


cdef void put_host(Buffer *out, const uint8_t *p, const Host *host) noexcept nogil:
    """As hashes have it (P24): via._canonical."""
    if host.literal and host.addr.six:
        put_ipv6(out, &host.addr)
    else:
        put_lower(out, p, host.text)


cdef void put_flow(Buffer *out, const Address *addr, int port) noexcept nogil:
    """nfqlb.proxy.added_headers.flow_text. Nothing in it needs to be escaped, brackets and colons neither (P25)."""
    put(out, b"sip:", 4)
    if addr.six:
        put_byte(out, c"[")
    put_address(out, addr)
    if addr.six:
        put_byte(out, c"]")
    put_byte(out, c":")
    put_number(out, port)
