"""One gateway for each run directory, whatever became of the last one."""

import os
import socket
from pathlib import Path

import pytest

from nfqlb.gateway.runtime.pidfile import FILE_NAME, Pidfile, PidfileError


def test_the_lock_is_exclusive_and_names_its_holder(tmp_path: Path) -> None:
    run_dir = tmp_path / "a" / "b"
    first = Pidfile(run_dir)
    with pytest.raises(PidfileError, match=rf"pid {os.getpid()}\b"):
        Pidfile(run_dir)
    first.release()
    assert os.listdir(run_dir) == []
    Pidfile(run_dir).release()


def test_a_file_left_by_a_killed_gateway_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text("999999999\n")
    instance = Pidfile(tmp_path)
    assert (tmp_path / FILE_NAME).read_text() == f"{os.getpid()}\n"
    instance.release()


def test_a_child_that_forgets_does_not_keep_the_lock(tmp_path: Path) -> None:
    instance = Pidfile(tmp_path)
    ours, its = socket.socketpair()
    pid = os.fork()
    if not pid:
        ours.close()
        instance.forget()
        its.send(b"forgotten")
        its.recv(1)  # lives until the parent is done
        os._exit(0)
    its.close()
    with ours:
        assert ours.recv(20) == b"forgotten"
        os.close(instance._descriptor)  # as the death of the parent would
        Pidfile(tmp_path).release()
    os.waitpid(pid, 0)


def test_a_directory_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PidfileError, match=r"cannot be written .* run_dir"):
        Pidfile(tmp_path / "file" / "below")
