"""A program that only root may read, as below /root: all of its processes do their work, and none reads a file of it
when its privileges are gone.

The same code as ever, but by way of a folder that nobody else may enter. Everything that Python imports and is not its
own lies there. What is imported late tells so in the log (`privileges`), and is not found here.
"""

import json
import socket
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import livegateway
import livehost
import pytest
from dnsserver import DnsServer
from livebans import ENOUGH, JUNK, banned, send
from livegateway import Gateway
from livehost import Host, request
from livenames import NAMED, farm, rows
from livenet import PHONE, Net, until

from nfqlb.proxy.verdict import Reason

pytestmark = pytest.mark.root

CHECKOUT = Path(__file__).parents[3]
TORTURE = CHECKOUT / "tests/torture"

LATE = "is looked for only now that privileges are given up"

ASKED = """
[health]
interval = 0.2
timeout = 0.1
jitter = 0
"""
RULES = """
[[route]]
listeners = ["four"]
methods = ["INVITE"]
user_regex = "^0[1-9]"
pool = "all4"

[[route]]
listeners = ["four"]
methods = ["SUBSCRIBE"]
user_agent_regex = "^Acme/[12]\\\\."
headers = ["Event"]
pool = "all4"

[[route]]
"""
STRANGE = [
    "60 CAA 0 issue ca.example.net",
    "60 DS 1 8 2 " + 64 * "a",
    "60 HTTPS 1 . alpn=h2",
    "60 LOC 52 22 23.000 N 4 53 32.000 E -2.00m 0.00m 10000m 10m",
    '60 NAPTR 1 1 S SIP+D2U "" _sip._udp.example.org.',
    "60 TXT hello",
    "60 TYPE65280 \\# 2 0102",
]


