# BLAKE2b [RFC 7693] for the fast path: keyed or not, with a purpose ("person"), digests up to 64 bytes.
#
# hashlib has it too, and the slow path uses that; but there each hash costs three objects and half a microsecond,
# and a request needs up to five. What is computed here is the same: a difference would show in every branch and signature.
#
# Mirrors: hashlib

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy, memset

cdef struct Hash:
    uint64_t state[8]
    uint64_t counted
    # Bytes that went into `state`: those of the block with the key, or none.

# In C: with the words of the state in variables and every index a constant, the compiler keeps the rounds in registers.
# A loop over SIGMA takes half as long again.
cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    static const uint64_t IV[8] = {
        0x6A09E667F3BCC908, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B, 0xA54FF53A5F1D36F1,
        0x510E527FADE682D1, 0x9B05688C2B3E6C1F, 0x1F83D9ABFB41BD6B, 0x5BE0CD19137E2179,
    };

    #define ROTATED(word, bits) ((word) >> (bits) | (word) << (64 - (bits)))
    #define MIX(a, b, c, d, x, y) \\
        a += b + m[x]; d = ROTATED(d ^ a, 32); c += d; b = ROTATED(b ^ c, 24); \\
        a += b + m[y]; d = ROTATED(d ^ a, 16); c += d; b = ROTATED(b ^ c, 63);
    #define ROUND(s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12, s13, s14, s15) \\
        MIX(v0, v4, v8, v12, s0, s1) MIX(v1, v5, v9, v13, s2, s3) \\
        MIX(v2, v6, v10, v14, s4, s5) MIX(v3, v7, v11, v15, s6, s7) \\
        MIX(v0, v5, v10, v15, s8, s9) MIX(v1, v6, v11, v12, s10, s11) \\
        MIX(v2, v7, v8, v13, s12, s13) MIX(v3, v4, v9, v14, s14, s15)

    #define ROUNDS \\
        ROUND(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15) \\
        ROUND(14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3) \\
        ROUND(11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4) \\
        ROUND(7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8) \\
        ROUND(9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13) \\
        ROUND(2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9) \\
        ROUND(12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11) \\
        ROUND(13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10) \\
        ROUND(6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5) \\
        ROUND(10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0) \\
        ROUND(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15) \\
        ROUND(14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3)

    static void compress(uint64_t *state, const uint8_t *block, uint64_t counted, int last)
    {
        uint64_t m[16];
        uint64_t v0 = state[0], v1 = state[1], v2 = state[2], v3 = state[3];
        uint64_t v4 = state[4], v5 = state[5], v6 = state[6], v7 = state[7];
        uint64_t v8 = IV[0], v9 = IV[1], v10 = IV[2], v11 = IV[3];
        uint64_t v12 = IV[4] ^ counted, v13 = IV[5], v14 = last ? ~IV[6] : IV[6], v15 = IV[7];
        memcpy(m, block, 128);
        ROUNDS
        state[0] ^= v0 ^ v8; state[1] ^= v1 ^ v9; state[2] ^= v2 ^ v10; state[3] ^= v3 ^ v11;
        state[4] ^= v4 ^ v12; state[5] ^= v5 ^ v13; state[6] ^= v6 ^ v14; state[7] ^= v7 ^ v15;
    }
    """
    const uint64_t IV[8]
    void compress(uint64_t *state, const uint8_t *block, uint64_t counted, bint last) noexcept nogil


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
