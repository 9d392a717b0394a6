"""docs/control.md: its requests are understood, its answers have the fields of real ones, and nothing is left out."""

import ast
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from livegateway import Gateway
from livehost import CONFIG, Host
from livenet import Net

import nfqlb.gateway
from nfqlb.balance.states import State
from nfqlb.gateway.backends.activity import Seen
from nfqlb.gateway.backends.overrides import WORDS
from nfqlb.gateway.backends.rows import row
from nfqlb.gateway.backends.status import BackendStatuses
from nfqlb.gateway.ha import manager as ha_manager
from nfqlb.gateway.ha.manager import HaManager
from nfqlb.gateway.ha.plan import HaPlan
from nfqlb.gateway.runtime import control_socket
from nfqlb.gateway.runtime.event_loop import Loop
from nfqlb.gateway.shm.probe_results import ProbeResult
from nfqlb.gateway.stats import traffic
from nfqlb.gateway.supervisor.supervisor import REQUESTS

PAGE = (Path(__file__).parents[3] / "docs/control.md").read_text()
CONVERSATIONS = [
    [json.loads(line) for line in block.splitlines()]
    for block in re.findall(r"^```json\n(.*?)^```$", PAGE, re.M | re.S)
]
SECTIONS = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S))
WORDS_OF = {title: title.split(", ") for title in SECTIONS if title != "By hand"}
"""Title of a section → the requests that it explains."""
FREE = ("alarms", "counts", "digests")
"""Fields whose own fields have names of pools, or are explained elsewhere."""


def conversation(what: str) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]:
    """Request, events and end of the example for that request."""
    (found,) = (each for each in CONVERSATIONS if each[0]["do"] == what)
    return found[0], found[1:-1], found[-1]


def told(text: str) -> set[str]:
    """The fields in the tables of a piece of the page."""
    rows = re.findall(r"^\| (`[^|]*`) \|", text, re.MULTILINE)
    return {field for row in rows for field in re.findall(r"`([^`]+)`", row)}


def section_of(what: str) -> set[str]:
    """The fields that the page tells of the answer to a request, `ok` among them."""
    (title,) = (title for title, words in WORDS_OF.items() if what in words)
    return told(SECTIONS[title]) | {"ok"}


def fields_of(value: object, place: str = "") -> Iterator[str]:
    """The fields of an answer as the page writes them; of objects, those in them."""
    if isinstance(value, dict) and place.rpartition(".")[2] not in FREE:
        for name, each in value.items():
            yield from fields_of(each, f"{place}.{name}" if place else name)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for each in value:
            yield from fields_of(each, f"{place}[]")
    else:
        yield place


# -- the page and the code


def test_every_request_is_explained_and_every_one_explained_is_a_request() -> None:
    assert sorted(word for words in WORDS_OF.values() for word in words) == sorted(REQUESTS)


def test_every_field_of_a_request_is_explained_and_the_gateway_looks_at_each() -> None:
    read = set()
    for path in Path(*nfqlb.gateway.__path__).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            match node:
                case ast.Subscript(ast.Name("request"), ast.Constant(str(field))):
                    read.add(field)
                case ast.Call(ast.Attribute(ast.Name("request"), "get"), [ast.Constant(str(field)), *_]):
                    read.add(field)
    assert read == told(PAGE.partition("## ")[0])
    assert {field for request, *_ in CONVERSATIONS for field in request} <= read


def test_examples_have_the_form_that_the_page_tells() -> None:
    assert len(CONVERSATIONS) >= 3
    for request, *events, end in CONVERSATIONS:
        assert all(set(event) == {"event"} for event in events)
        assert isinstance(end["ok"], bool)
        if end["ok"]:
            assert set(end) == {field.partition(".")[0].partition("[")[0] for field in section_of(request["do"])}
        else:
            assert all(isinstance(line, str) for line in end["errors"])
    assert f"{control_socket.REQUEST_MAX:,} bytes" in PAGE
    assert f"{control_socket.CLIENTS} clients" in PAGE
    assert f"mode {control_socket.MODE:04o}" in PAGE
    assert f"group\n`{control_socket.GROUP}`" in PAGE
    assert f"refuses after {ha_manager.YIELD_WITHIN:g} s" in PAGE


