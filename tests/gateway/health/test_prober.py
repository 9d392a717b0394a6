"""The prober's loop, a turn at a time on loopback: which failed send is a bad sign for a backend, and which is none."""

import errno
import os
from collections.abc import Iterator

import pytest

from nfqlb.balance.health import Check
from nfqlb.balance.states import State
from nfqlb.gateway.health.probe import Target
from nfqlb.gateway.health.probe_socket import ProbeSocket
from nfqlb.gateway.health.prober import Prober
from nfqlb.gateway.health.scheduler import CannotAsk
from nfqlb.gateway.shm.probe_results import ProbeResults
from nfqlb.net.endpoint import Endpoint

HERE, THERE = Endpoint.parse("127.0.0.1:5060"), Endpoint.parse("127.0.0.1:5070")


@pytest.fixture
def prober() -> Iterator[Prober]:
    reading, writing = os.pipe()
    target = Target(THERE, HERE, Check(), (("p", "a"),), (0,))
    made = Prober([target], [State.UNKNOWN], (), "lb", lambda _: 0, ProbeResults(1), writing)
    yield made
    made._selector.close()
    for opened in made._probe_sockets.values():
        opened.close()
    os.close(reading)
    os.close(writing)


def sends_fail(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def send(_self: ProbeSocket, _question: bytes, _address: Endpoint) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(ProbeSocket, "send", send)


@pytest.mark.parametrize("number", [errno.ENETUNREACH, errno.EHOSTUNREACH])
def test_no_way_to_a_backend_is_a_bad_sign(prober: Prober, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    sends_fail(monkeypatch, number)
    assert prober._send(0, 1) == os.strerror(number)


@pytest.mark.parametrize("number", [errno.EPERM, errno.EMSGSIZE, errno.EHOSTDOWN, errno.ECONNREFUSED, errno.EACCES])
def test_any_other_failure_says_nothing_of_the_backend(
    prober: Prober, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    sends_fail(monkeypatch, number)
    with pytest.raises(CannotAsk):
        prober._send(0, 1)
