"""Limits and bans in the kernel: sources that send too much, who is exempt, and what operators say."""

import json
import subprocess
from collections.abc import Callable, Sequence
from contextlib import closing
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hostnet import BACKEND, EXTERNAL, INTERNAL, PHONE, TWO_ARMED, Host, heard, until

from nfqlb.cli.bans import command
from nfqlb.config.model import Config
from nfqlb.config.schema.tables import LimitsTable
from nfqlb.errors import HostError
from nfqlb.gateway.netfilter import counters, ipset, ruleset
from nfqlb.gateway.netfilter.kernel_sets import KernelSets

pytestmark = pytest.mark.root

REQUEST = b"OPTIONS sip:example.org SIP/2.0\r\n\r\n"
RESPONSE = b"SIP/2.0 200 OK\r\n\r\n"
FLOOD = 300

LOW = "[limits]\nrequests = 10\nburst = 20\nban_above = 20\nban_for = {seconds}\n{more}"


def limited(host: Host, seconds: int = 600, more: str = "", **other: Any) -> Config:
    config = host.config(more=LOW.format(seconds=seconds, more=more), **other)
    host.apply(config)
    return config


def banned(host: Host) -> dict[str, ipset.Entry]:
    return {entry.source: entry for entry in host.here(ipset.entries)}


def bans(host: Host, *arguments: str) -> Result:
    return host.here(lambda: CliRunner().invoke(command, list(arguments)))


def why(host: Host) -> str:
    """As it is shown, of the only one who is banned."""
    (row,) = json.loads(bans(host, "list", "--json").output)
    return str(row["why"])


def flood(host: Host, source: str, target: str, content: bytes = REQUEST) -> None:
    name = host.farm if source in BACKEND.values() else host.phone
    sender = host.udp(name, source)
    for _ in range(FLOOD):
        sender.sendto(content, (target, 5060))


def arrived(host: Host, family: int, *, at_phone: bool = False) -> Callable[[], int]:
    """From now on: how many have come by since it was asked last."""
    name, address = (host.phone, PHONE[family]) if at_phone else (host.farm, BACKEND[family])
    listening = host.udp(name, address, 5060, timeout=1.0)

    def count() -> int:
        total = 0
        while heard(listening):
            total += 1
        return total

    return count


@pytest.mark.parametrize("family", [4, 6])
def test_a_source_that_floods_is_banned_by_the_kernel_and_let_go_after_its_time(host: Host, family: int) -> None:
    limited(host, seconds=3)
    host.serve(family)
    count = arrived(host, family)
    flood(host, PHONE[family], EXTERNAL[family])
    source = {4: PHONE[4], 6: "2001:db8:1::/64"}[family]
    assert banned(host)[source].why == "flood"
    assert why(host) == "too many requests a second"
    assert banned(host)[source].packets > 0
    assert 0 < count() <= 60
    assert until(lambda: source not in banned(host), 10)
    host.udp(host.phone, PHONE[family]).sendto(REQUEST, (EXTERNAL[family], 5060))
    assert count() == 1


@pytest.mark.parametrize("family", [4, 6])
def test_large_messages_are_limited_by_their_bytes(host: Host, family: int) -> None:
    host.apply(host.config())
    host.serve(family)
    count = arrived(host, family)
    sender = host.udp(host.phone, PHONE[family])
    for _ in range(200):
        sender.sendto(REQUEST + bytes(3000), (EXTERNAL[family], 5060))
    assert count() == 200
    for _ in range(100):
        sender.sendto(REQUEST + bytes(30_000), (EXTERNAL[family], 5060))
    assert 10 < count() < 100
    assert banned(host) == {}


def test_others_are_not_concerned(host: Host) -> None:
    subprocess.run(["ip", "-n", host.phone, "address", "add", "198.51.100.3/24", "dev", "eth"], check=True)
    limited(host)
    host.serve(4)
    count = arrived(host, 4)
    flood(host, PHONE[4], EXTERNAL[4])
    count()
    other = host.udp(host.phone, "198.51.100.3")
    for _ in range(10):
        other.sendto(REQUEST, (EXTERNAL[4], 5060))
    assert count() == 10
    assert list(banned(host)) == [PHONE[4]]


