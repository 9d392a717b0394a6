"""What `nfqlb check --live` and `nfqlb run` say of a host that is not ready."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hostnet import BACKENDS, EXTERNAL, TWO_ARMED, Host, until

from nfqlb.config.model import Config
from nfqlb.config.problems import Problem
from nfqlb.errors import HostError
from nfqlb.gateway.netfilter import ipset
from nfqlb.gateway.netfilter.iptables import Iptables
from nfqlb.gateway.preflight import host as gateway_host
from nfqlb.gateway.preflight.host import bound_sockets, meets, problems, udp_sockets
from nfqlb.net.endpoint import Endpoint

pytestmark = pytest.mark.root


def found(host: Host, config: Config) -> list[Problem]:
    return host.here(lambda: problems(config))


def texts(host: Host, config: Config, severity: str) -> list[str]:
    return [str(problem) for problem in found(host, config) if problem.severity == severity]


def test_a_host_with_everything_in_place(host: Host) -> None:
    config = host.config()
    host.apply(config)
    assert found(host, config) == []


def test_before_the_rules_are_applied(host: Host) -> None:
    config = host.config()
    rules, sysctls = sorted(found(host, config), key=lambda problem: problem.place)
    assert (rules.place, rules.severity, sysctls.place, sysctls.severity) == ("rules", "warning", "sysctls", "warning")
    assert rules.text.endswith(f"; put that right with: nfqlb rules apply -c {config.path}")
    assert "0 → 1" in sysctls.text


Act = Callable[[Host], object]


def ip(*lines: str) -> Act:
    return lambda host: [host.run("ip", *line.split()) for line in lines]


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        (
            ip("address del 198.51.100.5/24 dev out"),
            'listener[0].external = "198.51.100.5:5060": this host does not have the address',
        ),
        (
            ip("address del 2001:db8:2::5/64 dev in"),
            'listener[1].internal = "[2001:db8:2::5]:5060": this host does not have the address',
        ),
        (
            ip(
                "address del 2001:db8:1::5/64 dev out",
                "link set out addrgenmode none",
                "address add 2001:db8:1::5/64 dev out",
            ),
            'listener[1].external = "[2001:db8:1::5]:5060": Linux still makes sure that nobody else has the address',
        ),
        (ip("route add unreachable 10.9.0.2/32"), "there is no route to it from 10.9.0.5 (No route to host)"),
        (ip("route add blackhole 10.9.0.2/32"), "there is no route to it from 10.9.0.5 (Invalid argument)"),
        (ip("address add 10.9.0.2/32 dev in"), "an address of this very host"),
        (ip("link set in down"), "its interface in is down; switch it on with: ip link set in up"),
    ],
    ids=["external", "internal", "tentative", "unreachable", "blackhole", "local", "down"],
)
def test_what_keeps_packets_from_passing(host: Host, act: Act, expected: str) -> None:
    if "Linux still" in expected:
        host.run("sysctl", "-qw", "net.ipv6.conf.out.accept_dad=1", "net.ipv6.conf.out.dad_transmits=9")
    act(host)
    errors = texts(host, host.config(), "error")
    assert any(expected in text for text in errors), errors


def test_without_the_library_of_the_queues(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "netfilterqueue", None)  # importing it fails
    (error,) = texts(host, host.config(), "error")
    assert error.startswith("netfilterqueue: cannot be loaded (")
    assert error.endswith("); install the Debian package libnetfilter-queue1")


def test_an_address_that_another_host_has(host: Host) -> None:
    host.run("sysctl", "-qw", "net.ipv6.conf.out.accept_dad=1", "net.ipv6.conf.out.dad_transmits=1")
    host.run("ip", "address", "del", "2001:db8:1::5/64", "dev", "out")
    host.run("ip", "-n", host.phone, "address", "add", "2001:db8:1::5/64", "dev", "eth")
    host.run("ip", "address", "add", "2001:db8:1::5/64", "dev", "out")
    config = host.config()

    def told() -> bool:
        return any("another host has the address, too" in text for text in texts(host, config, "error"))

    assert until(told, 10)


def test_a_way_by_another_interface_is_worth_a_question(host: Host) -> None:
    config = host.config()
    host.run("ip", "route", "add", "10.9.0.2/32", "via", "10.7.0.2")
    host.apply(config)
    assert texts(host, config, "error") == []
    (warning,) = texts(host, config, "warning")
    assert warning.startswith('pool[0].backend[0].address = "10.9.0.2:5060": packets to it leave by side, but 10.9.0.5')


def test_a_packet_that_the_kernel_would_not_pass_on(host: Host) -> None:
    """Asked of the kernel itself, so whatever the reason is."""
    config = host.config()
    host.apply(config)
    host.run("ip", "rule", "add", "iif", "out", "to", "10.9.0.2", "prohibit")
    (warning,) = texts(host, config, "warning")
    assert warning.startswith(
        "interface out: Linux would not pass a packet on that comes in here, from 10.9.0.5 to b0 ("
    )


def test_an_address_that_is_local_by_a_route_alone(host: Host) -> None:
    host.run("ip", "address", "del", "198.51.100.5/24", "dev", "out")
    host.run("ip", "route", "add", "local", "198.51.100.5/32", "dev", "lo")
    config = host.config()
    host.apply(config)
    assert found(host, config) == []


def test_a_program_that_waits_at_our_socket(host: Host) -> None:
    config = host.config()
    host.apply(config)
    host.udp(host.gateway, "0.0.0.0", 5060)
    host.udp(host.gateway, EXTERNAL[6], 5060)
    host.udp(host.gateway, "0.0.0.0", 5070)
    any_address, six = texts(host, config, "warning")
    assert any_address.startswith("UDP 0.0.0.0:5060: ")
    assert "is bound to it, but packets to 198.51.100.5:5060 and 10.9.0.5:5060 go to our workers" in any_address
    assert six.startswith("UDP [2001:db8:1::5]:5060: ")


def test_a_socket_of_the_gateway_itself_is_no_strangers(host: Host, tmp_path: Path) -> None:
    """A reload of the service, which may not look at what its own `nfqlb-health` has open."""
    config = host.config()
    head, row = (
        "  sl\n",
        "  10: 0500090A:13C4 00000000:0000 07 00000000:00000000 00:00000000 00000000   {} 0 71718 2 0 0\n",
    )
    for folder in ("thread-self/net", "4711"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "4711/stat").write_text("4711 (nfqlb) S 1")
    pid = config.gateway.run_dir / "pid"
    pid.parent.mkdir(exist_ok=True)
    pid.write_text("4711")
    os.chown(pid, 995, 995)
    for user, count in ((995, 0), (996, 1), (0, 1)):
        (tmp_path / "thread-self/net/udp").write_text(head + row.format(user))
        assert len(list(bound_sockets(config, tmp_path))) == count
    pid.unlink()
    (tmp_path / "thread-self/net/udp").write_text(head + row.format(995))
    assert len(list(bound_sockets(config, tmp_path))) == 1, "no gateway runs"


def test_sockets_as_proc_writes_them(tmp_path: Path) -> None:
    """A line of each file as Linux on x86 printed it."""
    folder = tmp_path / "thread-self/net"
    folder.mkdir(parents=True)
    head = (
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer\n"
    )
    rest = "07 00000000:00000000 00:00000000 00000000     0        0 71718 2 0000000000000000 0\n"
    (folder / "udp").write_text(f"{head}  10: 056433C6:13C4 00000000:0000 {rest}")
    (folder / "udp6").write_text(
        f"{head}  10: B80D0120000001000000000005000000:13C4 00000000000000000000000000000000:0000 {rest}"
    )
    assert list(udp_sockets(tmp_path, 4)) == [(Endpoint.parse("198.51.100.5:5060"), "71718", 0)]
    assert list(udp_sockets(tmp_path, 6)) == [(Endpoint.parse("[2001:db8:1::5]:5060"), "71718", 0)]


@pytest.mark.parametrize(
    ("local", "ours", "expected"),
    [
        ("0.0.0.0:5060", "192.0.2.5:5060", True),
        ("[::]:5060", "192.0.2.5:5060", True),
        ("0.0.0.0:5060", "[2001:db8::5]:5060", False),
        ("192.0.2.5:5060", "192.0.2.5:5060", True),
        ("192.0.2.6:5060", "192.0.2.5:5060", False),
        ("0.0.0.0:5061", "192.0.2.5:5060", False),
    ],
)
def test_who_expects_our_packets(local: str, ours: str, expected: bool) -> None:
    assert meets(Endpoint.parse(local), Endpoint.parse(ours)) is expected


def test_a_back_end_that_drops_behind_ours(host: Host) -> None:
    config = host.config()
    host.apply(config)
    host.restore("*filter\n:FORWARD DROP [0:0]\nCOMMIT\n", "legacy")
    (warning,) = texts(host, config, "warning")
    assert warning.startswith("iptables (legacy): its FORWARD chain drops by policy, too")


def test_a_rule_that_feeds_our_queue(host: Host) -> None:
    config = host.config()
    host.apply(config)
    host.restore("*mangle\n-A PREROUTING -p udp --dport 5060 -j NFQUEUE --queue-num 5060 --queue-bypass\nCOMMIT\n")
    (warning,) = texts(host, config, "warning")
    assert "in mangle sends other packets to our queues, and with --queue-bypass lets through" in warning


def test_rules_that_the_kernel_does_not_take(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    config = host.config()
    real = Iptables.rehearse
    monkeypatch.setattr(
        Iptables,
        "rehearse",
        lambda self, text, before: real(self, text.replace("HMARK --hmark-src", "HNARK --hnark-src"), before),
    )
    errors = texts(host, config, "error")
    assert [error[:10] for error in errors] == ["IPv4 rules", "IPv6 rules"]
    assert "HNARK" in errors[0]


def test_without_ipset_that_is_the_error(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ipset, "PATH", str(host.folder))
    errors = texts(host, host.config(), "error")
    assert [error[:10] for error in errors] == ["IPv4 rules", "IPv6 rules"]
    assert "install the Debian package ipset" in errors[0]
    with pytest.raises(HostError, match="ipset is not installed"):
        host.apply(host.config())
    assert host.saved("nft", 4) == {}
    host.apply(host.config(more="[limits]\nenabled = false"))


def test_the_rehearsal_touches_nothing(host: Host) -> None:
    found(host, host.config())
    assert host.saved("nft", 4) == {}


def test_the_rehearsal_works_without_the_right_to_make_namespaces(host: Host) -> None:
    """With CAP_NET_ADMIN and no more, the commands only test; what does not read is still told."""
    program = "import sys; from nfqlb.gateway.netfilter.iptables import Iptables; Iptables(4).rehearse(sys.argv[1])"
    few = ["setpriv", "--bounding-set=-all,+net_admin", "--inh-caps=-all"]
    for target, status in (("CT --notrack", 0), ("CT --nonsense", 1)):
        text = f"*raw\n-A PREROUTING -j {target}\nCOMMIT\n"
        done = subprocess.run(
            ["ip", "netns", "exec", host.gateway, *few, sys.executable, "-c", program, text],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert done.returncode == status, done.stderr
    assert "--nonsense" in done.stderr
    assert "unshare" not in done.stderr.splitlines()[-1]
    assert host.saved("nft", 4) == {}


def test_without_privilege_that_is_the_error(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_host, "has_capability", lambda _: False)
    (error,) = texts(host, host.config(TWO_ARMED, backends=BACKENDS), "error")
    assert error.startswith("privilege: ")
    assert "as root" in error
