"""`nfqlb replay`: JSON, the table, what is written, and captures that are wrong."""

import json
import shutil
import subprocess
from pathlib import Path

import dpkt
import pytest
from click.testing import CliRunner
from pcap_files import EPOCH, Stored, write_pcap
from sipcase import EXT, INT, PHONE, REGISTER, request
from stored_case import Nfqlb, packet, packets

from nfqlb.cli import main


def test_json_is_one_object_a_line_for_each_frame(nfqlb: Nfqlb) -> None:
    result = nfqlb("replay", "in.pcap", "--json", "-o", "out.pcap")
    assert (result.exit_code, result.stderr) == (0, "")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [list(row) for row in rows] == [
        [
            "frame", "time", "side", "listener", "method", "status", "call_id", "verdict", "reason", "backend",
            "src", "dst", "out_src", "out_dst", "out_frame",
        ]
    ] * 8  # fmt: skip
    assert [(row["frame"], row["verdict"], row["out_frame"]) for row in rows] == [
        (1, "forward", 1), (2, "forward", 2), (3, "reply", 3), (4, "drop", None),
        (5, "ignore", None), (6, "ignore", None), (7, "ignore", None), (8, "forward", 4),
    ]  # fmt: skip
    assert rows[7] == {
        "frame": 8, "time": EPOCH + 0.07, "side": "outside", "listener": "main", "method": "INVITE", "status": None,
        "call_id": "call-1@172.31.23.177", "verdict": "forward", "reason": "request-entering", "backend": "proxy1",
        "src": PHONE, "dst": EXT, "out_src": INT, "out_dst": "192.168.1.21:5060", "out_frame": 4,
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("tshark"), reason="needs tshark")
def test_tshark_finds_nothing_wrong_with_what_is_written(nfqlb: Nfqlb) -> None:
    assert nfqlb("replay", "in.pcap", "-o", "out.pcap").exit_code == 0
    command = ["tshark", "-r", "out.pcap", "-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE"]
    command += ["-T", "fields", "-e", "frame.time_epoch", "-e", "sip.Method", "-e", "sip.Status-Code"]
    command += ["-e", "ip.checksum.status", "-e", "udp.checksum.status", "-e", "_ws.malformed", "-e", "_ws.expert"]
    shown = subprocess.run(command, check=True, timeout=60, capture_output=True, text=True).stdout
    assert [line.split("\t") for line in shown.splitlines()] == [
        [f"{EPOCH}.000000000", "REGISTER", "", "1", "1", "", ""],
        [f"{EPOCH}.010000000", "", "200", "1", "1", "", ""],
        [f"{EPOCH}.020000000", "", "200", "1", "1", "", ""],
        [f"{EPOCH}.070000000", "INVITE", "", "1", "1", "", ""],
    ]


def test_the_table_is_aligned_and_summed_up(nfqlb: Nfqlb) -> None:
    result = nfqlb("replay", "in.pcap", "-o", "out.pcap")
    titles, *rows = result.stdout.partition("\n\n")[0].split("\n")
    assert len(rows) == 8
    for title, first, third in (
        ("SIDE", "outside", "outside"),
        ("FROM", PHONE, PHONE),
        ("VERDICT", "forward", "reply"),
    ):
        at = titles.index(title)
        assert rows[0][at:].startswith(first)
        assert rows[2][at:].startswith(third)
    assert "\x1b" not in result.stdout
    summary = result.stdout.partition("\n\n")[2].splitlines()
    assert summary[0] == "8 frames: 3 forward, 1 reply, 1 drop, 3 ignore"
    assert summary[1:3] == ["4 packets written to out.pcap.", ""]
    assert [line.split()[:3] for line in summary[3:]] == [
        ["VERDICT", "REASON", "FRAMES"],
        ["forward", "request-entering", "2"],
        ["forward", "response-leaving", "1"],
        ["reply", "ping", "1"],
        ["drop", "keepalive", "1"],
        ["ignore", "fragment", "2"],
        ["ignore", "not-ours", "1"],
    ]


def test_a_column_becomes_wider_when_a_cell_needs_it(place: Path, nfqlb: Nfqlb) -> None:
    v6 = packet("[2001:db8:1111:2222:3333:4444:5555:6666]:40000", "[2001:db8::5]:5060", REGISTER)
    write_pcap(place / "in.pcap", [Stored(data, 0) for data in [packets()[0], v6, packets()[0]]])
    _, before, wide, after = nfqlb("replay", "in.pcap").stdout.split("\n")[:4]
    assert after.index(EXT) == wide.index("[2001:db8::5]:5060") > before.index(EXT)


def test_hostile_text_does_not_reach_the_terminal(place: Path, nfqlb: Nfqlb) -> None:
    message = request("INVITE", "sip:bob@example.org", "Subject: \x1b]0;title\x07", Call_ID="a\x1b[2J\u202eb")
    write_pcap(
        place / "in.pcap", [Stored(packet(PHONE, EXT, message.replace("Max-Forwards: 70", "Max-Forwards: 0")), 0)]
    )
    for command in (["replay"], ["replay", "--diff"], ["explain"], ["explain", "--all"]):
        output = nfqlb(*command, "in.pcap").stdout
        assert "a\\x1b[2J\\u202eb" in output
        assert all(line.isprintable() for line in output.splitlines())


