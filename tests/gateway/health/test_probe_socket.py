"""What the prober and `nfqlb check --live` share: a probe is sent past old errors, and only real answers are read."""

import errno
import os
import select
import socket
from collections.abc import Iterator, Sequence

import pytest

from nfqlb.balance.health import Check
from nfqlb.gateway.health import icmp_errors
from nfqlb.gateway.health.icmp_errors import FROM_ICMP, NO_ROUTE, UNREACHABLE, Complaint
from nfqlb.gateway.health.probe import Answer, Questions, Target
from nfqlb.gateway.health.probe_socket import ATTEMPTS, BATCH, ProbeSocket
from nfqlb.net.endpoint import Endpoint

HERE = {4: Endpoint.parse("127.0.0.1:5060"), 6: Endpoint.parse("[::1]:5060")}


@pytest.fixture(params=[4, 6])
def asking(request: pytest.FixtureRequest) -> Iterator[ProbeSocket]:
    opened = ProbeSocket(HERE[request.param])
    yield opened
    opened.close()


@pytest.fixture
def backend(asking: ProbeSocket) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET if asking.here.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as opened:
        opened.bind((asking.here.host, 0))
        opened.settimeout(10)
        yield opened


def address_of(opened: socket.socket, like: ProbeSocket) -> Endpoint:
    return Endpoint(like.here.addr, opened.getsockname()[1])


def answer(question: bytes, status: int = 200) -> bytes:
    rows = [
        line for line in question.split(b"\r\n") if line.split(b":")[0] in (b"Via", b"From", b"To", b"Call-ID", b"CSeq")
    ]
    return b"\r\n".join([b"SIP/2.0 %d Whatever" % status, *rows, b"", b""])


def heard(asking: ProbeSocket, questions: Questions, targets: int = 1) -> list[Complaint | Answer]:
    assert select.select([asking], [], [], 10)[0]
    return list(asking.read(questions, targets))


def asked(asking: ProbeSocket, backend: socket.socket, number: int = 0) -> tuple[Questions, bytes]:
    """A question as it came to the backend."""
    questions = Questions("lb", "5ec2e7")
    target = Target(address_of(backend, asking), asking.here, Check(), (("p", "a"),), (0,))
    asking.send(questions.ask(target, number, 1, asking.here), target.address)
    return questions, backend.recv(65535)


def test_an_answer_is_read(asking: ProbeSocket, backend: socket.socket) -> None:
    questions, question = asked(asking, backend)
    backend.sendto(answer(question), (asking.here.host, asking.here.port))
    assert heard(asking, questions) == [Answer(0, 1, 200)]
    assert list(asking.read(questions, 1)) == []


@pytest.mark.parametrize(
    ("status", "number", "targets"), [(100, 0, 1), (200, 1, 1)], ids=["not final", "of a target that is not"]
)
def test_what_is_no_answer_to_wait_for_is_passed_over(
    asking: ProbeSocket, backend: socket.socket, status: int, number: int, targets: int
) -> None:
    questions, question = asked(asking, backend, number)
    _, first = asked(asking, backend)
    for content in (answer(question, status), b"hello", answer(first, 486)):
        backend.sendto(content, (asking.here.host, asking.here.port))
    assert heard(asking, questions, targets) == [Answer(0, 1, 486)]


def test_nobody_is_read_for_ever(asking: ProbeSocket, backend: socket.socket) -> None:
    questions, question = asked(asking, backend)
    for _ in range(BATCH + 1):
        backend.sendto(answer(question), (asking.here.host, asking.here.port))
    assert len(heard(asking, questions)) == BATCH
    assert len(heard(asking, questions)) == 1


def test_a_port_that_is_closed_is_complained_about_and_costs_no_later_probe(
    asking: ProbeSocket, backend: socket.socket
) -> None:
    with socket.socket(backend.family, socket.SOCK_DGRAM) as nobody:
        nobody.bind((asking.here.host, 0))
        closed = address_of(nobody, asking)
    asking.send(b"OPTIONS", closed)
    select.select([asking], [], [], 10)
    questions, _ = asked(asking, backend)  # the kernel fails the first attempt with what it has to say of the other
    assert heard(asking, questions) == [Complaint(closed, "ICMP: connection refused")]


class Sends:
    """In the place of a socket: sends that fail, each with the next error; 0: it goes through."""

    def __init__(self, errors: Sequence[int]) -> None:
        self.errors = list(errors)
        self.sent = 0

    def getsockname(self) -> tuple[str, int]:
        return "127.0.0.1", 40000

    def sendto(self, content: bytes, _where: tuple[str, int]) -> int:
        if error := self.errors.pop(0):
            raise OSError(error, os.strerror(error))
        self.sent += 1
        return len(content)


def sending(monkeypatch: pytest.MonkeyPatch, errors: Sequence[int]) -> tuple[ProbeSocket, Sends]:
    sends = Sends(errors)
    monkeypatch.setattr(icmp_errors, "open_probe_socket", lambda _: sends)
    return ProbeSocket(HERE[4]), sends


@pytest.mark.parametrize("number", sorted(FROM_ICMP), ids=errno.errorcode.__getitem__)
def test_an_error_of_an_earlier_probe_does_not_keep_this_one_from_going(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    asking, sends = sending(monkeypatch, [*([number] * (ATTEMPTS - 1)), 0])
    asking.send(b"OPTIONS", HERE[4])
    assert sends.sent == 1


def test_one_that_stays_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    asking, sends = sending(monkeypatch, [errno.EHOSTUNREACH] * ATTEMPTS)
    with pytest.raises(OSError, match="No route to host"):
        asking.send(b"OPTIONS", HERE[4])
    assert sends.errors == []


@pytest.mark.parametrize("number", [errno.EPERM, errno.EINVAL, errno.ENOBUFS, errno.EADDRNOTAVAIL])
def test_an_error_of_our_own_is_raised_at_once(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    asking, sends = sending(monkeypatch, [number, 0])
    with pytest.raises(OSError, match=os.strerror(number)):
        asking.send(b"OPTIONS", HERE[4])
    assert sends.errors == [0]


def test_the_table_of_errors_is_one() -> None:
    """What is complained about fails a later send as well; so does what says that there is no route."""
    assert UNREACHABLE < FROM_ICMP
    assert NO_ROUTE < UNREACHABLE
    assert {errno.EHOSTDOWN, errno.EMSGSIZE} < FROM_ICMP
