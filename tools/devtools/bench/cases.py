"""What the engine is measured with: packets of each kind, none twice.

A measurement takes two sets of packets from the same phones: one that the engine gets to know the phones by, and one
whose Call-IDs, branches and numbers it has never seen. `new-flow` are REGISTERs from phones that it has not seen.
What comes by IPv6 is for a gateway of its own.
"""

from dataclasses import dataclass, replace

from devtools.bench import traffic
from devtools.bench.player import Phone, Player, setup

PHONES = 40


@dataclass(frozen=True)
class Case:
    kind: str
    warm: tuple[bytes, ...]
    """To be processed beforehand."""
    packets: tuple[bytes, ...]
    """To be measured."""
    version: int
    """Of IP."""

    @property
    def size(self) -> int:
        """Mean bytes of a UDP payload."""
        return sum(map(len, self.packets)) // len(self.packets) - (28 if self.version == 4 else 48)


def cases(rounds: int = 5, *, phones: int = PHONES, backends: int = 4) -> list[Case]:
    """`phones * rounds` packets of each kind, for an engine of `setup(backends, case.version)`."""
    found = {version: _cases(rounds, phones, backends, version) for version in (4, 6)}
    six = {case.kind: replace(case, kind=case.kind + traffic.IPV6) for case in found[6]}
    return found[4] + [six[kind] for kind in traffic.BY_IPV6]


def _cases(rounds: int, phones: int, backends: int, version: int) -> list[Case]:
    gateway = setup(backends, version)
    people = [Phone(number, version) for number in range(phones)]
    warm = _played(Player(gateway), people, 1)
    player = Player(gateway)
    player.skip(1_000_000)
    measured = _played(player, people, rounds)
    strangers = [Phone(1000 + number, version) for number in range(phones * rounds)]
    measured[traffic.NEW_FLOW] = _played(player, strangers, 0)["register"]
    return [Case(kind, tuple(warm.get(kind, ())), tuple(packets), version) for kind, packets in measured.items()]


def _played(player: Player, people: list[Phone], rounds: int) -> dict[str, list[bytes]]:
    """The packets of `rounds` rounds of all scripts, after a REGISTER of each phone."""
    player.packets = {}
    for phone in people:
        player.register(phone)
    found, player.packets = player.packets, {}
    if rounds:
        found = {}
        for phone in people:  # opens the dialogs, which are not measured
            for name in ("info-in", "info-out"):
                player.play(traffic.scripts()[name], phone)
        player.packets = {}
    for _ in range(rounds):
        for phone in people:
            player.register(phone)
            for name in ("call-in", "call-out", "info-in", "info-out"):
                player.play(traffic.scripts()[name], phone)
            player.send("ping", traffic.PING, phone)
            player.send("scanner", traffic.SCANNER, phone)
            player.send("stray", traffic.STRAY, phone)
            for kind, text in traffic.JUNK:
                player.send(kind, text, phone)
    return found | player.packets
