# BLAKE2b of several inputs at once: a request needs up to five digests that do not depend on each other, and vector
# units compute four together, in the time of one and a half (AVX-512VL) or two (AVX2). Whether the processor has them
# is asked when the module is loaded; one without computes them one after another. What is computed is the same.
#
# Mirrors: hashlib

cdef struct Job:
    const Hash *hash
    int begin           # of the input, in the buffer that `digests` is given; zeros follow it up to the end of a block
    int length          # more than 0
    uint64_t mac[8]     # the digest, all 64 bytes

cdef extern from *:
    """
    typedef uint64_t Four __attribute__((vector_size(32)));
    #define EACH(value) ((Four){(value), (value), (value), (value)})
    /* Rows to columns: what one lane has after another becomes what the lanes have side by side, and back. */
    #define TURN(w, x, y, z, a, b, c, d) \\
        w = (Four){a[0], b[0], c[0], d[0]}; x = (Four){a[1], b[1], c[1], d[1]}; \\
        y = (Four){a[2], b[2], c[2], d[2]}; z = (Four){a[3], b[3], c[3], d[3]};
    #define LOAD(from, at) \\
        memcpy(&a, from[0] + (at), sizeof a); memcpy(&b, from[1] + (at), sizeof b); \\
        memcpy(&c, from[2] + (at), sizeof c); memcpy(&d, from[3] + (at), sizeof d);
    #define STORE(to, at) \\
        memcpy(to[0] + (at), &a, sizeof a); memcpy(to[1] + (at), &b, sizeof b); \\
        memcpy(to[2] + (at), &c, sizeof c); memcpy(to[3] + (at), &d, sizeof d);

    /* A block of each of four lanes. `last`: all ones or zeros. */
    static inline __attribute__((always_inline)) void compress_together(
        uint64_t *const *after, const uint64_t *const *before, const uint8_t *const *blocks,
        const uint64_t *counted, const uint64_t *last)
    {
        Four m[16], h0, h1, h2, h3, h4, h5, h6, h7, a, b, c, d;
        LOAD(before, 0) TURN(h0, h1, h2, h3, a, b, c, d)
        LOAD(before, 4) TURN(h4, h5, h6, h7, a, b, c, d)
        for (int i = 0; i < 16; i += 4) {
            LOAD(blocks, 8 * i) TURN(m[i], m[i + 1], m[i + 2], m[i + 3], a, b, c, d)
        }
        Four v0 = h0, v1 = h1, v2 = h2, v3 = h3, v4 = h4, v5 = h5, v6 = h6, v7 = h7;
        Four v8 = EACH(IV[0]), v9 = EACH(IV[1]), v10 = EACH(IV[2]), v11 = EACH(IV[3]);
        Four v12 = EACH(IV[4]) ^ (Four){counted[0], counted[1], counted[2], counted[3]}, v13 = EACH(IV[5]);
        Four v14 = EACH(IV[6]) ^ (Four){last[0], last[1], last[2], last[3]}, v15 = EACH(IV[7]);
        ROUNDS
        h0 ^= v0 ^ v8; h1 ^= v1 ^ v9; h2 ^= v2 ^ v10; h3 ^= v3 ^ v11;
        h4 ^= v4 ^ v12; h5 ^= v5 ^ v13; h6 ^= v6 ^ v14; h7 ^= v7 ^ v15;
        TURN(a, b, c, d, h0, h1, h2, h3) STORE(after, 0)
        TURN(a, b, c, d, h4, h5, h6, h7) STORE(after, 4)
    }

    typedef void (*Together)(
        uint64_t *const *, const uint64_t *const *, const uint8_t *const *, const uint64_t *, const uint64_t *);

    #if defined(__x86_64__) && defined(__GNUC__)
    __attribute__((target("avx512vl"))) static void compress4_avx512vl(
        uint64_t *const *after, const uint64_t *const *before, const uint8_t *const *blocks,
        const uint64_t *counted, const uint64_t *last)
    {
        compress_together(after, before, blocks, counted, last);
    }

    __attribute__((target("avx2"))) static void compress4_avx2(
        uint64_t *const *after, const uint64_t *const *before, const uint8_t *const *blocks,
        const uint64_t *counted, const uint64_t *last)
    {
        compress_together(after, before, blocks, counted, last);
    }

    static Together together(const char *name)
    {
        __builtin_cpu_init();
        if (strcmp(name, "avx512vl") == 0 && __builtin_cpu_supports("avx512vl"))
            return compress4_avx512vl;
        if (strcmp(name, "avx2") == 0 && __builtin_cpu_supports("avx2"))
            return compress4_avx2;
        return NULL;
    }
    #else
    static Together together(const char *name)
    {
        return NULL;
    }
    #endif
    """
    ctypedef void (*Together)(
        uint64_t **, const uint64_t **, const uint8_t **, const uint64_t *, const uint64_t *
    ) noexcept nogil
    Together together(const char *)

VECTORS = tuple(name for name in ("avx512vl", "avx2") if together(name.encode()) != NULL)
"""The instructions by which this processor could compute several hashes at once; the first are used."""

cdef Together compress4 = together(VECTORS[0].encode()) if VECTORS else NULL  # NULL: one by one is faster


def use_vectors(str name not None):
    """These of VECTORS from now on, or none (""); for tests."""
    global compress4
    compress4 = together(name.encode()) if name else NULL
    if name and compress4 == NULL:
        raise ValueError(f"this processor has no {name}")


cdef enum:
    LANES = 4
    BLOCK = 128

cdef uint64_t idle[8]   # what a lane computes that has nothing to do: something, at which nobody looks
cdef uint8_t zeros[BLOCK]


cdef void digests(Job *jobs, int count, const uint8_t *inputs) noexcept nogil:
    """The digests of `count` jobs, whose inputs lie in `inputs`; best with the longest first."""
    cdef Job *running[LANES]
    cdef int done[LANES]
    cdef uint64_t *after[LANES]
    cdef const uint64_t *before[LANES]
    cdef const uint8_t *blocks[LANES]
    cdef uint64_t counted[LANES]
    cdef uint64_t last[LANES]
    cdef uint64_t alone[8]
    cdef int lane, taken = 0, active, busy = 0
    if compress4 == NULL or count == 1:
        for taken in range(count):
            digest(jobs[taken].hash, inputs + jobs[taken].begin, jobs[taken].length, jobs[taken].mac)
        return
    for lane in range(LANES):
        running[lane] = NULL
    while True:
        active = 0
        for lane in range(LANES):
            if running[lane] == NULL and taken < count:
                running[lane] = &jobs[taken]
                taken += 1
                done[lane] = 0
                before[lane], after[lane] = running[lane].hash.state, running[lane].mac
                counted[lane] = running[lane].hash.counted
            if running[lane] == NULL:
                before[lane] = after[lane] = idle
                blocks[lane], counted[lane], last[lane] = zeros, 0, 0
                continue
            active += 1
            busy = lane
            blocks[lane] = inputs + running[lane].begin + done[lane]
            done[lane] += BLOCK
            if done[lane] < running[lane].length:
                counted[lane] += BLOCK
                last[lane] = 0
            else:
                counted[lane] += running[lane].length - done[lane] + BLOCK
                last[lane] = ~<uint64_t>0
        if not active:
            return
        if active > 1:
            compress4(after, before, blocks, counted, last)
        else:
            memcpy(alone, before[busy], 64)
            compress(alone, blocks[busy], counted[busy], last[busy] != 0)
            memcpy(after[busy], alone, 64)
        for lane in range(LANES):
            before[lane] = after[lane]
            if last[lane]:
                running[lane] = NULL
