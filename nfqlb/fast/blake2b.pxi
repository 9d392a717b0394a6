# BLAKE2b [RFC 7693] for the fast path: keyed or not, with a purpose ("person"), digests up to 64 bytes.
#
# hashlib has it too, and the careful path uses that; but there each hash costs three objects and half a microsecond,
# and a request needs four. What is computed here is the same: a difference would show in every branch and signature.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy, memset

cdef struct Hash:
    uint64_t state[8]
    uint64_t counted
    # Bytes that went into `state`: those of the block with the key, or none.

# Constants of C, so that the compiler may unroll the rounds.
cdef extern from *:
    """
    #include <stdint.h>
    static const uint64_t IV[8] = {
        0x6A09E667F3BCC908, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B, 0xA54FF53A5F1D36F1,
        0x510E527FADE682D1, 0x9B05688C2B3E6C1F, 0x1F83D9ABFB41BD6B, 0x5BE0CD19137E2179,
    };
    static const uint8_t SIGMA[12][16] = {
        {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
        {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
        {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4},
        {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
        {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13},
        {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
        {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11},
        {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
        {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5},
        {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0},
        {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
        {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
    };
    """
    const uint64_t IV[8]
    const uint8_t SIGMA[12][16]


cdef inline uint64_t rotated(uint64_t word, int bits) noexcept nogil:
    return word >> bits | word << (64 - bits)


cdef inline void mix(uint64_t *v, int a, int b, int c, int d, uint64_t x, uint64_t y) noexcept nogil:
    v[a] = v[a] + v[b] + x
    v[d] = rotated(v[d] ^ v[a], 32)
    v[c] = v[c] + v[d]
    v[b] = rotated(v[b] ^ v[c], 24)
    v[a] = v[a] + v[b] + y
    v[d] = rotated(v[d] ^ v[a], 16)
    v[c] = v[c] + v[d]
    v[b] = rotated(v[b] ^ v[c], 63)


cdef void compress(uint64_t *state, const uint8_t *block, uint64_t counted, bint last) noexcept nogil:
    cdef uint64_t[16] v
    cdef uint64_t[16] m
    cdef int i
    cdef const uint8_t *s
    memcpy(m, block, 128)
    for i in range(8):
        v[i] = state[i]
        v[i + 8] = IV[i]
    v[12] ^= counted
    if last:
        v[14] = ~v[14]
    for i in range(12):
        s = SIGMA[i]
        mix(v, 0, 4, 8, 12, m[s[0]], m[s[1]])
        mix(v, 1, 5, 9, 13, m[s[2]], m[s[3]])
        mix(v, 2, 6, 10, 14, m[s[4]], m[s[5]])
        mix(v, 3, 7, 11, 15, m[s[6]], m[s[7]])
        mix(v, 0, 5, 10, 15, m[s[8]], m[s[9]])
        mix(v, 1, 6, 11, 12, m[s[10]], m[s[11]])
        mix(v, 2, 7, 8, 13, m[s[12]], m[s[13]])
        mix(v, 3, 4, 9, 14, m[s[14]], m[s[15]])
    for i in range(8):
        state[i] ^= v[i] ^ v[i + 8]


cdef void hash_start(Hash *hash, bytes key, bytes person, int size) noexcept:
    """What `digest` begins with: hashlib's blake2b(key=key, person=person, digest_size=size)."""
    cdef uint8_t[128] block
    cdef uint8_t[64] parameters
    cdef uint64_t[8] words
    cdef int i
    memset(parameters, 0, 64)
    parameters[0], parameters[1], parameters[2], parameters[3] = size, <uint8_t>len(key), 1, 1
    memcpy(parameters + 48, <const char *>person, len(person))
    memcpy(words, parameters, 64)
    for i in range(8):
        hash.state[i] = IV[i] ^ words[i]
    hash.counted = 0
    if key:
        memset(block, 0, 128)
        memcpy(block, <const char *>key, len(key))
        hash.counted = 128
        compress(hash.state, block, 128, False)


cdef void digest(const Hash *hash, const uint8_t *data, Py_ssize_t length, uint64_t *out) noexcept nogil:
    """All 64 bytes of the digest of `length` > 0 bytes."""
    cdef uint8_t[128] block
    cdef uint64_t counted = hash.counted
    memcpy(out, hash.state, 64)
    while length > 128:
        counted += 128
        compress(out, data, counted, False)
        data += 128
        length -= 128
    memset(block, 0, 128)
    memcpy(block, data, length)
    compress(out, block, counted + length, True)
