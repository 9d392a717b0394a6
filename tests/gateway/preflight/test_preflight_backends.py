"""Each backend is asked once: who answers well, who does not, and who is not there. On loopback, and as a command."""

import errno
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from livehost import CONFIG as LIVE_CONFIG
from livehost import Host
from livenet import Net

from nfqlb.balance.health import Check
from nfqlb.config.build import load
from nfqlb.gateway.health import icmp_errors
from nfqlb.gateway.health.probe import Target
from nfqlb.gateway.preflight import backends as preflight_backends
from nfqlb.gateway.preflight.backends import TRIES, PreflightProbe
from nfqlb.net.endpoint import Endpoint

HOST = {4: "127.0.0.1", 6: "[::1]"}
CHECK = Check(timeout=0.5, interval=0.5)

Manner = Callable[[bytes, int], bytes | None]
"""What a backend answers to a question, the first of which has number 0."""


def answered(status: int) -> Manner:
    def answer(question: bytes, _number: int) -> bytes:
        kept = (b"Via", b"From", b"To", b"Call-ID", b"CSeq")
        rows = [line for line in question.split(b"\r\n") if line.split(b":")[0] in kept]
        return b"\r\n".join([b"SIP/2.0 %d Whatever" % status, *rows, b"", b""])

    return answer


def silent(_question: bytes, _number: int) -> None:
    return None


def late(question: bytes, number: int) -> bytes | None:
    """The first question is lost."""
    return answered(200)(question, number) if number else None


def trying(question: bytes, number: int) -> bytes | None:
    return answered(100)(question, number)


def forged(question: bytes, number: int) -> bytes:
    answer = answered(200)(question, number)
    assert answer is not None
    return answer.replace(b"z9hG4bKask", b"z9hG4bKask0")


class Backends:
    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self._stack = ExitStack()

    def start(self, manner: Manner, version: int) -> Endpoint:
        opened = self._socket(version)
        thread = threading.Thread(target=self._serve, args=(opened, manner))
        thread.start()
        self._stack.callback(thread.join)
        self._stack.callback(self._stop, opened)
        return self._place(opened, version)

    def nobody(self, version: int) -> Endpoint:
        with self._socket(version) as opened:
            return self._place(opened, version)

    def end(self) -> None:
        self._stack.close()

    def _serve(self, opened: socket.socket, manner: Manner) -> None:
        number = 0
        with opened:
            while True:
                question, asker = opened.recvfrom(65535)
                if question == b"end":
                    return
                self.asked.append(question)
                if (answer := manner(question, number)) is not None:
                    opened.sendto(answer, asker)
                number += 1

    @staticmethod
    def _stop(opened: socket.socket) -> None:
        with socket.socket(opened.family, socket.SOCK_DGRAM) as stopping:
            stopping.sendto(b"end", opened.getsockname())

    @staticmethod
    def _socket(version: int) -> socket.socket:
        opened = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
        opened.bind((HOST[version].strip("[]"), 0))
        return opened

    @staticmethod
    def _place(opened: socket.socket, version: int) -> Endpoint:
        return Endpoint.parse(f"{HOST[version]}:{opened.getsockname()[1]}")


@pytest.fixture
def backends() -> Iterator[Backends]:
    made = Backends()
    try:
        yield made
    finally:
        made.end()


def target(address: Endpoint, check: Check = CHECK, source: str = "") -> Target:
    own = Endpoint.parse(f"{source or HOST[address.version]}:5060")
    return Target(address, own, check, (("p", "a"),), (0,))


@pytest.mark.slow
@pytest.mark.parametrize("version", [4, 6])
def test_who_answers_is_well_and_of_the_others_it_says_why(backends: Backends, version: int) -> None:
    manners = [answered(200), answered(404), late, answered(503), silent, trying, forged]
    asked = [target(backends.start(manner, version)) for manner in manners]
    asked.append(target(backends.nobody(version)))
    call = PreflightProbe(asked, "lb")
    assert call.silent == {}
    found = call.answers()
    assert found[:3] == ["", "", ""]
    assert found[3] == "it answers OPTIONS with 503, which [health] accept does not take for well"
    for each in found[4:7]:
        assert each.startswith(f"no answer to OPTIONS from {HOST[version].strip('[]')} within 0.5 s")
    assert found[7] == "nothing answers there (ICMP: connection refused)"
    assert sum(b"CSeq: 0 " in question for question in backends.asked) == len(manners)
    assert len(backends.asked) == len(manners) + 4 * (TRIES - 1)  # late, silent, trying, forged


def test_what_is_asked_and_taken_for_well_is_as_the_configuration_says(backends: Backends) -> None:
    check = Check(timeout=0.5, interval=0.5, method="INFO", uri="sip:ping@example.org", accept=frozenset({503}))
    asked = [target(backends.start(answered(status), 4), check) for status in (503, 200)]
    found = PreflightProbe(asked, "lb").answers()
    assert found[0] == ""
    assert found[1].startswith("it answers INFO with 200")
    assert backends.asked[0].startswith(b"INFO sip:ping@example.org SIP/2.0\r\n")


