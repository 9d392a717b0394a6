"""What DNS says of names, and what becomes of it: records, weights, silence, files; and backends that have names."""

import asyncio
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from dnsserver import DnsServer, Records

from nfqlb.balance.pool import Backend, Pool
from nfqlb.balance.states import Place
from nfqlb.cli import check, status
from nfqlb.config.build import build
from nfqlb.config.model import Config
from nfqlb.config.resolve import answers_for, at_hand, unanswered, unused
from nfqlb.gateway.dns import plan as dns_plan
from nfqlb.gateway.dns.manager import DnsManager
from nfqlb.gateway.runtime.event_loop import Loop
from nfqlb.gateway.supervisor import reload as supervisor_reload
from nfqlb.names import remembered
from nfqlb.names.lookup import NEGATIVE_TTL, RETRY, Found, Lookups, Past
from nfqlb.names.target import (
    HEAVIEST,
    MOST,
    Address,
    Dns,
    Known,
    Service,
    Target,
    as_plain,
    from_plain,
    in_order,
    merged,
    ranked,
)
from nfqlb.net.endpoint import Endpoint
from nfqlb.proxy.setup import Listener

FARM: Records = {
    "reg.example.org": ["60 A 192.0.2.1", "60 A 192.0.2.2", "30 AAAA 2001:db8::1"],
    "one.example.org": ["100000 A 192.0.2.1"],
    "two.example.org": ["1 A 192.0.2.2", "90 AAAA 2001:db8::2"],
    "empty.example.org": [],
    "_sip._udp.example.org": ["300 SRV 10 60 5070 one.example.org.", "300 SRV 20 0 5080 two.example.org."],
    "_sip._udp.closed.example.org": ["60 SRV 0 0 0 ."],
}


@pytest.fixture
def server() -> Iterator[DnsServer]:
    started = DnsServer.on_loopback(dict(FARM))
    yield started
    started.finish()


def dns_of(server: DnsServer, **more: float) -> Dns:
    return Dns(servers=(Endpoint.parse(f"127.0.0.1:{server.port}"),), **{"timeout": 0.5, **more})


def look(
    server: DnsServer, target: Target, past: Past | None = None, versions: Collection[int] = (4, 6), **more: float
) -> Found:
    async def once() -> Found:
        return await Lookups(dns_of(server, **more), versions).find(target, past)

    return asyncio.run(once())


def shown(found: Found) -> list[tuple[str, int, int]]:
    return [(str(each.endpoint), each.rank, each.weight) for each in found.addresses]


# -- questions and answers


def test_addresses_of_both_versions_and_the_shortest_ttl(server: DnsServer) -> None:
    found = look(server, Target("reg.example.org", 5062))
    assert shown(found) == [("192.0.2.1:5062", 0, 1), ("192.0.2.2:5062", 0, 1), ("[2001:db8::1]:5062", 0, 1)]
    assert (found.ttl, found.error, found.silent) == (30, "", False)


@pytest.mark.parametrize(("host", "ttl"), [("one.example.org", 3600), ("two.example.org", 5)])
def test_a_ttl_is_brought_between_its_bounds(server: DnsServer, host: str, ttl: float) -> None:
    assert look(server, Target(host, 5060)).ttl == ttl


@pytest.mark.parametrize("target", [Target("_sip._udp.example.org"), Target("example.org")])
def test_srv_records_tell_ports_ranks_and_weights(server: DnsServer, target: Target) -> None:
    found = look(server, target)
    assert shown(found) == [("192.0.2.1:5070", 0, 60), ("192.0.2.2:5080", 1, 1), ("[2001:db8::2]:5080", 1, 1)]


def test_without_srv_records_a_host_has_port_5060(server: DnsServer) -> None:
    assert shown(look(server, Target("one.example.org"))) == [("192.0.2.1:5060", 0, 1)]
    assert server.asked["_sip._udp.one.example.org", "SRV"] == 1


@pytest.mark.parametrize(
    "target",
    [
        Target("nobody.example.org", 5060),
        Target("empty.example.org", 5060),
        Target("_sip._udp.nobody.example.org"),
        Target("_sip._udp.closed.example.org"),
    ],
)
def test_a_name_without_addresses_is_no_failure_of_dns(server: DnsServer, target: Target) -> None:
    assert look(server, target) == Found((), NEGATIVE_TTL, f"{target.host} has no address")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["silent", "servfail"])
