"""The compiled loop that asks a worker's WorkerPath directly: what it sends and counts is what the slow path says."""

import struct
from pathlib import Path

import pytest
from kernelend import BATCH, VERDICT, pumped, queued
from sipcase import EXT, INT, PHONE, endpoint
from twins import SETUPS, passed
from workbench import Bench

from nfqlb import fast
from nfqlb.net import datagram

pytestmark = pytest.mark.skipif(fast.which() != "compiled", reason=f"no fast path here: {fast.which()}")


@pytest.mark.parametrize("name", SETUPS)
def test_packets_get_the_same_verdicts_and_are_counted_alike(tmp_path: Path, name: str) -> None:
    slow, direct = (Bench(tmp_path, SETUPS[name], slow=each) for each in (True, False))
    assert direct.worker.direct is not None
    assert slow.worker.direct is None
    messages = [packet for _, packet in passed(name)]
    messages += [(PHONE, EXT, b"\r\n"), (PHONE, EXT, b"junk"), ("192.168.1.99:5060", INT, b"x"), (PHONE, EXT, b"")]
    packets = [datagram.build(endpoint(src), endpoint(dst), payload) for src, dst, payload in messages] + [b"", b"E"]
    for _ in range(3):
        wanted = [slow.worker.decide(packet) for packet in packets]
        for first in range(0, len(packets), 8):
            several = packets[first : first + 8]
            _, said = pumped(*map(queued, several), consumer=direct.worker)
            assert said.pop(0)[0] == BATCH
            assert [kind for kind, _ in said] == [VERDICT] * len(several)
            found = [attributes.get(10) if struct.unpack(">II", attributes[2])[0] else None for _, attributes in said]
            assert found == wanted[first : first + 8]
    for each in (slow, direct):
        each.worker.idle()
    assert direct.counted == slow.counted


def test_an_answer_of_the_last_packet_is_never_that_of_the_next(tmp_path: Path) -> None:
    """It lies in memory that is used again: several in one go, each whole."""
    name = "two-armed"
    slow, direct = (Bench(tmp_path, SETUPS[name], slow=each) for each in (True, False))
    registers = [packet for kind, packet in passed(name) if b"REGISTER" in packet[2][:8]]
    src, dst, payload = registers[0]
    packets = [
        datagram.build(endpoint(src), endpoint(dst), payload.replace(b"Call-ID: ", b"Call-ID: %d" % number * number))
        for number in range(1, 9)
    ]
    wanted = [slow.worker.decide(packet) for packet in packets]
    _, said = pumped(*map(queued, packets), consumer=direct.worker)
    assert [attributes.get(10) for _, attributes in said[1:]] == wanted
    assert None not in wanted