@pytest.fixture
def python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """How to call one that finds nfqlb and what it needs in a folder of root's."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "checkout").mkdir()
    (closed / "checkout/nfqlb").symlink_to(CHECKOUT / "nfqlb")
    (closed / "site").symlink_to(sysconfig.get_path("purelib"))
    monkeypatch.setenv("PYTHONPATH", f"{closed}/checkout:{closed}/site")
    tmp_path.chmod(0o755)  # it is that one folder which nobody else may enter
    return [sys.executable, "-P", "-S"]


@pytest.fixture(params=["compiled", "pure"])
def host(net: Net, python: list[str], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Host:
    if request.param == "pure":
        monkeypatch.setenv("NFQLB_PURE", "1")
    for module in (livehost, livegateway):
        monkeypatch.setattr(module, "NFQLB", [*python, "-m", "nfqlb"])
    made = Host(net)
    text = NAMED.replace("[health]\nenabled = false\n", ASKED).replace("[[route]]", RULES, 1)
    made.write(text.replace("reg4.example.org", "_sip._udp.reg4.example.org"))
    return made


@pytest.fixture
def server(host: Host) -> Iterator[DnsServer]:
    opened = host.net.udp(host.net.farm, 4)
    opened.bind(("10.9.0.2", 53))
    records = {
        "_sip._udp.reg4.example.org": ["1 SRV 1 1 5060 host4.example.org."],
        "host4.example.org": ["1 A 10.9.0.2"],
        "reg6.example.org": ["1 AAAA 2001:db8:2::2"],
    }
    started = DnsServer(opened, records)
    started.beside = STRANGE
    yield started
    started.finish()


def texts(value: Any) -> Iterator[str]:
    """Of all messages of the torture files."""
    for row in value.values() if isinstance(value, dict) else value:
        if isinstance(row, dict):
            if "text" in row:
                yield row["text"]
            else:
                yield from texts(row)
        elif isinstance(row, list):
            yield from texts(row)


def torture() -> list[bytes]:
    found = [text for path in TORTURE.glob("*.toml") for text in texts(tomllib.loads(path.read_text()))]
    assert len(found) > 50
    return [text.lstrip("\n").replace("\n", "\r\n").encode() for text in found]


@pytest.mark.timeout(180)
def test_all_processes_do_their_work(host: Host, server: DnsServer) -> None:
    gateway, net = Gateway(host), host.net
    names = gateway.status()["names"]["resolver"]
    backend, phone = farm(net, "10.9.0.2"), net.phone_socket(4)

    # The prober: an answer, and the ICMP error of a port that is closed.
    assert until(lambda: answered(gateway, backend), 10), rows(gateway)
    backend.close()
    assert until(lambda: rows(gateway)["reg4@10.9.0.2"]["state"] == "down", 10)
    backend = farm(net, "10.9.0.2")

    # The process that asks DNS: answers of each kind, none, wrong ones, and such as no resolver expects.
    for mode, told in (("servfail", "DNS fails for"), ("silent", "DNS does not answer"), ("update", "")):
        server.mode, asked = mode, server.asked.total()
        assert until(lambda told=told: all(told in (name["error"] or "") for name in known(gateway)), 15), net.log
        assert until(lambda asked=asked: server.asked.total() >= asked + 4, 15), net.log
    server.mode = "answer"
    assert until(lambda: not any(name["error"] for name in known(gateway)), 15), net.log
    invite = request(backend, "out", "INVITE").replace(b"sip:alice@example.org", b"sip:bob@carrier.example.net", 1)
    server.records["_sip._udp.carrier.example.net"] = [f"60 SRV 1 1 {phone.getsockname()[1]} edge.example.net."]
    server.records["edge.example.net"] = [f"60 A {PHONE[4]}"]
    phone.settimeout(0.5)
    assert until(lambda: called(backend, phone, invite), 10), net.log
    assert gateway.status()["names"]["resolver"] == names, net.log

    # Workers: what they forward, and all that they refuse, from either side.
    backend.close()
    assert gateway.serves(4)
    assert gateway.serves(6, body=20_000 * b"x")
    backend = farm(net, "10.9.0.2")
    for content in torture():
        phone.send(content)
        backend.sendto(content, ("10.9.0.1", 5060))
    workers = gateway.workers()

    # The guard.
    send(gateway, JUNK, ENOUGH)
    assert until(lambda: PHONE[4] in banned(net), 10), net.log
    assert until(lambda: net.board().bans == 1, 10)
    assert net.counted(Reason.INTERNAL_ERROR) == 0, net.log
    assert gateway.workers() == workers

    for change in ("reload", "upgrade"):
        getattr(gateway, change)()
        assert until(gateway.settled, 10)
    assert LATE not in net.log, net.log
    assert " died " not in net.log
    gateway.stop()


def answered(gateway: Gateway, backend: socket.socket) -> bool:
    """Whether an answer to a probe of it has been taken."""
    probe, prober = backend.recvfrom(65535)
    assert probe.startswith(b"OPTIONS ")
    backend.sendto(b"SIP/2.0 200 OK\r\n" + probe.partition(b"\r\n")[2], prober)
    return any(row["probe"] and row["probe"]["status"] == 200 for row in rows(gateway).values())


def known(gateway: Gateway) -> list[dict[str, Any]]:
    return list(gateway.status()["names"]["known"])


def called(backend: socket.socket, phone: socket.socket, invite: bytes) -> bool:
    backend.sendto(invite, ("10.9.0.1", 5060))
    try:
        return phone.recv(65535).startswith(b"INVITE sip:bob@carrier.example.net ")
    except TimeoutError:
        return False


CHILD = """
import json, logging, os, sys, warnings
import nfqlb.gateway.supervisor.supervisor
from nfqlb.gateway.runtime import privileges

class Strange:
    size = 1

def deep():
    return deep()

def chained():
    try:
        {}["nowhere"]
    except KeyError as error:
        raise ValueError("a\\N{SNOWMAN}b") from error

def forked(work):
    reading, writing = os.pipe()
    if not os.fork():
        sys.stderr = open("/dev/null", "w")
        work(writing)
        os._exit(0)
    os.close(writing)
    with open(reading) as pipe:
        return json.load(pipe)

