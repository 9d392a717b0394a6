# The rules of one Setup in the form in which the fast path asks them.

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
cdef dict METHOD_NUMBERS = {name: number for number, name in enumerate(METHODS)}

cdef enum:
    REGISTER = 0
    INVITE = 1
    ACK = 2
    CANCEL = 3
    OPTIONS = 5
    OTHER = 14      # whatever else; nothing depends on which


class Unusual(Exception):
    """This Setup is not one for the fast path."""


cdef class Pool:
    """Where requests go that no Route sends anywhere."""
    cdef list by            # HASHES: the first that the request has counts
    cdef object pair        # of tables


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


cdef class Rulebook:
    cdef bint verify
    cdef bint paths
    cdef dict doors         # by place
    cdef list by_number
    cdef dict hosts         # by place, or by name and port
    cdef set sockets
    cdef set addresses
    cdef dict by_endpoint
    cdef dict by_address
    cdef list backends
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
    cdef object scanners    # None: there are none
    cdef object recent
    cdef uint64_t[::1] cells
    cdef list tokens

    def __init__(self, setup, identity, choice, recent, verify):
        self.verify = verify
        self.paths = setup.path_policy == "always"
        self.name = setup.name.encode()
        if len(setup.keys) > MOST_KEYS or len(self.name) > 64:
            raise Unusual
        fill_networks(&self.never_sources, _identity.NEVER_SOURCES)
        fill_networks(&self.never_peers, _identity.NEVER_PEERS)
        fill_networks(&self.private, _stamp.PRIVATE)
        fill_networks(&self.egress, _NetworkSet(setup.egress))
        self.scanners = _Scanners(setup.scanners) if setup.scanners else None
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
            self.cells = recent.cells
        self.tokens = choice.tokens
        self.by_endpoint = {place_of(each): number for each, number in identity.by_endpoint.items()}
        self.by_address = {lone_of(each): number for each, number in identity.by_address.items()}
        self.backends = [each.address for each in identity.backends]
        self.addresses = {lone_of(each) for each in identity.addresses}
        self.sockets = {place_of(each) for each in identity.sockets}
        self.by_number, self.doors = [], {}
        served = {
            version: {pool.name: self.pool(choice, pool, version) for pool in setup.pools} for version in (4, 6)
        }
        for listener in setup.listeners:
            version = listener.external.version
            if listener.internal.version == version == listener.visible.version:
                self.open(listener, identity, choice, served[version])
        self.complete = len(self.by_number) == len(identity.sockets)
        self.hosts = {}
        for (host, port), found in identity.hosts.items():
            own = Own()
            own.half = HALVES[found.half]
            own.door = self.doors.get(place_of(found.socket))
            addr = _pack_host(host)
            self.hosts[(host, port) if addr is None else place_of(Endpoint(addr, port))] = own

    cdef int open(self, listener, identity, choice, dict served) except -1:
        """Both doors of a listener, of one IP version."""
        cdef Door door
        made = []
        inside, outside = listener.internal.hostport, listener.visible.hostport
        for socket in (listener.external, listener.internal)[:1 if listener.one_armed else 2]:
            door = Door()
            door.number = len(self.by_number)
            door.half = HALVES[identity.sockets[socket].half]
            door.force = FORCES[listener.force_rport]
            unpack(&door.addr, socket.addr)
            door.port = socket.port
            door.socket, door.text = socket, _stamp.socket_text(socket)
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
            self.doors[place_of(socket)] = door
        for door in made:
            door.external, door.internal = made[0], made[len(made) - 1]
            door.other = door.external if door is door.internal else door.internal
        return 0

    cdef Pool pool(self, choice, found, int version):
        """None for one without backends of that IP version."""
        cdef Pool pool = Pool()
        pool.by = [HASHES[each] for each in found.hash_on]
        pool.pair = choice.tables.pairs.get((found.name, version))
        return None if pool.pair is None else pool

    cdef Own own(self, const uint8_t *p, const Host *host, int port):
        """Identity.find_host."""
        if host.literal:
            return self.hosts.get(place(&host.addr, port))
        name = PyBytes_FromStringAndSize(<char *>p + host.text.a, host.text.b - host.text.a)
        return self.hosts.get((name.lower(), port))

    cdef int backend_at(self, const Host *host, int port):
        """Identity.backend_at, of a host in a URI."""
        found = self.by_endpoint.get(place(&host.addr, port)) if host.literal else None
        return -1 if found is None else found

    cdef int backend_from(self, const Address *addr, int port):
        found = self.by_endpoint.get(place(addr, port))
        if found is None:
            found = self.by_address.get(lone(addr))
        return -1 if found is None else found

    cdef bint is_of(self, int backend, bint six):
        """Has the backend this IP version?"""
        return (len(self.backends[backend].addr) == 16) == six

    cdef bint may_be_peer(self, const Address *addr):
        return not in_networks(&self.never_peers, addr) and lone(addr) not in self.addresses


cdef object junk(const uint8_t *p, int length):
    """The verdict on what is no SIP at all, None for all that needs a closer look."""
    cdef int i = 0, end = 0
    while i < length and (CLASS[p[i]] & BLANK or p[i] == c"\r" or p[i] == c"\n" or p[i] == 0):
        i += 1
    if i == length:
        return KEEPALIVE
    if i or (length >= 8 and memcmp(p + 4, b"\x21\x12\xa4\x42", 4) == 0):  # CRLFs before a message; STUN
        return None
    while end < length and p[end] != c"\r" and p[end] != c"\n":
        end += 1
    for i in range(end - 3):
        if p[i + 3] == c"/" and LOWER[p[i]] == c"s" and LOWER[p[i + 1]] == c"i" and LOWER[p[i + 2]] == c"p":
            return None
    return NOT_SIP
