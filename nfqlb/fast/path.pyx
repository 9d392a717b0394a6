# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The fast path: the verdict on plain packets, in C; None for all others.

Its model is the careful path (nfqlb.proxy), rule by rule: what this answers is what that would answer, byte for byte. Tests
hold the two against each other over real, generated and mutilated messages. Whatever is unusual, refused or answered by
ourselves is None here, and goes the careful way; only packets that are dropped without being SIP get their verdict here.

Nothing is remembered from packet to packet but what P31 says, so a million sources cost what one costs.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc

import sys

from nfqlb.balance import recent as _recent
from nfqlb.balance import tables as _tables
from nfqlb.balance.rules import NetworkSet as _NetworkSet
from nfqlb.net.endpoint import Endpoint
from nfqlb.proxy import identity as _identity
from nfqlb.proxy import keys as _keys
from nfqlb.proxy import request as _request
from nfqlb.proxy import selection as _selection
from nfqlb.proxy import stamp as _stamp
from nfqlb.proxy.identity import Half
from nfqlb.proxy.scanners import Scanners as _Scanners
from nfqlb.proxy.verdict import Reason, Verdict

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
"""SHA-256 of what was compiled: all files of this directory that end in .pyx or .pxi, in the order of their names."""

include "blake2b.pxi"
include "text.pxi"
include "packet.pxi"
include "memory.pxi"
include "setup.pxi"

cdef object NOT_SIP = Verdict(Reason.NOT_SIP, b"")
cdef object KEEPALIVE = Verdict(Reason.KEEPALIVE, b"")
cdef object NOT_FROM_BACKEND = Verdict(Reason.NOT_FROM_BACKEND, b"")
cdef object STRAY_RESPONSE = Verdict(Reason.STRAY_RESPONSE, b"")
cdef object SCANNER = Verdict(Reason.SCANNER, b"")
cdef object REQUEST_ENTERING = Reason.REQUEST_ENTERING
cdef object REQUEST_LEAVING = Reason.REQUEST_LEAVING
cdef object REQUEST_HAIRPIN = Reason.REQUEST_HAIRPIN
cdef object RESPONSE_ENTERING = Reason.RESPONSE_ENTERING
cdef object RESPONSE_LEAVING = Reason.RESPONSE_LEAVING
cdef object RESPONSE_HAIRPIN = Reason.RESPONSE_HAIRPIN

cdef int MARK = len(_keys.MARKER)
cdef bytes MARKER = _keys.MARKER
cdef int BRANCH_BYTES = _keys.BRANCH_BYTES
cdef int LOOP_BYTES = _keys.LOOP_BYTES
cdef int SIG_BYTES = _keys.SIG_BYTES

cdef class FastPath:
    cdef Rulebook rules
    cdef Buffer work, text, out

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

    def __init__(self, setup, identity, choice, recent, verify):
        """`choice`: the one whose rules, tables and tokens count. `recent`: None for no memory."""
        self.rules = Rulebook(setup, identity, choice, recent, verify)

    def process(self, bytes packet not None, int ident):
        """Engine.process, or None; `ident` is for the packet that is sent, if any."""
        cdef Rulebook rules = self.rules
        cdef Packet heard
        cdef Reading m
        cdef Door door
        cdef bint inside
        cdef int backend = -1
        if not read_packet(<const uint8_t *>PyBytes_AS_STRING(packet), len(packet), rules.verify, &heard):
            return None
        door = rules.doors.get(place(heard.dst, heard.dst_port))
        if door is None or not heard.src_port or in_networks(&rules.never_sources, heard.src):
            return None
        if place(heard.src, heard.src_port) in rules.sockets:
            return None
        inside = door.half == INTERNAL
        if door.half != EXTERNAL:
            backend = rules.backend_from(heard.src, heard.src_port)
            if inside and backend < 0:
                return NOT_FROM_BACKEND
            inside = backend >= 0
        m.p, m.length = heard.payload, heard.length
        self.work.overflow = self.text.overflow = self.out.overflow = False
        self.text.used = 0
        if not read_message(&m):
            return junk(heard.payload, heard.length)
        if m.request:
            if not inside and rules.scanners is not None and m.agent.start:
                if rules.scanners.matches(PyBytes_FromStringAndSize(<char *>m.p + m.agent.a, m.agent.b - m.agent.a)):
                    return SCANNER
            return request(self, &m, &heard, door, inside, backend, ident)
        return response(self, &m, &heard, door, inside, backend, ident)


include "common.pxi"
include "route.pxi"
include "choice.pxi"
include "request.pxi"
include "response.pxi"
