"""Rules and sysctls put in place, compared and taken out again, in the kernel and with both back ends."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hostnet import BEFORE, ONE_ARMED, TWO_ARMED, Host, until

from nfqlb.cli.rules import command
from nfqlb.config.model import Config, RulesBackend
from nfqlb.errors import HostError
from nfqlb.gateway.netfilter import ipset, ruleset, sysctl
from nfqlb.gateway.netfilter.iptables import Iptables, parse

pytestmark = pytest.mark.root

BACKENDS = ("nft", "legacy")

FOREIGN = """
*raw
:ADMIN-RAW - [0:0]
-A PREROUTING -i side -p tcp --dport 9 -j DROP
-A PREROUTING -j ADMIN-RAW
-A ADMIN-RAW -p udp --dport 123 -j CT --notrack
-A OUTPUT -p udp --dport 123 -j CT --notrack
COMMIT
*nat
-A POSTROUTING -o out -j MASQUERADE
COMMIT
*filter
:FORWARD DROP [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER-USER -m comment --comment "of somebody's" -j RETURN
COMMIT
"""


def backend_config(host: Host, backend: str, listeners: str = TWO_ARMED, **more: Any) -> Config:
    return host.config(listeners, more=f'[rules]\nbackend = "{backend}"', **more)


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_a_trace(host: Host, backend: str) -> None:
    for family in (4, 6):
        host.restore(FOREIGN, backend, family)
    before, sysctls = [host.saved(backend, family) for family in (4, 6)], host.sysctls()
    config = backend_config(host, backend)
    assert host.apply(config)
    assert host.differences(config) == []
    assert [host.saved(backend, family) for family in (4, 6)] != before
    assert host.sysctls() != sysctls
    host.remove(config)
    assert [host.saved(backend, family) for family in (4, 6)] == before
    assert host.sysctls() == sysctls
    assert host.remove(config) == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_twice_is_once(host: Host, backend: str) -> None:
    config = backend_config(host, backend)
    host.apply(config)
    once = [host.saved(backend, family) for family in (4, 6)]
    assert host.apply(config) == []
    assert [host.saved(backend, family) for family in (4, 6)] == once


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_kernel_takes_what_is_rendered(host: Host, backend: RulesBackend) -> None:
    config = host.config()
    host.here(lambda: ipset.make(ruleset.render_sets(config)))
    for family, text in ruleset.render(config).items():
        host.here(lambda family=family, text=text: Iptables(family, backend).restore(text, test=True))
        assert host.saved(backend, family) == {}


@pytest.mark.parametrize("backend", BACKENDS)
def test_another_configuration_takes_the_place_of_the_old(host: Host, backend: str) -> None:
    host.restore(FOREIGN, backend)
    old = backend_config(host, backend)
    host.apply(old)
    new = backend_config(host, backend, ONE_ARMED, workers=3)
    assert host.differences(new)
    host.apply(new)
    assert host.differences(new) == []
    for family in (4, 6):
        text = "\n".join(line for lines in host.saved(backend, family).values() for line in lines)
        assert "10.9.0.5" not in text
        assert "2001:db8:2::5" not in text
        assert text.count("NFQUEUE") == 3
        assert text.count("-A PREROUTING -j NFQLB-IN") == 1


def test_without_listeners_of_an_ip_version_its_rules_go(host: Host) -> None:
    host.apply(host.config())
    assert host.saved("nft", 6)
    four = TWO_ARMED[: TWO_ARMED.index('[[listener]]\nname = "six"')]
    host.apply(host.config(four, backends=("10.9.0.2:5060",)))
    assert host.saved("nft", 6) == {}
    assert host.saved("nft", 4)


def test_what_the_other_back_end_holds_of_ours_goes(host: Host) -> None:
    legacy, auto = backend_config(host, "legacy"), host.config()
    host.apply(legacy)
    assert any("(legacy)" in str(each) for each in host.differences(auto))
    host.apply(auto)
    assert host.saved("legacy", 4) == {}
    assert host.saved("legacy", 6) == {}
    assert host.differences(auto) == []


def test_the_filter_table_can_be_left_alone(host: Host) -> None:
    with_filter = host.config()
    host.apply(with_filter)
    without = host.config(more="[rules]\nforward = false")
    host.apply(without)
    assert list(host.saved("nft", 4)) == ["*raw"]
    assert host.differences(without) == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_others_do_to_our_rules_is_seen_and_put_right(host: Host, backend: str) -> None:
    config = backend_config(host, backend)
    host.apply(config)
    host.restore(
        "*raw\n-I PREROUTING -p tcp -j ACCEPT\n-A NFQLB-QUEUE -j ACCEPT\nCOMMIT\n"
        "*filter\n-D FORWARD -p udp -m conntrack --ctstate UNTRACKED -j NFQLB-PASS\nCOMMIT\n",
        backend,
    )
    host.run("sysctl", "-qw", "net.ipv4.conf.out.accept_local=0")
    assert [str(each) for each in host.differences(config)] == [
        f"IPv4 filter ({backend}): + -A FORWARD -p udp -m conntrack --ctstate UNTRACKED -j NFQLB-PASS",
        f"IPv4 raw ({backend}): - -A NFQLB-QUEUE -j ACCEPT",
        f"IPv4 raw ({backend}): this stands before our jump: -A PREROUTING -p tcp -j ACCEPT",
        "sysctl: net/ipv4/conf/out/accept_local: 0 → 1",
    ]
    assert len(host.apply(config)) == 4
    assert host.differences(config) == []
    assert "-A PREROUTING -p tcp -j ACCEPT" in host.saved(backend, 4)["*raw"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_set_that_does_not_read_changes_nothing(host: Host, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    host.restore(FOREIGN, backend)
    config = backend_config(host, backend)
    before, sysctls = host.saved(backend, 4), host.sysctls()
    good = ruleset.render(config)
    monkeypatch.setattr(ruleset, "render", lambda *_: {4: good[4], 6: good[6].replace("CT --notrack", "CT --nonsense")})
    with pytest.raises(HostError, match="nonsense"):
        host.apply(config)
    assert host.saved(backend, 4) == before
    assert host.sysctls() == sysctls


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_fails_halfway_is_undone(host: Host, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """IPv4 is in place by the time the kernel refuses IPv6."""
    host.restore(FOREIGN, backend)
    old = backend_config(host, backend)
    host.apply(old)
    before = [host.saved(backend, family) for family in (4, 6)]
    new = backend_config(host, backend, workers=5)
    real = Iptables.restore
    seen: list[object] = []

    def restore(self: Iptables, text: str, *, test: bool = False) -> None:
        real(self, text, test=test)
        if not test and self.family == 6 and not seen:
            seen.append(host.saved(backend, 4))
            raise HostError("the kernel said no")

    monkeypatch.setattr(Iptables, "restore", restore)
    with pytest.raises(HostError, match="the kernel said no"):
        host.apply(new)
    assert seen[0] != before[0]
    assert [host.saved(backend, family) for family in (4, 6)] == before


def test_the_strictness_of_other_interfaces_stays(host: Host) -> None:
    """Packets to an address on the loopback interface come in by any, one without an address of its own included."""
    for command_line in ("address del 198.51.100.5/24 dev out", "address add 198.51.100.5/32 dev lo"):
        host.run("ip", *command_line.split())
    host.run("ip", "address", "flush", "dev", "side")
    config = host.config(more='[rules]\ninterfaces = ["side"]')
    host.apply(config)
    now = host.sysctls()
    strictness = {
        link: max(int(now["net/ipv4/conf/all/rp_filter"]), int(now[f"net/ipv4/conf/{link}/rp_filter"]))
        for link in ("side", "out", "in", "lo", "default")
    }
    assert strictness == {"side": 0, "out": 1, "in": 1, "lo": 1, "default": 1}
    host.remove(config)
    assert {key: value for key, value in host.sysctls().items() if key in BEFORE} == {
        key: value for key, value in BEFORE.items() if key in host.sysctls()
    }


def test_ipv6_forwarding_leaves_router_advertisements_as_they_were(host: Host) -> None:
    host.run("sysctl", "-qw", "net.ipv6.conf.side.forwarding=0")
    before = host.sysctls()
    config = host.config()
    host.apply(config)
    now = host.sysctls()
    assert now["net/ipv6/conf/all/forwarding"] == "1"
    assert {key for key in now if "ipv6" in key and now[key] != before[key]} == {"net/ipv6/conf/all/forwarding"}
    host.remove(config)
    assert host.sysctls() == before


ADVERTISE = """
import sys
from scapy.all import IPv6, Ether, ICMPv6ND_RA, ICMPv6NDOptPrefixInfo, ICMPv6NDOptSrcLLAddr, get_if_hwaddr, sendp
name, router, lifetime = sys.argv[1:]
packet = Ether(dst="33:33:00:00:00:01") / IPv6(dst="ff02::1", src=router, hlim=255)
packet /= ICMPv6ND_RA(routerlifetime=int(lifetime)) / ICMPv6NDOptSrcLLAddr(lladdr=get_if_hwaddr(name))
sendp(packet / ICMPv6NDOptPrefixInfo(prefix="2001:db8:7::", prefixlen=64), iface=name, verbose=False)
"""
"""A router's advertisement [RFC 4861 section 4.2] of a default route and a prefix."""


def advertise(host: Host, link: str, name: str, lifetime: int = 1800) -> Callable[[], str]:
    """Send it from the phone's end of `link`, which is called `name`. What tells the routes there that it brought."""
    shown = json.loads(host.run("ip", "-n", host.phone, "-j", "-6", "address", "show", "dev", name, "scope", "link"))
    router = shown[0]["addr_info"][0]["local"]
    argv = ["ip", "netns", "exec", host.phone, sys.executable, "-c", ADVERTISE, name, router, str(lifetime)]
    subprocess.run(argv, check=True, timeout=30)

    def learnt() -> str:
        routes = json.loads(host.run("ip", "-j", "-6", "route", "show", "dev", link))
        return " ".join(sorted(each["dst"] for each in routes if each["dst"] in ("default", "2001:db8:7::/64")))

    return learnt


@pytest.mark.parametrize("neighbour", ["0", "1"])
def test_routes_of_router_advertisements_stay(host: Host, neighbour: str) -> None:
    """And new advertisements are heeded as before. Where another interface forwards by a wish of its own, the
    removal writes its value again, at which Linux would forget the default route once more.
    """
    both = "2001:db8:7::/64 default"
    host.run("sysctl", "-qw", "net.ipv6.conf.side.accept_ra=1", f"net.ipv6.conf.out.forwarding={neighbour}")
    before = host.sysctls()
    learnt = advertise(host, "side", "aside")
    assert until(lambda: learnt() == both, 5)
    config = host.config()
    for act in (host.apply, host.apply, host.remove, host.apply):
        act(config)
        assert learnt() == both
    advertise(host, "side", "aside", lifetime=0)  # the router resigns
    assert until(lambda: learnt() == "2001:db8:7::/64", 5)
    advertise(host, "side", "aside")
    assert until(lambda: learnt() == both, 5)
    host.remove(config)
    assert learnt() == both
    assert host.sysctls() == before


def test_an_interface_that_is_not_there_is_an_error(host: Host) -> None:
    with pytest.raises(HostError, match="no interface eth9, but in, lo, out, side"):
        host.apply(host.config(more='[rules]\ninterfaces = ["out", "eth9"]'))


def test_on_the_other_node_of_a_pair_the_address_is_absent(host: Host) -> None:
    """Its interface is where the route to it leads."""
    host.run("ip", "address", "del", "198.51.100.5/24", "dev", "out")
    host.apply(host.config())
    now = host.sysctls()
    assert [now[f"net/ipv4/conf/{link}/accept_local"] for link in ("out", "in", "side")] == ["1", "1", "0"]


# the command


def nfqlb(host: Host, *argv: str) -> Result:
    return host.here(lambda: CliRunner().invoke(command, [*argv, "-c", str(host.folder / "nfqlb.toml")]))


def test_the_command(host: Host) -> None:
    host.config()
    missing = nfqlb(host, "diff")
    assert (missing.exit_code, "+ -A PREROUTING -j NFQLB-IN" in missing.output) == (1, True)
    applied = nfqlb(host, "apply")
    assert (applied.exit_code, "put right" in applied.output) == (0, True)
    again = nfqlb(host, "apply")
    assert (again.exit_code, again.output) == (0, "Rules and sysctls were in place already.\n")
    in_place = nfqlb(host, "diff", "--json")
    assert (in_place.exit_code, json.loads(in_place.output)) == (0, [])
    removed = nfqlb(host, "remove", "--json")
    assert removed.exit_code == 0
    assert {each["kind"] for each in json.loads(removed.output)} == {"remove", "set"}


CUT_OFF = (
    f"A gateway runs here (pid {os.getpid()}). Without its rules it gets no packets: calls and registrations fail "
    "until they are applied again, and who is banned is forgotten."
)


def with_a_gateway(host: Host) -> Config:
    config = host.config()
    host.apply(config)
    config.gateway.run_dir.joinpath("pid").write_text(f"{os.getpid()}\n")
    return config


def test_who_takes_the_rules_from_under_a_gateway_is_refused_unless_he_says_yes(host: Host) -> None:
    config = with_a_gateway(host)
    refused = nfqlb(host, "remove")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.stderr == f"Error: {CUT_OFF} To do it all the same: nfqlb rules remove --yes -c {config.path}\n"
    assert host.differences(config) == []
    removed = nfqlb(host, "remove", "--yes")
    assert (removed.exit_code, "taken out or put back" in removed.stdout) == (0, True)
    assert removed.stderr == (
        f"Warning: A gateway runs (pid {os.getpid()}) and gets no packets from now on. "
        f"Stop it, or give it packets again with: nfqlb rules apply -c {config.path}\n"
    )
    assert host.differences(config)


@pytest.mark.parametrize(
    ("typed", "taken_out"), [(b"y\n", True), (b"n\n", False), (b"\n", False), (b"\x04", False)], ids=repr
)
def test_at_a_terminal_he_is_asked(host: Host, typed: bytes, taken_out: bool) -> None:
    config = with_a_gateway(host)
    ours, theirs = os.openpty()
    command = ["ip", "netns", "exec", host.gateway, sys.executable, "-m", "nfqlb", "rules", "remove", "-c"]
    process = subprocess.Popen([*command, str(config.path)], stdin=theirs, stdout=-1, stderr=-1, text=True)
    host.adopt(process)
    os.close(theirs)
    os.write(ours, typed)
    said, asked = process.communicate(timeout=30)
    os.close(ours)
    assert f"{CUT_OFF}\nTake them out? [y/N]: " in asked
    if taken_out:
        assert (process.returncode, "taken out or put back" in said) == (0, True)
    else:
        assert (process.returncode, said, asked.endswith("Error: Nothing was changed.\n")) == (1, "", True)
    assert bool(host.differences(config)) == taken_out


def test_the_unit_of_the_rules_takes_them_out_without_a_question(host: Host) -> None:
    """As systemd calls it, also while the gateway runs: `systemctl stop nfqlb-rules`."""
    config = with_a_gateway(host)
    unit = (files("nfqlb.units") / "nfqlb-rules.service").read_text("utf-8")
    words = re.findall(r"^ExecStop=@nfqlb@ (.+) -c @config@$", unit, re.MULTILINE)[0].split()
    assert words.pop(0) == "rules"
    assert nfqlb(host, *words).exit_code == 0
    assert host.differences(config)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("[[pool.backend]]", "[[pool.backnd]]", 'pool[0].backnd: unknown key; did you mean "backend"?'),
        ("secret_file", "secret_fle", 'gateway.secret_fle: unknown key; did you mean "secret_file"?'),
    ],
    ids=["pool", "gateway"],
)
def test_a_configuration_with_mistakes_is_enough_to_take_rules_out(
    host: Host, backend: str, right: str, wrong: str, said: str
) -> None:
    before = host.sysctls()
    config = backend_config(host, backend)
    host.apply(config)
    config.path.write_text(config.path.read_text().replace(right, wrong))
    removed = nfqlb(host, "remove")
    assert removed.exit_code == 0, removed.output
    assert said in removed.stderr
    assert f"what the sysctls were is looked up in {config.gateway.run_dir}." in removed.stderr
    assert [host.saved(backend, family) for family in (4, 6)] == [{}, {}]
    assert host.sysctls() == before
    again = nfqlb(host, "remove", "--json")
    assert json.loads(again.stdout) == []


