"""The parts of the lab that need no root: plans, rendered configurations, ladders, what the demonstration judges."""

import subprocess
import xml.etree.ElementTree as ElementTree
from itertools import product
from pathlib import Path

import pytest
from pyroute2.netlink.exceptions import NetlinkError

from nfqlb.capture.packets import PacketReader
from nfqlb.capture.source import Source
from nfqlb.cli import _lab_steps as command
from nfqlb.cli._common import UserError
from nfqlb.config.build import load
from nfqlb.lab import LabError, demo, kamailio, scenario, topology
from nfqlb.lab.lab import SECRET, Lab, gateway_config
from nfqlb.lab.ladder import Passage, draw, header, messages, passages
from nfqlb.lab.topology import Plan
from nfqlb.lab.wire import Seen
from nfqlb.lab.words import ending, last_words
from nfqlb.net.endpoint import Endpoint

PCAPS = Path(__file__).parents[2] / "pcaps"
PLANS = [Plan(family=family, one_armed=one_armed) for family, one_armed in product((4, 6), (False, True))]


def stored(name: str) -> list[Passage]:
    """A stored capture and what left, as if both had been seen on the links."""
    frames = []
    for suffix, outgoing in ((".pcap", False), (".out.pcap", True)):
        with Source(PCAPS / f"{name}{suffix}") as source:
            for packet in PacketReader(source):
                frames.append(Seen(packet.frame.time_ns or 0, "outside", outgoing, packet.frame.data))
    return passages(messages(sorted(frames, key=lambda frame: (frame.time_ns, frame.outgoing))))


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_the_plan_is_a_configuration(plan: Plan, tmp_path: Path) -> None:
    """What the lab writes for the gateway is what the gateway takes, and says the same."""
    (tmp_path / "secret").write_text(SECRET + "\n")
    (tmp_path / "nfqlb.toml").write_text(gateway_config(plan, 'secret_file = "secret"', 3))
    config = load(tmp_path / "nfqlb.toml")
    setup = config.setup()
    (listener,) = setup.listeners
    assert listener.one_armed is plan.one_armed
    assert (listener.external.host, listener.internal.host) == (plan.external.ip, plan.internal.ip)
    assert [backend.address.host for backend in setup.backends] == [node.ip for node in plan.backends]
    assert config.workers.count == 3


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_addresses_are_unique(plan: Plan) -> None:
    nodes = {plan.external, plan.internal, plan.nat, *plan.home, *plan.phones, *plan.backends}
    assert len({node.ip for node in nodes}) == len(nodes)
    assert all(node.interface.version == plan.family for node in nodes)
    assert all(node.ip != plan.router(node) for node in nodes)


@pytest.mark.parametrize("registrars", [1, 2])
def test_kamailio_has_nothing_left_to_fill_in(registrars: int) -> None:
    plan = Plan(registrars=registrars)
    for node in plan.backends:
        text = kamailio.render(plan, node)
        assert "@" not in text.split("debug=0")[1]
        assert not [line for line in text.splitlines() if line.startswith(("#registrar", "#proxy", "#sibling"))]
        assert ("save(" in text) is (node in plan.registrar_nodes)
        assert ("t_replicate(" in text) is (node in plan.registrar_nodes and registrars > 1)


@pytest.mark.parametrize("name", ["my-lab", "", "Lab", "a" * 17, "lab/.."])
def test_names_that_could_be_mistaken_are_refused(name: str) -> None:
    with pytest.raises(LabError, match="is not a name for a lab"):
        Lab(Plan(name))


@pytest.mark.parametrize("name", scenario.LADDERS)
def test_both_sides_of_a_ladder_are_well_formed_and_mirror_each_other(name: str) -> None:
    """What one side sends the other receives, in the same order."""
    sides = [
        [node for node in ElementTree.fromstring(scenario.render(name, caller=caller)) if node.tag in ("send", "recv")]
        for caller in (True, False)
    ]
    plain = [[node for node in side if node.get("optional") != "true"] for side in sides]
    flipped = {"send": "recv", "recv": "send"}
    assert [node.tag for node in plain[0]] == [flipped[node.tag] for node in plain[1]]
    assert len(plain[0]) == len(scenario.parse(scenario.LADDERS[name]))


def test_a_response_answers_the_last_open_request() -> None:
    steps = scenario.parse(scenario.LADDERS["cancel"])
    answers = [(step.status, step.method) for step in steps if step.status]
    assert answers == [(180, "INVITE"), (200, "CANCEL"), (487, "INVITE")]


def test_a_line_that_is_no_message_is_told() -> None:
    with pytest.raises(ValueError, match="not a line of a ladder"):
        scenario.parse("-> INVITE\n=> 200")


def test_passages_join_what_came_with_what_left() -> None:
    seen = stored("two-armed/call")
    assert [passage.title for passage in seen][:3] == ["INVITE", "100 INVITE", "INVITE"]
    assert all(passage.came and passage.left for passage in seen)
    assert all(passage.came.payload != passage.left.payload for passage in seen if passage.came and passage.left)


def test_what_the_gateway_answered_came_and_something_else_left() -> None:
    seen = stored("two-armed/ping")
    assert [(p.title, bool(p.came), bool(p.left)) for p in seen][:2] == [
        ("OPTIONS", True, False),
        ("200 OPTIONS", False, True),
    ]


def test_fragments_are_one_message() -> None:
    invites = [passage for passage in stored("two-armed/fragments") if passage.title == "INVITE"]
    assert len(invites) == 2
    assert all(passage.came and passage.came.fragments > 1 for passage in invites)