JUNK = [
    b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n",
    b"!23456789",
    b"\xff" * 400,
    b"INVITE sip:bob@example.org S1P/2.0\r\n" * 200,  # in fragments
    b"\x80\x00 RTP, or so",
    b"\x16\x03\x01\x02\x00 TLS, or so",
    *(bytes((first,)) + b"23456789" for first in (0x02, 0x08, 0x0B, 0x0C, 0x0E, 0x1F, 0x21)),
]
NO_JUNK = [
    REQUEST,
    b"OPTIONS sip:example.org sip/7.0\r\n\r\n",  # the workers say what they think of it
    b"x" * 20_000 + b" SiP/2.0",
    b"\r\n" * 20,
    b"\0" * 30,
    b" \t" * 10,
    b"\t" * 10,
    b"\n" * 10,
    b"\1\1\0\0\x21\x12\xa4\x42transaction!",  # an answer by STUN
    b"\0\1\0\0\x21\x12\xa4\x42transaction!",  # STUN
    b"anything",
]


@pytest.mark.parametrize("family", [4, 6])
def test_what_is_no_SIP_ends_in_the_kernel_and_keepalives_do_not(host: Host, family: int) -> None:
    config = host.config()
    host.apply(config)
    host.serve(family)
    listening = host.udp(host.farm, BACKEND[family], 5060, timeout=1.0)
    sender = host.udp(host.phone, PHONE[family])
    for content in [*JUNK, *NO_JUNK]:
        sender.sendto(content, (EXTERNAL[family], 5060))
    seen = []
    while found := heard(listening):
        seen.append(found[0])
    assert seen == NO_JUNK
    look = host.here(lambda: counters.look(config))
    assert look is not None
    assert look[1]["junk"] == len(JUNK)
    assert banned(host) == {}


@pytest.mark.parametrize("family", [4, 6])
def test_who_sends_much_that_is_no_SIP_is_banned(host: Host, family: int) -> None:
    host.apply(host.config(more="[limits]\noffences = 100\n"))
    sender = host.udp(host.phone, PHONE[family])
    for _ in range(10):
        sender.sendto(JUNK[0], (EXTERNAL[family], 5060))
    assert banned(host) == {}
    for _ in range(20):
        sender.sendto(JUNK[0], (EXTERNAL[family], 5060))
    source = {4: PHONE[4], 6: "2001:db8:1::/64"}[family]
    assert list(banned(host)) == [source]
    assert banned(host)[source].why == "junk"
    assert why(host) == "junk: non-SIP bytes"
    host.run("ipset", "flush", f"NFQLB-junk{family}")  # so many that it was forgotten
    assert why(host) == "junk or too many requests"


@pytest.mark.parametrize("family", [4, 6])
def test_responses_are_not_limited(host: Host, family: int) -> None:
    limited(host)
    host.serve(family)
    count = arrived(host, family)
    flood(host, PHONE[family], EXTERNAL[family], RESPONSE)
    assert count() == FLOOD
    assert banned(host) == {}


@pytest.mark.parametrize("allowed", ["198.51.100.0/29", "0.0.0.0/0"])
def test_whom_the_file_allows_is_not_limited(host: Host, allowed: str) -> None:
    limited(host, more=f'allow = ["{allowed}"]')
    host.serve(4)
    count = arrived(host, 4)
    flood(host, PHONE[4], EXTERNAL[4])
    assert count() == FLOOD
    assert banned(host) == {}


@pytest.mark.parametrize("target", [INTERNAL[4], EXTERNAL[4]])
def test_backends_are_not_limited(host: Host, target: str) -> None:
    limited(host)
    host.serve(4)
    count = arrived(host, 4, at_phone=target == INTERNAL[4])
    flood(host, BACKEND[4], target)
    assert count() == FLOOD
    assert banned(host) == {}


def test_nobody_is_limited_without_limits(host: Host) -> None:
    limited(host)
    flood(host, PHONE[4], EXTERNAL[4])
    assert banned(host)
    config = host.config(more="[limits]\nenabled = false")
    changes = [str(each) for each in host.apply(config)]
    assert "IPv4 sets: - create NFQLB-ban4" in changes
    assert host.differences(config) == []
    assert host.run("ipset", "list", "-name") == ""
    host.serve(4)
    count = arrived(host, 4)
    flood(host, PHONE[4], EXTERNAL[4])
    assert count() == FLOOD