def test_the_last_answer_to_each_question_stands_while_dns_fails(server: DnsServer, mode: str) -> None:
    target, past = Target("reg.example.org", 5060), Past()
    good = look(server, target, past)
    server.mode = mode
    found = look(server, target, past)
    assert found.addresses == good.addresses
    assert (found.silent, found.ttl) == (True, RETRY)
    assert "reg.example.org" in found.error
    assert look(server, target, {}).addresses == ()


@pytest.mark.slow
def test_one_dead_host_of_a_service_does_not_take_the_others_away(server: DnsServer) -> None:
    target, past = Target("_sip._udp.example.org"), Past()
    everyone = look(server, target, past).addresses
    server.deaf_to = {"two.example.org"}
    server.records["one.example.org"] = ["60 A 192.0.2.9"]
    found = look(server, target, past)
    assert found.silent
    assert [str(each.endpoint) for each in found.addresses] == [
        "192.0.2.9:5070", *(str(each.endpoint) for each in everyone[1:]),
    ]  # fmt: skip
    assert [str(each.endpoint) for each in look(server, target).addresses] == ["192.0.2.9:5070"]


def test_hosts_that_a_service_has_no_more_are_forgotten(server: DnsServer) -> None:
    past = Past()
    look(server, Target("_sip._udp.example.org"), past)
    assert ("two.example.org", "A") in past
    server.records["_sip._udp.example.org"] = ["60 SRV 1 1 5060 one.example.org."]
    look(server, Target("_sip._udp.example.org"), past)
    assert ("two.example.org", "A") not in past


@pytest.mark.parametrize(
    ("version", "kind", "addresses"),
    [(4, "A", ["192.0.2.1:5070", "192.0.2.2:5080"]), (6, "AAAA", ["[2001:db8::2]:5080"])],
)
def test_only_addresses_of_use_are_asked_for(server: DnsServer, version: int, kind: str, addresses: list[str]) -> None:
    """Of the name itself, of the hosts behind SRV records, and where nothing answers at all."""
    hosts = ["one.example.org", "two.example.org"]
    found = look(server, Target("_sip._udp.example.org"), versions=[version])
    assert [str(each.endpoint) for each in found.addresses] == addresses
    assert server.asked == {("_sip._udp.example.org", "SRV"): 1, **{(host, kind): 1 for host in hosts}}
    server.asked.clear()
    look(server, Target("reg.example.org", 5060), versions=[version])
    assert server.asked == {("reg.example.org", kind): 1}


@pytest.mark.parametrize(("version", "only"), [(4, "60 AAAA 2001:db8::1"), (6, "60 A 192.0.2.1")])
def test_a_name_with_addresses_of_no_use_says_which_it_has_not(server: DnsServer, version: int, only: str) -> None:
    server.records["other.example.org"] = [only]
    found = look(server, Target("other.example.org", 5060), versions=[version])
    assert (found.addresses, found.error) == ((), f"other.example.org has no IPv{version} address")
    assert found.silent is False


# -- values


