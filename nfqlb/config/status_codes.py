"""Sets of status codes as a person writes them: `["2xx", "4xx", "not 408"]`.

Knows that form and final responses [RFC 3261 7.2]. Does not know what a set is for.
"""

import re
from collections.abc import Iterable

FINAL = range(200, 700)

CODES = re.compile(r"(not )?([2-6])(xx|[0-9]{2})")
"""One item of such a set, as text."""


def read_codes(items: Iterable[str]) -> frozenset[int]:
    """The codes; what stands behind `not` is taken out, in whatever order. Raises ValueError for a wrong item."""
    taken: set[int] = set()
    without: set[int] = set()
    for item in items:
        found = CODES.fullmatch(item)
        if found is None:
            raise ValueError(item)
        negated, hundred, rest = found.groups()
        first = 100 * int(hundred)
        (without if negated else taken).update(range(first, first + 100) if rest == "xx" else (first + int(rest),))
    return frozenset(taken - without)


def written_codes(codes: frozenset[int]) -> list[str]:
    """The shortest that `read_codes` reads as these, in the order of the codes."""
    items = []
    for first in range(FINAL.start, FINAL.stop, 100):
        whole = range(first, first + 100)
        inside, outside = [code for code in whole if code in codes], [code for code in whole if code not in codes]
        if len(inside) <= len(outside):
            items += [str(code) for code in inside]
        else:
            items += [f"{first // 100}xx", *(f"not {code}" for code in outside)]
    return items
