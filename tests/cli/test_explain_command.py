"""`nfqlb explain`: which frame, and how it is told."""

import json
from pathlib import Path

import pytest
from pcap_files import Stored, write_pcap
from sipcase import EXT, INT, PHONE
from stored_case import Nfqlb, packets


def test_explain_tells_the_way_the_rules_and_the_change(nfqlb: Nfqlb) -> None:
    result = nfqlb("explain", "in.pcap", "-n", "1")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0] == "Frame 1 REGISTER Call-ID reg-1@10.1.1.9"
    assert lines[1].startswith(
        "request from outside 172.31.23.177:5060 → listener main → pool registrars by call-id → reg"
    )
    assert "  P25  Path in REGISTER" in lines
    before, after = lines.index(f"Before: {PHONE} → {EXT}"), lines.index(f"After: {INT} → {lines[1].split()[-1]}")
    assert "  - Max-Forwards: 70" in lines[before:after]
    assert "    Expires: 300" in lines[before:after]
    assert "  + Max-Forwards: 69" in lines[after:]
    assert "    Expires: 300" in lines[after:]


def test_explain_without_a_number_takes_the_first_sip_message(place: Path, nfqlb: Nfqlb) -> None:
    write_pcap(place / "in.pcap", [Stored(packets()[n], 0) for n in (3, 1, 0)])
    assert nfqlb("explain", "in.pcap").stdout.startswith("Frame 2 response 200 Call-ID reg-1@10.1.1.9\n")
    write_pcap(place / "in.pcap", [Stored(packets()[3], 0)])
    result = nfqlb("explain", "in.pcap")
    assert (result.exit_code, result.stderr) == (1, "Error: in.pcap has no SIP message over UDP in its 1 frames.\n")


@pytest.mark.parametrize("number", ["6", "7", "8"])
def test_a_fragment_is_explained_by_the_packet_it_became_part_of(nfqlb: Nfqlb, number: str) -> None:
    output = nfqlb("explain", "in.pcap", "-n", number).stdout
    assert output.startswith("Frames 6, 7, 8 INVITE Call-ID call-1@172.31.23.177\n")
    assert output.count("(body of 3000 bytes)") == 2


def test_a_fragment_that_is_part_of_nothing(place: Path, nfqlb: Nfqlb) -> None:
    write_pcap(place / "in.pcap", [Stored(packets()[n], 0) for n in (0, 5, 6, 0)])
    output = nfqlb("explain", "in.pcap", "-n", "3").stdout
    assert output.startswith("Frame 3\nframe without ports → ignored: a fragment; the frame that completes")


def test_a_frame_that_is_not_there(nfqlb: Nfqlb) -> None:
    result = nfqlb("explain", "in.pcap", "-n", "99")
    assert (result.exit_code, result.stderr) == (1, "Error: in.pcap has no frame 99: it has 8.\n")


def test_explain_all_as_json(nfqlb: Nfqlb) -> None:
    result = nfqlb("explain", "in.pcap", "--all", "--json")
    explained = [json.loads(line) for line in result.stdout.splitlines()]
    replayed = [json.loads(line) for line in nfqlb("replay", "in.pcap", "--json").stdout.splitlines()]
    assert [{key: row[key] for key in replayed[0]} for row in explained] == replayed
    assert explained[7]["frames"] == [6, 7, 8]
    assert (explained[7]["body_before"], explained[7]["body_after"]) == (3000, 3000)
    assert {"rule", "title", "text"} == set(explained[0]["rules"][0])
    assert {"mark": "+", "text": "Max-Forwards: 69"} in explained[0]["changes"]
    assert explained[3]["body_after"] is None
    assert nfqlb("explain", "in.pcap", "--all").stdout.count("\n\nFrame") == 7