def test_diff_shows_the_changed_header_lines(nfqlb: Nfqlb) -> None:
    lines = nfqlb("replay", "in.pcap", "--diff").stdout.splitlines()
    assert "      - Max-Forwards: 70" in lines
    assert "      + Max-Forwards: 69" in lines
    assert any(
        line.startswith("      + Path: <sip:lb@192.168.1.5;lr;received=sip:172.31.23.177:5060;sig=") for line in lines
    )
    assert not any("Expires: 300" in line for line in lines)


def test_no_ignored(nfqlb: Nfqlb) -> None:
    rows = [json.loads(line) for line in nfqlb("replay", "in.pcap", "--json", "--no-ignored").stdout.splitlines()]
    assert [row["frame"] for row in rows] == [1, 2, 3, 4, 8]


def test_nanoseconds_of_the_capture_are_kept(place: Path, nfqlb: Nfqlb) -> None:
    write_pcap(place / "in.pcap", [Stored(packets()[0], EPOCH * 10**9 + 123_456_789)], nano=True)
    nfqlb("replay", "in.pcap", "-o", "out.pcap")
    with (place / "out.pcap").open("rb") as file:
        ((time, _),) = dpkt.pcap.Reader(file)
    assert str(time) == f"{EPOCH}.123456789"


# ---- captures that are wrong


def test_a_truncated_capture_is_replayed_as_far_as_it_goes(place: Path, nfqlb: Nfqlb) -> None:
    whole = (place / "in.pcap").read_bytes()
    (place / "in.pcap").write_bytes(whole[:-1])
    result = nfqlb("replay", "in.pcap", "-o", "out.pcap")
    assert result.exit_code == 1
    assert "7 frames: 2 forward, 1 reply, 1 drop, 3 ignore" in result.stdout
    assert "1 packet never became whole" in result.stdout
    start = len(whole) - len(packets()[-1]) - 16
    assert f"in.pcap is truncated: what begins at byte {start} (frame 8) needs" in result.stderr
    with (place / "out.pcap").open("rb") as file:
        assert len(list(dpkt.pcap.Reader(file))) == 3


@pytest.mark.parametrize("command", ["replay", "explain"])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "in.pcap is not a pcap or pcapng capture: it is empty."),
        (b"<html>\n", "it seems to be text"),
        (b"\xd4\xc3\xb2\xa1\2\0\4\0" + bytes(12) + b"\x69\0\0\0" + bytes(16), "link type IEEE802_11 (105)"),
    ],
)
def test_a_file_that_is_no_use_is_an_error(place: Path, nfqlb: Nfqlb, command: str, content: bytes, says: str) -> None:
    (place / "in.pcap").write_bytes(content)
    result = nfqlb(command, "in.pcap")
    assert result.exit_code == 1
    assert says in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_foreign_file_does_not_cost_the_output_of_yesterday(place: Path, nfqlb: Nfqlb) -> None:
    (place / "out.pcap").write_bytes(b"yesterday's")
    assert nfqlb("replay", "nfqlb.toml", "-o", "out.pcap").exit_code == 1
    assert (place / "out.pcap").read_bytes() == b"yesterday's"


@pytest.mark.parametrize("command", ["replay", "explain"])
@pytest.mark.parametrize(("name", "says"), [("nix.pcap", "No such file"), (".", "Is a directory"), ("a\0b", "null")])
def test_a_file_that_cannot_be_opened(nfqlb: Nfqlb, command: str, name: str, says: str) -> None:
    result = nfqlb(command, name)
    assert result.exit_code == 1
    assert says in result.stderr
    assert "cannot be opened" in result.stderr


def test_an_output_that_cannot_be_written(nfqlb: Nfqlb) -> None:
    result = nfqlb("replay", "in.pcap", "-o", "no/such/place.pcap")
    assert (result.exit_code, result.stderr) == (
        1,
        "Error: no/such/place.pcap cannot be written: No such file or directory.\n",
    )
    result = nfqlb("replay", "in.pcap", "-o", "/dev/full")
    assert result.exit_code == 1
    assert "No space left on device" in result.stderr


@pytest.mark.parametrize("command", ["replay", "explain"])
def test_without_a_configuration(place: Path, command: str) -> None:
    result = CliRunner().invoke(main, [command, "in.pcap", "-c", "none.toml"])
    assert result.exit_code == 1
    assert "none.toml" in result.stderr
    (place / "secret").unlink()
    result = CliRunner().invoke(main, [command, "in.pcap", "-c", "nfqlb.toml"])
    assert result.exit_code == 1
    assert "secret" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["replay", "in.pcap", "--json", "--diff"], "choose one"),
        (["replay", "in.pcap", "-o", "./in.pcap"], "is the capture itself"),
        (["replay", "in.pcap", "-o", "-"], "needs the name of a file"),
        (["replay"], "Missing argument 'IN.pcap'"),
        (["explain", "in.pcap", "-n", "0"], "x>=1"),
        (["explain", "in.pcap", "-n", "1", "--all"], "choose one"),
    ],
)
def test_wrong_usage(place: Path, nfqlb: Nfqlb, arguments: list[str], says: str) -> None:
    before = (place / "in.pcap").read_bytes()
    result = nfqlb(*arguments)
    assert result.exit_code == 2
    assert says in result.stderr
    assert (place / "in.pcap").read_bytes() == before
