"""Table memory: the tables of all pools and the states of all backends, where every worker reads what one writer puts.

Knows the layout, how a table is built, put and looked into. Does not know where the memory comes from, why a state
changes, or what a state means for what has begun.

To change something takes three steps, so that the slow one can be done elsewhere, and nobody who reads waits:

    drafts = tables.changed(standings)            # which tables differ from those in force; often none
    built = [build(draft) for draft in drafts]    # pure and slow: about half a µs a slot of `draft.intake.slots`
    tables.put(standings, built)                  # a copy and one store for each table, one store for each state

Layout, in the byte order of the machine. First a word of 64 bits for each pool and IP version with members: 40 bits
that count its changes, and 24 for the number of slots of the table in force; 0: nothing to choose from. Then a byte for
each backend, its State. Then the pairs: two tables each, of 16-bit indices into the pool's members of that version. The
lowest bit of the count says which half of the pair is in force. A new table goes into the other half, and then the word
is stored, whole: from their next packet on all who read have the new one.

Who reads looks at the word before and after. Only if it has changed meanwhile, the half that it looked into may be one
that is being filled: it looks again. So every answer is one of a whole table, and nobody waits.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

from nfqlb.balance import maglev
from nfqlb.balance.pool import VERSIONS, Intake, Pool, intake, members, most_slots
from nfqlb.balance.states import HEARD_NOTHING, Place, Standing, Standings, State

WORD = 8
INDEX = 2
"""Bytes."""
ALIGNED = 64
"""Bytes of a cache line: a state that is stored does not slow down those who read words."""

COUNT = 24
"""Bits of a word below its count of changes."""
SLOTS = (1 << COUNT) - 1

SLOT_PERSON = b"nfqlb-select"
"""What sets the hash of a key apart from other hashes."""

Which = tuple[str, int]
"""(name of a pool, IP version): which table."""


class Draft(NamedTuple):
    """What a table depends on, and nothing besides: equal drafts make equal tables."""

    which: Which
    intake: Intake


class Built(NamedTuple):
    """A table, ready to be put. Picklable, as Draft is."""

    draft: Draft
    table: bytes
    """As in the memory."""
    shares: dict[str, float]
    """The part of all keys that each backend gets, by name, 0..1; who gets none is missing."""


Ready = Mapping[Which, Built]
"""Tables that exist already, perhaps those of another configuration."""


class Condition(NamedTuple):
    """What an operator should know of a pool."""

    up: int
    """Backends that take new requests, of all priorities and IP versions."""
    min_up: int
    panic: tuple[int, ...]
    """IP versions for which all backends are down, and used nevertheless."""

    @property
    def alarm(self) -> bool:
        return self.up < self.min_up or bool(self.panic)


def build(draft: Draft) -> Built:
    """Pure; takes milliseconds."""
    weights = draft.intake.weights
    if not weights:
        return Built(draft, b"", {})
    table = maglev.build([(name, weight) for _, name, weight in weights], draft.intake.slots)
    counts = Counter(table)
    shares = {name: counts[index] / len(table) for index, (_, name, _) in enumerate(weights)}
    position = [index for index, _, _ in weights]
    if position != list(range(len(position))):
        for slot, index in enumerate(table):
            table[slot] = position[index]
    return Built(draft, table.tobytes(), shares)


def missing(pools: Iterable[Pool], standings: Standings, ready: Ready) -> list[Draft]:
    """The drafts of all tables of these pools that are not `ready`."""
    drafts = [
        Draft((pool.name, version), intake(pool, version, standings))
        for pool in pools
        for version in VERSIONS
        if members(pool, version)
    ]
    return [each for each in drafts if each.which not in ready or ready[each.which].draft != each]


class _Pair(NamedTuple):
    """Where the two tables of a pool and version are."""

    word: int
    numbers: tuple[int, ...]
    """Of the backends (on the board and in verdicts), by their indices in the tables."""
    halves: tuple[int, int]
    """Their first bytes."""
    slots: int
    """Room in each half."""


class Tables:
    """The tables of one configuration, and what they were made from. Can be pickled; what is loaded has a memory of
    its own.
    """

    def __init__(
        self,
        pools: Sequence[Pool],
        places: Sequence[Place],
        standings: Standings | None = None,
        ready: Ready | None = None,
    ) -> None:
        """`places` of all backends, by number: those of `pools` and any others. `ready`: what is the same there is not
        built again.
        """
        self._pools = {pool.name: pool for pool in pools}
        self._places = tuple(places)
        self._built: dict[Which, Built] = {}
        self._standings: dict[Place, Standing] = {}
        self._lay_out()
        built = {each.which: build(each) for each in missing(pools, standings or {}, ready or {})}
        self.put(standings or {}, [built[which] if which in built else (ready or {})[which] for which in self.pairs])

    # -- for who reads

    def choose(self, pool: str, version: int, key: bytes) -> int:
        """The number of the backend for that key and IP version (4 or 6), -1 when there is nothing to choose from."""
        pair = self.pairs.get((pool, version))
        if pair is None:
            return -1
        words, cell = self.words, pair.word
        while size := (word := words[cell]) & SLOTS:
            index = self.halves[cell][word >> COUNT & 1][slot(key, size)]
            if words[cell] == word:
                return pair.numbers[index]
        return -1

    def alive(self, number: int) -> bool:
        """May a transaction that began at that backend stay there (P31)?"""
        return _ALIVE[self._states[number]]

    # -- for who writes

    @property
    def pools(self) -> tuple[str, ...]:
        """Their names; also of those without a backend."""
        return tuple(self._pools)

    @property
    def built(self) -> Ready:
        """Those in force."""
        return self._built

    @property
    def standings(self) -> Standings:
        """Of all backends, as last put."""
        return {place: self._standings.get(place, HEARD_NOTHING) for place in self._places}

    def changed(self, standings: Standings) -> tuple[Draft, ...]:
        """The drafts of all tables that with these standings differ from those in force."""
        return tuple(missing(self._pools.values(), standings, self._built))

    def put(self, standings: Standings, built: Iterable[Built] = ()) -> None:
        """Bring tables and states into force. A backend that dies leaves its table before it is marked as dead: in
        the other order, what has begun there would be sent to it once more as something new.
        """
        for each in built:
            self._built[each.draft.which] = each
            self._put_table(each)
        self._standings = dict(standings)
        for number, place in enumerate(self._places):
            self._states[number] = self._standings.get(place, HEARD_NOTHING).state

    def shares(self) -> dict[Place, float]:
        """The part of its pool's keys that each backend gets, 0..1; who gets none is missing."""
        return {(pool, name): part for (pool, _), each in self._built.items() for name, part in each.shares.items()}

    def digest(self) -> str:
        """Of all tables in force: two nodes that send every key to the same backend have the same."""
        found = blake2b(digest_size=8)
        for which, built in sorted(self._built.items()):
            names = [each.name for each in members(self._pools[which[0]], which[1])]
            found.update(f"{which} {names} {len(built.table)}\0".encode() + built.table)
        return found.hexdigest()

    def condition(self, pool: str) -> Condition:
        """Of one pool, by the standings and tables in force."""
        wanted = self._pools[pool]
        standings = [self._standings.get((pool, each.name), HEARD_NOTHING) for each in wanted.backends if each.weight]
        panic = [v for v in VERSIONS if (pool, v) in self._built and self._built[pool, v].draft.intake.panic]
        return Condition(sum(each.state.takes_new for each in standings), wanted.min_up, tuple(panic))

    # -- the memory

    @property
    def size(self) -> int:
        """Bytes."""
        return self._size

    def share(self, memory: memoryview) -> None:
        """Go on in `memory`, `size` bytes that processes share. Before they are forked."""
        assert memory.nbytes >= self._size
        self._use(memory.cast("B"))

    def _lay_out(self) -> None:
        numbers = {place: number for number, place in enumerate(self._places)}
        room = {
            (pool.name, version): slots
            for pool in self._pools.values()
            for version in VERSIONS
            if (slots := most_slots(pool, version))
        }
        self._first_state = _aligned(WORD * len(room))
        first = _aligned(self._first_state + len(self._places))
        self.pairs: dict[Which, _Pair] = {}
        for word, ((name, version), slots) in enumerate(room.items()):
            among = members(self._pools[name], version)
            self.pairs[name, version] = _Pair(
                word, tuple(numbers[name, each.name] for each in among), (first, first + INDEX * slots), slots
            )
            first = _aligned(first + 2 * INDEX * slots)
        self._size = first
        self._use(memoryview(bytearray(self._size)))

    def _use(self, view: memoryview) -> None:
        self.memory = view
        self.words = view[: WORD * len(self.pairs)].cast("Q")
        self._states = view[self._first_state : self._first_state + len(self._places)]
        self.halves = [
            tuple(view[start : start + INDEX * each.slots].cast("H") for start in each.halves)
            for each in self.pairs.values()
        ]
        self.put(self._standings, self._built.values())

    def _put_table(self, built: Built) -> None:
        pair = self.pairs[built.draft.which]
        assert len(built.table) <= INDEX * pair.slots
        count = (self.words[pair.word] >> COUNT) + 1
        start = pair.halves[count & 1]
        self.memory[start : start + len(built.table)] = built.table
        self.words[pair.word] = count << COUNT | len(built.table) // INDEX

    def __getstate__(self) -> dict[str, Any]:
        return {"_pools": self._pools, "_places": self._places, "_built": self._built, "_standings": self._standings}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._lay_out()


_ALIVE = tuple(State(number).alive for number in range(len(State)))


def _aligned(first: int) -> int:
    return -(-first // ALIGNED) * ALIGNED


def slot(key: bytes, size: int) -> int:
    """The table slot of a key. Not keyed with our secret: rotating keys must not move calls."""
    return int.from_bytes(blake2b(key, digest_size=8, person=SLOT_PERSON).digest(), "big") % size
