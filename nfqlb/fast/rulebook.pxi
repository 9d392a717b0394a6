# The rules of one Setup in the form in which the fast path asks them.
#
# Mirrors: nfqlb.proxy.setup, nfqlb.proxy.scanners, nfqlb.proxy.triage

cdef enum:
    EXTERNAL = 0
    INTERNAL = 1
    BOTH = 2

    BY_CALL_ID = 0
    BY_SOURCE = 1
    BY_FROM = 2
    BY_TO = 3
    BY_REQUEST = 4
    BY_CREDENTIALS = 5

    MOST_KEYS = 4
    LOOKED_AT = 256     # scanners.LONGEST

cdef dict HALVES = {Half.EXTERNAL: EXTERNAL, Half.INTERNAL: INTERNAL, Half.BOTH: BOTH}
cdef dict FORCES = {"never": 0, "auto": 1, "always": 2}
cdef dict HASHES = {
    "call-id": BY_CALL_ID, "source-ip": BY_SOURCE, "from-uri": BY_FROM, "to-uri": BY_TO, "request-user": BY_REQUEST,
    "auth-user": BY_CREDENTIALS,
}

cdef tuple METHODS = (
    b"REGISTER", b"INVITE", b"ACK", b"CANCEL", b"BYE", b"OPTIONS", b"PRACK", b"UPDATE", b"INFO", b"MESSAGE",
    b"SUBSCRIBE", b"NOTIFY", b"REFER", b"PUBLISH",
)
cdef enum:
    REGISTER = 0
    INVITE = 1
    ACK = 2
    CANCEL = 3
    OPTIONS = 5
    OTHER = 14      # whatever else; nothing depends on which

cdef int METHOD_LENGTHS[OTHER]
cdef uint8_t METHOD_TEXTS[OTHER][16]
for _number, _name in enumerate(METHODS):
    METHOD_LENGTHS[_number] = len(_name)
    memcpy(METHOD_TEXTS[_number], PyBytes_AS_STRING(_name), len(_name))


cdef int method_number(const uint8_t *p, int length) noexcept nogil:
    cdef int number
    for number in range(OTHER):
        if METHOD_LENGTHS[number] == length and memcmp(METHOD_TEXTS[number], p, length) == 0:
            return number
    return OTHER


class Unusual(Exception):
    """This Setup is not one for the fast path."""


cdef class Pool:
    """Where requests go that no Route sends anywhere."""
    cdef list by            # HASHES: the first that the request has counts
    cdef size_t word        # of its table, in the memory of the tables, in bytes
    cdef size_t halves[2]
    cdef int count
    cdef int *numbers       # of the backends, by their indices in the table

    def __dealloc__(self):
        PyMem_Free(self.numbers)


cdef class Door:
    """One of our sockets, with what is written about it and the other one of its listener."""
    cdef int number
    cdef int half
    cdef int force
    cdef Address addr
    cdef int port
    cdef object socket
    cdef bytes text         # as hashes have it
    cdef Door other         # where what came in here goes out; itself if it is the only one
    cdef Door internal
    cdef Door external
    cdef bytes via_inside   # as far as our mark
    cdef bytes via_outside
    cdef bytes path
    cdef bytes route        # Record-Route as far as the flow
    cdef bytes outer_route  # the other value; empty: there is none
    cdef str name           # of the listener
    cdef list pools         # by method; None: the rules have to be asked
    cdef dict served        # pools with backends of its IP version, by name
    cdef dict owners        # of tokens, of that version


cdef class Own:
    """A host and port of ours, as a URI or a Via names it. `half`: which of the two is meant."""
    cdef Door door
    cdef int half


cdef struct Target:
    Address addr
    int port


