"""The stored captures: each is replayed and compared with what stands beside it, and what stands there makes sense."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from nfqlb.capture.packets import PacketReader
from nfqlb.capture.source import Source
from nfqlb.cli import main
from nfqlb.net.datagram import Datagram, parse
from nfqlb.offline.header_diff import header_lines

PCAPS = Path(__file__).parents[2] / "pcaps"
CAPTURES = sorted(path for path in PCAPS.glob("*/*.pcap") if not path.name.endswith(".out.pcap"))


def name(capture: Path) -> str:
    return f"{capture.parent.name}/{capture.stem}"


def beside(capture: Path, suffix: str) -> Path:
    return capture.with_name(capture.stem + suffix)


def datagrams(pcap: Path) -> list[Datagram]:
    with Source(pcap) as source:
        return [parse(packet.data) for packet in PacketReader(source) if not packet.skipped]


def rows(capture: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in beside(capture, ".expected.jsonl").read_text().splitlines()]


def first_line(datagram: Datagram) -> str:
    return header_lines(datagram.payload)[0].decode()


def values(datagram: Datagram, header: str) -> list[str]:
    lines = (line.decode().partition(": ") for line in header_lines(datagram.payload))
    return [value for word, _, value in lines if word == header]


@pytest.mark.parametrize("capture", CAPTURES, ids=name)
def test_replay_gives_what_is_expected(capture: Path, tmp_path: Path) -> None:
    """P39: the same bytes, whoever asks and when. `tools/capture --expect` writes the expectations anew."""
    out = tmp_path / "out.pcap"
    config = capture.with_name("nfqlb.toml")
    argv = ["replay", str(capture), "-c", str(config), "--json", "-o", str(out)]
    result = CliRunner().invoke(main, argv, catch_exceptions=False)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == beside(capture, ".expected.jsonl").read_text().splitlines()
    assert out.read_bytes() == beside(capture, ".out.pcap").read_bytes()


def test_every_file_belongs_to_a_capture() -> None:
    assert len(CAPTURES) > 30
    known = {PCAPS / "README.md", PCAPS / "secret"}
    for capture in CAPTURES:
        known |= {capture, beside(capture, ".expected.jsonl"), beside(capture, ".out.pcap")}
        known.add(capture.with_name("nfqlb.toml"))
    assert {path for path in PCAPS.rglob("*") if path.is_file()} == known


def test_the_readme_lists_every_capture() -> None:
    text = (PCAPS / "README.md").read_text()
    listed = {line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ") and "/" in line}
    assert listed == {name(capture) for capture in CAPTURES}


def test_the_secret_says_that_it_is_none() -> None:
    assert "FOR TESTS ONLY" in (PCAPS / "secret").read_text()


def test_only_what_shall_be_refused_is() -> None:
    """All that real peers said was forwarded; only the captures about refusals and keepalives hold something else."""
    refused = {name(capture) for capture in CAPTURES for row in rows(capture) if row["verdict"] in ("drop", "reply")}
    assert refused == {"two-armed/keepalives", "two-armed/ping", "two-armed/refusals"}
    ignored = {row["reason"] for capture in CAPTURES for row in rows(capture) if row["verdict"] == "ignore"}
    assert ignored == {"fragment"}


def test_the_exchange() -> None:
    """P18, P25: REGISTER from 172.31.23.177:5060 gets a Path; an INVITE along it leaves from E and is answered."""
    capture = PCAPS / "two-armed" / "exchange.pcap"
    came, left = datagrams(capture), datagrams(beside(capture, ".out.pcap"))

    register = next(d for d in came if first_line(d).startswith("REGISTER"))
    assert str(register.src) == "172.31.23.177:5060"
    registered = next(d for d in left if first_line(d).startswith("REGISTER"))
    (path,) = values(registered, "Path")
    assert path.startswith("<sip:lb@192.168.1.5;lr;received=sip:172.31.23.177:5060;sig=")

    invite = next(d for d in came if first_line(d) == "INVITE sip:dave@172.31.23.177:5060 SIP/2.0")
    assert (str(invite.dst), values(invite, "Route")) == ("192.168.1.5:5060", [path])
    sent = next(d for d in left if first_line(d) == "INVITE sip:dave@172.31.23.177:5060 SIP/2.0")
    assert (str(sent.src), str(sent.dst)) == ("203.0.113.5:5060", "172.31.23.177:5060")
    assert values(sent, "Route") == []

    answer = next(
        d
        for d in left
        if first_line(d) == "SIP/2.0 200 OK" and values(d, "CSeq") == ["1 INVITE"] and d.dst == invite.src
    )
    assert str(answer.src) == "192.168.1.5:5060"


@pytest.mark.parametrize("kind", ["two-armed", "one-armed", "two-armed-ipv6", "one-armed-ipv6"])
def test_fragments_were_put_together(kind: str) -> None:
    capture = PCAPS / kind / "fragments.pcap"
    assert [row["reason"] for row in rows(capture)].count("fragment") >= 4
    invites = [d for d in datagrams(beside(capture, ".out.pcap")) if first_line(d).startswith("INVITE")]
    assert len(invites) == 2
    assert all(len(d.payload) > 4000 for d in invites)


@pytest.mark.parametrize("kind", ["two-armed", "one-armed", "two-armed-ipv6", "one-armed-ipv6"])
def test_the_hairpin_never_sees_a_backend(kind: str) -> None:
    """P16, P18: ACK, BYE and its answer of a call that no backend record-routes."""
    found = [row for row in rows(PCAPS / kind / "hairpin.pcap") if row["reason"].endswith("hairpin")]
    assert [row["method"] or row["status"] for row in found] == ["ACK", "BYE", 200]
    assert [row["backend"] for row in found] == [None] * 3
