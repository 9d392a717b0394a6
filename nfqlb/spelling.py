"""Which name was probably meant: the one place that asks "did you mean …?", for commands, options, keys and backends.

Pure, and cheap to import: `nfqlb --help` comes by here. Does not know what the names are of.
"""

from collections import Counter
from collections.abc import Iterable

SHORTEST = 3
"""Characters that a name has at least to be taken for another: of two, one slip leaves too little to go by."""


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The one of `names` that `name` was probably meant to be, or None when none is like it.

    Two slips in five characters may be wrong (see `distance`). Of equally near ones, it is the one of the same letters:
    fingers put letters in another order more often than they find wrong ones. Only where nothing is so near, it is one
    that begins alike, or that holds the other. Case does not matter.
    """
    wanted = name.lower()
    found: list[tuple[int, int, int, str]] = []
    for place, valid in enumerate(names):
        other = valid.lower()
        longer, shorter = max(len(wanted), len(other)), min(len(wanted), len(other))
        limit = max(1, longer * 2 // 5) if longer >= SHORTEST else 0
        away = distance(wanted, other, limit)
        if away <= limit:
            found.append((away, _letters_apart(wanted, other), place, valid))
            continue
        begin = next((at for at in range(shorter) if wanted[at] != other[at]), shorter)
        if shorter >= SHORTEST and (2 * begin >= longer or wanted in other or other in wanted):
            found.append((longer, longer - shorter, place, valid))
    return min(found)[-1] if found else None


def distance(one: str, other: str, limit: int) -> int:
    """How many slips lead from one text to the other: a character too many, too few, a wrong one, or two neighbours
    swapped (optimal string alignment: no character is touched twice). Above `limit`, some number above it.
    """
    if abs(len(one) - len(other)) > limit:
        return limit + 1
    before: list[int] = []
    last = list(range(len(other) + 1))
    for row, char in enumerate(one, 1):
        line = [row]
        for column, against in enumerate(other, 1):
            least = min(last[column] + 1, line[-1] + 1, last[column - 1] + (char != against))
            if row > 1 and column > 1 and char == other[column - 2] and against == one[row - 2]:
                least = min(least, before[column - 2] + 1)
            line.append(least)
        if min(line) > limit and min(last) > limit:  # a swap looks back by two lines
            return limit + 1
        before, last = last, line
    return last[-1]


def _letters_apart(one: str, other: str) -> int:
    """How many characters one has that the other has not."""
    here, there = Counter(one), Counter(other)
    return ((here - there) + (there - here)).total()
