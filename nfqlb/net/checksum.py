"""The Internet checksum [RFC 1071], without a loop.

Summing 16-bit words with end-around carry is arithmetic modulo 0xffff, so one big-integer remainder does it.
"""


def word_sum(data: bytes) -> int:
    """The one's-complement sum of the 16-bit big-endian words of `data`, 0..0xfffe; an odd end is padded with 0."""
    total = int.from_bytes(data, "big")
    return (total << 8 if len(data) & 1 else total) % 0xFFFF
