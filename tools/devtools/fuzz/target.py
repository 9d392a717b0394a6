"""What can be fuzzed: bytes go in, and either a kind of outcome comes out or a Violation."""

from collections.abc import Hashable, Sequence
from random import Random

from devtools.fuzz import mutate


class Target:
    """One thing to fuzz. Made once in each process: making it may take a second."""

    name = ""
    about = ""

    def run(self, data: bytes) -> Hashable:
        """What became of `data`, in a few words that tell kinds of outcomes apart. Raises Violation, or whatever the
        code under test lets out: that is a violation, too (`no-exception`).
        """
        raise NotImplementedError

    def seeds(self) -> list[bytes]:
        """Good inputs to start from."""
        raise NotImplementedError

    def mutate(self, data: bytes, others: Sequence[bytes], chance: Random) -> bytes:
        """Another input, made of that one and maybe of pieces of `others`."""
        del others
        return mutate.data(data, chance)
