"""Does the real keepalived see what the gateway tells it? And when it does not, who says so, and what becomes of it?

Versions differ in what they make of a file or a directory that is missing: none of it may matter.
"""

import json
from pathlib import Path

import pytest
from livepair import running, until

from nfqlb.gateway.ha.manager import WELL
from nfqlb.gateway.ha.protocol import TRACK_FILE
from nfqlb.lab import namespaces
from nfqlb.lab.pair import Half

pytestmark = pytest.mark.root


def complaints(half: Half) -> list[str]:
    done = half.command("ha", "check", "--json")
    return [each for each in json.loads(done.stdout)["problems"] if "does not watch" in each]


def told_everywhere(half: Half) -> bool:
    live = half.command("check", "--live").stderr
    return "does not watch" in live and "does not watch" in half.status()["track_file"] and bool(complaints(half))


def made_anew(folder: Path) -> None:
    """Another directory of that name, with the same files in it."""
    before = folder.rename(folder.with_name(f"{folder.name}-before"))
    folder.mkdir()
    for file in before.iterdir():
        file.rename(folder / file.name)


def says(half: Half) -> str:
    file = half.run_dir / TRACK_FILE
    return file.read_text().strip() if file.exists() else ""


def test_a_directory_that_keepalived_does_not_watch() -> None:
    with running() as lab:
        first, second = lab.active, lab.standby
        assert until(lambda: says(first) == says(second) == str(WELL))
        assert not complaints(first)
        assert not first.status()["track_file"]

        # The file alone is written again, and keepalived sees it.
        (first.run_dir / TRACK_FILE).unlink()
        assert until(lambda: says(first) == str(WELL))
        lab.wait_settled()

        # Of a node that keepalived cannot see, it does not think well: the other one has the addresses.
        first = lab.active
        second = lab.standby
        made_anew(first.run_dir)
        assert until(lambda: second.active and first.standby)
        assert told_everywhere(first)
        assert "does not watch" in first.nfqlb("ha", "status")
        assert not complaints(second)

        # What is said to do puts it right.
        first.reload_keepalived()
        assert until(lambda: not complaints(first))
        second.nfqlb("ha", "yield")
        assert until(lambda: first.active and second.standby)


def test_keepalived_starts_first() -> None:
    """As it may when the machine boots: the node counts as unwell until there is a gateway that keepalived sees."""
    with running() as lab:
        first, second = lab.active, lab.standby
        second.kill_gateway()
        second.kill_keepalived()
        folder = second.run_dir.rename(second.run_dir.with_name("gone"))
        argv = ["keepalived", "--dont-fork", "--log-console", "--vrrp", "--use-file", str(second.keepalived_conf)]
        argv += [word for name in ("pid", "vrrp_pid") for word in (f"--{name}", str(lab.dir / f"early.{name}"))]
        second.keepalived = namespaces.spawn(second.namespace, argv, lab.dir / "early.log")
        assert until(lambda: second.members("keepalived"))
        assert until(lambda: any("is not there" in each for each in complaints(second)))
        folder.rename(second.run_dir)
        second.start_gateway()
        second.wait_gateway()
        assert until(lambda: says(second) == str(WELL))
        assert complaints(second)
        assert "has not taken over" in first.command("ha", "yield").stderr
        assert first.active
        second.reload_keepalived()
        assert until(lambda: not complaints(second))
        first.nfqlb("ha", "yield")
        assert until(lambda: second.active and first.standby)
