"""What the templates become."""

import re
from pathlib import Path
from typing import Any

import pytest
from hostnet import write_config

from nfqlb.config.problems import ConfigError
from nfqlb.gateway.netfilter import hashlimit, ruleset
from nfqlb.gateway.netfilter.iptables import Family, parse

LISTENERS = """
[[listener]]
name = "main"
external = "198.51.100.5:5060"
internal = "10.9.0.5:5060"

[[listener]]
name = "second"
external = "198.51.100.5:5070"
internal = "198.51.100.5:5070"

[[listener]]
name = "six"
external = "[2001:db8:1::5]:5060"
internal = "[2001:db8:2::5]:5080"
"""

FOUR = """
*filter
:NFQLB-PASS - [0:0]
-A NFQLB-PASS -s 198.51.100.5 -p udp --sport 5060 -j ACCEPT
-A NFQLB-PASS -s 10.9.0.5 -p udp --sport 5060 -j ACCEPT
-A NFQLB-PASS -s 198.51.100.5 -p udp --sport 5070 -j ACCEPT
-I FORWARD -p udp -m conntrack --ctstate UNTRACKED -j NFQLB-PASS
COMMIT
*raw
:NFQLB-IN - [0:0]
:NFQLB-GUARD - [0:0]
:NFQLB-OVER - [0:0]
:NFQLB-JUNK - [0:0]
:NFQLB-BAN-FLOOD - [0:0]
:NFQLB-BAN-JUNK - [0:0]
:NFQLB-SHED - [0:0]
:NFQLB-QUEUE - [0:0]
-A NFQLB-IN ! -i lo -m pkttype --pkt-type unicast -m addrtype --src-type LOCAL -j DROP
-A NFQLB-IN -d 198.51.100.5 -p udp --dport 5060 -j NFQLB-GUARD
-A NFQLB-IN -d 10.9.0.5 -p udp --dport 5060 -j NFQLB-QUEUE
-A NFQLB-IN -d 198.51.100.5 -p udp --dport 5070 -j NFQLB-GUARD
-A NFQLB-GUARD -m set --match-set NFQLB-allow4 src -j NFQLB-QUEUE
-A NFQLB-GUARD -m set --match-set NFQLB-deny4 src -j DROP
-A NFQLB-GUARD -m set --match-set NFQLB-ban4 src -j DROP
-A NFQLB-GUARD -m string --string "SIP/2.0 " --algo bm --from 28 --to 36 -j NFQLB-QUEUE
-A NFQLB-GUARD -m length --length 37:65535 -m string ! --string "SIP/" --algo kmp --from 28 --icase \
-m u32 --u32 "0x0>>0x16&0x3c@0x8>>0x18=0x2:0x8,0xb:0xc,0xe:0x1f,0x21:0xff" -j NFQLB-JUNK
-A NFQLB-GUARD -m hashlimit --hashlimit-above 2000/sec --hashlimit-burst 4000 --hashlimit-mode srcip \
--hashlimit-name nfqlb-drop-2000-4000 --hashlimit-htable-size 65536 \
--hashlimit-htable-max 524288 --hashlimit-htable-expire 3000 -j NFQLB-OVER
-A NFQLB-GUARD -m length --length 4096:65535 -m hashlimit --hashlimit-above 512kb/s --hashlimit-burst 1mb \
--hashlimit-mode srcip --hashlimit-name nfqlb-large --hashlimit-htable-size 65536 \
--hashlimit-htable-max 524288 --hashlimit-htable-expire 3000 -j DROP
-A NFQLB-GUARD -m set --match-set NFQLB-shed4 dst -j NFQLB-SHED
-A NFQLB-GUARD -j NFQLB-QUEUE
-A NFQLB-OVER -m hashlimit --hashlimit-above 6024/sec --hashlimit-burst 4000 --hashlimit-mode srcip \
--hashlimit-name nfqlb-ban-6024-4000 --hashlimit-htable-size 65536 \
--hashlimit-htable-max 524288 --hashlimit-htable-expire 3000 -j NFQLB-BAN-FLOOD
-A NFQLB-OVER -j DROP
-A NFQLB-JUNK -m hashlimit --hashlimit-above 1/sec --hashlimit-burst 50 --hashlimit-mode srcip \
--hashlimit-name nfqlb-junk-1-50 --hashlimit-htable-size 65536 \
--hashlimit-htable-max 65536 --hashlimit-htable-expire 60000 -j NFQLB-BAN-JUNK
-A NFQLB-JUNK -j DROP
-A NFQLB-BAN-FLOOD -j SET --add-set NFQLB-ban4 src --exist --timeout 600
-A NFQLB-BAN-FLOOD -j SET --add-set NFQLB-flood4 src --exist --timeout 600
-A NFQLB-BAN-JUNK -j SET --add-set NFQLB-ban4 src --exist --timeout 600
-A NFQLB-BAN-JUNK -j SET --add-set NFQLB-junk4 src --exist --timeout 600
-A NFQLB-SHED -m statistic --mode random --probability 0.12500000000 -j RETURN
-A NFQLB-SHED -m u32 --u32 \
"0x0>>0x16&0x3c@0x8=0x41434b20,0x42594520,0x43414e43,0x494e464f,0x50524143,0x55504441" -j RETURN
-A NFQLB-SHED -m u32 --u32 "0x0>>0x16&0x3c@0x8>>0x18=0x0:0x1" -j RETURN
-A NFQLB-SHED -m string --string "Route:" --algo kmp --from 28 --icase -j RETURN
-A NFQLB-SHED -j DROP
-A NFQLB-QUEUE -j CT --notrack
-A NFQLB-QUEUE -p udp -j HMARK --hmark-src-prefix 32 --hmark-sport-mask 0xffff --hmark-rnd SEED --hmark-mod 3 \
--hmark-offset 5060
-A NFQLB-QUEUE -m mark --mark 5060 -j NFQUEUE --queue-num 5060
-A NFQLB-QUEUE -m mark --mark 5061 -j NFQUEUE --queue-num 5061
-A NFQLB-QUEUE -m mark --mark 5062 -j NFQUEUE --queue-num 5062
-A NFQLB-QUEUE -m socket -j DROP
-A NFQLB-QUEUE -j DROP
-I PREROUTING -j NFQLB-IN
COMMIT
"""

