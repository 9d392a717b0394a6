# What the two compiled modules agree on: how the loop of a queue asks a worker's fast path without an object for each
# packet. It is handed on in a capsule of this name (`direct` of a Consumer).

from libc.stdint cimport uint8_t

cdef extern from *:
    """
    #define NFQLB_DIRECT "nfqlb.fast.direct.Direct"
    """
    const char *DIRECT "NFQLB_DIRECT"

ctypedef int (*Decide)(void *, const uint8_t *, Py_ssize_t, const uint8_t **, Py_ssize_t *) except -1

cdef struct Direct:
    Decide decide
    void *worker_path
