"""When backends were last sent a request: told by counters that rise, over boards and supervisors."""

from pathlib import Path

import pytest

from nfqlb.gateway.backends import activity
from nfqlb.gateway.backends.activity import Activity, Seen
from nfqlb.gateway.shm.board import BACKENDS, About, Board, Traffic


def board(tmp_path: Path, *backends: str) -> Board:
    """Of two workers."""
    return Board(tmp_path / "board", About("lb", (0, 1), backends))


def count(board: Board, worker: int, backend: int, traffic: Traffic, number: int = 1) -> None:
    board.slot(worker)[BACKENDS + backend * len(Traffic) + traffic] += number


def test_sums_are_those_of_all_workers_and_those_before_them(tmp_path: Path) -> None:
    made = board(tmp_path, "a", "b")
    for worker in range(3):  # the last are those before
        count(made, worker, 0, Traffic.REQUESTS_TO, 1 + worker)
        count(made, worker, 1, Traffic.RESPONSES_2XX, 10)
    count(made, 0, 1, Traffic.RESPONSES_6XX)
    assert made.sums(Traffic.REQUESTS_TO) == [6, 0]
    assert made.sums(Traffic.RESPONSES_2XX, Traffic.RESPONSES_6XX) == [0, 31]
    assert board(tmp_path).sums(Traffic.REQUESTS_TO) == []


@pytest.mark.parametrize(
    ("traffic", "seen"),
    [
        (Traffic.REQUESTS_TO, (20.0, 0.0)),
        *((each, (0.0, 20.0)) for each in Traffic if each.name.endswith("XX")),
        (Traffic.REQUESTS_FROM, (0.0, 0.0)),
        (Traffic.RESPONSES_TO, (0.0, 0.0)),
    ],
)
def test_the_time_is_that_of_the_look_which_finds_a_counter_risen(
    tmp_path: Path, traffic: Traffic, seen: tuple[float, float]
) -> None:
    made, one = board(tmp_path, "a", "b"), Activity({})
    one.look(made, 10.0)
    count(made, 1, 1, traffic)
    assert one.look(made, 20.0) is any(seen)
    assert one.look(made, 30.0) is False
    assert (one.of("b").last_request, one.of("b").last_response) == seen
    assert one.of("a") == one.of("nobody") == Seen(0, 0)


def test_it_goes_on_over_another_board_as_counters_do(tmp_path: Path) -> None:
    """Who has another number there, who is new, and who comes back after he was gone."""
    first, one = board(tmp_path, "a", "b"), Activity({})
    count(first, 0, 0, Traffic.REQUESTS_TO)
    count(first, 0, 1, Traffic.REQUESTS_TO)
    one.look(first, 10.0)
    second = board(tmp_path, "new", "b")
    second.carry_over(first.snapshot())
    assert one.look(second, 20.0), "who is there is told to the next supervisor"
    assert (one.of("b").last_request, one.of("new").last_request) == (10.0, 0.0)
    third = board(tmp_path, "a", "new", "b")
    third.carry_over(second.snapshot())
    one.look(third, 30.0)
    assert (one.of("a").last_request, one.of("b").last_request) == (0.0, 10.0)


def test_what_was_counted_while_nobody_looked_counts_as_of_the_first_look(tmp_path: Path) -> None:
    made, one = board(tmp_path, "a", "b"), Activity({})
    for backend in range(2):
        count(made, 0, backend, Traffic.REQUESTS_TO)
        count(made, 0, backend, Traffic.RESPONSES_2XX)
    one.look(made, 10.0)
    one.save(tmp_path)
    count(made, 0, 1, Traffic.REQUESTS_TO)
    next_one = Activity(activity.load(tmp_path))
    next_one.look(made, 20.0)
    assert next_one.of("a") == Seen(1, 1, 10.0, 10.0)
    assert next_one.of("b") == Seen(2, 1, 20.0, 10.0)
    unsaved = Activity({})
    unsaved.look(made, 30.0)
    assert unsaved.of("a").last_request == 30.0, "too late, but not too early"


@pytest.mark.parametrize("text", ["", "[]", "7", '{"a": [1, 2]}', '{"a": 1}', '{"a": [[], 0, 0, 0]}', "[" * 100_000])
def test_what_cannot_be_read_is_found_out_again(tmp_path: Path, text: str) -> None:
    assert activity.load(tmp_path) == {}
    (tmp_path / activity.FILE_NAME).write_text(text)
    assert activity.load(tmp_path) == {}
    activity.remove(tmp_path)
    activity.remove(tmp_path)
    assert not list(tmp_path.iterdir())
