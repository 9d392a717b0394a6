"""keepalived.conf: what stands in it, and that keepalived itself reads it without a complaint."""

import re
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from nfqlb.cli import main
from nfqlb.config import load
from nfqlb.gateway import lifeline
from nfqlb.ha import keepalived
from nfqlb.lab.namespaces import search_path

LISTENERS = """
[gateway]
run_dir = "/run/nfqlb-test"
[[listener]]
name = "a"
external = "203.0.113.5:5060"
internal = "192.168.1.5:5060"
[[listener]]
name = "a2"
external = "203.0.113.5:5070"
internal = "192.168.1.5:5070"
[[listener]]
name = "b"
external = "203.0.113.6:5060"
internal = "192.168.1.6:5060"
[[listener]]
name = "six"
external = "[2001:db8:5::5]:5060"
internal = "[2001:db8:1::5]:5060"
[[pool]]
name = "p"
[[pool.backend]]
name = "one"
address = "192.168.1.11:5060"
[[pool.backend]]
name = "one6"
address = "[2001:db8:1::11]:5060"
[[route]]
pool = "p"
"""
HA = """
[ha]
address = "192.168.1.2"
peer = "192.168.1.3"
interface = "eth1"
outside = "eth7"
networks = ["203.0.113.0/24", "2001:db8:5::/64"]
"""
HA6 = HA.replace("192.168.1.2", "2001:db8:1::2").replace("192.168.1.3", "2001:db8:1::3")
GROUPS = """
[[ha.group]]
name = "left"
listeners = ["a", "a2"]
router_id = 61
priority = 254
[[ha.group]]
name = "right"
listeners = ["b", "six"]
router_id = 62
priority = 249
"""


def rendered(tmp_path: Path, text: str) -> str:
    path = tmp_path / "nfqlb.toml"
    path.write_text(LISTENERS + text)
    return keepalived.render(load(path))


def block(text: str, name: str) -> list[str]:
    found = re.search(rf"^    {name} {{\n(.*?)^    }}", text, re.MULTILINE | re.DOTALL)
    lines = found[1].splitlines() if found else []
    return [line.strip() for line in lines if not line.strip().startswith("#")]


def test_one_instance_moves_all_addresses_of_both_sides_and_ip_versions(tmp_path: Path) -> None:
    text = rendered(tmp_path, HA)
    assert text.count("vrrp_instance") == 1
    assert block(text, "virtual_ipaddress") == ["192.168.1.5/32 dev eth1"]
    assert block(text, "virtual_ipaddress_excluded") == [
        "203.0.113.5/24 dev eth7",
        "192.168.1.6/32 dev eth1",
        "203.0.113.6/24 dev eth7",
        "2001:db8:1::5/128 dev eth1 preferred_lft 0",
        "2001:db8:5::5/64 dev eth7 preferred_lft 0",
    ]
    assert block(text, "unicast_peer") == ["192.168.1.3"]
    assert block(text, "track_interface") == ["eth7", f"{lifeline.NAME} weight -150"]
    assert 'file "/run/nfqlb-test/ha"' in text


def test_each_group_has_an_instance_of_its_own(tmp_path: Path) -> None:
    text = rendered(tmp_path, HA + GROUPS)
    left, right = text.split("vrrp_instance")[1:]
    assert "nfqlb_left" in left
    assert ("virtual_router_id 61" in left, "priority 254" in left) == (True, True)
    assert "2001:db8" not in left
    assert ("virtual_router_id 62" in right, "priority 249" in right) == (True, True)
    assert "203.0.113.5" not in right
    assert "2001:db8:5::5/64" in right


def test_the_other_node_differs_in_what_is_its_own_only(tmp_path: Path) -> None:
    here = rendered(tmp_path, HA)
    there = rendered(tmp_path, HA.replace("1.2", "1.9").replace("1.3", "1.2").replace("1.9", "1.3"))
    lines = zip(here.splitlines(), there.splitlines(), strict=True)
    changed = [one.replace("1.2", "?").replace("1.3", "?") for one, other in lines if one != other]
    assert changed
    assert all("?" in line for line in changed)


def tried(path: Path) -> subprocess.CompletedProcess[str]:
    """`keepalived -t` on a host with these interfaces."""
    host = (
        "ip link add eth1 type veth peer name eth7; ip link set eth1 up; ip link set eth7 up; "
        "ip addr add 192.168.1.2/24 dev eth1; ip addr add 2001:db8:1::2/64 dev eth1 nodad; "
        'exec keepalived --config-test -f "$0"'
    )
    return subprocess.run(
        ["unshare", "--net", "sh", "-c", host, str(path)],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": search_path()},
    )


@pytest.mark.root
@pytest.mark.parametrize("text", [HA, HA + GROUPS, HA6], ids=["v4", "groups", "v6"])
def test_keepalived_reads_it_without_a_complaint(text: str, tmp_path: Path) -> None:
    path = tmp_path / "keepalived.conf"
    path.write_text(rendered(tmp_path, text))
    done = tried(path)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    path.write_text(path.read_text().replace("advert_int", "advert_it"))
    assert tried(path).returncode != 0, "the test would find nothing"


def test_a_node_that_stands_alone_has_no_keepalived(tmp_path: Path) -> None:
    path = tmp_path / "nfqlb.toml"
    path.write_text(LISTENERS)
    for words in (["render"], ["check"], ["digest"]):
        done = CliRunner().invoke(main, ["ha", *words, "-c", str(path)])
        assert done.exit_code == 1
        assert "has no [ha]: this node stands alone" in done.output