def test_a_backend_has_the_fields_that_the_page_tells() -> None:
    place = "regs", "reg1"
    roll = BackendStatuses({}, {})
    roll.adopt({place: "192.0.2.1:5060"}, {}, 0.0)
    more: dict[str, Any] = {"share": 1.0, "rate": None, "counts": traffic((), 0), "seen": Seen(0, 0)}
    whole = row(place, "192.0.2.1:5060", roll, 0.0, **more, result=ProbeResult(1.0, 0.01, 200))
    fields = {f"backends[].{field}" for field in fields_of(whole)}
    assert fields == {field for field in section_of("backends") if field.startswith("backends[]")}
    explained = SECTIONS["backends"]
    assert {field for field in whole["counts"] if not re.fullmatch(r"responses_[2-5]xx", field)} <= set(
        re.findall(r"`(\w+)`", explained)
    )
    assert {state.name.lower() for state in State} <= set(re.findall(r"`(\w+)`", explained))


def test_half_of_a_pair_has_the_fields_that_the_page_tells(tmp_path: Path) -> None:
    loop = Loop((), lambda: None)
    made = HaManager(loop, tmp_path, lambda: "digest")
    try:
        made.apply_plan(HaPlan({"all": ("127.0.0.1",)}, {"all": 100}, "127.0.0.1", "127.0.0.2", 0, {}, lambda _: ""))
        found = set(fields_of({"ok": True, **made.report()}))
    finally:
        made.end(others_go_on=True)
        loop.close()
    assert found == section_of("ha-status")


# -- the page and a gateway


@pytest.mark.root
def test_real_answers_are_like_the_examples(net: Net) -> None:
    gateway = Gateway(Host(net))
    for what in ("status", "drain", "reload", "upgrade"):
        request, events, end = conversation(what)
        if what == "drain":
            request["backend"] = "all4/reg4"
        if what == "reload":  # the example is a refusal
            net.folder.joinpath("secret").unlink()
        heard: list[str] = []
        answer = control_socket.ask(
            net.run_dir, {**request, "config": str(gateway.host.config)}, heard.append, timeout=30
        )
        assert heard == [event["event"] for event in events]
        assert {name: shape(value) for name, value in answer.items()} == {n: shape(v) for n, v in end.items()}
        if what == "reload":
            gateway.host.write_secret()
    gateway.stop()


def shape(value: object) -> object:
    """Its type, and that of what is in it."""
    if isinstance(value, dict) and "worker" in value:
        return {name: shape(each) for name, each in value.items()}
    return [shape(value[0])] if isinstance(value, list) else type(value)


NAMED = CONFIG.replace('address = "10.9.0.2:5060"', 'address = "reg4.example.org"') + (
    '\n[dns]\nservers = ["10.9.0.99"]\ntimeout = 0.5\n'
)


@pytest.mark.root
def test_every_request_is_answered_with_the_fields_that_the_page_tells(net: Net) -> None:
    """But those to one half of a pair, which refuses here."""
    host = Host(net)
    host.write(NAMED)
    gateway = Gateway(host)

    def answer(**request: object) -> dict[str, Any]:
        return control_socket.ask(net.run_dir, request, timeout=30)

    status = set(fields_of(answer(do="status")))
    assert status == section_of("status")
    for force in (False, True):
        reloaded = answer(do="reload", force=force, config=str(host.config))
        assert set(fields_of(reloaded)) == section_of("reload") | status
        assert reloaded["changed"] is False
    backends = {field for field in fields_of(answer(do="backends")) if field != "backends[].probe"}
    assert backends == {field for field in section_of("backends") if not field.startswith("backends[].probe.")}
    for word in (*WORDS, "enable"):
        assert set(fields_of(answer(do=word, backend="reg6"))) == section_of(word)
    for word in ha_manager.REQUESTS:
        assert answer(do=word) == {"ok": False, "errors": ["This gateway stands alone: its configuration has no [ha]."]}
    assert set(fields_of(answer(do="upgrade"))) == section_of("upgrade")
    (unknown,) = answer(do="restart")["errors"]
    assert all(word in unknown for word in REQUESTS)
    gateway.stop()


@pytest.mark.root
def test_what_is_typed_by_hand_is_answered(net: Net) -> None:
    gateway = Gateway(Host(net))
    by_hand = SECTIONS["By hand"].replace("/run/nfqlb/control", str(net.run_dir / control_socket.FILE_NAME))
    (program,) = re.findall(r"^```python\n(.*?)^```$", by_hand, re.M | re.S)
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert ast.literal_eval(ran.stdout)["pid"] == gateway.status()["pid"]
    (line,) = re.findall(r"^\$ (.*)$", by_hand, re.M)
    if shutil.which("socat"):
        piped = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=30, check=True)
        assert json.loads(piped.stdout)["pid"] == gateway.status()["pid"]
    gateway.stop()