@pytest.mark.parametrize("backend", ["nft", "legacy"])
def test_bans_outlive_other_rules_and_not_their_end(host: Host, backend: str) -> None:
    more = f'[rules]\nbackend = "{backend}"\n'
    before = host.config(more=more)
    host.apply(before)
    assert bans(host, "add", "203.0.113.77", "--for", "2h", "--why", 'a "test"').exit_code == 0
    after = host.config(more=f'{more}[limits]\nrequests = 3000\nallow = ["192.0.2.0/24"]')
    changes = [str(each) for each in host.apply(after, range(6000, 6002))]
    assert "IPv4 sets: + add NFQLB-allow4 192.0.2.0/24" in changes
    assert host.differences(after, range(6000, 6002)) == []
    assert banned(host)["203.0.113.77"].why == "a  test "
    host.remove(after)
    assert host.run("ipset", "list", "-name") == ""
    assert bans(host).exit_code == 1


def test_what_is_missing_is_told_and_put_right(host: Host) -> None:
    config = host.config(more='[limits]\nallow = ["192.0.2.0/24"]')
    host.apply(config)
    for words in ("del NFQLB-allow4 192.0.2.0/24", "add NFQLB-allow4 192.0.2.64/26"):
        host.run("ipset", *words.split())
    assert [str(each) for each in host.differences(config)] == [
        "IPv4 sets: - add NFQLB-allow4 192.0.2.64/26",
        "IPv4 sets: + add NFQLB-allow4 192.0.2.0/24",
    ]
    host.apply(config)
    assert host.differences(config) == []


def test_another_allow_list_needs_no_other_rules(host: Host) -> None:
    plain = host.config()
    other = host.config(more='[limits]\nallow = ["192.0.2.0/24"]')
    assert ruleset.fingerprint(plain) != ruleset.fingerprint(other)
    assert ruleset.render(plain) == ruleset.render(other)


def test_an_operator_bans_and_lets_go(host: Host) -> None:
    host.apply(host.config(TWO_ARMED))
    assert bans(host).output == "Nobody is banned.\n"
    assert bans(host, "add", "198.51.100.0/30", "2001:db8:7::/48", "--for", "2h").output.endswith("banned for 2h.\n")
    assert bans(host, "add", "203.0.113.9").output == "203.0.113.9 banned for ever.\n"
    found = {each["source"]: each for each in json.loads(bans(host, "list", "--json").output)}
    assert found.keys() == {"198.51.100.0/30", "2001:db8:7::/48", "203.0.113.9"}
    assert found["203.0.113.9"]["seconds"] is None
    assert 7100 < found["198.51.100.0/30"]["seconds"] <= 7200
    host.serve(4)
    count = arrived(host, 4)
    host.udp(host.phone, PHONE[4]).sendto(REQUEST, (EXTERNAL[4], 5060))
    assert count() == 0
    assert banned(host)["198.51.100.0/30"].packets == 1
    assert "198.51.100.0/30" in bans(host).output
    assert bans(host, "remove", "198.51.100.0/30").output == "198.51.100.0/30 let go.\n"
    host.udp(host.phone, PHONE[4]).sendto(REQUEST, (EXTERNAL[4], 5060))
    assert count() == 1
    assert bans(host, "remove", "--all").exit_code == 0
    assert banned(host) == {}


@pytest.mark.parametrize("family", [4, 6])
def test_a_ban_that_is_prolonged_keeps_its_reason_and_its_counters(host: Host, family: int) -> None:
    host.apply(host.config())
    source = {4: PHONE[4], 6: "2001:db8:1::2"}[family]
    assert bans(host, "add", source, "203.0.113.9", "--for", "1h", "--why", "scans every night").exit_code == 0
    host.udp(host.phone, PHONE[family]).sendto(REQUEST, (EXTERNAL[family], 5060))
    assert until(lambda: banned(host)[source].packets == 1, 10)
    assert bans(host, "add", source, "203.0.113.10", "--for", "2h").exit_code == 0
    found = banned(host)
    assert (found[source].why, found[source].packets) == ("scans every night", 1)
    assert (found[source].left or 0) > 3600
    assert (found["203.0.113.9"].why, found["203.0.113.10"].why) == ("scans every night", "")
    assert bans(host, "add", source, "--why", "ask Anna").exit_code == 0
    assert (banned(host)[source].why, banned(host)[source].left) == ("ask Anna", None)
    assert bans(host, "add", source, "--why", "").exit_code == 0
    assert banned(host)[source].why == ""


