"""The engine as a target: whole datagrams in, verdicts judged.

An input is two bytes, which way it comes (an index into all ways of all worlds) and its TOS, and then the payload.
"""

import time
from collections.abc import Hashable, Sequence
from functools import cached_property
from random import Random

from devtools.fuzz import mutate, oracle, stored
from devtools.fuzz.invariants import broken
from devtools.fuzz.target import Target
from devtools.fuzz.world import Way, World, build_all, payload_of
from nfqlb.net import datagram
from nfqlb.proxy.verdict import Action, Verdict

HEAD = 2
SLOW = 2.0
"""Seconds of CPU time: thirty times what the worst input of 64 kB takes. Who knows one that takes longer can stop a
worker with a packet a second.
"""


class Stage:
    """All worlds, and the ways into them."""

    def __init__(self) -> None:
        self.worlds: list[World] = build_all()
        self.ways: list[Way] = [way for world in self.worlds for way in world.ways()]

    def seeds(self) -> list[bytes]:
        """What passed each world, by the way that it came, or by the one that is most like it."""
        found = []
        for world in self.worlds:
            own = [number for number, way in enumerate(self.ways) if way.world is world]
            for src, dst, payload in world.seeds:
                fit = [number for number in own if self.ways[number].dst == dst]
                same = [number for number in fit if self.ways[number].src == src] or fit
                found.append(bytes((same[0], 0xB8)) + payload)
        # What is stored, as from a phone; their answers are strays here, and a few of them will do.
        entering = [
            number
            for number, way in enumerate(self.ways)
            if way.src in way.world.peers and way.dst == way.world.outside
        ]
        for number, payload in enumerate(stored.messages()):
            if not payload.startswith(b"SIP/") or not number % 10:
                found.append(bytes((entering[number % len(entering)], 0)) + payload)
        return found


def without_ident(packet: bytes) -> bytes:
    """An IPv4 packet without its identification, and the checksum over that."""
    return packet if not packet or packet[0] >> 4 == 6 else packet[:4] + packet[6:10] + packet[12:]


def both(way: Way, packet: bytes) -> tuple[Verdict, tuple[str, ...]]:
    """The verdict of one worker, and the rules that another one explains it by: it must decide and write the same. Who
    explains takes the slow path, whoever does not may know a faster one.
    """
    began = time.process_time()
    verdict = way.world.engine.process(packet)
    if (took := time.process_time() - began) > SLOW:
        broken("quick", f"{took:.1f} s for {verdict.reason.name}")
    told: list[str] = []
    other = way.world.twin.process(packet, lambda rule, _: told.append(rule))
    if verdict._replace(packet=b"") != other._replace(packet=b""):
        broken("deterministic", f"{verdict.reason.name} to {verdict.dst}, {other.reason.name} to {other.dst}")
    one, two = without_ident(verdict.packet), without_ident(other.packet)
    if one != two:
        at = next((at for at, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))
        broken("deterministic", f"from byte {at} on: {one[at - 40 : at + 40]!r}, {two[at - 40 : at + 40]!r}")
    return verdict, tuple(told)


class EngineTarget(Target):
    name = "engine"
    about = "datagrams with hostile SIP, from phones, backends and strangers, into gateways of seven kinds"

    @cached_property
    def stage(self) -> Stage:
        return Stage()

    def seeds(self) -> list[bytes]:
        return self.stage.seeds()

    def mutate(self, data: bytes, others: Sequence[bytes], chance: Random) -> bytes:
        if len(data) < HEAD:
            return data + bytes(HEAD)
        head = data[:HEAD] if chance.random() < 0.9 else chance.randbytes(HEAD)
        return head + mutate.message(data[HEAD:], [chance.choice(others)[HEAD:]] if others else (), chance)

    def run(self, data: bytes) -> Hashable:
        if len(data) < HEAD:
            return None
        way, tos, payload = self.ways[data[0] % len(self.ways)], data[1], data[HEAD : HEAD + mutate.LONGEST]
        way.world.forget()
        packet = datagram.build(way.src, way.dst, payload, tos=tos)
        verdict, rules = both(way, packet)
        oracle.judge(way, payload, tos, verdict)
        if way.world.is_new(packet):
            oracle.judge_new(way, payload, verdict)
            refused = way.world.engine.refuse(packet)
            if refused is not None:
                oracle.judge(way, payload, tos, refused)
        self.follow(way, payload, verdict)
        return data[0] % len(self.ways), verdict.reason, rules

    @property
    def ways(self) -> list[Way]:
        return self.stage.ways

    def follow(self, way: Way, payload: bytes, verdict: Verdict) -> None:
        """What is to be tried with the outcome."""


