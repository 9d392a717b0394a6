"""docs/install.md, followed to the letter in a lab that has everything but the gateway: at the end a phone registers.

The addresses of the page are those of the lab. What is added to its commands is `-c FILE`, for the machine's own /etc
is not ours; what is left out concerns packages and other people's programs, and is listed here by name.
"""

import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from livelab import fresh_name

from nfqlb.lab import namespaces
from nfqlb.lab.lab import Lab
from nfqlb.lab.ping import wait_answer
from nfqlb.lab.topology import Plan

pytestmark = pytest.mark.root

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "install.md").read_text()
CAPTURE = ROOT / "pcaps" / "two-armed" / "register.pcap"
NOT_HERE = (
    "apt-get",
    "python3",
    "/opt/nfqlb/bin/pip",
    "build/bin/pip",
    "ln",
    "mkdir",
    "man",
    "tcpdump",
    "firewall-cmd",
)
SERVICE = re.search(r"^## \d+\. As a service\n.*?(?=^## )", PAGE, re.MULTILINE | re.DOTALL)
"""For that it needs a systemd, which tests/units/test_systemd_live.py has."""
UNTIL_CTRL_C = (["run", "--apply-rules"], ["stats", "--watch"])


def commands() -> list[list[str]]:
    """All commands of the page, in order, as words."""
    assert SERVICE is not None
    page = PAGE.replace(SERVICE[0], "")
    sessions = re.findall(r"^```console\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    lines = [line[2:] for session in sessions for line in session.splitlines() if line.startswith(("$ ", "# "))]
    return [shlex.split(line) for line in lines]


class WithoutGateway(Lab):
    def start_gateway(self) -> None:
        """The page will do it."""


class Host:
    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.namespace = lab.plan.namespace("gw")
        folder = lab.dir / "etc"
        folder.mkdir()
        self.config, self.secret = folder / "nfqlb.toml", folder / "secret"
        (block,) = re.findall(r"^```toml\n(\[\[listener\]\].*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
        own = f'[gateway]\nsecret_file = "{self.secret}"\nrun_dir = "{lab.dir / "run"}"\n'
        self.config.write_text(own + block)

    def argv(self, words: list[str]) -> list[str]:
        """The command with what makes it ours: interpreter, configuration, a capture that exists."""
        words = [str(CAPTURE) if word == "/tmp/sip.pcap" else word for word in words]
        alone: dict[str, list[str]] = {"secret": [str(self.secret)], "version": []}
        extra = alone.get(words[0], ["-c", str(self.config)])
        return [sys.executable, "-m", "nfqlb", *words, *extra]

    def start(self, words: list[str]) -> "subprocess.Popen[bytes]":
        return namespaces.spawn(self.namespace, self.argv(words), self.lab.dir / "page.log")

    def answers(self) -> None:
        phone = self.lab.plan.phones[0]
        wait_answer(self.lab.plan.namespace(phone.role), (self.lab.plan.external.host, 5060), phone.host, "the gateway")


@pytest.fixture
def host() -> Iterator[Host]:
    with WithoutGateway(Plan(fresh_name())) as lab:
        yield Host(lab)


def test_from_a_bare_machine_to_the_first_phone_registered(host: Host) -> None:
    gateway = None
    done = []
    for words in commands():
        if words[0] in NOT_HERE:
            continue
        if words[0] != "nfqlb":
            namespaces.run(host.namespace, words)
            continue
        if words[1:] in UNTIL_CTRL_C:
            process = host.start(words[1:])
            if words[1] == "run":
                gateway = process
                host.answers()
                host.lab.phone("alice", host.lab.plan.home[0]).register()  # behind the NAT
            else:
                with pytest.raises(subprocess.TimeoutExpired):
                    process.wait(1.5)  # it goes on by itself
                process.send_signal(signal.SIGINT)
                # The last one is that of a shell, too, for what was still loading its modules.
                assert process.wait(10) in (0, 130, -signal.SIGINT)
        else:
            namespaces.run(host.namespace, host.argv(words[1:]))  # raises unless it exits 0
        done.append(words[1])
    assert {"secret", "check", "rules", "run", "stats", "replay", "explain"} <= set(done)
    assert gateway is not None
    gateway.terminate()
    assert gateway.wait(10) == 0
    assert "NFQLB" not in namespaces.run(host.namespace, ["iptables-save"])
