"""The control socket: what is understood, what is refused, and which clients cost the gateway nothing."""

import contextlib
import grp
import json
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from selectors import DefaultSelector
from typing import Any

import pytest

from nfqlb.errors import NotRunning
from nfqlb.gateway.runtime import control_socket
from nfqlb.gateway.runtime.control_socket import (
    ANSWER_MAX,
    CLIENTS,
    REQUEST_MAX,
    Answer,
    ControlError,
    ControlSocket,
    Conversation,
    ask,
)

Handle = Callable[[Answer, Conversation], None]


class Served:
    """A control socket whose loop turns when the test says so."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.selector = DefaultSelector()
        self.asked: list[tuple[Answer, Conversation]] = []
        self.handle: Handle = lambda request, conversation: self.asked.append((request, conversation))
        self.control = ControlSocket(run_dir, self.selector, lambda *them: self.handle(*them))
        self.control.publish()
        self._clients: list[socket.socket] = []

    def turn(self, pause: float = 0.05) -> int:
        """Serve until nothing happens any more; how many events there were."""
        count = 0
        while ready := self.selector.select(pause if not count else 0.01):
            for key, _ in ready:
                key.data()
            count += len(ready)
            assert count < 10_000, "it goes round and round"
        return count

    def connect(self, content: bytes = b"") -> socket.socket:
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._clients.append(opened)
        opened.settimeout(2)
        opened.connect(str(self.run_dir / control_socket.FILE_NAME))
        if content:
            opened.sendall(content)
        self.turn()
        return opened

    def ask_apart(self, request: Answer, **more: Any) -> "Apart":
        """`ask` in a thread, while this one serves."""
        return Apart(self, request, more)

    @property
    def conversations(self) -> int:
        """Clients that are still listened to, or told something."""
        return len(self.selector.get_map()) - 1

    def close(self) -> None:
        self.control.close(remove=True)
        for client in self._clients:
            client.close()
        self.selector.close()


class Apart(threading.Thread):
    def __init__(self, served: Served, request: Answer, more: dict[str, Any]) -> None:
        super().__init__()
        self.events: list[str] = []
        self.outcome: object = None
        self._served, self._request, self._more = served, request, more
        self.start()

    def run(self) -> None:
        try:
            self.outcome = ask(self._served.run_dir, self._request, self.events.append, **self._more)
        except Exception as error:
            self.outcome = error

    def result(self) -> object:
        for _ in range(100):
            self._served.turn()
            if not self.is_alive():
                break
        self.join(5)
        return self.outcome


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path)
    yield made
    made.close()


def everything(client: socket.socket) -> list[Answer]:
    """All lines until the gateway closes."""
    content = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := client.recv(1 << 16):
            content += piece
    assert content == b"" or content.endswith(b"\n")
    return [json.loads(line) for line in content.splitlines()]


def test_a_request_is_answered_by_events_and_an_end(served: Served) -> None:
    def handle(request: Answer, conversation: Conversation) -> None:
        conversation.event(f"does {request['do']}")
        conversation.event("größer")
        conversation.end(True, number=7)

    served.handle = handle
    client = served.ask_apart({"do": "reload"})
    assert client.result() == {"ok": True, "number": 7}
    assert client.events == ["does reload", "größer"]
    assert served.conversations == 0


def test_an_answer_may_come_much_later(served: Served) -> None:
    client = served.connect(b'{"do": "upgrade", "more": [1]}\n')
    ((request, conversation),) = served.asked
    assert request == {"do": "upgrade", "more": [1]}
    assert served.turn() == 0
    conversation.event("half way")
    conversation.refuse("one reason", "another")
    assert everything(client) == [{"event": "half way"}, {"ok": False, "errors": ["one reason", "another"]}]
    assert served.conversations == 0


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"status\n",
        b"\xff\xfe\x00\n",
        b"[]\n",
        b'"do"\n',
        b"{}\n",
        b'{"do": 1}\n',
        b'{"do": null}\n',
        b'{"do": "status"\n',
        b"[" * 60_000 + b"\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"1" * 5000 + b"\n",
    ],
)
def test_what_is_no_request_is_refused(served: Served, line: bytes) -> None:
    (answer,) = everything(served.connect(line))
    assert answer["ok"] is False
    assert '{"do": "status"}' in answer["errors"][0]
    assert served.asked == []
    assert served.conversations == 0


def test_a_request_may_come_in_pieces(served: Served) -> None:
    client = served.connect()
    for byte in b'{"do":"status"}\n':
        assert served.asked == []
        client.send(bytes([byte]))
        served.turn(0.5)
    assert [request for request, _ in served.asked] == [{"do": "status"}]


def test_a_request_that_does_not_end_is_refused_at_its_limit(served: Served) -> None:
    client = served.connect(b'{"do": "status", "x": "')
    served.turn()
    assert served.conversations == 1
    with contextlib.suppress(TimeoutError, BrokenPipeError):
        for _ in range(REQUEST_MAX // 4096 + 2):
            client.send(b"x" * 4096)
            served.turn(0.01)
    assert everything(client) == [{"ok": False, "errors": [f"a request has at most {REQUEST_MAX} bytes"]}]
    assert served.asked == []
    assert served.conversations == 0


def test_half_a_line_is_no_request(served: Served) -> None:
    client = served.connect(b'{"do": "status"}')
    client.shutdown(socket.SHUT_WR)
    served.turn()
    assert served.asked == []
    assert everything(client) == []
    assert served.conversations == 0


def test_what_follows_the_first_line_is_not_heard(served: Served) -> None:
    client = served.connect(b'{"do": "status"}\n{"do": "upgrade"}\n')
    ((request, conversation),) = served.asked
    assert request == {"do": "status"}
    conversation.end(True)
    assert everything(client) == [{"ok": True}]
    assert len(served.asked) == 1


def test_a_client_that_leaves_costs_nothing(served: Served) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for content in (b"", b"{", b'{"do": "status"}\n'):
        served.connect(content).close()
    served.turn()
    ((_, conversation),) = served.asked
    for number in range(3):
        conversation.event(f"nobody hears {number}")
    conversation.end(True)
    served.turn()
    assert served.conversations == 0
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_slow_reader_gets_all_of_it(served: Served) -> None:
    client = served.connect(b'{"do": "status"}\n')
    ((_, conversation),) = served.asked
    conversation.event("x" * 1_000_000)  # far more than a socket holds
    conversation.event("second")
    conversation.end(True, last=1)
    served.turn()
    assert served.conversations == 1
    answers: list[list[Answer]] = []
    reader = threading.Thread(target=lambda: answers.append(everything(client)))
    reader.start()
    for _ in range(200):
        served.turn(0.02)
        if not reader.is_alive():
            break
    reader.join(5)
    assert [list(each) for each in answers[0]] == [["event"], ["event"], ["ok", "last"]]
    assert served.conversations == 0


def test_a_reader_who_does_not_read_is_let_go(served: Served) -> None:
    client = served.connect(b'{"do": "status"}\n')
    ((_, conversation),) = served.asked
    for _ in range(ANSWER_MAX // 500_000 + 3):
        conversation.event("x" * 500_000)
    assert served.conversations == 0
    conversation.end(True)
    assert b'"ok"' not in b"".join(iter(lambda: client.recv(1 << 16), b""))


def test_silent_clients_do_not_keep_others_out(served: Served) -> None:
    """Who connects and says nothing makes room for the next: the gateway's file numbers are not theirs to use up."""
    before = len(os.listdir("/proc/self/fd"))
    silent = [served.connect() for _ in range(3 * CLIENTS)]
    assert served.conversations == CLIENTS
    assert len(os.listdir("/proc/self/fd")) <= before + len(silent) + CLIENTS
    served.connect(b'{"do": "status"}\n')
    assert [request["do"] for request, _ in served.asked] == ["status"]
    assert everything(silent[0]) == []