LOADERS = (
    ("--sets", ["ipset", "restore"]),
    ("--sysctls", ["sysctl", "-q", "-p", "-"]),
    ("--rules", ["iptables-restore", "--noflush"]),
    ("--rules", ["ip6tables-restore", "--noflush"]),
)


def test_what_show_prints_can_be_loaded_by_hand(host: Host) -> None:
    config = host.config()
    for option, loader in LOADERS:
        family = [] if "restore" not in loader[0] or loader[0] == "ipset" else ["-6" if "6" in loader[0] else "-4"]
        shown = nfqlb(host, "show", option, *family)
        assert shown.exit_code == 0
        host.here(lambda loader=loader, text=shown.output: subprocess.run(loader, input=text, text=True, check=True))
    assert host.differences(config) == []


def test_show_has_everything_in_the_order_of_apply(host: Host) -> None:
    config = host.config()
    for _ in range(2):  # what is in place already changes nothing of it
        shown = nfqlb(host, "show").stdout
        order = [
            shown.index(line)
            for line in (
                "# 1. Sets of addresses",
                "create NFQLB-allow4",
                "create NFQLB-allow6",
                "# 2. Sysctls",
                "# Rewritten packets are forwarded.\nnet/ipv4/conf/in/forwarding = 1\n",
                "net/ipv4/conf/out/forwarding = 1",
                "net/ipv4/conf/out/accept_local = 1",
                "net/ipv6/conf/all/forwarding = 1",
                "# 3. Rules",
                "-A NFQLB-IN -d 198.51.100.5",
                "-A NFQLB-IN -d 2001:db8:1::5",
            )
        ]
        assert order == sorted(order)
        told = json.loads(nfqlb(host, "show", "--json").output)
        assert list(told) == ["sets", "sysctls", "rules"]
        assert {family: parse(text) for family, text in told["rules"].items()} == {
            str(family): parse(text) for family, text in ruleset.render(config).items()
        }
        assert told["sets"] == {str(family): text for family, text in ruleset.render_sets(config).items()}
        assert told["sysctls"] == host.here(lambda: ruleset.wanted_sysctls(config))
        six = json.loads(nfqlb(host, "show", "--json", "-6").output)
        assert (list(six["rules"]), list(six["sets"])) == (["6"], ["6"])
        assert list(six["sysctls"]) == ["net/ipv6/conf/all/forwarding"]
        host.apply(config)