def test_a_ban_that_the_guard_prolongs_has_its_latest_reason_and_keeps_its_counters(host: Host) -> None:
    host.apply(host.config())
    host.run("ipset", "add", "NFQLB-ban4", PHONE[4], "packets", "7", "bytes", "700", "timeout", "60")

    def prolong(reason: str) -> None:
        with closing(KernelSets()) as kernel:
            kernel.put("NFQLB-ban4", ip_address(PHONE[4]), 600, reason)

    for reason in ("not-sip", "scanner"):
        host.here(lambda reason=reason: prolong(reason))
        found = banned(host)[PHONE[4]]
        assert (found.why, found.packets, found.bytes) == (reason, 7, 700)
        assert (found.left or 0) > 60


def test_one_address_of_a_banned_network_is_not_let_go_by_itself(host: Host) -> None:
    host.apply(host.config())
    assert bans(host, "add", "198.51.100.0/24", "2001:db8:7::/48").exit_code == 0
    for address, network in ((PHONE[4], "198.51.100.0/24"), ("2001:db8:7::1", "2001:db8:7::/48")):
        result = bans(host, "remove", address)
        assert result.exit_code == 1
        assert f"{address} is banned as part of {network}." in result.output
        assert f"nfqlb bans remove {network}. " in result.output
    assert banned(host).keys() == {"198.51.100.0/24", "2001:db8:7::/48"}
    assert bans(host, "add", PHONE[4]).exit_code == 0
    result = bans(host, "remove", PHONE[4])
    assert result.exit_code == 1
    assert f"{PHONE[4]} let go." in result.output
    assert f"{PHONE[4]} is banned as part of 198.51.100.0/24." in result.output
    assert banned(host).keys() == {"198.51.100.0/24", "2001:db8:7::/48"}
    assert bans(host, "remove", "198.51.100.0/24", "2001:db8:7::/48").exit_code == 0
    assert banned(host) == {}


def test_a_network_in_which_some_are_banned_is_not_let_go_as_a_whole(host: Host) -> None:
    host.apply(host.config())
    assert bans(host, "add", *(f"203.0.113.{number}" for number in range(1, 8))).exit_code == 0
    result = bans(host, "remove", "203.0.113.0/24")
    assert result.exit_code == 1
    assert "is not banned as a whole, but in it: " in result.output
    assert " and 2 more. To let go of these: nfqlb bans remove 203.0.113." in result.output
    assert len(banned(host)) == 7


def test_of_what_the_gateway_bans_an_address_stands_for_its_64(host: Host) -> None:
    host.apply(host.config())
    host.run("ipset", "add", "NFQLB-ban6", "2001:db8:1::", "comment", "not-sip")
    assert bans(host, "remove", "2001:db8:1::7:7").output == "2001:db8:1::/64 let go.\n"
    assert banned(host) == {}


def test_who_bans_half_the_internet_is_asked_whether_he_means_it(host: Host) -> None:
    host.apply(host.config())
    for wide, share in (
        ("0.0.0.0/0", "all IPv4 addresses"),
        ("64.0.0.0/7", "one in 128 of all IPv4 addresses"),
        ("::/0", "all IPv6 addresses"),
        ("2000::/15", "one in 32768 of all IPv6 addresses"),
    ):
        result = bans(host, "add", "203.0.113.9", wide)
        assert result.exit_code == 1
        assert f"{wide} is {share}: none of them could register or call any more" in result.output
        assert "--force" in result.output
    assert banned(host) == {}
    assert bans(host, "add", "64.0.0.0/8", "2001::/16").exit_code == 0
    assert bans(host, "add", "--force", "0.0.0.0/0", "::/0", "--why", "attack").exit_code == 0
    found = banned(host)
    halves = {"0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1"}
    assert found.keys() == halves | {"64.0.0.0/8", "2001::/16"}
    assert {found[each].why for each in halves} == {"attack"}
    host.serve(4)
    count = arrived(host, 4)
    host.udp(host.phone, PHONE[4]).sendto(REQUEST, (EXTERNAL[4], 5060))
    assert count() == 0
    assert bans(host, "remove", "0.0.0.0/0", "::/0").exit_code == 0
    assert banned(host).keys() == {"64.0.0.0/8", "2001::/16"}