def test_those_who_wait_for_an_answer_are_not_let_go_for_others(served: Served) -> None:
    waiting = [served.connect(b'{"do": "reload"}\n') for _ in range(CLIENTS)]
    (answer,) = everything(served.connect(b'{"do": "status"}\n'))
    assert answer["ok"] is False
    assert str(CLIENTS) in answer["errors"][0]
    for _, conversation in served.asked:
        conversation.end(True)
    assert all(everything(client) == [{"ok": True}] for client in waiting)
    served.connect(b'{"do": "status"}\n')
    assert len(served.asked) == CLIENTS + 1


@pytest.mark.usefixtures("served")
def test_who_may_connect(tmp_path: Path) -> None:
    status = (tmp_path / control_socket.FILE_NAME).stat()
    assert stat.S_ISSOCK(status.st_mode)
    assert status.st_mode & 0o777 == 0o660
    assert status.st_uid == os.geteuid()
    assert os.listdir(tmp_path) == [control_socket.FILE_NAME]


@pytest.mark.root
def test_the_group_of_the_service_may_connect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some_group = next(each for each in grp.getgrall() if each.gr_gid)
    monkeypatch.setattr(control_socket, "GROUP", some_group.gr_name)
    made = Served(tmp_path)
    assert (tmp_path / control_socket.FILE_NAME).stat().st_gid == some_group.gr_gid
    made.close()


