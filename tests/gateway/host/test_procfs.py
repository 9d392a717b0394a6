"""What is read from /proc: from a made-up one where the real one cannot be arranged."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nfqlb.gateway.host import procfs
from nfqlb.gateway.host.procfs import Holder, KernelQueue

QUEUES = """\
 5060  12345     7 2 65531    12     3     4711  1
    1 4294963199     0 1 65531     0     0        0  1
"""
NETLINK = """\
sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode
0000000000000000 0   12345      00000000 0        0        0     2        0        111
0000000000000000 12  12345      00000000 0        0        0     2        0        222
0000000000000000 12  4294963199 00000000 0        0        0     2        0        333
"""


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A /proc in which `nfqlb` (42) and `nfqlb-0` (9) hold queue 5060, and nobody to be found holds queue 1."""
    net = tmp_path / "thread-self" / "net"
    (net / "netfilter").mkdir(parents=True)
    (net / "netfilter" / "nfnetlink_queue").write_text(QUEUES)
    (net / "netlink").write_text(NETLINK)
    for pid, name, links in ((42, "nfqlb", [111, 222]), (9, "nfqlb-0", [222]), (7, "sshd", [111])):
        (tmp_path / str(pid) / "fd").mkdir(parents=True)
        (tmp_path / str(pid) / "comm").write_text(f"{name}\n")
        for fd, inode in enumerate(links):
            (tmp_path / str(pid) / "fd" / str(fd)).symlink_to(f"socket:[{inode}]")
    (tmp_path / "8").mkdir()  # it ended while we looked
    return tmp_path


def test_queues_are_read_by_number(proc: Path) -> None:
    assert procfs.kernel_queues(proc) == {
        5060: KernelQueue(5060, 12345, 7, 2, 65531, 12, 3, 4711),
        1: KernelQueue(1, 4294963199, 0, 1, 65531, 0, 0, 0),
    }


def test_a_kernel_without_queues_has_none(tmp_path: Path) -> None:
    assert procfs.kernel_queues(tmp_path) == {}


def test_holders_are_found_by_the_socket(proc: Path) -> None:
    queues = procfs.kernel_queues(proc)
    assert procfs.holders(queues[5060], proc) == (Holder(9, "nfqlb-0"), Holder(42, "nfqlb"))
    assert str(Holder(42, "nfqlb")) == "nfqlb (pid 42)"
    assert procfs.holders(queues[1], proc) == ()


def test_holders_without_the_table_are_unknown(proc: Path) -> None:
    row = procfs.kernel_queues(proc)[5060]
    (proc / "thread-self/net/netlink").unlink()
    assert procfs.holders(row, proc) == ()


def test_raw_sockets_are_told_by_their_protocol(proc: Path) -> None:
    head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref\n"
    rest = "07 00000000:00000000 00:00000000 00000000     0        0"
    (proc / "thread-self/net/raw").write_text(
        f"{head} 153: 0:0070 0:0 {rest} 11 2\n 153: 0201A8C0:0070 0:0 {rest} 12 2\n   1: 0:0001 0:0 {rest} 13 2\n"
    )
    both = ("socket:[11]", "socket:[12]")
    assert procfs.raw_sockets(procfs.IPPROTO_VRRP, proc) == both
    assert (procfs.raw_sockets(1, proc), procfs.raw_sockets(255, proc)) == (("socket:[13]",), ())
    (proc / "thread-self/net/raw6").write_text(f"{head}   1: {'0' * 32}:0070 {'0' * 32}:0000 {rest} 14 2\n")
    assert procfs.raw_sockets(procfs.IPPROTO_VRRP, proc) == (*both, "socket:[14]")


def test_what_a_process_watches_is_told_by_inode_and_device(proc: Path) -> None:
    folder = proc / "42" / "fdinfo"
    folder.mkdir()
    (folder / "0").write_text("pos:\t0\nflags:\t02\n")
    (folder / "5").write_text(
        "pos:\t0\ninotify wd:1 ino:20c3d3 sdev:fe00000 mask:2c8 ignored_mask:0 fhandle-bytes:8 f_handle:d3c320005\n"
        "inotify wd:2 ino:7 sdev:1a mask:2c8 ignored_mask:0\n"
    )
    assert procfs.watched(42, proc) == {("20c3d3", "fe00000"), ("7", "1a")}
    with pytest.raises(FileNotFoundError):
        procfs.watched(4711, proc)


def test_a_zombie_is_not_alive() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert procfs.alive(child.pid)
    child.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not procfs.alive(child.pid)
    child.communicate()
    assert not procfs.alive(child.pid)
    assert procfs.process_name(child.pid) == "?"


def test_a_name_with_a_bracket_does_not_confuse(tmp_path: Path) -> None:
    (tmp_path / "5").mkdir()
    (tmp_path / "5" / "stat").write_text("5 (a) Z) S 1 5 5 0 -1 4194560\n")
    assert procfs.alive(5, tmp_path)


@pytest.mark.parametrize(("mask", "has"), [("0000000000001000", True), ("000001ffffffefff", False)])
def test_a_capability_is_a_bit_of_the_effective_set(tmp_path: Path, mask: str, has: bool) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "status").write_text(f"Name:\tx\nCapPrm:\t000001ffffffffff\nCapEff:\t{mask}\n")
    assert procfs.has_capability(procfs.CAP_NET_ADMIN, tmp_path) is has
