"""docs/control.md: its requests are understood, and its answers have the fields that real ones have."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from livegateway import Gateway
from livenet import Net
from test_run_live import Host

from nfqlb.gateway import control

PAGE = (Path(__file__).parent.parent.parent / "docs/control.md").read_text()
CONVERSATIONS = [
    [json.loads(line) for line in block.splitlines()]
    for block in re.findall(r"^```json\n(.*?)^```$", PAGE, re.M | re.S)
]


def conversation(what: str) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]:
    """Request, events and end of the example for that request."""
    (found,) = (each for each in CONVERSATIONS if each[0]["do"] == what)
    return found[0], found[1:-1], found[-1]


def test_examples_have_the_form_that_the_page_tells() -> None:
    assert len(CONVERSATIONS) >= 3
    for request, *events, end in CONVERSATIONS:
        assert set(request) <= {"do", "config", "backend", "for"}
        assert all(set(event) == {"event"} for event in events)
        assert isinstance(end["ok"], bool)
        assert end["ok"] or all(isinstance(line, str) for line in end["errors"])
    assert f"{control.REQUEST_MAX:,} bytes" in PAGE
    assert f"{control.CLIENTS} clients" in PAGE
    assert f"mode {control.MODE:04o}" in PAGE
    assert f"group `{control.GROUP}`" in PAGE


def test_every_field_of_status_is_explained() -> None:
    _, _, end = conversation("status")
    explained = set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))
    assert set(end) - {"ok"} == explained


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
        answer = control.ask(net.run_dir, {**request, "config": str(gateway.host.config)}, heard.append, timeout=30)
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