SIX = """
*filter
:NFQLB-PASS - [0:0]
-A NFQLB-PASS -s 2001:db8:1::5 -p udp --sport 5060 -j ACCEPT
-A NFQLB-PASS -s 2001:db8:2::5 -p udp --sport 5080 -j ACCEPT
-I FORWARD -p udp -m conntrack --ctstate UNTRACKED -j NFQLB-PASS
-I OUTPUT -p udp -m conntrack --ctstate UNTRACKED -j NFQLB-PASS
COMMIT
*raw
:NFQLB-IN - [0:0]
:NFQLB-GUARD - [0:0]
:NFQLB-OVER - [0:0]
:NFQLB-JUNK - [0:0]
:NFQLB-BAN-FLOOD - [0:0]
:NFQLB-BAN-JUNK - [0:0]
:NFQLB-SHED - [0:0]
:NFQLB-QUEUE - [0:0]
:NFQLB-OUT - [0:0]
-A NFQLB-IN ! -i lo -s 2001:db8:1::5 -p udp --sport 5060 -m addrtype --src-type LOCAL -j DROP
-A NFQLB-IN ! -i lo -s 2001:db8:2::5 -p udp --sport 5080 -m addrtype --src-type LOCAL -j DROP
-A NFQLB-IN -d 2001:db8:1::5 -p udp --dport 5060 -j NFQLB-GUARD
-A NFQLB-IN -d 2001:db8:2::5 -p udp --dport 5080 -j NFQLB-QUEUE
-A NFQLB-GUARD -m set --match-set NFQLB-allow6 src -j NFQLB-QUEUE
-A NFQLB-GUARD -m set --match-set NFQLB-deny6 src -j DROP
-A NFQLB-GUARD -m set --match-set NFQLB-ban6 src -j DROP
-A NFQLB-GUARD -m string --string "SIP/2.0 " --algo bm --from 48 --to 56 -j NFQLB-QUEUE
-A NFQLB-GUARD -m length --length 57:65535 -m string ! --string "SIP/" --algo kmp --from 48 --icase \
-m u32 --u32 "0x30>>0x18=0x2:0x8,0xb:0xc,0xe:0x1f,0x21:0xff" -j NFQLB-JUNK
-A NFQLB-GUARD -m hashlimit --hashlimit-above 2000/sec --hashlimit-burst 4000 --hashlimit-mode srcip \
--hashlimit-srcmask 64 --hashlimit-name nfqlb-drop-2000-4000 --hashlimit-htable-size 65536 \
--hashlimit-htable-max 524288 --hashlimit-htable-expire 3000 -j NFQLB-OVER
-A NFQLB-GUARD -m length --length 4096:65535 -m hashlimit --hashlimit-above 512kb/s --hashlimit-burst 1mb \
--hashlimit-mode srcip --hashlimit-srcmask 64 --hashlimit-name nfqlb-large --hashlimit-htable-size 65536 \
--hashlimit-htable-max 524288 --hashlimit-htable-expire 3000 -j DROP
-A NFQLB-GUARD -m set --match-set NFQLB-shed6 dst -j NFQLB-SHED
-A NFQLB-GUARD -j NFQLB-QUEUE
-A NFQLB-OVER -m hashlimit --hashlimit-above 6024/sec --hashlimit-burst 4000 --hashlimit-mode srcip \
--hashlimit-srcmask 64 --hashlimit-name nfqlb-ban-6024-4000 --hashlimit-htable-size 65536 \
--hashlimit-htable-max 524288 --hashlimit-htable-expire 3000 -j NFQLB-BAN-FLOOD
-A NFQLB-OVER -j DROP
-A NFQLB-JUNK -m hashlimit --hashlimit-above 1/sec --hashlimit-burst 50 --hashlimit-mode srcip \
--hashlimit-srcmask 64 --hashlimit-name nfqlb-junk-1-50 --hashlimit-htable-size 65536 \
--hashlimit-htable-max 65536 --hashlimit-htable-expire 60000 -j NFQLB-BAN-JUNK
-A NFQLB-JUNK -j DROP
-A NFQLB-BAN-FLOOD -j SET --add-set NFQLB-ban6 src --exist --timeout 600
-A NFQLB-BAN-FLOOD -j SET --add-set NFQLB-flood6 src --exist --timeout 600
-A NFQLB-BAN-JUNK -j SET --add-set NFQLB-ban6 src --exist --timeout 600
-A NFQLB-BAN-JUNK -j SET --add-set NFQLB-junk6 src --exist --timeout 600
-A NFQLB-SHED -m statistic --mode random --probability 0.12500000000 -j RETURN
-A NFQLB-SHED -m u32 --u32 \
"0x30=0x41434b20,0x42594520,0x43414e43,0x494e464f,0x50524143,0x55504441" -j RETURN
-A NFQLB-SHED -m u32 --u32 "0x30>>0x18=0x0:0x1" -j RETURN
-A NFQLB-SHED -m string --string "Route:" --algo kmp --from 48 --icase -j RETURN
-A NFQLB-SHED -j DROP
-A NFQLB-QUEUE -j CT --notrack
-A NFQLB-QUEUE -p udp -j HMARK --hmark-src-prefix 128 --hmark-sport-mask 0xffff --hmark-rnd SEED --hmark-mod 3 \
--hmark-offset 5060
-A NFQLB-QUEUE -m mark --mark 5060 -j NFQUEUE --queue-num 5060
-A NFQLB-QUEUE -m mark --mark 5061 -j NFQUEUE --queue-num 5061
-A NFQLB-QUEUE -m mark --mark 5062 -j NFQUEUE --queue-num 5062
-A NFQLB-QUEUE -m socket -j DROP
-A NFQLB-QUEUE -j DROP
-A NFQLB-OUT -s 2001:db8:1::5 -p udp --sport 5060 -j CT --notrack
-A NFQLB-OUT -s 2001:db8:2::5 -p udp --sport 5080 -j CT --notrack
-I PREROUTING -j NFQLB-IN
-I OUTPUT -p udp -j NFQLB-OUT
COMMIT
"""