def test_the_ladder_shows_the_way_and_what_was_rewritten() -> None:
    inside = {Endpoint.parse("192.168.1.11:5060"): "reg1", Endpoint.parse("192.168.1.12:5060"): "reg2"}
    seen = stored("two-armed/register")
    lines = [line.plain for line in draw(seen, inside.keys(), inside)]
    assert "outside" in lines[0]
    assert "inside" in lines[0]
    assert "172.31.23.177:5060" in lines[1]
    assert "REGISTER" in lines[1]
    assert lines[1].count("▶") == 2
    assert lines[1].endswith(("reg1", "reg2"))
    assert any(line.strip().startswith("+ Path: <sip:lb@192.168.1.5;lr;received=") for line in lines)
    assert any(line.strip().startswith("- Max-Forwards: 70") for line in lines)
    answer = next(line for line in lines if "200 REGISTER" in line)
    assert answer.count("◀") == 2
    bare = [line.plain for line in draw(seen, inside.keys(), inside, headers=False)]
    assert len(bare) == 1 + len(seen)


def test_a_hairpin_is_drawn_on_the_outside_only() -> None:
    inside = {Endpoint.parse("192.168.1.21:5060"), Endpoint.parse("192.168.1.11:5060")}
    byes = [passage for passage in stored("two-armed/hairpin") if passage.title == "BYE"]
    lines = [line.plain for line in draw(byes, inside, {}, headers=False)]
    assert [line.count("BYE") for line in lines] == [0, 1, 1]
    assert "▶" in lines[1]
    assert "◀" in lines[2]


def test_the_demonstration_wants_the_path() -> None:
    seen = stored("two-armed/register")
    demo.check_path(seen, "192.168.1.5", "sip:172.31.23.177:5060", "alice")
    with pytest.raises(LabError, match="not with Path"):
        demo.check_path(seen, "192.168.1.5", "sip:10.0.0.10:5060", "alice")
    with pytest.raises(LabError, match="No REGISTER of carol"):
        demo.check_path(seen, "192.168.1.5", "sip:172.31.23.177:5060", "carol")


def test_the_demonstration_wants_every_call_to_pass() -> None:
    seen = stored("two-armed/call")
    demo.check_calls(seen, calls=1)
    with pytest.raises(LabError, match="INVITE and its answer passed the gateway 2 times, not 6"):
        demo.check_calls(seen, calls=3)
    lost = [passage._replace(left=None) if passage.title == "200 BYE" else passage for passage in seen]
    with pytest.raises(LabError, match="BYE messages did not leave"):
        demo.check_calls(lost, calls=1)


def test_the_demonstration_wants_nothing_dropped() -> None:
    demo.check_drops({"request-entering": 5, "ping": 1}, 0)
    with pytest.raises(LabError, match="2 stray-response"):
        demo.check_drops({"request-entering": 5, "stray-response": 2}, 2)


def test_headers_of_the_ladder_are_found_by_any_case() -> None:
    message = b"OPTIONS sip:x SIP/2.0\r\ncall-id : a b\r\n\r\nCall-ID: body\r\n"
    assert header(message, "Call-ID") == "a b"
    assert header(message, "Via") is None


@pytest.mark.parametrize(
    ("text", "limit", "words"),
    [
        ("", 9, ""),
        ("one\n  two\tthree\n", 80, "one two three"),
        ("a first line\nthe last line", 20, "the last line"),
        ("a very long last line", 9, "last line"),
        ("\x1b[31mred\x1b[0m\x07 and\x9b loud\n", 80, "red and loud"),
    ],
)
def test_of_an_output_the_last_lines_are_told(text: str, limit: int, words: str) -> None:
    assert last_words(text, limit) == words


def test_how_a_program_has_ended() -> None:
    assert [ending(status) for status in (0, 7, -9, -40)] == [
        "ended with status 0",
        "ended with status 7",
        "was ended by SIGKILL",
        "was ended by signal 40",
    ]


def test_a_failure_names_its_step_and_where_the_logs_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError) as early, command.told():
        raise LabError("The lab needs root.")
    assert early.value.message == "The lab needs root."
    failure = LabError("Kamailio reg1 ended with status 9.")
    failure.logs = Path("/run/nfqlb-lab-x.failed")

    def fail() -> None:
        command.say("backends: reg1")
        raise failure

    with pytest.raises(UserError) as late, command.told():
        fail()
    assert late.value.message == (
        'At "backends: reg1": Kamailio reg1 ended with status 9.\nThe logs are kept in /run/nfqlb-lab-x.failed.'
    )
    assert capsys.readouterr().err == "· backends: reg1\n"
    with pytest.raises(UserError, match="timed out after 5 seconds"), command.told():
        raise subprocess.TimeoutExpired(["tcpdump"], 5)
    with pytest.raises(ZeroDivisionError), command.told():  # a bug of ours keeps its traceback
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (NetlinkError(95), "a and b cannot be linked: Operation not supported."),
        (PermissionError(1, "Operation not permitted"), "a and b cannot be linked: Operation not permitted."),
        (OSError("odd"), "a and b cannot be linked: odd."),
    ],
)
def test_what_the_kernel_refuses_is_told(error: Exception, told: str) -> None:
    with pytest.raises(LabError) as refused, topology.told("a and b cannot be linked"):
        raise error
    assert str(refused.value) == told
