"""What is said of the rules of others."""

from pathlib import Path

import pytest

from nfqlb.gateway.netfilter.conflicts import drops, feeders, helpers, hurdles, sip_module
from nfqlb.gateway.netfilter.iptables import parse
from nfqlb.net.endpoint import Endpoint

QUEUES = range(5060, 5064)

FOUR = [Endpoint.parse("192.0.2.5:5060"), Endpoint.parse("10.0.0.5:5060")]
SIX = [Endpoint.parse("[2001:db8::5]:5070")]


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("-A INPUT -p udp -j NFQUEUE --queue-num 5061", "to our queues; give"),
        ("-A INPUT -p udp -j NFQUEUE --queue-num 5061 --queue-bypass", "lets through what no worker takes"),
        ("-A INPUT -j NFQUEUE --queue-balance 5000:5060", "to our queues; give"),
        ("-A INPUT -j NFQUEUE --queue-balance 5063:5099 --queue-bypass", "lets through"),
        ("-A INPUT -j NFQUEUE --queue-balance 5000:5059", None),
        ("-A INPUT -j NFQUEUE --queue-num 5064", None),
        ("-A INPUT -j NFQUEUE", None),
        ("-A NFQLB-QUEUE -j NFQUEUE --queue-num 5060", None),
    ],
)
def test_who_else_feeds_our_queues(rule: str, said: str | None) -> None:
    found = list(feeders(parse(f"*filter\n{rule}\nCOMMIT\n"), QUEUES))
    assert len(found) == (said is not None)
    assert all(said in text and rule in text for text in found if said)


def test_a_rule_without_a_number_feeds_queue_0() -> None:
    assert list(feeders(parse("*filter\n-A INPUT -j NFQUEUE\nCOMMIT\n"), range(1)))


def test_sip_helpers_are_seen() -> None:
    rule = "-A PREROUTING -p udp -m udp --dport 5060 -j CT --helper sip"
    assert [rule in text for text in helpers(parse(f"*raw\n{rule}\nCOMMIT\n"))] == [True]
    assert list(helpers(parse(f"*raw\n{rule.replace('sip', 'ftp')}\nCOMMIT\n"))) == []


def test_only_a_forward_chain_that_drops_is_a_hurdle() -> None:
    assert drops(parse("*filter\n:FORWARD DROP [0:0]\nCOMMIT\n"))
    assert not drops(parse("*filter\n:FORWARD ACCEPT [0:0]\n:INPUT DROP [0:0]\nCOMMIT\n"))
    assert not drops({})


def chain(family: str, table: str, name: str, **more: object) -> dict[str, object]:
    return {"family": family, "table": table, "name": name, "handle": 1, **more}


BASE = {"type": "filter", "hook": "forward", "prio": 0, "policy": "drop"}


@pytest.mark.parametrize(
    ("described", "version", "said"),
    [
        (chain("inet", "mine", "fw", **BASE), 4, "nft insert rule inet mine fw ct state untracked ip saddr"),
        (chain("inet", "mine", "fw", **BASE), 6, "ip6 saddr '{ 2001:db8::5 }' udp sport '{ 5070 }' accept"),
        (chain("ip", "mine", "fw", **BASE), 4, "'{ 192.0.2.5, 10.0.0.5 }' udp sport '{ 5060 }' accept"),
        (chain("ip", "mine", "fw", **BASE), 6, None),
        (chain("inet", "mine", "fw", **{**BASE, "policy": "accept"}), 4, None),
        (chain("inet", "mine", "in", **{**BASE, "hook": "input"}), 4, None),
        (chain("inet", "mine", "not-a-base-chain"), 4, None),
        (chain("ip", "filter", "FORWARD", **BASE), 4, None),
        (chain("inet", "firewalld", "filter_FORWARD", **{**BASE, "policy": "accept"}), 4, "firewalld rejects"),
    ],
)
def test_native_chains_that_drop(described: dict[str, object], version: int, said: str | None) -> None:
    found = list(hurdles([described], {4: FOUR, 6: SIX}[version]))
    assert len(found) == (said is not None)
    assert all(said in text for text in found if said)


def test_the_module_that_rewrites_sip(tmp_path: Path) -> None:
    assert sip_module(tmp_path) == []
    (tmp_path / "modules").write_text("nf_conntrack_sip 45056 1 nf_nat_sip, Live 0x0000000000000000\n")
    (problem,) = sip_module(tmp_path)
    assert (problem.severity, "modprobe -r" in problem.text) == ("warning", True)


def test_the_helper_that_comes_unasked(tmp_path: Path) -> None:
    switch = tmp_path / "sys/net/netfilter/nf_conntrack_helper"
    switch.parent.mkdir(parents=True)
    switch.write_text("0\n")
    assert sip_module(tmp_path) == []
    switch.write_text("1\n")
    assert "sysctl net.netfilter.nf_conntrack_helper=0" in sip_module(tmp_path)[0].text