def test_one_address_may_be_asked_in_two_ways(backends: Backends) -> None:
    place = backends.start(answered(404), 4)
    strict = Check(timeout=0.5, interval=0.5, accept=frozenset({200}))
    found = PreflightProbe([target(place), target(place, strict)], "lb").answers()
    assert (found[0], bool(found[1])) == ("", True)


def test_many_are_asked_at_once(backends: Backends) -> None:
    place = backends.start(answered(200), 4)
    assert PreflightProbe([target(place)] * 200, "lb").answers() == [""] * 200


def test_an_address_that_is_not_here_is_told_of_once(backends: Backends) -> None:
    place = backends.start(answered(200), 4)
    call = PreflightProbe([target(place, source="192.0.2.77"), target(place, source="192.0.2.77"), target(place)], "lb")
    assert call.silent == {"192.0.2.77": "Cannot assign requested address"}
    assert call.answers() == ["", "", ""]
    assert len(backends.asked) == 1


class Faulty(socket.socket):
    """Its first sends fail, each with one of these errors."""

    errors: list[int]

    def sendto(self, *args: Any) -> int:
        if self.errors:
            raise OSError(error := self.errors.pop(0), os.strerror(error))
        return super().sendto(*args)


@pytest.fixture
def sends_fail(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def arrange(*errors: int) -> None:
        def opened(source: Endpoint) -> Faulty:
            made = real(source)
            faulty = Faulty(made.family, made.type, fileno=made.detach())
            faulty.errors = list(errors)
            return faulty

        monkeypatch.setattr(icmp_errors, "open_probe_socket", opened)

    real = icmp_errors.open_probe_socket
    return arrange


@pytest.mark.parametrize("number", [errno.EHOSTDOWN, errno.EMSGSIZE, errno.ECONNREFUSED, errno.EACCES])
def test_an_error_about_an_earlier_question_says_nothing_of_this_one(
    backends: Backends, sends_fail: Callable[..., None], number: int
) -> None:
    sends_fail(number, number)
    assert PreflightProbe([target(backends.start(answered(200), 4))], "lb").answers() == [""]


@pytest.mark.parametrize("numbers", [[errno.EMSGSIZE] * 3, [errno.EPERM]], ids=["again and again", "our own"])
def test_who_cannot_be_asked_is_told_with_the_reason(
    backends: Backends, sends_fail: Callable[..., None], numbers: list[int]
) -> None:
    sends_fail(*numbers)
    found = PreflightProbe([target(backends.start(answered(200), 4))], "lb").answers()
    assert found == [f"it cannot be asked from 127.0.0.1 ({os.strerror(numbers[0])})"]


CONFIG = """
[[listener]]
name = "main"
external = "198.51.100.1:5060"
internal = "10.9.0.1:5060"
[[pool]]
name = "a"
[[pool.backend]]
name = "one"
address = "10.9.0.2:5060"
[[pool]]
name = "b"
[[pool.backend]]
name = "two"
address = "10.9.0.3:5060"
[[pool]]
name = "unasked"
health.enabled = false
[[pool.backend]]
name = "three"
address = "10.9.0.4:5060"
[[route]]
domains = ["example.org"]
pool = "unasked"
[[route]]
methods = ["REGISTER"]
pool = "b"
[[route]]
pool = "a"
"""


def test_problems_name_the_backend_and_its_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stub:
        def __init__(self, asked: list[Target], name: str) -> None:
            assert name == "lb"
            self.asked, self.silent = asked, {"10.9.0.1": "no reason"}

        def answers(self) -> list[str]:
            return [f"from {each.source.host}" if number else "" for number, each in enumerate(self.asked)]

    monkeypatch.setattr(preflight_backends, "PreflightProbe", Stub)
    path = tmp_path / "nfqlb.toml"
    path.write_text(CONFIG)
    found = list(preflight_backends.problems(load(path)))
    assert [str(problem) for problem in found] == [
        "address 10.9.0.1: backends cannot be asked from here whether they answer (no reason)",
        'backend b/two = "10.9.0.3:5060": from 10.9.0.1',
    ]
    assert {problem.severity for problem in found} == {"warning"}


@pytest.mark.root
def test_check_live_tells_who_does_not_answer(net: Net) -> None:
    host = Host(net)
    host.write(LIVE_CONFIG.replace("enabled = false", "timeout = 0.5"))
    done = host.call("check", "--live", "--json")
    told = {each["place"]: each["text"] for each in json.loads(done.stdout)["problems"]}
    assert told["backend all4/reg4"] == "nothing answers there (ICMP: connection refused)"
    assert {place for place in told if place.startswith("backend ")} == {"backend all4/reg4", "backend all6/reg6"}
    with ExitStack() as stack:
        farm = stack.enter_context(net.receiver(4))
        farm.settimeout(60)
        thread = threading.Thread(target=answer_once, args=(farm,))
        thread.start()
        stack.callback(thread.join)
        done = host.call("check", "--live")
    assert done.returncode == 0
    assert "backend all4/reg4" not in done.stderr
    assert "backend all6/reg6" in done.stderr


def answer_once(opened: socket.socket) -> None:
    question, asker = opened.recvfrom(65535)
    answer = answered(200)(question, 0)
    assert answer is not None
    opened.sendto(answer, asker)