cdef class Rulebook:
    cdef bint verify
    cdef bint paths
    cdef Places doors       # numbers in `by_number`
    cdef list by_number
    cdef Places hosts       # numbers in `owns`
    cdef dict names         # Own by name and port
    cdef list owns
    cdef Places sockets
    cdef Places addresses
    cdef Places by_endpoint
    cdef Places by_address
    cdef list backends
    cdef Target *targets    # the same
    cdef Networks never_sources, never_peers, private, egress
    cdef bytes name
    cdef int keys
    cdef Hash branch[MOST_KEYS]
    cdef Hash loop[MOST_KEYS]
    cdef Hash path[MOST_KEYS]
    cdef Hash route[MOST_KEYS]
    cdef Hash slot
    cdef Hash transaction
    cdef object choice
    cdef object tables
    cdef bint complete      # no socket of ours is unknown here
    cdef bytes scanners     # words in lower case, each with its length before it, less one
    cdef uint8_t scan_first[256]    # 1: one of them begins with this byte
    cdef object recent
    cdef uint64_t[::1] cells
    cdef uint64_t[::1] tally
    cdef list tokens
    cdef object seen        # the memory of the tables, as it was last found
    cdef const uint8_t[::1] memory  # the same

    def __dealloc__(self):
        PyMem_Free(self.targets)

    def __init__(self, setup, identity, choice, recent, verify):
        cdef Address addr
        cdef int at
        self.verify = verify
        self.paths = setup.path_policy == "always"
        self.name = setup.name.encode()
        if len(setup.keys) > MOST_KEYS or len(self.name) > 64:
            raise Unusual
        fill_networks(&self.never_sources, _identity.NEVER_SOURCES)
        fill_networks(&self.never_peers, _identity.NEVER_PEERS)
        fill_networks(&self.private, _added_headers.PRIVATE)
        fill_networks(&self.egress, _NetworkSet(setup.egress))
        self.scanners = b""
        for text in setup.scanners:
            word = text.lower().encode()
            if not word:
                raise Unusual
            if len(word) <= LOOKED_AT:  # else it is in none
                self.scan_first[<uint8_t>word[0]] = 1
                self.scanners += bytes((len(word) - 1,)) + word
        self.keys = len(setup.keys)
        for i, key in enumerate(setup.keys):
            hash_start(&self.branch[i], key, _keys.BRANCH_PERSON, BRANCH_BYTES)
            hash_start(&self.loop[i], key, _keys.LOOP_PERSON, LOOP_BYTES)
            hash_start(&self.path[i], key, _keys.PATH_PERSON, SIG_BYTES)
            hash_start(&self.route[i], key, _keys.ROUTE_PERSON, SIG_BYTES)
        hash_start(&self.slot, b"", _tables.SLOT_PERSON, 8)
        hash_start(&self.transaction, b"", _recent.PERSON, _recent.DIGEST_SIZE)
        self.choice, self.tables, self.recent = choice, choice.tables, recent
        if recent is not None:
            self.cells, self.tally = recent.cells, recent.tally
        self.tokens = choice.tokens
        self.by_endpoint = Places({(each.addr, each.port): number for each, number in identity.by_endpoint.items()})
        self.by_address = Places({(each, 0): number for each, number in identity.by_address.items()})
        self.addresses = Places({(each, 0): 0 for each in identity.addresses})
        self.sockets = Places({(each.addr, each.port): 0 for each in identity.sockets})
        self.backends = [each.address for each in identity.backends]
        self.targets = <Target *>PyMem_Malloc((len(self.backends) + 1) * sizeof(Target))
        if self.targets == NULL:
            raise MemoryError
        for number, each in enumerate(self.backends):
            unpack(&self.targets[<int>number].addr, each.addr)
            self.targets[<int>number].port = each.port
        self.by_number, sockets = [], []
        served = {
            version: {pool.name: self.pool(choice, pool, version) for pool in setup.pools} for version in (4, 6)
        }
        for listener in setup.listeners:
            version = listener.external.version
            if listener.internal.version == version == listener.visible.version:
                sockets += self.open(listener, identity, choice, served[version])
        self.doors = Places({(each.addr, each.port): number for number, each in enumerate(sockets)})
        self.complete = len(self.by_number) == len(identity.sockets)
        self.owns, self.names, literals = [], {}, {}
        for (host, port), found in identity.hosts.items():
            own = Own()
            own.half = HALVES[found.half]
            unpack(&addr, found.socket.addr)
            at = self.doors.find(&addr, found.socket.port)
            own.door = None if at < 0 else self.by_number[at]
            packed = _pack_host(host)
            if packed is None:
                self.names[host, port] = own
            else:
                literals[packed, port] = len(self.owns)
                self.owns.append(own)
        self.hosts = Places(literals)

    cdef tuple open(self, listener, identity, choice, dict served):
        """Both doors of a listener, of one IP version; gives their sockets."""
        cdef Door door
        made = []
        inside, outside = listener.internal.hostport, listener.visible.hostport
        sockets = (listener.external, listener.internal)[:1 if listener.one_armed else 2]
        for socket in sockets:
            door = Door()
            door.number = len(self.by_number)
            door.half = HALVES[identity.sockets[socket].half]
            door.force = FORCES[listener.force_rport]
            unpack(&door.addr, socket.addr)
            door.port = socket.port
            door.socket, door.text = socket, _added_headers.socket_text(socket)
            door.via_inside = b"Via: SIP/2.0/UDP %b;branch=%b" % (inside, MARKER)
            door.via_outside = b"Via: SIP/2.0/UDP %b;branch=%b" % (outside, MARKER)
            door.path = b"Path: <sip:%b@%b;lr;received=" % (self.name, inside)
            if listener.one_face:
                door.route, door.outer_route = b"Record-Route: <sip:%b@%b;lr;received=" % (self.name, outside), b""
            else:
                door.route = b"Record-Route: <sip:%b@%b;lr;r2=on;received=" % (self.name, inside)
                door.outer_route = b"Record-Route: <sip:%b@%b;lr;r2=on>\r\n" % (self.name, outside)
            door.name = listener.name
            door.pools = [served.get(choice.rules.settled(name, listener.name)) for name in METHODS] + [None]
            door.served, door.owners = served, choice.owners[socket.version]
            made.append(door)
            self.by_number.append(door)
        for door in made:
            door.external, door.internal = made[0], made[len(made) - 1]
            door.other = door.external if door is door.internal else door.internal
        return sockets

    cdef Pool pool(self, choice, found, int version):
        """None for one without backends of that IP version."""
        cdef Pool pool = Pool()
        cdef int i
        pair = choice.tables.pairs.get((found.name, version))
        if pair is None:
            return None
        pool.by = [HASHES[each] for each in found.hash_on]
        pool.word = pair.word * _tables.WORD
        pool.halves[0], pool.halves[1] = pair.halves
        pool.count = len(pair.numbers)
        pool.numbers = <int *>PyMem_Malloc((pool.count + 1) * sizeof(int))
        if pool.numbers == NULL:
            raise MemoryError
        for i in range(pool.count):
            pool.numbers[i] = pair.numbers[i]
        return pool

    cdef const uint8_t *table_memory(self) except NULL:
        """Where words and tables lie now."""
        found = self.tables.memory
        if found is not self.seen:
            self.memory = found
            self.seen = found
        return &self.memory[0]

    cdef Own own(self, const uint8_t *p, const Host *host, int port):
        """Identity.find_host."""
        cdef int found
        if host.literal:
            found = self.hosts.find(&host.addr, port)
            return None if found < 0 else <Own>self.owns[found]
        if not self.names:
            return None
        name = PyBytes_FromStringAndSize(<char *>p + host.text.a, host.text.b - host.text.a)
        return self.names.get((name.lower(), port))

    cdef inline int backend_at(self, const Host *host, int port) noexcept nogil:
        """Identity.backend_at, of a host in a URI."""
        return self.by_endpoint.find(&host.addr, port) if host.literal else -1

    cdef inline int backend_from(self, const Address *addr, int port) noexcept nogil:
        cdef int found = self.by_endpoint.find(addr, port)
        return found if found >= 0 else self.by_address.find(addr, 0)

    cdef inline bint may_be_peer(self, const Address *addr) noexcept nogil:
        return not in_networks(&self.never_peers, addr) and self.addresses.find(addr, 0) < 0

    cdef bint is_scanner(self, const uint8_t *p, int length) noexcept:
        """Scanners.matches."""
        cdef const uint8_t *words = <const uint8_t *>PyBytes_AS_STRING(self.scanners)
        cdef int i, j, at, size, end = <int>len(self.scanners)
        length = min(length, LOOKED_AT)
        for i in range(length):
            if not self.scan_first[LOWER[p[i]]]:
                continue
            at = 0
            while at < end:
                j, size = 0, words[at] + 1
                while j < size and i + j < length and LOWER[p[i + j]] == words[at + 1 + j]:
                    j += 1
                if j == size:
                    return True
                at += 1 + size
        return False


cdef int junk(const uint8_t *p, int length) noexcept:
    """The Reason to drop what is no SIP at all, -1 for all that needs a closer look."""
    cdef int i = 0, end = 0
    while i < length and (CLASS[p[i]] & BLANK or p[i] == c"\r" or p[i] == c"\n" or p[i] == 0):
        i += 1
    if i == length:
        return KEEPALIVE
    if i or (length >= 8 and memcmp(p + 4, b"\x21\x12\xa4\x42", 4) == 0):  # CRLFs before a message; STUN
        return -1
    while end < length and p[end] != c"\r" and p[end] != c"\n":
        end += 1
    for i in range(end - 3):
        if p[i + 3] == c"/" and LOWER[p[i]] == c"s" and LOWER[p[i + 1]] == c"i" and LOWER[p[i + 2]] == c"p":
            return -1
    return NOT_SIP
