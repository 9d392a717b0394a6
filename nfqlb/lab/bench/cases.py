"""What the engine is measured with: packets of each kind, none twice.

A measurement takes two sets of packets from the same phones: one that the engine gets to know the phones by, and one
whose Call-IDs, branches and numbers it has never seen. `new-flow` are REGISTERs from phones that it has not seen.
"""

from dataclasses import dataclass

from nfqlb.lab.bench import traffic
from nfqlb.lab.bench.player import Phone, Player, setup

PHONES = 40


@dataclass(frozen=True)
class Case:
    kind: str
    warm: tuple[bytes, ...]
    """To be processed beforehand."""
    packets: tuple[bytes, ...]
    """To be measured."""

    @property
    def size(self) -> int:
        """Mean bytes of a UDP payload."""
        return sum(map(len, self.packets)) // len(self.packets) - 28


def cases(rounds: int = 5, *, phones: int = PHONES, backends: int = 4) -> list[Case]:
    """`phones * rounds` packets of each kind, for an engine of `setup(backends)`."""
    gateway = setup(backends)
    people = [Phone(number) for number in range(phones)]
    warm = _played(Player(gateway), people, 1)
    player = Player(gateway)
    player.skip(1_000_000)
    measured = _played(player, people, rounds)
    strangers = [Phone(1000 + number) for number in range(phones * rounds)]
    measured[traffic.NEW_FLOW] = _played(player, strangers, 0)["register"]
    return [Case(kind, tuple(warm.get(kind, ())), tuple(packets)) for kind, packets in measured.items()]


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
