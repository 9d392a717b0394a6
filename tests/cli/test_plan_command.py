"""`nfqlb plan`: what is told of a change, and when it is refused."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from controlend import answering
from stored_case import CONFIG, Nfqlb

from nfqlb.gateway.runtime.control_socket import Conversation

SECOND = '{ name = "proxy1", address = "192.168.1.21:5060" }, { name = "proxy2", address = "192.168.1.22:5060" }'


@pytest.fixture(autouse=True)
def run_dir(place: Path) -> Path:
    """One of our own, so that no gateway of this machine is asked."""
    text = CONFIG.replace("[gateway]\n", f'[gateway]\nrun_dir = "{place}/run"\n')
    (place / "run").mkdir()
    (place / "nfqlb.toml").write_text(text)
    return place / "run"


def plan(nfqlb: Nfqlb, place: Path, *arguments: str, change: str = "") -> Result:
    """`change`: "old ⇒ new" in the text of the configuration."""
    text = (place / "nfqlb.toml").read_text()
    if change:
        old, new = change.split(" ⇒ ")
        assert old in text
        text = text.replace(old, new)
    (place / "new.toml").write_text(text)
    return nfqlb("plan", "new.toml", *arguments)


ADDED = '{ name = "proxy1", address = "192.168.1.21:5060" } ⇒ ' + SECOND


def found(result: Result) -> dict[str, Any]:
    value = json.loads(result.stdout)
    assert isinstance(value, dict)
    return value


def test_nothing_changes(nfqlb: Nfqlb, place: Path) -> None:
    result = plan(nfqlb, place, "--pcap", "in.pcap", "--fail-if-moves", "0%")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == (
        "new.toml, compared with nfqlb.toml; no gateway runs here, so all backends are taken to be up.\n"
        "\nWhat is other\n  nothing\n"
        "\nKeys that would go to another backend\n  pool registrars, IPv4: 0.0 %\n  pool proxies, IPv4: 0.0 %\n"
        "\nRules and sysctls that would change\n  none\n"
        "\nHow it would come into force\n  not at all: a reload does nothing when nothing has changed\n"
        "\nMessages in in.pcap that would go elsewhere (0 of 3 requests from outside, 0.0 %)\n  none\n"
    )


def test_a_backend_more_moves_half_of_the_keys(nfqlb: Nfqlb, place: Path) -> None:
    result = plan(nfqlb, place, "--json", "--fail-if-moves", "40", change=ADDED)
    told = found(result)
    assert (result.exit_code, told["ok"], told["refused"], told["restarts"]) == (1, False, [], [])
    assert told["changes"] == ["pool proxies: backend proxy2: added (address 192.168.1.22:5060)"]
    shares = {each["pool"]: each["share"] for each in told["pools"]}
    assert shares == {"registrars": 0.0, "proxies": pytest.approx(0.5, abs=0.02)}
    assert [each["text"] for each in told["rules"]] == ["add NFQLB-allow4 192.168.1.22/32"]
    assert len(told["exceeded"]) == 1
    assert plan(nfqlb, place, "--fail-if-moves", "60%", change=ADDED).exit_code == 0


def test_stored_messages_that_would_go_elsewhere(nfqlb: Nfqlb, place: Path) -> None:
    change = 'methods = ["REGISTER"]\npool = "registrars" ⇒ methods = ["REGISTER"]\npool = "proxies"'
    result = plan(nfqlb, place, "--json", "--pcap", "in.pcap", "--fail-if-moves", "30%", change=change)
    told = found(result)["pcap"]
    assert (told["messages"], told["requests"], told["moved"]) == (4, 3, 1)
    [each] = told["elsewhere"]
    assert (each["before"]["frame"], each["before"]["method"]) == (1, "REGISTER")
    assert each["before"]["backend"] in ("reg1", "reg2")
    assert (each["after"]["backend"], each["after"]["out_dst"]) == ("proxy1", "192.168.1.21:5060")
    assert result.exit_code == 1
    text = plan(nfqlb, place, "--pcap", "in.pcap", change=change)
    assert "frame 1: REGISTER " in text.stdout
    assert "→ proxy1 192.168.1.21:5060\n" in text.stdout
    assert text.exit_code == 0


def test_route_rules_that_change_are_no_share_of_keys(nfqlb: Nfqlb, place: Path) -> None:
    result = plan(nfqlb, place, "--fail-if-moves", "0", change='methods = ["REGISTER"] ⇒ methods = ["SUBSCRIBE"]')
    assert result.exit_code == 0
    assert "--pcap FILE tells" in result.stderr


def test_rules_that_would_change(nfqlb: Nfqlb, place: Path) -> None:
    result = plan(nfqlb, place, change="203.0.113.5:5060 ⇒ 203.0.113.6:5060")
    assert "  IPv4 raw: - -A NFQLB-IN -d 203.0.113.5 " in result.stdout
    assert "  IPv4 raw: + -A NFQLB-IN -d 203.0.113.6 " in result.stdout
    assert "new workers on other queues" in result.stdout


def test_mistakes_are_refusals(nfqlb: Nfqlb, place: Path) -> None:
    change = 'pool = "proxies" ⇒ pool = "nowhere"'
    result = plan(nfqlb, place, change=change)
    assert result.exit_code == 1
    assert "It would be refused:\nnew.toml: route[1].pool" in result.stderr
    as_json = plan(nfqlb, place, "--json", change=change)
    assert as_json.exit_code == 1
    assert (found(as_json)["ok"], len(found(as_json)["refused"])) == (False, 1)


def test_the_run_directory_needs_a_restart(nfqlb: Nfqlb, place: Path) -> None:
    result = plan(nfqlb, place, "--json", change=f"{place}/run ⇒ {place}/elsewhere")
    assert (result.exit_code, len(found(result)["restarts"])) == (1, 1)


def test_a_file_with_itself(nfqlb: Nfqlb) -> None:
    result = nfqlb("plan", "nfqlb.toml")
    assert (result.exit_code, "change a copy" in result.stderr) == (1, True)


@pytest.mark.parametrize("limit", ["five", "101", "-1%", "nan"])
def test_what_is_no_percentage(nfqlb: Nfqlb, place: Path, limit: str) -> None:
    result = plan(nfqlb, place, "--fail-if-moves", limit)
    assert (result.exit_code, "no percentage" in result.stderr) == (2, True)


@contextmanager
def gateway(run_dir: Path, backends: list[dict[str, Any]]) -> Iterator[None]:
    """A control socket as a gateway has it, that answers `status` and `backends`."""

    def handle(request: dict[str, Any], conversation: Conversation) -> None:
        if request["config"] != str(run_dir.parent / "nfqlb.toml"):
            conversation.refuse("This gateway runs with another file.")
        elif request["do"] == "status":
            conversation.end(True, pid=4711, queues=[7000, 7001])
        else:
            conversation.end(True, backends=backends)

    with answering(run_dir, handle):
        yield


def test_backends_count_in_the_states_that_the_gateway_knows(nfqlb: Nfqlb, place: Path, run_dir: Path) -> None:
    """Nothing moves for what is taken out that got nothing anyway."""
    rows = [{"pool": "registrars", "name": "reg1", "state": "draining", "warming": 1.0}]
    change = '{ name = "reg1", address = "192.168.1.11:5060" }, { name ⇒ { name'
    with gateway(run_dir, rows):
        told = found(plan(nfqlb, place, "--json", change=change))
    assert "pid 4711" in told["states"]
    assert [each["share"] for each in told["pools"]] == [0.0, 0.0]
    without = found(plan(nfqlb, place, "--json", change=change))
    assert without["pools"][0]["share"] == pytest.approx(0.5, abs=0.02)


def test_a_gateway_of_another_file_is_not_asked_for_states(nfqlb: Nfqlb, place: Path, run_dir: Path) -> None:
    (place / "copy.toml").write_text((place / "nfqlb.toml").read_text())
    with gateway(run_dir, []):
        result = nfqlb("plan", "-c", "copy.toml", "nfqlb.toml", "--json")
    assert result.exit_code == 0
    assert found(result)["states"].endswith("runs with another file")