def bare(text: str) -> str:
    """Without comments and blank lines, and with the seed's place marked."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return re.sub(r"(?<=--hmark-rnd )0x[0-9a-f]{8}", "SEED", "\n".join(lines))


def test_every_socket_and_queue_has_its_rules(tmp_path: Path) -> None:
    rendered = ruleset.render(write_config(tmp_path, LISTENERS, workers=3))
    assert list(rendered) == [4, 6]
    assert bare(rendered[4]) == FOUR.strip()
    assert bare(rendered[6]) == SIX.strip()


def test_comments_are_for_the_administrator_and_notes_stay_in_the_template(tmp_path: Path) -> None:
    for text in ruleset.render(write_config(tmp_path, LISTENERS)).values():
        assert "# Without --queue-bypass" in text
        assert "##" not in text
        assert "$" not in text


def test_only_the_ip_versions_that_listeners_have(tmp_path: Path) -> None:
    four = LISTENERS[: LISTENERS.index('[[listener]]\nname = "six"')]
    assert list(ruleset.render(write_config(tmp_path, four, backends=("10.9.0.2:5060",)))) == [4]


def test_without_limits_there_is_no_guard_and_no_set(tmp_path: Path) -> None:
    config = write_config(tmp_path, LISTENERS, more="[limits]\nenabled = false")
    assert ruleset.render_sets(config) == {}
    for text in ruleset.render(config).values():
        assert "NFQLB-GUARD" not in text
        assert "-set " not in text
        assert "hashlimit" not in text
        assert "--dport 5060 -j NFQLB-QUEUE" in text


def test_sets_name_backends_and_whom_the_file_allows(tmp_path: Path) -> None:
    config = write_config(
        tmp_path, LISTENERS, more='[limits]\nallow = ["203.0.113.0/24", "10.9.0.0/30", "2001:db8:9::/48"]'
    )
    rendered = {family: draft(text) for family, text in ruleset.render_sets(config).items()}
    assert rendered == {
        4: ["NFQLB-allow4 10.9.0.0/30", "NFQLB-allow4 203.0.113.0/24"],
        6: ["NFQLB-allow6 2001:db8:2::2/128", "NFQLB-allow6 2001:db8:9::/48"],
    }


BOUND = """
[[listener]]
name = "main"
external = "198.51.100.5:5060"
internal = "10.9.0.5:5060"
external_interface = "out"
internal_interface = "in"