def test_a_ban_that_ends_lasts_as_long_as_the_kernel_can_count(host: Host) -> None:
    host.apply(host.config())
    assert bans(host, "add", "203.0.113.9", "--for", f"{ipset.LONGEST}s").output == "203.0.113.9 banned for 25d.\n"
    assert bans(host, "add", "203.0.113.10", "--for", "24d").exit_code == 0
    assert (banned(host)["203.0.113.9"].left or 0) > ipset.LONGEST - 600
    for longer in (f"{ipset.LONGEST + 1}s", "25d", "30d", "9999999d"):
        result = bans(host, "add", "203.0.113.11", "--for", longer)
        assert result.exit_code == 2
        assert f"{longer} is too long: a ban that ends lasts 2,147,483 s (24 days) at most" in result.output
    assert banned(host).keys() == {"203.0.113.9", "203.0.113.10"}
    of_the_file = [each.le for each in LimitsTable.model_fields["ban_for"].metadata if hasattr(each, "le")]
    assert max(of_the_file) <= ipset.LONGEST
    with pytest.raises(HostError, match="out of range"):  # it is really the limit of the kernel's command
        host.here(lambda: ipset.ban([ip_network("203.0.113.11")], ipset.LONGEST + 1, ""))


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["add", BACKEND[4]], 1, "is a backend"),
        (["add", "203.0.113.9/24"], 1, "an address within 203.0.113.0/24"),
        (["add", "nobody"], 1, "not an address or a network"),
        (["remove", "203.0.113.9"], 1, "is not banned"),
        (["remove"], 2, "Name what to unban"),
        (["remove", "--all", "203.0.113.9"], 2, "Name what to unban"),
    ],
)
def test_mistakes_are_told(host: Host, words: list[str], code: int, told: str) -> None:
    host.apply(host.config())
    result = bans(host, *words)
    assert result.exit_code == code
    assert told in result.output


def relieve(host: Host, family: int) -> None:
    host.run("ipset", "add", f"NFQLB-shed{family}", EXTERNAL[family], "timeout", "60")


FOLLOWING = (b"ACK", b"BYE", b"CANCEL", b"INFO", b"PRACK", b"UPDATE")


@pytest.mark.parametrize("family", [4, 6])
def test_relieved_the_kernel_drops_seven_in_eight_new_requests_and_nothing_of_calls(host: Host, family: int) -> None:
    host.apply(host.config())
    host.serve(family)
    count = arrived(host, family)
    sender = host.udp(host.phone, PHONE[family])
    new = (REQUEST, b"REGISTER sip:example.org SIP/2.0\r\n\r\n")
    of_calls = [b"%b sip:bob@192.0.2.1 SIP/2.0\r\n\r\n" % method for method in FOLLOWING]
    of_calls += [
        b"INVITE sip:bob@192.0.2.1 SIP/2.0\r\nrOUTE: <sip:lb@192.0.2.1;lr>\r\n\r\n",
        RESPONSE,
        b"\0\1\0\0\x21\x12\xa4\x42transaction!",
    ]

    def send(contents: Sequence[bytes], times: int) -> int:
        for _ in range(times):
            for content in contents:
                sender.sendto(content, (EXTERNAL[family], 5060))
        return count()

    assert send((*new, *of_calls), 10) == 110
    relieve(host, family)
    assert send(of_calls, 20) == 180
    assert 20 < send(new, 200) < 85  # 50 more or less
    look = host.here(lambda: counters.look(host.config()))
    assert look is not None
    assert 315 < look[1]["shed"] < 380


@pytest.mark.parametrize("family", [4, 6])
def test_who_floods_is_banned_while_others_are_shed(host: Host, family: int) -> None:
    limited(host)
    relieve(host, family)
    flood(host, PHONE[family], EXTERNAL[family])
    assert {4: PHONE[4], 6: "2001:db8:1::/64"}[family] in banned(host)
