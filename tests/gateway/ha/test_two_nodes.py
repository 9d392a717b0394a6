"""P39: two nodes of one configuration and one set of keys treat every packet alike, so that each can go on with what
the other has begun.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from nfqlb.capture.packets import PacketReader
from nfqlb.capture.source import Source
from nfqlb.config.build import load
from nfqlb.config.model import Config
from nfqlb.config.pair import Pair
from nfqlb.engine import Engine
from nfqlb.gateway.ha.compare import problems
from nfqlb.gateway.ha.digest import digests, written

PCAPS = Path(__file__).parents[3] / "pcaps"
CAPTURES = sorted(path for path in PCAPS.glob("*/*.pcap") if not path.name.endswith(".out.pcap"))
ROOT = PCAPS.parent


def packets(capture: Path) -> list[bytes]:
    with Source(capture) as source:
        return [packet.data for packet in PacketReader(source) if not packet.skipped]


def node(config: Config, first_ident: int) -> Callable[[bytes], bytes]:
    """What an engine of its own, made from the file, sends for a packet; the IP identification and what depends on it
    (the header's checksum) are taken out.
    """
    engine = Engine(config.setup(), verify_checksums=False, first_ident=first_ident)

    return lambda packet: without_ident(engine.process(packet).packet)


def without_ident(packet: bytes) -> bytes:
    content = bytearray(packet)
    if content and content[0] >> 4 == 4:
        content[4:6] = content[10:12] = bytes(2)
    return bytes(content)


def is_response(packet: bytes) -> bool:
    return packet[28 if packet[0] >> 4 == 4 else 48 :].startswith(b"SIP/2.0 ")


@pytest.mark.parametrize("capture", CAPTURES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_two_nodes_give_the_same_bytes_and_go_on_for_each_other(capture: Path) -> None:
    config = load(capture.with_name("nfqlb.toml"))
    one, other = node(config, 1), node(load(config.path), 40_000)
    turns, here, there = (node(config, 7), node(config, 9_000)), node(config, 11), node(config, 13_000)
    for number, packet in enumerate(packets(capture)):
        expected = one(packet)
        assert other(packet) == expected
        # Each node has seen only every other packet; only requests, or only responses.
        assert turns[number % 2](packet) == expected
        assert (there if is_response(packet) else here)(packet) == expected


@pytest.mark.parametrize("folder", sorted({capture.parent for capture in CAPTURES}), ids=lambda folder: folder.name)
def test_responses_are_forwarded_by_a_node_that_never_saw_their_request(folder: Path) -> None:
    """As the stored captures say it was; two-armed and one-armed, IPv4 and IPv6."""
    capture = folder / "call.pcap"
    sent = node(load(folder / "nfqlb.toml"), 1)
    responses = [packet for packet in packets(capture) if is_response(packet)]
    out = packets(capture.with_suffix(".out.pcap"))
    assert len(responses) >= 4
    assert all(without_ident(packet) in {sent(each) for each in responses} for packet in out if is_response(packet))
    assert all(is_response(sent(packet)) for packet in responses)


def test_the_nodes_differ_where_they_may() -> None:
    capture = PCAPS / "two-armed" / "call.pcap"
    config = load(capture.with_name("nfqlb.toml"))
    one, other = (Engine(config.setup(), verify_checksums=False, first_ident=each) for each in (1, 40_000))
    assert any(one.process(each).packet != other.process(each).packet for each in packets(capture))


@pytest.mark.slow
def test_digests_are_the_same_in_every_process() -> None:
    """Sets have another order in each: the hash of text is seeded by chance."""
    path = PCAPS / "two-armed" / "nfqlb.toml"
    program = (
        "import sys; from nfqlb.config.build import load; from nfqlb.gateway.ha.digest import digests; "
        "c = load(sys.argv[1]); print(sorted(digests(c, c.setup()).items()))"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", program, str(path)],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": str(seed)},
        ).stdout
        for seed in (1, 2)
    }
    assert len(told) == 1


OF_ONE_NODE = {"path", "workers", "dns", "rules", "log", "pools", "names", "warnings", "notes"}
"""Fields of a Config that may differ, or (pools, names) are in the Setup, with what DNS says of them."""


def test_no_part_of_the_configuration_is_left_out() -> None:
    """Whoever adds a table to the configuration has to say whether both nodes need the same."""
    path = PCAPS / "two-armed" / "nfqlb.toml"
    config = load(path)
    before = digests(config, config.setup())
    changes: dict[str, Any] = {
        "gateway": replace(config.gateway, name="other"),
        "listeners": (),
        "routes": (),
        "path_policy": "require",
        "accept_unsigned": not config.accept_unsigned,
        "egress": (),
        "egress_names": not config.egress_names,
        "limits": replace(config.limits, ban_for=7),
        "health": replace(config.health, interval=7.0),
        "pool_health": {"registrars": replace(config.health, interval=7.0)},
        "ha": Pair(IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2"), "a", "a", "a", (), 0.1, 0, Path("/x"), ()),
    }
    assert set(changes) | OF_ONE_NODE == {each.name for each in fields(config)}
    for name, value in changes.items():
        other = replace(config, **{name: value})
        assert digests(other, other.setup()) != before, name


def test_what_an_older_version_does_not_compare_is_no_difference() -> None:
    node = {
        "address": "a",
        "peer": "b",
        "groups": [],
        "unwell": [],
        "digests": {"code": "1", "keys": "k", "limits": "l"},
    }
    older = {"address": "b", "peer": "a", "groups": [], "unwell": [], "digests": {"code": "0", "keys": "k"}}
    found = problems(node, older)
    assert (len(found), "the code differs" in found[0]) == (1, True)


def test_an_interface_that_is_down_is_a_problem_on_either_node() -> None:
    """keepalived there takes no address then, and nothing else tells: the gateway itself is well."""
    well = {"address": "a", "peer": "b", "groups": [], "unwell": [], "digests": {}, "interfaces_down": []}
    cut_off = {**well, "address": "b", "peer": "a", "interfaces_down": ["eth0"]}
    assert problems(well, {**cut_off, "interfaces_down": []}) == []
    assert [text.split(" is down")[0] for text in problems(well, cut_off)] == ["eth0 of the peer"]
    assert [text.split(" is down")[0] for text in problems(cut_off, well)] == ["eth0 of this node"]


def test_digests_tell_what_differs_and_nothing_of_a_key(tmp_path: Path) -> None:
    path = PCAPS / "two-armed" / "nfqlb.toml"
    config = load(path)
    here = digests(config, config.setup())
    other_keys = digests(config, config.setup((b"another key, for this test only",)))
    assert {name for name in here if here[name] != other_keys[name]} == {"keys"}
    assert not any(key.decode() in str(here) for key in config.setup().keys)
    text = path.read_text().replace('secret_file = "', f'secret_file = "{path.parent}/')
    changed = tmp_path / "nfqlb.toml"
    changed.write_text(text.replace('hash_on = "call-id"', 'hash_on = "from-uri"'))
    there = digests(load(changed), config.setup(()))
    assert {name for name in here if here[name] != there[name]} >= {"keys"}


def test_values_are_written_in_one_way() -> None:
    assert written(frozenset("abc")) == written(frozenset("cba")) == "{'a','b','c'}"
    assert written({"b": (1, 2), "a": None}) == "{'a':None,'b':[1,2]}"
