"""Files as targets: captures that somebody sends us, and a configuration that somebody has written."""

import os
from collections.abc import Hashable, Sequence
from functools import cached_property
from pathlib import Path
from random import Random

from devtools.fuzz import mutate
from devtools.fuzz.invariants import broken
from devtools.fuzz.stored import CHECKOUT, PCAPS
from devtools.fuzz.target import Target
from nfqlb.capture.errors import CaptureError
from nfqlb.capture.packets import PacketReader
from nfqlb.capture.source import Source
from nfqlb.config.build import build, parse
from nfqlb.config.problems import ConfigError

CAPTURE_MAX = 1 << 20
"""Bytes of frames that one input may unpack to before it is left."""


class MemoryFile:
    """A file without a disk."""

    def __init__(self) -> None:
        self._fd = os.memfd_create("fuzz")
        self.path = Path(f"/proc/self/fd/{self._fd}")

    def write(self, data: bytes) -> Path:
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, data, 0)
        return self.path


class CaptureTarget(Target):
    name = "capture"
    about = "pcap and pcapng files, plain and gzip'ed, links, fragments"

    @cached_property
    def file(self) -> MemoryFile:
        return MemoryFile()

    def seeds(self) -> list[bytes]:
        import gzip

        stored = [path.read_bytes()[:6000] for path in sorted(PCAPS.glob("*/*.pcap"))[::3]]
        empty = bytes.fromhex("d4c3b2a1020004000000000000000000ffff000001000000")
        frame = bytes(8) + (42).to_bytes(4, "little") * 2 + bytes(12) + b"\x08\0" + b"\x45" + bytes(27)
        section = bytes.fromhex("0a0d0d0a1c0000004d3c2b1a01000000ffffffffffffffff1c000000")
        interface = bytes.fromhex("01000000140000000100000000000000" + "14000000")
        packet = bytes.fromhex("060000002400000000000000000000000000000004000000040000004500000024000000")
        own = [empty, empty + frame, section + interface + packet, section + interface]
        return [*own, *stored, *(gzip.compress(each) for each in (*own, *stored[:2]))]

    def run(self, data: bytes) -> Hashable:
        skipped: dict[str, int] = {}
        held = 0
        with Source(self.file.write(data)) as source:
            try:
                for number, packet in enumerate(PacketReader(source), 1):
                    if packet.frame.number != number:
                        broken("inside", f"frame {packet.frame.number} is the {number}th")
                    skipped[packet.skipped] = 1
                    held += len(packet.data)
                    if held > CAPTURE_MAX:
                        break
            except CaptureError as error:
                return type(error), tuple(skipped)
        return tuple(skipped)


class ConfigTarget(Target):
    name = "config"
    about = "configuration files"

    @cached_property
    def file(self) -> MemoryFile:
        return MemoryFile()

    def seeds(self) -> list[bytes]:
        stored = [path.read_bytes() for path in sorted(PCAPS.glob("*/*.toml"))]
        example = CHECKOUT / "docs" / "nfqlb.example.toml"
        lines = b""
        if example.exists():
            text = example.read_bytes()
            stored.append(text)
            # What is a comment there is a setting here.
            lines = b"\n".join(line.removeprefix(b"#") for line in text.splitlines())
        return [*stored, lines, _SMALL]

    def mutate(self, data: bytes, others: Sequence[bytes], chance: Random) -> bytes:
        if chance.random() < 0.4:
            return mutate.data(data, chance, _TOML)
        lines = data.split(b"\n")
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(len(lines))
            what = chance.random()
            if what < 0.3:
                del lines[at : at + chance.randint(1, 2)]
                lines = lines or [b""]
            elif what < 0.6:
                lines.insert(at, chance.choice(lines))
            elif what < 0.8 and others:
                lines.insert(at, chance.choice(chance.choice(others).split(b"\n")))
            else:
                key, equals, _ = lines[at].partition(b"=")
                lines[at] = key + equals + chance.choice(_TOML)
        return b"\n".join(lines)

    def run(self, data: bytes) -> Hashable:
        path = self.file.write(data)
        try:
            config = build(path, parse(path))
        except ConfigError as error:
            if not error.problems or not str(error):
                broken("known-verdict", "refused without a reason")
            for problem in error.problems:
                str(problem)
            return frozenset(problem.text[:12] for problem in error.problems[:2])
        return len(config.pools), len(config.routes)


_SMALL = b"""[[listener]]
name = "main"
external = "203.0.113.5:5060"
internal = "192.168.1.5:5060"
[[pool]]
name = "p"
[[pool.backend]]
name = "a"
address = "192.168.1.11:5060"
[[route]]
pool = "p"
"""
_TOML = (
    b"0", b"-1", b"1e400", b"nan", b"inf", b"true", b'""', b'"\\u0000"', b"[]", b"[[]]", b"{}", b"{a=1}", b'["a", 1]',
    b"9" * 5000, b"2024-01-01", b"07:32:00", b'"\xff"', b'"x"', b'"192.168.1.11:5060"', b'"[::1]:0"', b"'''", b"[a.b]",
    b"[[pool]]", b"[pool]", b"=", b'"(?"', b'["REGISTER"]', b"1.5", b'"1s"', b"\\", b"#", b"\r", b"0x10", b'"a.b:5060"',
)  # fmt: skip
