# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The fast path: the verdict on plain packets, in C; None for all others.

Its model is the slow path (nfqlb.proxy), rule by rule: what this answers is what that would answer, byte for byte.
Tests hold the two against each other over real, generated and mutilated messages. Plain packets are of IPv4 without
options or of IPv6 without extension headers. Whatever is unusual, refused or answered by ourselves is None here, and
takes the slow path. Of what is dropped, only that has its verdict here of which strangers send most: no SIP, scanners,
stray responses, sources inside that are no backends.

Nothing is remembered from packet to packet but what P31 says, so a million sources cost what one costs.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc

import sys

from nfqlb.balance import recent as _recent
from nfqlb.balance import tables as _tables
from nfqlb.balance.routes import NetworkSet as _NetworkSet
from nfqlb.net.endpoint import Endpoint
from nfqlb.net.endpoint import pack_host as _pack_host
from nfqlb.proxy import identity as _identity
from nfqlb.proxy import keys as _keys
from nfqlb.proxy import request as _request
from nfqlb.proxy import selection as _selection
from nfqlb.proxy import added_headers as _added_headers
from nfqlb.proxy.identity import Half
from nfqlb.proxy.verdict import REASON_SLOTS, Reason, Verdict

if sys.byteorder != "little":
    raise ImportError("the fast path is for little-endian machines")

cdef extern from *:
    """
    #ifndef NFQLB_SOURCES
    #define NFQLB_SOURCES ""
    #endif
    """
    const char *NFQLB_SOURCES

SOURCES = NFQLB_SOURCES.decode()
"""SHA-256 of what was compiled: all files of this directory that end in .pyx, .pxi or .pxd, by their names."""

include "blake2b.pxi"
include "blake2b_simd.pxi"
include "sip_text.pxi"
include "sip_values.pxi"
include "datagram.pxi"
include "address.pxi"
include "endpoint_table.pxi"
include "shared_tables.pxi"
include "rulebook.pxi"

cdef list REASONS = [Reason(n) if n in iter(Reason) else None for n in range(REASON_SLOTS)]
cdef list DROPS = [None if each is None else Verdict(each, b"") for each in REASONS]
cdef int NOT_SIP = Reason.NOT_SIP
cdef int KEEPALIVE = Reason.KEEPALIVE
cdef int NOT_FROM_BACKEND = Reason.NOT_FROM_BACKEND
cdef int STRAY_RESPONSE = Reason.STRAY_RESPONSE
cdef int SCANNER = Reason.SCANNER
cdef int REQUEST_ENTERING = Reason.REQUEST_ENTERING
cdef int REQUEST_LEAVING = Reason.REQUEST_LEAVING
cdef int REQUEST_HAIRPIN = Reason.REQUEST_HAIRPIN
cdef int RESPONSE_ENTERING = Reason.RESPONSE_ENTERING
cdef int RESPONSE_LEAVING = Reason.RESPONSE_LEAVING
cdef int RESPONSE_HAIRPIN = Reason.RESPONSE_HAIRPIN

cdef int MARK = len(_keys.MARKER)
cdef bytes MARKER = _keys.MARKER
cdef int BRANCH_BYTES = _keys.BRANCH_BYTES
cdef int LOOP_BYTES = _keys.LOOP_BYTES
cdef int SIG_BYTES = _keys.SIG_BYTES

cdef enum:                      # what has become of a packet
    SLOW = 0                    # it takes the slow path
    SENT = 1
    DROPPED = 2

    MOST_JOBS = 8               # a request has five at most