def asynchronous():
    import asyncio
    async def unhandled():
        asyncio.get_running_loop().call_exception_handler({"message": "on purpose", "exception": ValueError()})
    asyncio.run(unhandled())

def tell(writing):
    logging.basicConfig()
    privileges.drop(keep=None)
    before = set(sys.modules)
    for work in (
        lambda: Strange().sise, lambda: sturct, lambda: int("x", 1 / 0), lambda: b"\\xff".decode(), deep, chained,
        lambda: compile("a b", "file", "exec"), lambda: open("/nowhere"), lambda: os.kill(1, 0), lambda: "%d" % "x",
        lambda: (_ for _ in ()).throw(ExceptionGroup("several", [ValueError(1), OSError(2, "x")])),
    ):
        try:
            work()
        except BaseException as error:
            logging.getLogger("nfqlb").exception("on purpose")
            logging.getLogger("nfqlb").error("%r %s %s", error, error, getattr(error, "strerror", ""))
        else:
            raise AssertionError("nothing is wrong")
    warnings.warn("on purpose", ResourceWarning)
    if "asyncio" in sys.modules:
        asynchronous()
    os.write(writing, json.dumps(sorted(set(sys.modules) - before - set(sys.builtin_module_names))).encode())

def late(writing):
    lines = []
    logging.getLogger("nfqlb").addHandler(logging.Handler())
    logging.getLogger("nfqlb").handlers[0].emit = lambda record: lines.append(record.getMessage())
    privileges.drop(keep=None)
    for name in ("nfqlb.share", "nfqlb.share", "dns.resolver", "sched"):
        try:
            __import__(name)
        except ModuleNotFoundError as error:
            lines.append(str(error))
    os.write(writing, json.dumps(lines).encode())

if sys.argv[2:]:
    __import__(sys.argv[2])
print(json.dumps(forked({"tell": tell, "late": late}[sys.argv[1]])))
"""


def child(python: list[str], *what: str) -> Any:
    done = subprocess.run([*python, "-c", CHILD, *what], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("more", [[], ["nfqlb.gateway.dns.resolver"]], ids=["worker", "names"])
def test_whatever_goes_wrong_can_be_told(python: list[str], more: list[str]) -> None:
    """Python imports a lot only to show an exception well."""
    assert child(python, "tell", *more) == []


def test_a_module_that_is_imported_late_is_told_once_and_not_found(python: list[str]) -> None:
    told = child(python, "late")
    # The last one is Python's own, and may lie where everybody can read it.
    ours = ("nfqlb.share", "nfqlb.share", "dns")
    assert [line for line in told if LATE not in line][:3] == [f"No module named '{name}'" for name in ours]
    assert [line.split()[1] for line in told if LATE in line] == ["nfqlb.share", "dns", "sched"]


SCAN = """
import dis, inspect, json, sys, types
from nfqlb.names import lookup
lookup.load_all()
found = {}
for name in [name for name in sys.modules if name.partition(".")[0] == "dns"]:
    codes = [sys.modules[name].__spec__.loader.get_code(name)]
    while codes:
        code = codes.pop()
        codes += [each for each in code.co_consts if isinstance(each, types.CodeType)]
        for line in dis.get_instructions(code) if code.co_flags & inspect.CO_OPTIMIZED else ():
            if line.opname == "IMPORT_NAME" and line.argval and line.argval not in sys.modules:
                found.setdefault(line.argval, []).append(f"{name}: {code.co_name}")
print(json.dumps(found))
"""


def test_what_the_library_for_dns_would_import_late_is_there(python: list[str]) -> None:
    """As the code of its functions says: no test can call all of them."""
    done = subprocess.run([*python, "-c", SCAN], capture_output=True, text=True, timeout=60, check=True)
    other_loops = {"sniffio", "dns._trio_backend"}
    assert set(found := json.loads(done.stdout)) == other_loops, found
