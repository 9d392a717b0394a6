"""An engine that is handed on: to other workers, and through a pipe to another process."""

import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
from sipcase import EXT, PHONE, Gateway, endpoint, request, setup, standing, wire

from nfqlb.balance import recent
from nfqlb.balance.recent import Recent
from nfqlb.capture.packets import PacketReader
from nfqlb.capture.source import Source
from nfqlb.config.build import load
from nfqlb.engine import Engine
from nfqlb.net import datagram
from nfqlb.proxy.setup import State

PCAPS = Path(__file__).parents[2] / "pcaps"
STATES = {("registrars", "reg1"): State.DRAINING, ("registrars", "reg2"): State.UP}


def stored(directory: Path) -> Iterator[bytes]:
    for capture in sorted(directory.glob("*.pcap")):
        with Source(capture) as source:
            yield from (packet.data for packet in PacketReader(source) if not packet.skipped)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["two-armed", "one-armed", "two-armed-ipv6", "one-armed-ipv6"])
@pytest.mark.parametrize("states", [{}, STATES], ids=["all up", "one draining"])
def test_P39_what_was_pickled_gives_the_same_verdicts(kind: str, states: dict[tuple[str, str], State]) -> None:
    """Over all stored captures, what came in them and what left: the latter with Vias, Paths and Routes of ours."""
    with_setup = load(PCAPS / kind / "nfqlb.toml").setup()
    engine = Engine(with_setup, standings=standing(states), verify_checksums=False, first_ident=77)
    loaded = pickle.loads(pickle.dumps(engine))
    traces: list[list[tuple[str, str]]] = [[], []]
    count = 0
    for packet in stored(PCAPS / kind):
        first, second = (
            each.process(packet, lambda *rule, trace=trace: trace.append(rule))
            for each, trace in zip((engine, loaded), traces, strict=True)
        )
        assert first == second
        count += 1
    assert traces[0] == traces[1]
    assert count > 50


def test_what_was_pickled_verifies_with_all_keys_and_signs_with_the_first() -> None:
    old, new = b"o" * 32, b"n" * 32
    packet = datagram.build(endpoint(PHONE), endpoint(EXT), wire(request()))
    loaded = pickle.loads(pickle.dumps(Engine(setup(keys=(new, old)))))
    written = loaded.process(packet).packet
    assert written == Engine(setup(keys=(new, old))).process(packet).packet
    assert written != Engine(setup(keys=(old, new))).process(packet).packet


def test_an_engine_with_a_memory_stays_where_its_memory_is() -> None:
    cells = memoryview(bytearray(recent.SIZE)).cast("Q")
    Recent.format(cells)
    engine = Engine(setup(), recent=Recent(cells))
    with pytest.raises(TypeError, match="memoryview"):
        pickle.dumps(engine)
    assert pickle.loads(pickle.dumps(engine.sibling(0))).process(b"") == engine.process(b"")


def test_P37_siblings_count_for_themselves() -> None:
    gateway = Gateway()
    packet = datagram.build(endpoint(PHONE), endpoint(EXT), wire(request()))
    sibling = gateway.engine.sibling(40_000)
    idents = [
        [int.from_bytes(each.process(packet).packet[4:6], "big") for _ in range(3)]
        for each in (gateway.engine, sibling)
    ]
    assert idents == [[1, 2, 3], [40_001, 40_002, 40_003]]