class JourneyTarget(EngineTarget):
    name = "journey"
    about = "what passed comes back: answers, CANCEL, and requests that follow Path and Record-Route"

    def follow(self, way: Way, payload: bytes, verdict: Verdict) -> None:
        from devtools.fuzz import journey

        if verdict.action is Action.FORWARD and verdict.reason.name.startswith("REQUEST"):
            journey.check(way, payload, payload_of(verdict), verdict)


class TwinsTarget(EngineTarget):
    name = "twins"
    about = "messages that stay nearly plain: two workers, one of which explains itself, write the same bytes"

    def seeds(self) -> list[bytes]:
        """Those that go a faster way, if there is one."""
        found = super().seeds()
        return [data for data in found if self.is_fast(data)] or found

    def is_fast(self, data: bytes) -> bool:
        """Whether the compiled path decides it; a verdict does not tell who has."""
        way = self.way(data)
        path = way.world.engine.fast
        return path is not None and path.process(datagram.build(way.src, way.dst, data[HEAD:])) is not None

    def way(self, data: bytes) -> Way:
        return self.ways[data[0] % len(self.ways)]

    def mutate(self, data: bytes, others: Sequence[bytes], chance: Random) -> bytes:
        if len(data) < HEAD:
            return data + bytes(HEAD)
        if chance.random() < 0.6:
            return data[:HEAD] + mutate.gentle(data[HEAD:], chance)
        head = chance.choice(others)[:HEAD] if others and chance.random() < 0.1 else data[:HEAD]
        return head + mutate.message(data[HEAD:], [chance.choice(others)[HEAD:]] if others else (), chance, 1)

    def run(self, data: bytes) -> Hashable:
        if len(data) < HEAD:
            return None
        way, payload = self.way(data), data[HEAD : HEAD + mutate.LONGEST]
        way.world.forget()
        packet = datagram.build(way.src, way.dst, payload, tos=data[1])
        verdict, rules = both(way, packet)
        way.world.is_new(packet)
        return data[0] % len(self.ways), verdict.reason, rules


class PacketTarget(Target):
    name = "packet"
    about = "raw IP packets, IPv4 and IPv6 with extension headers, into the packet reader and the engine"

    @cached_property
    def world(self) -> World:
        return build_all()[5]

    def seeds(self) -> list[bytes]:
        found = []
        for src, dst, payload in self.world.seeds[:40]:
            found.append(datagram.build(src, dst, payload))
        four, six = self.world.setup.listeners[0].external, self.world.setup.listeners[1].external
        peer = type(six)(six.addr[:-1] + b"\x09", 5060)
        plain = datagram.build(peer, six, b"\r\n\r\n")
        for number in (0, 60, 43, 44):
            extension = bytes((17, 0, 0, 0, 0, 0, 0, 1))
            found.append(
                plain[:4]
                + (len(plain) - 32).to_bytes(2, "big")
                + bytes((number,))
                + plain[7:40]
                + extension
                + plain[40:]
            )
        found += [plain, datagram.build(self.world.peers[0], four, b"")]
        return found

    def run(self, data: bytes) -> Hashable:
        verdict = self.world.engine.process(data)
        try:
            read = datagram.parse(data, verify=False)
        except datagram.DatagramError as error:
            if verdict.action not in (Action.DROP, Action.IGNORE):
                broken("known-verdict", f"{verdict.reason.name} for a packet with {error.fault.value}")
            return error.fault
        if read.src.version == read.dst.version and len(read.payload) <= mutate.LONGEST:
            written = datagram.build(read.src, read.dst, read.payload, tos=read.tos)
            if oracle.sound(written, read.tos) != (read.src, read.dst, read.payload):
                broken("round-trip", "what was read and built anew is read otherwise")
            if datagram.parse(written) != read:
                broken("round-trip", "what was built is not what was read")
        return verdict.reason