cdef class FastPath:
    cdef Rulebook rules
    cdef Buffer work, text, out
    cdef Job jobs[MOST_JOBS]
    cdef int asked              # of `jobs`
    cdef Pool pool              # where the request in hand is to go
    cdef readonly int ident     # of the last packet that was sent (P37)
    cdef int reason, backend, status
    cdef object src, dst
    cdef Address dst_addr
    cdef int dst_port

    def __cinit__(self, *_):
        self.work.p = <uint8_t *>PyMem_Malloc(ROOM)
        self.text.p = <uint8_t *>PyMem_Malloc(ROOM)
        self.out.p = <uint8_t *>PyMem_Malloc(ROOM)
        if self.work.p == NULL or self.text.p == NULL or self.out.p == NULL:
            raise MemoryError

    def __dealloc__(self):
        PyMem_Free(self.work.p)
        PyMem_Free(self.text.p)
        PyMem_Free(self.out.p)

    def __init__(self, setup, identity, choice, recent, verify, ident):
        """`choice`: the one whose rules, tables and tokens count. `recent`: None for no memory. `ident`: IP
        identification of the last packet."""
        self.ident = ident
        self.rules = Rulebook(setup, identity, choice, recent, verify)

    def process(self, bytes packet not None):
        """Engine.process, or None."""
        cdef int found = self.answer(<const uint8_t *>PyBytes_AS_STRING(packet), len(packet))
        return None if found == SLOW else self.verdict() if found == SENT else DROPS[self.reason]

    def next_ident(self):
        """For a packet that took the slow path."""
        self.ident = self.ident + 1 & 0xFFFF
        return self.ident

    cdef object verdict(self):
        """On the packet that was sent last."""
        packet = PyBytes_FromStringAndSize(<char *>self.out.p, self.out.used)
        dst = endpoint(&self.dst_addr, self.dst_port) if self.dst is None else self.dst
        return new_tuple(Verdict, (REASONS[self.reason], packet, self.backend, self.src, dst))

    cdef int drop(self, int reason) noexcept:
        self.reason = reason
        return DROPPED

    cdef int answer(self, const uint8_t *packet, Py_ssize_t size) except -1:
        """SENT: what to send stands in `out`; DROPPED: for `reason`; or SLOW."""
        cdef Rulebook rules = self.rules
        cdef Packet heard
        cdef Reading m
        cdef Door door
        cdef bint inside
        cdef int backend = -1, at
        if not read_packet(packet, size, rules.verify, &heard):
            return SLOW
        at = rules.doors.find(&heard.dst, heard.dst_port)
        if at < 0 or not heard.src_port or in_networks(&rules.never_sources, &heard.src):
            return SLOW
        if rules.sockets.find(&heard.src, heard.src_port) >= 0:
            return SLOW
        door = <Door>rules.by_number[at]
        inside = door.half == INTERNAL
        if door.half != EXTERNAL:
            backend = rules.backend_from(&heard.src, heard.src_port)
            if inside and backend < 0:
                return self.drop(NOT_FROM_BACKEND)
            inside = backend >= 0
        m.p, m.length = heard.payload, heard.length
        self.work.overflow = self.text.overflow = self.out.overflow = False
        self.text.used = 0
        if not read_message(&m):
            at = junk(heard.payload, heard.length)
            return SLOW if at < 0 else self.drop(at)
        if m.request:
            if not inside and m.agent.start and rules.is_scanner(m.p + m.agent.a, m.agent.b - m.agent.a):
                return self.drop(SCANNER)
            return request(self, &m, &heard, door, inside, backend)
        return response(self, &m, &heard, door, inside, backend)


def hashed(bytes key not None, bytes person not None, int size, list inputs not None):
    """The BLAKE2b digests of 1 to MOST_JOBS inputs, as requests have them computed; for tests."""
    cdef Hash start
    cdef Job jobs[MOST_JOBS]
    cdef bytes text = b""
    cdef int i
    if not 0 < len(inputs) <= MOST_JOBS:
        raise ValueError(f"not {len(inputs)} at once")
    hash_start(&start, key, person, size)
    for i, each in enumerate(inputs):
        jobs[i].hash, jobs[i].begin, jobs[i].length = &start, len(text), len(each)
        text += each + bytes(BLOCK)
    digests(jobs, <int>len(inputs), <const uint8_t *>PyBytes_AS_STRING(text))
    return [PyBytes_FromStringAndSize(<char *>jobs[i].mac, size) for i in range(len(inputs))]


include "common.pxi"
include "route.pxi"
include "choice.pxi"
include "request.pxi"
include "response.pxi"
include "worker_path.pxi"
