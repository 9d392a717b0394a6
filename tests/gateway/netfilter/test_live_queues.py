"""Which queues packets are to go to, and which ones they go to: asked of the board and of the kernel's rules."""

import json
import os
import subprocess
from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result
from hostnet import QUEUE, TWO_ARMED, Host

from nfqlb.cli.rules import command
from nfqlb.config.model import Config
from nfqlb.gateway.netfilter import ruleset
from nfqlb.gateway.preflight import host as gateway_host
from nfqlb.gateway.shm.board import FILE_NAME, LAYOUT, About, Board, Cell, Header, State

pytestmark = pytest.mark.root

SECOND = range(QUEUE + 2, QUEUE + 5)
"""Of a generation that runs, with another number of workers than the configuration has."""


@pytest.fixture
def gone() -> int:
    """The pid of a process that has ended."""
    with subprocess.Popen(["true"]) as process:
        return process.pid


@pytest.fixture
def other() -> Iterator[int]:
    """The pid of a process that runs."""
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process.pid
        process.kill()


def board(config: Config, pid: int, worker: int = 0) -> Board:
    """The board of a gateway whose supervisor is `pid`, and whose last worker is `worker`."""
    config.gateway.run_dir.mkdir(exist_ok=True)
    made = Board(config.gateway.run_dir / FILE_NAME, About("lb", tuple(SECOND), ("b0",)))
    made.set(Header.STATE, State.RUNNING)
    made.set(Header.PID, pid)
    made.slot(len(SECOND) - 1)[Cell.PID] = worker
    made.publish()
    return made


def live(host: Host, config: Config) -> range:
    return host.here(lambda: ruleset.live_queues(config))


def in_place(host: Host, config: Config) -> range | None:
    return host.here(lambda: ruleset.queues_in_place(config))


def test_without_a_gateway_they_are_those_of_the_configuration(host: Host, gone: int) -> None:
    config = host.config()
    assert live(host, config) == range(QUEUE, QUEUE + 2)
    board(config, gone, gone)  # killed, and its workers with it
    assert live(host, config) == range(QUEUE, QUEUE + 2)


def test_with_a_gateway_they_are_its_own(host: Host, gone: int, other: int) -> None:
    config = host.config()
    board(config, os.getpid())
    assert live(host, config) == SECOND
    board(config, gone, other)  # its supervisor was killed
    assert live(host, config) == SECOND


def test_where_the_board_is_of_another_version_the_rules_tell(host: Host) -> None:
    config = host.config()
    board(config, os.getpid()).set(Header.LAYOUT, LAYOUT + 1)
    assert live(host, config) == range(QUEUE, QUEUE + 2)
    host.apply(config, SECOND)
    assert live(host, config) == SECOND


@pytest.mark.parametrize("backend", ["nft", "legacy"])
def test_where_our_rules_lead(host: Host, backend: str) -> None:
    config = host.config(more=f'[rules]\nbackend = "{backend}"')
    host.restore("*raw\n-A PREROUTING -p udp --dport 9 -j NFQUEUE --queue-num 9\nCOMMIT\n", backend)
    assert in_place(host, config) is None
    host.apply(config)
    assert in_place(host, config) == range(QUEUE, QUEUE + 2)
    host.apply(config, SECOND)
    assert in_place(host, config) == SECOND


FOUR = TWO_ARMED[: TWO_ARMED.index('[[listener]]\nname = "six"')]


def test_where_they_do_not_agree_they_lead_nowhere(host: Host) -> None:
    only_four = host.config(FOUR, backends=("10.9.0.2:5060",))
    host.apply(only_four)
    assert in_place(host, only_four) == range(QUEUE, QUEUE + 2)
    both = host.config()
    assert in_place(host, both) is None  # IPv6 has none
    host.apply(both, SECOND)
    host.restore("*raw\n-D PREROUTING -j NFQLB-IN\nCOMMIT\n")
    assert in_place(host, both) is None  # nothing leads into our chains
    host.apply(both, SECOND)
    host.restore(f"*raw\n-A NFQLB-QUEUE -j NFQUEUE --queue-num {QUEUE}\nCOMMIT\n")
    assert in_place(host, both) is None


def nfqlb(host: Host, *argv: str) -> Result:
    return host.here(lambda: CliRunner().invoke(command, [*argv, "-c", str(host.folder / "nfqlb.toml")]))


def test_commands_leave_packets_to_the_gateway_that_runs(host: Host) -> None:
    config = host.config()
    board(config, os.getpid())
    assert nfqlb(host, "apply").exit_code == 0
    assert in_place(host, config) == SECOND
    assert nfqlb(host, "diff").exit_code == 0
    assert host.here(lambda: gateway_host.problems(config)) == []
    shown = json.loads(nfqlb(host, "show", "--json").output)
    assert all(f"--hmark-mod {len(SECOND)} --hmark-offset {SECOND.start}" in text for text in shown["rules"].values())
    config.gateway.run_dir.joinpath(FILE_NAME).unlink()
    assert nfqlb(host, "diff").exit_code == 1
    assert nfqlb(host, "apply").exit_code == 0
    assert in_place(host, config) == range(QUEUE, QUEUE + 2)


def test_a_worker_whose_supervisor_was_killed_is_a_gateway_that_is_not_cut_off(host: Host, gone: int) -> None:
    config = host.config()
    host.apply(config)
    board(config, gone, os.getpid())
    refused = nfqlb(host, "remove")
    assert (refused.exit_code, f"A gateway runs here (pid {os.getpid()})." in refused.stderr) == (1, True)
    board(config, gone, gone)
    assert nfqlb(host, "remove").exit_code == 0