def test_show_without_the_interfaces_of_the_gateway_tells_the_rest(host: Host) -> None:
    host.config(more='[rules]\ninterfaces = ["elsewhere"]')
    shown = nfqlb(host, "show", "--json")
    assert shown.exit_code == 0
    assert "Warning: The sysctls cannot be told here. [rules] interfaces: this host has no interface" in shown.stderr
    told = json.loads(shown.stdout)
    assert (told["sysctls"], list(told["rules"])) == (None, ["4", "6"])
    alone = nfqlb(host, "show", "--sysctls")
    assert (alone.exit_code, alone.stdout) == (1, "")
    assert "this host has no interface elsewhere" in alone.stderr


def test_every_sysctl_of_ours_is_explained() -> None:
    keys = ["forwarding", "accept_local", "rp_filter", "send_redirects"]
    values = {f"net/ipv4/conf/eth0.7/{key}": "1" for key in keys} | {sysctl.IPV6_FORWARDING: "1"}
    assert sysctl.written(values).count("# ") == len(sysctl.WHY) == len(values)
    assert all(sysctl.OURS.fullmatch(key) for key in values)


def test_without_privilege_nothing_is_pretended(host: Host) -> None:
    config = host.config()
    host.apply(config)
    before = [host.saved("nft", family) for family in (4, 6)]
    few = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    program = [sys.executable, "-m", "nfqlb", "rules"]
    for action in ("apply", "remove", "diff"):
        done = subprocess.run(
            ["ip", "netns", "exec", host.gateway, *few, *program, action, "-c", str(config.path)],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == "Error: Rules can be read and changed by root only (CAP_NET_ADMIN).\n"
    assert [host.saved("nft", family) for family in (4, 6)] == before


def test_a_user_gets_a_sentence(host: Host, tmp_path: Path) -> None:
    host.config()
    (tmp_path / "secret").unlink()
    result = nfqlb(host, "apply")
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert "nfqlb secret new" in result.output