[[listener]]
name = "six"
external = "[2001:db8:1::5]:5060"
internal = "[2001:db8:2::5]:5080"
internal_interface = "in"
"""


def test_a_socket_that_is_bound_to_an_interface_takes_nothing_from_another(tmp_path: Path) -> None:
    rendered = ruleset.render(write_config(tmp_path, BOUND))
    bound: dict[Family, list[tuple[str | None, str, str, str]]] = {
        4: [("out", "198.51.100.5", "5060", "GUARD"), ("in", "10.9.0.5", "5060", "QUEUE")],
        6: [(None, "2001:db8:1::5", "5060", "GUARD"), ("in", "2001:db8:2::5", "5080", "QUEUE")],
    }
    for family, wanted in bound.items():
        lines = [line for line in bare(rendered[family]).splitlines() if "-A NFQLB-IN" in line and "--dport" in line]
        drops = [
            f"-A NFQLB-IN ! -i {link} -d {host} -p udp --dport {port} -j DROP" for link, host, port, _ in wanted if link
        ]
        jumps = [f"-A NFQLB-IN -d {host} -p udp --dport {port} -j NFQLB-{chain}" for _, host, port, chain in wanted]
        assert lines == drops + jumps


def draft(text: str) -> list[str]:
    return [line.removeprefix("add ") for line in text.splitlines() if line.startswith("add ")]


@pytest.mark.parametrize("rate", [10, 70, 333, 2000, 3000, 70_000, 500_000])
def test_a_rate_is_written_as_the_kernel_keeps_it(rate: int) -> None:
    kept = hashlimit.kept(rate)
    assert rate <= kept <= rate * 1.5
    assert hashlimit.kept(kept) == kept


def test_the_filter_table_can_be_left_alone(tmp_path: Path) -> None:
    for text in ruleset.render(write_config(tmp_path, LISTENERS, more="[rules]\nforward = false")).values():
        assert list(parse(text)) == ["raw"]


def test_the_seed_is_the_secrets(tmp_path: Path) -> None:
    def seed(secret: str) -> int:
        config = write_config(tmp_path, LISTENERS, secret=secret)
        (text,) = set(re.findall(r"--hmark-rnd (\S+)", "".join(ruleset.render(config).values())))
        return int(text, 0)

    one, other = "a" * 32, "b" * 32
    assert seed(one) == seed(one)
    assert seed(one) == seed(f"{one}\n{other}")  # the first key signs, so it is on every node
    assert seed(one) != seed(other)


def test_without_the_secret_the_error_says_how_to_make_one(tmp_path: Path) -> None:
    config = write_config(tmp_path, LISTENERS)
    (tmp_path / "secret").unlink()
    with pytest.raises(ConfigError, match="nfqlb secret new"):
        ruleset.render(config)


def test_another_range_of_queues(tmp_path: Path) -> None:
    """As many rules as it has numbers, and the spreading with it."""
    config = write_config(tmp_path, LISTENERS, workers=3)
    for text in ruleset.render(config, range(7000, 7002)).values():
        assert re.findall(r"--queue-num (\d+)", text) == ["7000", "7001"]
        assert "--hmark-mod 2 --hmark-offset 7000" in text
    assert ruleset.render(config, config.workers.queues) == ruleset.render(config)


SAME: dict[str, dict[str, Any]] = {
    "nothing": {},
    "queue": {"more": "queue_length = 100"},
    "workers": {"workers": 7},
}
DIFFERENT: dict[str, dict[str, Any]] = {
    "secret": {"secret": "another-one-0123456789abcdef"},
    "listener": {"listeners": LISTENERS.replace("5070", "5071")},
    "sides": {"listeners": LISTENERS.replace('external = "198.51.100.5:5060"\ninternal = "10.9.0.5:5060"',
                                             'external = "10.9.0.5:5060"\ninternal = "198.51.100.5:5060"')},
    "backend": {"backends": ("10.9.0.2:5060", "[2001:db8:2::2]:5060", "10.9.0.3:5060")},
    "command": {"more": '[rules]\nbackend = "legacy"'},
    "interfaces": {"more": '[rules]\ninterfaces = ["out"]'},
    "forward": {"more": "[rules]\nforward = false"},
    "bound": {"listeners": LISTENERS.replace('internal = "10.9', 'internal_interface = "in"\ninternal = "10.9')},
}  # fmt: skip


@pytest.mark.parametrize("change", [*SAME, *DIFFERENT])
def test_the_fingerprint_tells_whether_rules_and_sysctls_may_change(tmp_path: Path, change: str) -> None:
    """And so does not depend on the numbers of queues."""
    before = ruleset.fingerprint(write_config(tmp_path, LISTENERS))
    changed: dict[str, Any] = {"listeners": LISTENERS, **SAME.get(change, {}), **DIFFERENT.get(change, {})}
    assert (ruleset.fingerprint(write_config(tmp_path, **changed)) == before) is (change in SAME)