def test_without_that_group_the_owner_may_connect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_socket, "GROUP", "no-such-group-here")
    made = Served(tmp_path)
    assert (tmp_path / control_socket.FILE_NAME).stat().st_gid == os.getegid()
    made.close()


def test_nobody_finds_it_before_it_is_published(tmp_path: Path) -> None:
    made = ControlSocket(tmp_path, DefaultSelector(), lambda *_: None)
    with pytest.raises(NotRunning):
        ask(tmp_path, {"do": "status"})
    made.close(remove=False)
    assert os.listdir(tmp_path) == []


def test_the_end_takes_away_what_a_killed_successor_left(served: Served, tmp_path: Path) -> None:
    (tmp_path / f"{control_socket.FILE_NAME}.4711").touch()
    served.control.close(remove=True)
    assert os.listdir(tmp_path) == []


def test_a_successor_s_socket_takes_the_place_of_the_last(served: Served, tmp_path: Path) -> None:
    later = DefaultSelector()
    second = ControlSocket(tmp_path, later, lambda _, conversation: conversation.end(True, who="second"))
    second.publish()
    served.control.close(remove=False)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(str(tmp_path / control_socket.FILE_NAME))
        client.sendall(b'{"do": "status"}\n')
        for _ in range(2):
            for key, _ in later.select(1):
                key.data()
        assert everything(client) == [{"ok": True, "who": "second"}]
    second.close(remove=True)
    assert os.listdir(tmp_path) == []


# -- the asking end


def test_without_a_gateway_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotRunning, match=r"^No gateway runs here: nobody listens at .*/control\.$"):
        ask(tmp_path, {"do": "status"})
    with pytest.raises(NotRunning):
        ask(tmp_path / "missing", {"do": "status"})


def test_the_socket_of_a_gateway_that_was_killed_says_the_same(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stale:
        stale.bind(str(tmp_path / control_socket.FILE_NAME))
    with pytest.raises(NotRunning, match="nobody listens"):
        ask(tmp_path, {"do": "status"})


def test_a_file_that_is_no_socket_is_named(tmp_path: Path) -> None:
    (tmp_path / control_socket.FILE_NAME).write_text("hello")
    with pytest.raises((NotRunning, ControlError), match=r"/control"):
        ask(tmp_path, {"do": "status"})


def test_a_path_too_long_for_a_socket_is_told(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="cannot be asked"):
        ask(tmp_path / ("x" * 200), {"do": "status"})


@pytest.mark.root
def test_who_may_not_connect_is_told_what_to_do(served: Served) -> None:
    os.chmod(served.run_dir, 0o755)
    for folder in served.run_dir.parents:
        if str(folder).startswith("/tmp/"):
            os.chmod(folder, 0o755)
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        try:
            ask(served.run_dir, {"do": "status"})
        except Exception as error:
            os.write(writing, f"{type(error).__name__} {error}".encode())
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(writing)
    with open(reading) as file:
        told = file.read()
    assert told.startswith("ControlError ")
    assert f"use sudo, or ask to be let into the group {control_socket.GROUP}" in told


def test_a_gateway_that_says_nothing_is_not_waited_for_for_ever(served: Served) -> None:
    client = served.ask_apart({"do": "status"}, timeout=0.3)
    outcome = client.result()
    assert isinstance(outcome, ControlError)
    assert "its log says more" in str(outcome)


def test_a_gateway_that_ends_before_it_answers(served: Served) -> None:
    served.handle = lambda _, conversation: conversation.close()
    client = served.ask_apart({"do": "status"})
    outcome = client.result()
    assert isinstance(outcome, ControlError)
    assert "ended before it had answered" in str(outcome)


@pytest.mark.parametrize("answer", [b"hello\n", b"[1]\n", b"null\n", b"\xff\n", b"[" * 100_000 + b"\n"])
def test_an_answer_that_is_none_is_told(served: Served, answer: bytes) -> None:
    def handle(_: Answer, conversation: Conversation) -> None:
        conversation._connection.setblocking(True)
        conversation._connection.sendall(answer)
        conversation.close()

    served.handle = handle
    outcome = served.ask_apart({"do": "status"}).result()
    assert isinstance(outcome, ControlError)
    assert "cannot be asked" in str(outcome)
