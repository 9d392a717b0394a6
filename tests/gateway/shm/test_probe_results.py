"""What the prober measures, as the supervisor reads it: also when the prober has died in the middle of it."""

import os
import signal
from typing import Any

import pytest
from faultcase import Processes

from nfqlb.gateway.shm.probe_results import ProbeResult, ProbeResults

NONE_YET = ProbeResult(0.0, 0.0, 0)
FIRST = ProbeResult(1_800_000_000.5, 0.0125, 200)
SECOND = ProbeResult(1_800_000_060.5, 2.5, 503)


class DiesAfter:
    """The cells, in the hands of a prober that is killed behind the store of that number."""

    def __init__(self, cells: memoryview, stores: int) -> None:
        self._cells, self._stores = cells, stores

    def __setitem__(self, cell: int, value: int) -> None:
        self._cells[cell] = value
        self._stores -= 1
        if not self._stores:
            os.kill(os.getpid(), signal.SIGKILL)


def write_in_child(results: ProbeResults, target: int, result: ProbeResult, stores: int) -> int:
    """A prober that writes and is killed after so many stores; its status as of os.wait."""
    if not (pid := os.fork()):
        try:
            cells: Any = DiesAfter(results._cells, stores)
            results._cells = cells
            results.write(target, result)
        finally:
            os._exit(0)
    return os.waitpid(pid, 0)[1]


def test_what_is_written_is_read_and_nothing_beside_it() -> None:
    results = ProbeResults(3)
    assert [results.read(target) for target in range(3)] == [NONE_YET] * 3
    results.heartbeat = 7
    results.write(1, FIRST)
    assert [results.read(target) for target in range(3)] == [NONE_YET, FIRST, NONE_YET]
    results.write(0, SECOND)
    results.write(2, SECOND)
    assert [results.read(target) for target in range(3)] == [SECOND, FIRST, SECOND]
    assert results.heartbeat == 7
    results.close()


def test_nobody_to_ask_is_a_heartbeat_alone() -> None:
    results = ProbeResults(0)
    results.heartbeat = 9
    assert results.heartbeat == 9
    results.close()


@pytest.mark.parametrize("stores", [1, 2])
def test_a_prober_that_dies_in_its_first_write_has_found_out_nothing(processes: Processes, stores: int) -> None:
    results = ProbeResults(1)
    assert write_in_child(results, 0, FIRST, stores) == signal.SIGKILL
    assert results.read(0).answered == 0.0, "a round trip without an answer: readers go by the time of the answer"
    assert len(processes.pids) == 1
    results.write(0, SECOND)  # the next one does
    assert results.read(0) == SECOND
    results.close()


def test_what_a_prober_has_written_outlives_it(processes: Processes) -> None:
    results = ProbeResults(2)
    assert write_in_child(results, 1, FIRST, 3) == signal.SIGKILL
    assert [results.read(0), results.read(1)] == [NONE_YET, FIRST]
    assert len(processes.pids) == 1
    results.close()


def test_a_target_that_there_is_not_has_no_result_of_anybody_else() -> None:
    results = ProbeResults(2)
    results.write(1, FIRST)
    with pytest.raises(ValueError, match="unpack"):
        results.read(2)
    with pytest.raises(IndexError):
        results.write(2, SECOND)
    assert results.read(1) == FIRST
    results.close()


def test_after_the_end_nothing_is_read_and_a_second_end_is_none() -> None:
    results = ProbeResults(1)
    results.close()
    results.close()
    with pytest.raises(ValueError, match="released"):
        results.read(0)