def test_weights_keep_their_proportions_and_priorities_are_counted() -> None:
    records = [Service(700, 65535, 1, "a"), Service(700, 32768, 1, "b"), Service(800, 0, 1, "c"), Service(5, 0, 1, "d")]
    assert [(each.host, rank, weight) for each, rank, weight in ranked(records)] == [
        ("a", 1, HEAVIEST), ("b", 1, HEAVIEST // 2), ("c", 2, 1), ("d", 0, 1),
    ]  # fmt: skip
    assert [weight for _, _, weight in ranked([Service(1, 7, 1, "a"), Service(1, 3, 1, "b")])] == [7, 3]


def test_addresses_have_one_order_and_a_bound() -> None:
    many = [Address(Endpoint(bytes((10, 0, 0, n)), 5060)) for n in range(100)]
    assert in_order(reversed(many)) == tuple(many[:MOST])
    twice = Address(many[0].endpoint, rank=1), Address(many[0].endpoint, rank=0, weight=3)
    assert in_order(twice) == in_order(reversed(twice)) == (twice[1],)


def test_an_answer_without_addresses_takes_none_away() -> None:
    good = Known((Address(Endpoint.parse("192.0.2.1:5060")),))
    gone = Known((), "x has no address")
    assert merged(good, gone) == Known(good.addresses, gone.error)
    assert merged(None, gone) == merged(Known(()), gone) == gone
    other = Known((Address(Endpoint.parse("192.0.2.2:5060")),))
    assert merged(good, other) == other


def test_what_is_remembered_comes_back(tmp_path: Path) -> None:
    known = Known((Address(Endpoint.parse("192.0.2.1:5060"), 1, 60), Address(Endpoint.parse("[2001:db8::1]:5070"))))
    answers = {
        Target("a.example.org", 5060): known,
        Target("_sip._udp.example.org"): known,
        Target("x.y", 1): Known(()),
    }
    remembered.write(tmp_path / "new", answers, {6})
    assert remembered.read(tmp_path / "new") == {target: each for target, each in answers.items() if each.addresses}
    assert remembered.versions(tmp_path / "new") == {6}
    assert from_plain(as_plain(Target("a.b", 5), known)) == (Target("a.b", 5), known)


@pytest.mark.parametrize("content", ["", "[]", '{"names": [{}]}', '{"names": 7}', "\xff", "[" * 100_000])
def test_a_file_that_is_not_ours_is_none(tmp_path: Path, content: str) -> None:
    assert remembered.read(tmp_path) == {}
    (tmp_path / remembered.FILE_NAME).write_text(content, "latin-1")
    assert remembered.read(tmp_path) == {}
    assert remembered.versions(tmp_path) <= {4, 6}


# -- backends with names

TEXT = """
[gateway]
state_dir = "{state_dir}"
[[listener]]
name = "main"
external = "203.0.113.5:5060"
internal = "192.168.1.5:5060"
[[pool]]
name = "regs"
[[pool.backend]]
name = "fixed"
address = "192.0.2.1:5060"
priority = 3
[[pool.backend]]
name = "srv"
address = "_sip._udp.example.org"
weight = 2
[[pool.backend]]
name = "reg"
address = "Reg.example.org"
[[route]]
pool = "regs"
[dns]
servers = ["127.0.0.1:{port}"]
timeout = 0.2
"""


@pytest.fixture
def config(server: DnsServer, tmp_path: Path) -> Config:
    return build(Path("/etc/nfqlb/x"), tomllib.loads(TEXT.format(port=server.port, state_dir=tmp_path / "state")))


def backends(config: Config) -> dict[str, Backend]:
    return {each.name: each for pool in config.pools for each in pool.backends}


def test_each_address_of_a_name_is_a_backend(config: Config) -> None:
    assert list(backends(config)) == ["fixed"]
    found = config.with_addresses(answers_for(config))
    assert backends(found) == {
        "fixed": Backend("fixed", Endpoint.parse("192.0.2.1:5060"), 1, 3),
        "srv@192.0.2.1:5070": Backend("srv@192.0.2.1:5070", Endpoint.parse("192.0.2.1:5070"), 120, 1),
        "srv@192.0.2.2:5080": Backend("srv@192.0.2.2:5080", Endpoint.parse("192.0.2.2:5080"), 2, 2),
        "reg@192.0.2.2": Backend("reg@192.0.2.2", Endpoint.parse("192.0.2.2:5060"), 1, 1),
    }, "no listener has IPv6, and 192.0.2.1:5060 has a name of its own"
    assert backends(found.with_addresses({})) == backends(config)


def test_addresses_of_our_own_are_not_used(config: Config) -> None:
    ours = Known((Address(Endpoint.parse("192.168.1.5:5070")), Address(Endpoint.parse("127.0.0.1:5060"))))
    answers = {Target("reg.example.org", 5060): ours}
    assert backends(config.with_addresses(answers)) == backends(config)
    assert [why for _, why in config.dismissed(answers)] == [
        "reg.example.org:5060 is 192.168.1.5:5070, which is not used: an address of the gateway itself",
        "reg.example.org:5060 is 127.0.0.1:5060, which is not used: a loopback address never passes through the packet "
        "path",
    ]


def test_dead_dns_at_the_start_leaves_what_was_known_last(config: Config, server: DnsServer) -> None:
    good = answers_for(config)
    remembered.write(config.gateway.state_dir, good, config.versions)
    server.mode = "silent"
    found = answers_for(config)
    assert {target: known.addresses for target, known in found.items()} == {
        target: known.addresses for target, known in good.items()
    }
    assert all("; the last good answer stands" in line for line in unanswered(found))
    assert len(list(unanswered(found))) == 2


def test_who_only_looks_takes_what_the_gateway_has_found_out(config: Config, server: DnsServer) -> None:
    known = {target: Known(()) for target in answers_for(config)}
    first = Known((Address(Endpoint.parse("192.0.2.77:5060")),))
    remembered.write(config.gateway.state_dir, dict.fromkeys(known, first), config.versions)
    before = server.asked.total()
    assert "reg@192.0.2.77" in backends(at_hand(config)) or "srv@192.0.2.77" in backends(at_hand(config))
    assert server.asked.total() == before
    other = replace(config, names=(replace(config.names[0], address=Target("one.example.org", 5061)),))
    assert "srv@192.0.2.1:5061" in backends(at_hand(other))


def test_who_only_looks_asks_for_what_the_gateway_had_no_use_for(config: Config, server: DnsServer) -> None:
    """A planned listener of another IP version: what is remembered says nothing of its addresses."""
    remembered.write(config.gateway.state_dir, answers_for(config), config.versions)
    server.asked.clear()
    at_hand(config)
    assert not server.asked
    six = Listener("six", Endpoint.parse("[2001:db8::5]:5060"), Endpoint.parse("[2001:db8:2::5]:5060"))
    both = replace(config, listeners=(*config.listeners, six))
    assert "reg@[2001:db8::1]" in backends(at_hand(both))
    (config.gateway.state_dir / remembered.FILE_NAME).write_text('{"names": []}')
    assert remembered.versions(config.gateway.state_dir) == {4, 6}, "an earlier version asked for both"


# -- two names with one address


def test_of_two_names_with_one_address_the_second_says_why_it_has_none(config: Config, server: DnsServer) -> None:
    """One that shares it with a backend of the configuration, and one that shares it with another name."""
    server.records["reg.example.org"] = ["60 A 192.0.2.1"]
    answers = answers_for(config)
    assert set(backends(config.with_addresses(answers))) == {"fixed", "srv@192.0.2.1:5070", "srv@192.0.2.2:5080"}
    twin = replace(config.names[0], name="twin", address=Target("one.example.org", 5070))
    config = replace(config, names=(*config.names, twin))
    answers = answers_for(config)
    already = "which is not used: this pool has that address as backend"
    assert list(unused(config, answers)) == [
        f"backend regs/reg: reg.example.org:5060 is 192.0.2.1:5060, {already} fixed already",
        f"backend regs/twin: one.example.org:5070 is 192.0.2.1:5070, {already} srv already",
    ]
    plan = dns_plan.make(config.with_addresses(answers), answers)
    assert plan.served == {("regs", "srv")}
    assert plan.dismissed["regs", "twin"] == f"one.example.org:5070 is 192.0.2.1:5070, {already} srv already"
    assert unresolved(plan) == {
        ("regs", "reg"): ("reg.example.org:5060", plan.dismissed["regs", "reg"]),
        ("regs", "twin"): ("one.example.org:5070", plan.dismissed["regs", "twin"]),
    }
    assert [(each.place, each.text) for each in check.names(config, answers) if each.severity == "warning"] == [
        ("pool regs, backend reg", plan.dismissed["regs", "reg"]),
        ("pool regs, backend twin", plan.dismissed["regs", "twin"]),
    ]


def unresolved(plan: dns_plan.DnsPlan) -> Mapping[Place, tuple[str, str]]:
    """As the gateway says it that runs with that plan."""
    loop = Loop((), lambda: None)
    directory = DnsManager(loop)
    try:
        directory._dns_plan, directory._known = plan, dict(plan.answers)
        return directory.unresolved()
    finally:
        directory.end()
        loop.close()


def test_in_another_pool_an_address_is_free(config: Config) -> None:
    other = Pool("others", (Backend("far", Endpoint.parse("192.0.2.2:5060")),))
    config = replace(config, pools=(*config.pools, other))
    assert list(unused(config, answers_for(config))) == [
        "backend regs/reg: reg.example.org:5060 is 192.0.2.1:5060, which is not used: this pool has that address as "
        "backend fixed already"
    ]


@pytest.mark.parametrize(
    ("come", "gone", "told"),
    [
        (["a@1"], [], "new are a@1; gone are none"),
        ([], ["a@1", "a@2"], "new are none; gone are a@1, a@2"),
        ([], [], "beside others that are not used"),
    ],
)
def test_the_log_says_what_is_other_about_names(come: list[str], gone: list[str], told: str) -> None:
    assert supervisor_reload._renamed(come, gone).endswith(told)


def test_status_tells_of_a_name_that_is_not_answered() -> None:
    known = [
        {"name": "a.example.org:5060", "addresses": ["192.0.2.1:5060"], "error": "DNS does not answer"},
        {"name": "b.example.org:5060", "addresses": [], "error": "no such name"},
        {"name": "c.example.org:5060", "addresses": ["192.0.2.2:5060"], "error": None},
    ]
    assert status.unanswered({"names": {"known": known}}) == [
        "a.example.org:5060: DNS does not answer; the last good answer stands",
        "b.example.org:5060: no such name",
    ]
    assert status.unanswered({}) == [], "a gateway of an earlier version"
