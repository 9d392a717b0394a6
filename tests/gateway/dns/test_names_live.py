"""Names in DNS, with the real engine, rules and processes: backends that move, DNS that dies, calls to names."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from dnsserver import DnsServer
from livegateway import Gateway
from livehost import CONFIG, Host, request
from livenames import NAMED, farm, rows
from livenet import Net, until

from nfqlb.gateway.host.procfs import alive
from nfqlb.lab import namespaces
from nfqlb.proxy.verdict import Reason

pytestmark = pytest.mark.root

MOVED = ("10.9.0.3", "10.9.0.4")


@pytest.fixture
def host(net: Net) -> Host:
    for address in MOVED:
        namespaces.run(net.farm, ["ip", "address", "add", f"{address}/24", "dev", "eth"])
    made = Host(net)
    made.write(NAMED)
    return made


@pytest.fixture
def server(host: Host) -> Iterator[DnsServer]:
    opened = host.net.udp(host.net.farm, 4)
    opened.bind(("10.9.0.2", 53))
    started = DnsServer(opened, {"reg4.example.org": ["1 A 10.9.0.2"], "reg6.example.org": ["1 AAAA 2001:db8:2::2"]})
    yield started
    started.finish()


def reaches(phone: socket.socket, backend: socket.socket) -> bytes:
    """What arrives there of one more request."""
    backend.settimeout(0)
    with suppress(BlockingIOError):
        while backend.recv(65535):
            pass  # of before
    backend.settimeout(3)
    phone.send(request(phone, f"b{time.monotonic_ns()}"))
    try:
        return backend.recv(65535)
    except TimeoutError:
        return b""


def moves_to(gateway: Gateway, name: str) -> bool:
    return until(lambda: name in rows(gateway) and not gateway.status()["changing"], 20)


def test_a_backend_moves_with_its_name_and_finishes_what_it_has_begun(host: Host, server: DnsServer) -> None:
    gateway = Gateway(host)
    assert {name: row["address"] for name, row in rows(gateway).items()} == {
        "reg4@10.9.0.2": "10.9.0.2:5060",
        "reg6@[2001:db8:2::2]": "[2001:db8:2::2]:5060",
    }
    phone, old, new = host.net.phone_socket(4), farm(host.net, "10.9.0.2"), farm(host.net, "10.9.0.3")
    begun = reaches(phone, old)
    assert begun.startswith(b"REGISTER ")
    server.records["reg4.example.org"] = ["1 A 10.9.0.3"]
    assert moves_to(gateway, "reg4@10.9.0.3"), host.net.log
    assert until(lambda: reaches(phone, new).startswith(b"REGISTER "))
    assert rows(gateway)["reg4@10.9.0.2"]["leaving"]
    rest = begun.partition(b"\r\n")[2]
    old.sendto(b"SIP/2.0 200 OK\r\n" + rest, ("10.9.0.1", 5060))
    assert phone.recv(65535).startswith(b"SIP/2.0 200 OK"), "its response passes"
    assert "names have other addresses: new are reg4@10.9.0.3; gone are reg4@10.9.0.2" in host.net.log
    assert host.call("rules", "diff").returncode == 0, "commands know the addresses, too"
    gateway.stop()


def test_dead_dns_changes_nothing_and_a_restart_remembers(host: Host, server: DnsServer) -> None:
    gateway = Gateway(host)
    before = set(rows(gateway))
    server.mode = "silent"
    assert until(lambda: host.net.log.count("the last good answer stands") == 2, 15), host.net.log
    assert set(rows(gateway)) == before
    assert gateway.serves(4)
    assert gateway.serves(6)
    known = {each["name"]: each for each in gateway.status()["names"]["known"]}
    assert known["reg4.example.org:5060"]["addresses"] == ["10.9.0.2:5060"]
    assert known["reg6.example.org:5060"]["addresses"] == ["[2001:db8:2::2]:5060"]
    assert all("DNS does not answer" in each["error"] for each in known.values())
    gateway.stop()
    again = Gateway(host)
    assert set(rows(again)) == before
    assert again.serves(4)
    server.mode = "answer"
    assert until(lambda: "is answered again" in host.net.log, 15)
    again.stop()


def test_a_name_without_an_address_is_a_backend_that_is_down_until_there_is_one(host: Host, server: DnsServer) -> None:
    records = server.records.pop("reg4.example.org")
    gateway = Gateway(host)
    found = rows(gateway)
    assert set(found) == {"reg4", "reg6@[2001:db8:2::2]"}
    assert (found["reg4"]["address"], found["reg4"]["state"]) == ("reg4.example.org:5060", "down")
    assert found["reg4"]["error"] == "reg4.example.org has no address"
    listed = host.call("backends", "list")
    assert listed.returncode == 1
    assert "ALARM in pool all4" in listed.stdout
    phone = host.net.phone_socket(4)
    phone.send(request(phone, "early"))
    assert phone.recv(65535).startswith(b"SIP/2.0 503 ")
    assert host.call("backends", "drain", "reg4").returncode == 0
    server.records["reg4.example.org"] = records
    # "There is no such name" holds for 30 s; who does not want to wait reloads.
    gateway.reload()
    assert moves_to(gateway, "reg4@10.9.0.2")
    assert rows(gateway)["reg4@10.9.0.2"]["state"] == "draining", "what is said of a name holds for each address"
    assert host.call("backends", "enable", "reg4@10.9.0.2").returncode == 1
    assert host.call("backends", "enable", "reg4").returncode == 0
    assert until(lambda: gateway.serves(4))
    gateway.stop()


@pytest.mark.parametrize("family", [4, 6])
def test_a_call_to_a_name_goes_out_with_its_retransmission(host: Host, server: DnsServer, family: int) -> None:
    gateway = Gateway(host)
    phone = host.net.phone_socket(family)
    address, port = phone.getsockname()[:2]
    kind = {4: "A", 6: "AAAA"}[family]
    server.records["_sip._udp.carrier.example.net"] = [f"60 SRV 1 1 {port} edge.example.net."]
    server.records["edge.example.net"] = [f"60 {kind} {address}"]
    backend = farm(host.net, {4: "10.9.0.2", 6: "2001:db8:2::2"}[family])
    inside = ({4: "10.9.0.1", 6: "2001:db8:2::1"}[family], 5060)
    invite = request(backend, "out", "INVITE").replace(
        b"INVITE sip:alice@example.org", b"INVITE sip:bob@carrier.example.net"
    )
    assert gateway.status()["names"]["resolver"], "backends have names"
    backend.sendto(invite, inside)
    assert until(lambda: host.net.counted(Reason.NAME_PENDING) == 1)
    assert until(lambda: gateway.status()["names"]["asked"] >= 1)
    phone.settimeout(0.5)
    came = b""
    for _ in range(10):  # as a client retransmits
        backend.sendto(invite, inside)
        try:
            came = phone.recv(65535)
            break
        except TimeoutError:
            continue
    assert came.startswith(b"INVITE sip:bob@carrier.example.net SIP/2.0\r\n"), host.net.log
    nobody = invite.replace(b"carrier.example.net", b"nobody.example.net")
    backend.sendto(nobody, inside)
    for _ in range(10):
        backend.settimeout(0.5)
        try:
            answer = backend.recv(65535)
            break
        except TimeoutError:
            backend.sendto(nobody, inside)
    assert answer.startswith(b"SIP/2.0 503 ")
    assert b"nobody.example.net has no IPv" in answer
    gateway.stop()


def test_the_process_that_asks_comes_with_the_first_question_and_again_after_its_death(
    host: Host, server: DnsServer
) -> None:
    host.write(CONFIG + '\n[dns]\nservers = ["10.9.0.2"]\n')
    gateway = Gateway(host)
    server.records["edge.example.net"] = ["60 A 198.51.100.2"]
    assert gateway.status()["names"]["resolver"] == 0
    backend = farm(host.net, "10.9.0.2")
    ask_for = request(backend, "out", "INVITE").replace(
        b"INVITE sip:alice@example.org", b"INVITE sip:b@edge.example.net"
    )
    backend.sendto(ask_for, ("10.9.0.1", 5060))
    assert until(lambda: gateway.status()["names"]["looked_up"] == 1, 10)
    first = gateway.status()["names"]["resolver"]
    lines = Path(f"/proc/{first}/status").read_text().splitlines()
    assert {"CapEff:\t0000000000000000", "Uid:\t65534\t65534\t65534\t65534"} <= set(lines)
    os.kill(first, signal.SIGKILL)
    assert until(lambda: gateway.status()["names"]["resolver"] not in (0, first), 10)
    assert gateway.settled()
    second = gateway.status()["names"]["resolver"]
    gateway.process.kill()
    gateway.process.wait(10)
    assert until(lambda: not alive(second)), "it does not outlive its supervisor"
    assert gateway.start()
    assert until(gateway.settled, 10)
    gateway.stop()


def test_check_live_says_what_dns_says(host: Host, server: DnsServer) -> None:
    done = host.call("check", "--live")
    assert "pool all4, backend reg4: reg4.example.org:5060 is 10.9.0.2:5060" in done.stderr
    server.mode = "servfail"
    done = host.call("check", "--live")
    assert "DNS fails for reg4.example.org" in done.stderr
    assert "without an address nothing is sent there" in done.stderr


def test_two_names_with_one_address_say_why_the_second_is_down(host: Host, server: DnsServer) -> None:
    """At the start, when DNS changes under way, and before there is a gateway."""
    twin = 'address = "reg4.example.org"\n[[pool.backend]]\nname = "twin4"\naddress = "twin4.example.org"\n'
    host.write(NAMED.replace('address = "reg4.example.org"\n', twin))
    server.records["twin4.example.org"] = ["1 A 10.9.0.2"]
    why = (
        "twin4.example.org:5060 is 10.9.0.2:5060, which is not used: this pool has that address as backend reg4 already"
    )
    live = host.call("check", "--live")
    assert f"pool all4, backend twin4: {why}" in live.stderr
    gateway = Gateway(host)
    assert f" warning: backend all4/twin4: {why}" in host.net.log
    assert set(rows(gateway)) == {"reg4@10.9.0.2", "twin4", "reg6@[2001:db8:2::2]"}
    assert (rows(gateway)["twin4"]["state"], rows(gateway)["twin4"]["error"]) == ("down", why)
    server.records["twin4.example.org"] = ["1 A 10.9.0.3"]
    assert moves_to(gateway, "twin4@10.9.0.3"), host.net.log
    server.records["twin4.example.org"] = ["1 A 10.9.0.2"]
    assert moves_to(gateway, "twin4"), host.net.log
    assert host.net.log.count(f" warning: backend all4/twin4: {why}") == 2
    gateway.stop()


def test_dns_is_asked_for_what_listeners_speak_only(host: Host, server: DnsServer) -> None:
    """For backends, for whom they call, and by commands; a listener of the other IP version changes that at once."""
    four = NAMED.partition('[[listener]]\nname = "six"')[0] + (
        '[[pool]]\nname = "all4"\n[[pool.backend]]\nname = "reg4"\naddress = "reg4.example.org"\n'
        '[[route]]\npool = "all4"\n[dns]\nservers = ["10.9.0.2"]\ntimeout = 0.5\nmin_ttl = 1\n'
    )
    host.write(four)
    server.records["edge.example.net"] = ["3600 A 198.51.100.2", "3600 AAAA 2001:db8:1::2"]
    host.call("check", "--live")
    gateway = Gateway(host)
    inside = {4: farm(host.net, "10.9.0.2"), 6: farm(host.net, "2001:db8:2::2")}
    gateways = {4: ("10.9.0.1", 5060), 6: ("2001:db8:2::1", 5060)}

    def calls(family: int) -> bool:
        """Whether a call by a backend to that name goes out, once it is looked up."""
        phone = host.net.udp(host.net.phone, family)
        phone.bind(({4: "198.51.100.2", 6: "2001:db8:1::2"}[family], 5060))
        phone.settimeout(0.2)
        invite = request(inside[family], f"out{time.monotonic_ns()}", "INVITE").replace(
            b"INVITE sip:alice@example.org", b"INVITE sip:b@edge.example.net:5060"
        )

        def arrives() -> bool:
            inside[family].sendto(invite, gateways[family])
            with suppress(TimeoutError):
                return phone.recv(65535).startswith(b"INVITE sip:b@edge.example.net:5060 ")
            return False

        try:
            return until(arrives)
        finally:
            phone.close()

    assert calls(4)
    assert {kind for _, kind in server.asked} == {"A"}, server.asked
    assert until(lambda: gateway.status()["names"]["looked_up"] >= 2)
    host.write(NAMED)
    gateway.reload()
    assert calls(6), "that there was no IPv6 address only meant that nobody had asked"
    assert {kind for name, kind in server.asked if name == "reg6.example.org"} == {"A", "AAAA"}
    gateway.stop()
