"""keepalived.conf: what stands in it, and that keepalived itself reads it without a complaint."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from paircase import GROUPS, LISTENERS, NODES

from nfqlb.cli import main
from nfqlb.config.build import load
from nfqlb.config.model import Config
from nfqlb.gateway.ha import keepalived
from nfqlb.gateway.ha.protocol import LIFELINE
from nfqlb.lab.namespaces import search_path

HA = f"""{NODES}networks = ["203.0.113.0/24", "2001:db8:5::/64"]
"""
HA6 = HA.replace("192.168.1.2", "2001:db8:1::2").replace("192.168.1.3", "2001:db8:1::3")


def listeners(folder: Path) -> str:
    """Of a gateway whose run directory is there."""
    return LISTENERS.replace("/run/nfqlb-test", f"{folder}/run")


def rendered(tmp_path: Path, text: str) -> str:
    path = tmp_path / "nfqlb.toml"
    path.write_text(listeners(tmp_path) + text)
    return keepalived.render(load(path))


def config_in(folder: Path, text: str = HA) -> Config:
    """Its keepalived.conf is beside it."""
    path = folder / "nfqlb.toml"
    path.write_text(listeners(folder) + text.replace("[ha]", '[ha]\nkeepalived_conf = "keepalived.conf"'))
    return load(path)


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
    assert block(text, "track_interface") == ["eth7", f"{LIFELINE} weight -150"]
    assert f'file "{tmp_path}/run/ha"' in text


def test_each_group_has_an_instance_of_its_own(tmp_path: Path) -> None:
    text = rendered(tmp_path, HA + GROUPS)
    left, right = text.split("vrrp_instance")[1:]
    assert "nfqlb_left" in left
    assert ("virtual_router_id 61" in left, "    priority 154\n" in left) == (True, True), (
        "100 less: the file adds them"
    )
    assert "2001:db8" not in left
    assert ("virtual_router_id 62" in right, "priority 149" in right) == (True, True)
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
    assert keepalived.write(config_in(tmp_path, text))
    done = tried(path)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    path.write_text(path.read_text().replace("advert_int", "advert_it"))
    assert tried(path).returncode != 0, "the test would find nothing"


def test_check_sums_the_pair_up(tmp_path: Path) -> None:
    config = config_in(tmp_path, HA + GROUPS)
    secret = tmp_path / "secret"
    secret.write_text("a-key-for-this-test-only-and-for-no-other\n")
    secret.chmod(0o600)
    config.path.write_text(config.path.read_text().replace("[gateway]", '[gateway]\nsecret_file = "secret"'))
    told = CliRunner().invoke(main, ["check", "-c", str(config.path)]).output
    assert re.search(r"^left +eth1, eth7 +61 +254 +a, a2$", told, re.MULTILINE), told
    assert "Pair: this node 192.168.1.2, the other 192.168.1.3." in told
    found = json.loads(CliRunner().invoke(main, ["check", "--json", "-c", str(config.path)]).output)["config"]["ha"]
    assert (found["peer"], found["keepalived_conf"]) == ("192.168.1.3", str(tmp_path / "keepalived.conf"))
    assert [group["name"] for group in found["groups"]] == ["left", "right"]


def test_a_node_that_stands_alone_has_no_keepalived(tmp_path: Path) -> None:
    path = tmp_path / "nfqlb.toml"
    path.write_text(LISTENERS)
    for words in (["render"], ["check"], ["digest"]):
        done = CliRunner().invoke(main, ["ha", *words, "-c", str(path)])
        assert done.exit_code == 1
        assert "has no [ha]: this node stands alone" in done.output


def test_a_file_that_keepalived_goes_by_and_that_nobody_asks_for_any_more_is_told(tmp_path: Path) -> None:
    file = tmp_path / "keepalived.conf"
    config = config_in(tmp_path)
    assert "keepalived.conf is not there" in keepalived.outdated(config)
    assert keepalived.write(config)
    assert (keepalived.outdated(config), keepalived.write(config)) == ("", False)
    file.write_text("! a note\n\n" + file.read_text().replace("# ", "#  "))
    assert not keepalived.outdated(config), "comments mean nothing to keepalived"
    for changed in (
        config_in(tmp_path, HA.replace("eth7", "eth8")),
        config_in(tmp_path, HA + "router_id = 52\n"),
        config_in(tmp_path, HA + GROUPS),
    ):
        told = keepalived.outdated(changed)
        assert f"{file} is not what [ha] and the listeners ask for now" in told
        assert f"nfqlb ha render -c {config.path} --write && systemctl reload-or-restart keepalived" in told
    assert keepalived.write(changed)
    assert not keepalived.outdated(changed)
    file.unlink()
    file.mkdir()
    assert "cannot be read (Is a directory)" in keepalived.outdated(changed)
    assert not keepalived.outdated(config_in(tmp_path, HA), written_elsewhere(tmp_path))


def written_elsewhere(folder: Path) -> Path:
    other = folder / "other.conf"
    other.write_text(rendered(folder, HA))
    return other


def test_listeners_change_what_keepalived_does_and_pools_do_not(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    keepalived.write(config)
    text = config.path.read_text()
    config.path.write_text(text.replace("192.168.1.11", "192.168.1.12"))
    assert not keepalived.outdated(load(config.path))
    config.path.write_text(text.replace("203.0.113.6", "203.0.113.7"))
    assert keepalived.outdated(load(config.path))


def test_render_writes_the_file_whole_or_not_at_all(tmp_path: Path) -> None:
    config, file = config_in(tmp_path), tmp_path / "keepalived.conf"

    def render() -> tuple[int, str]:
        done = CliRunner().invoke(main, ["ha", "render", "--write", "-c", str(config.path)])
        return done.exit_code, done.output

    assert render() == (0, f"{file}: written; for keepalived to read it: systemctl reload-or-restart keepalived\n")
    assert file.read_text() == keepalived.render(config)
    assert file.stat().st_mode & 0o777 == 0o644
    assert render() == (0, f"{file}: as it should be\n")
    before = file.read_text()
    config.path.write_text(config.path.read_text().replace("eth7", "no such interface"))
    assert render()[0] == 1
    assert file.read_text() == before
    config_in(tmp_path, HA).path.write_text(listeners(tmp_path) + HA + 'keepalived_conf = "missing/keepalived.conf"\n')
    status, told = render()
    assert (status, "apt-get install keepalived" in told) == (1, True)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["keepalived.conf", "nfqlb.toml", "run"]


def test_render_makes_the_directory_that_keepalived_watches(tmp_path: Path) -> None:
    """From version 2.3 on keepalived ignores a track file whose directory is not there."""
    config = config_in(tmp_path)
    for _ in range(2):
        CliRunner().invoke(main, ["ha", "render", "--write", "-c", str(config.path)], catch_exceptions=False)
        assert (tmp_path / "run").stat().st_mode & 0o777 == 0o755
        (tmp_path / "run").rmdir()
    (tmp_path / "run").write_text("")
    done = CliRunner().invoke(main, ["ha", "render", "--write", "-c", str(config.path)])
    assert (done.exit_code, f"{tmp_path}/run cannot be written" in done.output) == (1, True), done.output


def test_plan_tells_that_keepalived_has_to_follow(tmp_path: Path) -> None:
    old = config_in(tmp_path).path
    secret = tmp_path / "secret"
    secret.write_text("a-key-for-this-test-only-and-for-no-other\n")
    secret.chmod(0o600)
    old.write_text(old.read_text().replace("[gateway]", f'[gateway]\nsecret_file = "{secret}"'))
    new = tmp_path / "new.toml"
    for text, expected in ((HA, False), (HA + "router_id = 52\n", True)):
        new.write_text(old.read_text().replace(HA.removeprefix("\n[ha]\n"), text.removeprefix("\n[ha]\n")))
        done = CliRunner().invoke(main, ["plan", str(new), "-c", str(old)])
        assert done.exit_code == 0, done.output
        assert ("keepalived.conf would change, too" in done.output) is expected, done.output
